"""What docs/operations tells an operator to type, put to real servers and a real Prometheus."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.prometheus import RunningPrometheus, running_prometheus
from tests.support.server import RunningServer

PAGES = Path(__file__).parents[2] / "docs" / "operations"
BLOCK = re.compile(r"^( *)```(\w+)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
# Of those that servers export; one after a colon is part of what a rule records.
NAME = re.compile(r"(?<!:)\bembedding_\w+\b(?!:)")
# Of a histogram, and of a counter.
SUFFIXES = ("_bucket", "_sum", "_count", "_total")


def blocks(page: str, language: str) -> list[str]:
    found = BLOCK.findall((PAGES / page).read_text(encoding="utf-8"))
    return [re.sub(f"^{indent}", "", text, flags=re.MULTILINE) for indent, of, text in found if of == language]


def queries() -> list[tuple[str, str]]:
    """Of all pages; an empty line ends one."""
    return [
        (page.name, query.strip())
        for page in sorted(PAGES.glob("*.md"))
        for block in blocks(page.name, "promql")
        for query in block.split("\n\n")
    ]


@pytest.fixture(scope="module")
def prometheus(openvino_server: RunningServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPrometheus]:
    with running_prometheus(tmp_path_factory.mktemp("prometheus"), [openvino_server.base_url]) as prometheus:
        yield prometheus


@pytest.fixture(scope="module")
def exported() -> set[str]:
    """From the page that a test holds to the code."""
    return set(NAME.findall((PAGES.parent / "metrics.md").read_text(encoding="utf-8")))


def test_there_are_queries() -> None:
    assert {"capacity.md", "incidents.md", "upgrades.md"} <= {page for page, _ in queries()}


@pytest.mark.parametrize(("page", "query"), queries())
def test_prometheus_understands_each_query_and_servers_have_its_metrics(
    prometheus: RunningPrometheus, exported: set[str], page: str, query: str
) -> None:
    prometheus.values(query)
    names = {re.sub("|".join(f"{suffix}$" for suffix in SUFFIXES[:3]), "", name) for name in NAME.findall(query)}
    assert names
    assert names <= exported


def client_that_pins(server: RunningServer) -> str:
    (code,) = blocks("upgrades.md", "python")
    return code.replace("localhost:30000", urlsplit(server.base_url).netloc)


def test_the_python_of_the_upgrades_page_runs(openvino_server: RunningServer) -> None:
    code = client_that_pins(openvino_server)
    names: dict[str, object] = {}
    exec(compile(code, "upgrades.md", "exec"), names)
    assert names["vectors"]


def test_a_client_that_pins_refuses_another_space(openvino_server: RunningServer) -> None:
    code = client_that_pins(openvino_server).replace("pinned = model.fingerprint", "pinned = '0123456789abcdef'")
    with pytest.raises(RuntimeError, match="the index has vectors of 0123456789abcdef"):
        exec(compile(code, "upgrades.md", "exec"), {})
