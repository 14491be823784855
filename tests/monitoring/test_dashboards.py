"""The boards: each expression finds something on a real Prometheus, and the files are what Grafana reads."""

from __future__ import annotations

import itertools
import json
import math
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import promql_parser
import pytest
import yaml
from grafana_foundation_sdk.models.dashboard import Dashboard
from prometheus_client.parser import text_string_to_metric_families

from deploy.check.programs import run
from deploy.check.tree import documents
from monitoring.dashboards.files import BOARDS, FOLDER, contents
from monitoring.expressions import DEFAULTS, Expression, expressions_of, filled, panels_of, read_board
from monitoring.pictures.__main__ import PICTURES
from monitoring.pictures.__main__ import main as draw_pictures
from tests.monitoring.made_up import ELSEWHERE, exported
from tests.support.processes import wait_until
from tests.support.prometheus import RunningPrometheus, running_prometheus
from tests.support.server import RunningServer, running_server
from tests.support.texts import all_different, over_long

ROOT = Path(__file__).parents[2]
RULES = sorted((ROOT / "monitoring/prometheus/rules").glob("*.yml"))
FILES = {path.stem: path for path in sorted(FOLDER.glob("*.json"))}
COLUMNS = 24
# There is not more to look back at.
JUST_STARTED = DEFAULTS | {"__interval": "1s"}
# What a value of each kind may be shown in.
UNITS = {"short", "s", "bytes", "percentunit", "reqps", "bool_yes_no"}


def expressions() -> list[Expression]:
    return [found for name, path in FILES.items() for found in expressions_of(name, read_board(path))]


@pytest.fixture(scope="module", params=FILES)
def board(request: pytest.FixtureRequest) -> dict[str, Any]:
    return read_board(FILES[request.param])


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    """With all that has series of its own: several processes, a cache, keys and limits."""
    keys = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys.write_text("free: free-key\nslow: {key: slow-key, requests_per_minute: 1}\n")
    settings = ("--set", f"server.api_keys_file={keys}", "--set", "cache.memory_mb=1", "--processes", "2")
    with running_server("--model", str(tiny_checkpoint), "--engine", "openvino", *settings) as server:
        yield server


@dataclass(frozen=True)
class Loaded:
    """``at`` is a moment at which all that was asked is in Prometheus."""

    prometheus: RunningPrometheus
    at: float

    def problem(self, expression: str) -> str | None:
        """Why a panel would show nothing."""
        try:
            text = filled(expression, JUST_STARTED)
            parsed = promql_parser.parse(text)
        except (KeyError, ValueError) as error:
            return f"not PromQL: {error}"
        values = self.prometheus.values(text, self.at)
        # Each part must find something by itself: `a or b` has a result where one of them is misspelt.
        if not values or not all(self.prometheus.values(part, self.at) for part in selectors(parsed)):
            return "no result"
        return None if any(map(math.isfinite, values)) else "no number"


def selectors(node: Any) -> Iterator[str]:
    """What is asked for in an expression, before anything is reckoned of it."""
    match node:
        case promql_parser.VectorSelector():
            yield str(node)
        case promql_parser.MatrixSelector():
            yield str(node.vector_selector)
        case promql_parser.BinaryExpr():
            yield from itertools.chain(selectors(node.lhs), selectors(node.rhs))
        case promql_parser.Call():
            yield from itertools.chain.from_iterable(map(selectors, node.args))
        case promql_parser.AggregateExpr() | promql_parser.ParenExpr() | promql_parser.UnaryExpr():
            yield from selectors(node.expr)


