"""docs/operations/logging.md and deploy/logging against the lines that the server writes."""

from __future__ import annotations

import logging
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from launcher.gateway.access import Entry
from launcher.gateway.work import Work
from launcher.telemetry.lines import JsonLines
from launcher.telemetry.tracing import Tracer, attributes_of
from tests.support.spans import Kept

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations/logging.md").read_text()
CONFIGS = sorted((ROOT / "deploy/logging").glob("*.yaml"))
# Of every line.
COMMON = {"ts", "level", "logger", "process", "message"}
# Of a line that is no request's.
OTHER_FIELDS = {"traceback", "url", "fingerprint"}


def every_field() -> dict[str, Any]:
    entry = Entry("POST", b"/v1/embeddings", "r-1")
    entry.status, entry.key, entry.task, entry.reason = 200, "search", "embeddings", "invalid"
    entry.work = Work(1, 2, 0, 0.1, "miss", 0.1, 0.1, 0.1)
    entry.trace = Tracer(Kept(), sample=1, scheme="http").begin([], "/v1/embeddings", 0.0)
    record = logging.LogRecord("launcher.access", logging.INFO, "x.py", 1, entry, (), None)
    fields: dict[str, Any] = orjson.loads(JsonLines(None)(record))
    return fields


def test_the_page_has_every_field() -> None:
    (table,) = re.findall(r"^\| field .*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    described = {name for row in table.strip().splitlines()[2:] for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert described == every_field().keys() | OTHER_FIELDS


def test_the_page_on_tracing_has_every_attribute() -> None:
    page = (ROOT / "docs/operations/tracing.md").read_text()
    request = attributes_of({name: value for name, value in every_field().items() if name not in COMMON})
    assert {f"`{name}`" for name in request} <= set(re.findall(r"`[\w.]+`", page))


def test_the_questions_ask_for_fields_that_there_are() -> None:
    queries = re.findall(r"`(.*\{job=.*)` \|$", PAGE, re.MULTILINE)
    assert len(queries) == 8
    for query in queries:
        bare = query.replace(r"\|", "|")
        filtered = re.findall(r"\| (\w+) ?(?:[<>=!~]+)", bare)
        shown = re.findall(r"\{\{\.(\w+)\}\}", bare)
        grouped = re.findall(r"by \(([\w, ]+)\)", bare)
        asked = {
            *filtered,
            *shown,
            *(name for names in grouped for name in names.split(", ")),
            *re.findall(r"unwrap (\w+)", bare),
        }
        assert asked <= every_field().keys() | OTHER_FIELDS, query


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_fluent_bit_is_told_how_a_line_looks(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    pipeline = config["pipeline"]
    (parser,) = config["parsers"]
    used = {part["parser"] for part in (*pipeline["inputs"], *pipeline.get("filters", ())) if "parser" in part}
    assert used == {parser["name"]}
    assert parser["format"] == "json"
    # Fluent Bit's %L is what comes after the second's point.
    form = parser["time_format"].replace("%L", "%f")
    datetime.strptime(every_field()[parser["time_key"]], form)
    (output,) = pipeline["outputs"]
    (source,) = pipeline["inputs"]
    assert re.fullmatch(output["match"].replace("*", ".*"), source["tag"])
    assert {name.removeprefix("$") for name in output["label_keys"].split(", ")} <= every_field().keys()


def test_there_are_both_configurations() -> None:
    assert [path.name for path in CONFIGS] == ["fluent-bit-kubernetes.yaml", "fluent-bit.yaml"]
