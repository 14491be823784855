"""The rules of monitoring/prometheus and their tests, read from their files; and promtool, given some of both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from deploy.check.programs import run
from deploy.check.promql import read
from deploy.check.tree import ROOT

PROMETHEUS = ROOT / "monitoring/prometheus"
RULE_FILES = sorted((PROMETHEUS / "rules").glob("*.yml"))
TEST_FILES = sorted((PROMETHEUS / "tests").glob("*.yml"))


@dataclass(frozen=True, slots=True)
class Rule:
    """``content`` as in its file; ``group`` is unique."""

    group: str
    content: Mapping[str, Any]

    @property
    def expr(self) -> str:
        return str(self.content["expr"])

    @property
    def window(self) -> str | None:
        """Of the rules that there is one of for each of several windows."""
        return self.content.get("labels", {}).get("window")

    @property
    def title(self) -> str:
        """What its tests are called by."""
        return " ".join(filter(None, (self.content.get("alert", self.content.get("record")), self.window)))


@dataclass(frozen=True, slots=True)
class RuleTest:
    """``of`` is the alert's title, ``kind`` one of ``KINDS``."""

    of: str
    kind: str
    evaluation_interval: str
    content: Mapping[str, Any]


@cache
def rules() -> list[Rule]:
    """In the order in which they are to be evaluated: what is recorded first."""
    found = [
        Rule(group["name"], content)
        for file in RULE_FILES
        for group in yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)["groups"]
        for content in group["rules"]
    ]
    return sorted(found, key=lambda rule: ("alert" in rule.content, rule.group != "sgl-embed.objectives"))


def alerts() -> list[Rule]:
    return [rule for rule in rules() if "alert" in rule.content]


@cache
def rule_tests() -> list[RuleTest]:
    found = []
    for file in TEST_FILES:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
        for test in content["tests"]:
            of, _, kind = test["name"].rpartition(": ")
            found.append(RuleTest(of, kind, content["evaluation_interval"], test))
    return found


def needed_by(alert: Rule) -> list[Rule]:
    """The alert, last, and before it all that records what it asks for."""
    asked = _asked(alert)
    return [rule for rule in rules() if rule.content.get("record") in asked] + [alert]


def _asked(rule: Rule) -> set[str]:
    names = {series.metric for series in read(rule.expr)}
    recorded = [each for each in rules() if each.content.get("record") in names]
    return names.union(*map(_asked, recorded))


def promtool_tests(folder: Path, some_rules: Sequence[Rule], tests: Iterable[RuleTest]) -> str:
    """What promtool has to say against it; nothing where all pass."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for rule in some_rules:
        groups.setdefault(rule.group, []).append(rule.content)
    listed = [{"name": name, "rules": contents} for name, contents in groups.items()]
    (folder / "rules.yml").write_text(yaml.safe_dump({"groups": listed}), encoding="utf-8")
    chosen = list(tests)
    content = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": chosen[0].evaluation_interval,
        "group_eval_order": list(groups),
        "tests": [test.content for test in chosen],
    }
    (folder / "tests.yml").write_text(yaml.safe_dump(content), encoding="utf-8")
    ended = run("promtool", "test", "rules", "tests.yml", cwd=folder)
    said = ended.stdout + ended.stderr
    # Anything but a test that failed would make every mutant look killed.
    assert not ended.returncode or re.search(r"^\s+(alertname|expr): ", said, re.MULTILINE), said
    return said if ended.returncode else ""