@pytest.fixture(scope="module")
def loaded(server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    folder = tmp_path_factory.mktemp("prometheus")
    with (
        exported(ELSEWHERE) as made_up,
        running_prometheus(folder, [server.base_url, made_up], rules=RULES) as prometheus,
        httpx.Client(base_url=server.base_url, headers={"Authorization": "Bearer free-key"}, timeout=60) as client,
    ):
        turns = itertools.count()

        def seen() -> bool:
            ask_for_everything(client, next(turns))
            # A status's first answers, twice; and after some more scrapes the rules are through as well.
            late = 'rate(embedding_requests_total{status="504"}[1m]) > 0'
            scraped = "min(count_over_time(up[1m])) > 5"
            return bool(prometheus.values(late) and prometheus.values(scraped))

        wait_until("all kinds of answers are in Prometheus", seen, 60)
        yield Loaded(prometheus, time.time())


def ask_for_everything(client: httpx.Client, turn: int) -> None:
    """Some of each: good, cached, equal, cut, wrong, refused and late requests."""

    def embed(texts: list[str], key: str = "free-key", **headers: str) -> int:
        headers |= {"Authorization": f"Bearer {key}"}
        return client.post("/v1/embeddings", json={"model": "tiny-zh", "input": texts}, headers=headers).status_code

    new = f"第{turn}次"
    assert embed(["你好", new, new]) == 200
    assert embed(over_long(512)[:1]) == 200
    assert embed(["你好"], "wrong") == 401
    assert embed([""]) == 400
    assert embed(["你好"], "slow-key") in (200, 429)
    late = {"x-request-timeout-ms": "1"}
    assert embed([new + text for text in all_different(200, 500)], **late) == 504
    assert client.post("/tokenize", json={"input": "你好"}).status_code == 200


def test_the_files_are_what_the_code_would_write() -> None:
    assert {path: path.read_text(encoding="utf-8") for path in FILES.values()} == contents(), "run make dashboards"


@pytest.mark.parametrize("found", expressions(), ids=lambda found: f"{found.board}: {found.place}")
def test_each_expression_finds_something(loaded: Loaded, found: Expression) -> None:
    assert loaded.problem(found.text) is None, filled(found.text)


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("sum(rate(embedding_requests_total[$__rate_interval])", "not PromQL"),
        ("embedding_ready{job=$nobody}", "not PromQL: 'nobody'"),
        ('sum(rate(embedding_request_total{job="$job"}[$__rate_interval]))', "no result"),
        ('embedding_process_state{job="$job",state="away"}', "no result"),
        ("sum(embedding_redy) or 0 * sum(up)", "no result"),
        ("sum(embedding_ready) or 0 * sum(upp)", "no result"),
        ("max(sum(embedding_ready) or sum(upp))", "no result"),
        ("0 * embedding_ready / 0", "no number"),
    ],
)
def test_a_broken_one_is_found(loaded: Loaded, broken: str, problem: str) -> None:
    assert (loaded.problem(broken) or "").startswith(problem)


def test_each_request_is_in_one_column_of_a_heat_map(loaded: Loaded) -> None:
    (panel,) = (panel for panel in panels_of(read_board(FILES["service"])) if panel["title"] == "Spread of durations")
    asked = filled(panel["targets"][0]["expr"], JUST_STARTED)
    counted = "sum(embedding_request_duration_seconds_bucket{task='embeddings'})"
    steps = 5
    columns = [sum(loaded.prometheus.values(asked, loaded.at - step)) for step in range(steps)]
    more = loaded.prometheus.value(counted, loaded.at) - loaded.prometheus.value(counted, loaded.at - steps)
    assert sum(columns) == more > 0


def test_what_is_made_up_is_nothing_that_there_is(server: RunningServer) -> None:
    real = names(httpx.get(f"{server.base_url}/metrics").text)
    for file in RULES:
        for content in documents(file.read_text(encoding="utf-8")):
            real |= {rule["record"] for group in content["groups"] for rule in group["rules"] if "record" in rule}
    assert names(ELSEWHERE) & real == set(), "this can be had: take it from made_up.py and deploy/check/metrics.py"


def names(text: str) -> set[str]:
    return {sample.name for family in text_string_to_metric_families(text) for sample in family.samples}


def test_made_up_series_are_all_asked_for() -> None:
    asked = set(re.findall(r"[a-z][a-z0-9_:]+", " ".join(found.text for found in expressions())))
    assert names(ELSEWHERE) <= asked


def test_each_board_has_its_own_name_and_links_to_the_others() -> None:
    boards = [read_board(path) for path in FILES.values()]
    assert {each["uid"] for each in boards} == {f"sgl-embed-{name}" for name in BOARDS}
    assert len({each["title"] for each in boards}) == len(boards)
    assert all(link["tags"] == each["tags"] and link["includeVars"] for each in boards for link in each["links"])
    assert all(len(each["links"]) == 1 for each in boards)


def test_grafanas_own_model_reads_it(board: dict[str, Any]) -> None:
    read = Dashboard.from_json(json.loads(json.dumps(board)))
    assert read.uid == board["uid"]
    assert len(read.panels or ()) == len(board["panels"])
    assert board["schemaVersion"] >= 39


