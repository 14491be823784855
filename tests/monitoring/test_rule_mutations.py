"""Each number and window of each alert, and of what it asks for, is held by the alert's own tests: changed, they fail."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.monitoring.rules import Rule, RuleTest, alerts, needed_by, promtool_tests, rule_tests

# Not in a name, a label's value, or a duration; and not 0, which is compared with and not exceeded by some share.
NUMBER = re.compile(r'(?<![\w."])(?!0\b(?!\.))\d+(?:\.\d+)?(?![\w.":])')
# But for the divisors' guards.
ZERO = re.compile(r"(==|>) 0$", re.MULTILINE)
FLIPPED = {"==": "!=", ">": ">="}
DURATION = re.compile(r"\[(\d+)([mhd])\]")
SECONDS = {"m": 60, "h": 3600, "d": 86_400}


def mutants(alert: Rule) -> Iterator[tuple[str, list[Rule]]]:
    """What was changed, and the rules with that change."""
    needed = needed_by(alert)
    for index, rule in enumerate(needed):
        # A factor for another window is of no concern to this one.
        if rule.window in (None, alert.window):
            for change, content in changes(rule):
                yield f"{rule.title}: {change}", [*needed[:index], replace(rule, content=content), *needed[index + 1 :]]


def changes(rule: Rule) -> Iterator[tuple[str, dict[str, object]]]:
    for found in NUMBER.finditer(rule.expr):
        for factor in (2, 0.5):
            changed = f"{float(found[0]) * factor:g}"
            yield f"{found[0]} -> {changed}", {**rule.content, "expr": put(rule.expr, found, changed)}
    for found in ZERO.finditer(rule.expr):
        yield f"{found[0]} -> {FLIPPED[found[1]]} 0", {**rule.content, "expr": put(rule.expr, found, f"{FLIPPED[found[1]]} 0")}
    for number, unit in sorted(set(DURATION.findall(rule.expr))):
        # A window of days would need tests of weeks to be too long.
        for factor in (0.2,) if unit == "d" else (5, 0.2):
            changed = f"[{int(int(number) * SECONDS[unit] * factor)}s]"
            yield f"[{number}{unit}] -> {changed}", {**rule.content, "expr": rule.expr.replace(f"[{number}{unit}]", changed)}
    if wait := rule.content.get("for"):
        for changed in ("0s", f"{3 * int(wait[:-1])}{wait[-1]}"):
            yield f"for {wait} -> {changed}", {**rule.content, "for": changed}


def put(text: str, found: re.Match[str], changed: str) -> str:
    return text[: found.start()] + changed + text[found.end() :]


@pytest.mark.parametrize("alert", alerts(), ids=lambda rule: rule.title)
def test_each_number_and_window_is_held_by_tests(alert: Rule, tmp_path: Path) -> None:
    # The likeliest to fail first, and the others only where they did not.
    stages = [list(of_kinds(alert, kinds)) for kinds in (("fires",), ("quiet",), ("low traffic", "missing", "reset"))]
    changed = list(mutants(alert))

    def survives(index: int, some_rules: list[Rule]) -> bool:
        folder = tmp_path / str(index)
        folder.mkdir()
        return not any(promtool_tests(folder, some_rules, tests) for tests in stages)

    assert survives(len(changed), needed_by(alert))
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(survives, range(len(changed)), (some_rules for _, some_rules in changed)))
    assert [what for (what, _), survived in zip(changed, found, strict=True) if survived] == []


def of_kinds(alert: Rule, kinds: tuple[str, ...]) -> Iterator[RuleTest]:
    for test in rule_tests():
        if test.of == alert.title and test.kind in kinds:
            # What it says, and what rules of other windows say, is not needed here, and takes all of them.
            content = {key: part for key, part in test.content.items() if alert.window is None or key != "alert_rule_test"}
            yield replace(test, content=content)
