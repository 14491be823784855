"""What a PromQL expression asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import promql_parser
from promql_parser import AggModifierType, MatchOp

DURATION = re.compile(r"(\d+)(ms|[smhdwy])")
UNITS_S = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_536_000}


@dataclass(frozen=True, slots=True)
class Wanted:
    """A label as a selector compares it; ``pattern`` is a regular expression for the whole value."""

    label: str
    pattern: str


@dataclass(frozen=True, slots=True)
class Series:
    """One selector of an expression. ``labels`` are those it compares or that the result is grouped by."""

    metric: str
    labels: frozenset[str]
    wanted: tuple[Wanted, ...]
    window_s: float | None = None


def read(expression: str) -> Sequence[Series]:
    """Raises ``ValueError`` where it is not PromQL."""
    return list(_series(promql_parser.parse(expression), frozenset()))


def seconds(duration: str) -> float:
    """Of Prometheus's ``1m30s``."""
    return sum(int(number) * UNITS_S[unit] for number, unit in DURATION.findall(duration))


def _series(node: Any, grouped: frozenset[str]) -> Iterator[Series]:
    match node:
        case promql_parser.VectorSelector():
            yield _selected(node, grouped)
        case promql_parser.MatrixSelector():
            yield replace(_selected(node.vector_selector, grouped), window_s=node.range.total_seconds())
        case promql_parser.AggregateExpr():
            modifier = node.modifier
            by = set(modifier.labels) if modifier and modifier.type == AggModifierType.By else set()
            yield from _series(node.expr, grouped | by)
        case promql_parser.Call():
            for argument in node.args:
                yield from _series(argument, grouped)
        case promql_parser.BinaryExpr():
            yield from _series(node.lhs, grouped)
            yield from _series(node.rhs, grouped)
        case promql_parser.SubqueryExpr() | promql_parser.UnaryExpr() | promql_parser.ParenExpr():
            yield from _series(node.expr, grouped)


def _selected(selector: Any, grouped: frozenset[str]) -> Series:
    compared = [matcher for matcher in selector.matchers.matchers if matcher.name != "__name__"]
    names = [matcher.value for matcher in selector.matchers.matchers if matcher.name == "__name__"]
    wanted = tuple(
        Wanted(matcher.name, matcher.value if matcher.op == MatchOp.Re else re.escape(matcher.value))
        for matcher in compared
        if matcher.op in (MatchOp.Re, MatchOp.Equal)
    )
    return Series(selector.name or "".join(names), grouped | {matcher.name for matcher in compared}, wanted)