def test_panels_have_ids_of_their_own_and_do_not_overlap(board: dict[str, Any]) -> None:
    panels = board["panels"]
    assert sorted(panel["id"] for panel in panels) == list(range(1, len(panels) + 1))
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        for place in places(panel["gridPos"]):
            assert taken.setdefault(place, panel["title"]) == panel["title"], (place, panel["title"])
            assert place[0] < COLUMNS


def places(grid: Mapping[str, int]) -> list[tuple[int, int]]:
    return [(x, y) for x in range(grid["x"], grid["x"] + grid["w"]) for y in range(grid["y"], grid["y"] + grid["h"])]


def test_rows_are_full(board: dict[str, Any]) -> None:
    """No gap at a row's end, which looks as if something were missing."""
    taken = {place for panel in board["panels"] for place in places(panel["gridPos"])}
    assert len(taken) == COLUMNS * (max(y for _, y in taken) + 1)


def test_panels_say_what_they_show(board: dict[str, Any]) -> None:
    for panel in panels_of(board):
        assert panel["title"], panel["id"]
        assert len(panel["description"]) > 10, panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"] in UNITS, panel["title"]
        assert panel["targets"], panel["title"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters)
        several = panel["type"] in ("timeseries", "state-timeline")
        assert not several or all(target["legendFormat"] for target in panel["targets"]), panel["title"]
    titles = [panel["title"] for panel in panels_of(board)]
    assert len(set(titles)) == len(titles)


def test_variables_are_all_there_and_all_used(board: dict[str, Any]) -> None:
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert list(variables)[:4] == ["datasource", "namespace", "job", "instance"]
    assert variables["job"]["current"]["value"] == "sgl-embed"
    text = json.dumps(board["panels"])
    assert all(re.search(rf"\$\{{?{name}\b", text) for name in variables)


def test_a_picture_is_drawn_of_each_board(loaded: Loaded, tmp_path: Path) -> None:
    def sizes(folder: str, end: float) -> dict[str, int]:
        asked = (loaded.prometheus.url, "--minutes", "0.5", "--scraped-every", "1")
        assert draw_pictures([*asked, "--end", str(end), "--to", str(tmp_path / folder)]) == 0
        return {path.stem: path.stat().st_size for path in (tmp_path / folder).glob("*.png")}

    empty, drawn = sizes("before", loaded.at - 3600), sizes("now", loaded.at)
    assert set(empty) == set(drawn) == set(BOARDS)
    assert all(drawn[name] > 1.2 * empty[name] for name in BOARDS), (empty, drawn)


def test_the_pictures_in_the_documentation_are_small() -> None:
    sizes = {path.stem: path.stat().st_size for path in PICTURES.glob("*.png")}
    assert set(sizes) == set(BOARDS)
    assert max(sizes.values()) < 150_000


@dataclass(frozen=True)
class Provisioned:
    sources: list[dict[str, Any]]
    providers: list[dict[str, Any]]


@pytest.fixture(scope="module")
def provisioned() -> Provisioned:
    folder = ROOT / "monitoring/grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text(encoding="utf-8"))
    providers = yaml.safe_load((folder / "dashboards/sgl-embed.yml").read_text(encoding="utf-8"))
    assert sources["apiVersion"] == providers["apiVersion"] == 1
    return Provisioned(sources["datasources"], providers["providers"])


def test_grafana_is_told_where_things_are(provisioned: Provisioned) -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose/compose.grafana.yaml").read_text(encoding="utf-8"))
    mounts = dict(reversed(volume.removesuffix(":ro").split(":")) for volume in compose["services"]["grafana"]["volumes"])
    (source,), (provider,) = provisioned.sources, provisioned.providers
    assert source["type"] == "prometheus"
    assert source["url"] == "http://prometheus:9090"
    assert source["isDefault"]
    assert provider["type"] == "file"
    mounted = (ROOT / "deploy/compose" / mounts[provider["options"]["path"]]).resolve()
    assert mounted == FOLDER


def test_kubernetes_gets_a_config_map_for_each_board() -> None:
    rendered = run("kubectl", "kustomize", FOLDER)
    assert rendered.returncode == 0, rendered.stderr
    maps = list(documents(rendered.stdout))
    assert {each["metadata"]["labels"]["grafana_dashboard"] for each in maps} == {"1"}
    held = {name: text for each in maps for name, text in each["data"].items()}
    assert held == {path.name: path.read_text(encoding="utf-8") for path in FILES.values()}
    # What `kubectl apply` can keep a copy of.
    assert all(len(json.dumps(each)) < 200_000 for each in maps)
