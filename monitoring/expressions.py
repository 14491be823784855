"""What the boards ask of Prometheus, read from their JSON, with Grafana's variables filled in."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# As a board that was just opened has them, where one server is scraped every 15 s.
DEFAULTS = {
    "namespace": ".*",
    "job": "sgl-embed",
    "instance": ".*",
    "deployment": "sgl-embed",
    "__rate_interval": "1m",
    "__interval": "15s",
    "__range": "1h",
}
VARIABLE = re.compile(r"\$\{?(\w+)\}?")
LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


@dataclass(frozen=True, slots=True)
class Expression:
    """``place`` is a panel and its query, or a variable; ``text`` is as in the JSON."""

    board: str
    place: str
    text: str


def read_board(path: Path) -> dict[str, Any]:
    board: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return board


def expressions_of(name: str, board: Mapping[str, Any]) -> Iterator[Expression]:
    for panel in panels_of(board):
        for target in panel["targets"]:
            yield Expression(name, f"{panel['title']} {target['refId']}", target["expr"])
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            asked = LABEL_VALUES.fullmatch(variable["query"]["query"])
            assert asked, variable
            yield Expression(name, f"${variable['name']}", f"count by ({asked['label']}) ({asked['series']})")


def panels_of(board: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """All but the headings."""
    return (panel for panel in board["panels"] if panel["type"] != "row")


def filled(text: str, values: Mapping[str, str] = DEFAULTS) -> str:
    """PromQL as Grafana would send it. Raises ``KeyError`` for a variable that ``values`` lacks."""
    return VARIABLE.sub(lambda found: values[found[1]], text)
