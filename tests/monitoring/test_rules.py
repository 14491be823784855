"""The rules of monitoring/prometheus: each alert has its tests and its section, and Kubernetes gets the same rules."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from deploy.check.programs import run
from deploy.check.tree import ROOT
from monitoring.prometheus_rule import MANIFEST, manifest
from tests.monitoring.rules import RULE_FILES, TEST_FILES, Rule, alerts, rule_tests, rules

PAGE = ROOT / "docs/operations/alerts.md"
KINDS = {"fires", "quiet", "reset", "missing"}
# These are true or not, however few requests there are.
WITHOUT_TRAFFIC = {
    "Absent",
    "AutoscalerAtMax",
    "FingerprintMismatch",
    "GpuMemoryNearlyFull",
    "InstanceDown",
    "NoneReady",
    "NotReady",
    "RestartLoop",
    "SelfTestFailed",
    "WatchdogFailed",
}
SECTION = re.compile(r"^### (\w+)$", re.MULTILINE)


def named(rule: Rule) -> str:
    return str(rule.content["alert"])


def test_promtool_takes_all_rules() -> None:
    ended = run("promtool", "check", "rules", *RULE_FILES)
    assert ended.returncode == 0, ended.stdout + ended.stderr


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: file.stem)
def test_alerts_come_when_they_should(file: Path) -> None:
    ended = run("promtool", "test", "rules", file.name, cwd=file.parent)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_each_alert_has_tests_of_each_kind() -> None:
    kinds: dict[str, set[str]] = {rule.title: set() for rule in alerts()}
    for test in rule_tests():
        kinds[test.of].add(test.kind)
    assert kinds == {rule.title: KINDS if named(rule) in WITHOUT_TRAFFIC else {*KINDS, "low traffic"} for rule in alerts()}


def test_a_test_of_a_kind_expects_what_the_kind_says() -> None:
    """One of them fires where the test is called so; and none does where few ask."""
    for test in rule_tests():
        expected = [part["exp_alerts"] for part in test.content.get("alert_rule_test", ())]
        expected += [part["exp_samples"] for part in test.content.get("promql_expr_test", ()) if "ALERTS" in part["expr"]]
        if test.kind == "fires":
            assert any(expected) and not all(expected), test.content["name"]
        if test.kind in ("quiet", "low traffic"):
            assert expected and not any(expected), test.content["name"]


def test_each_alert_says_how_urgent_it_is_and_where_to_read_on() -> None:
    for rule in alerts():
        assert rule.content["labels"]["severity"] in ("page", "ticket"), rule.title
        texts = rule.content["annotations"]
        assert set(texts) == {"summary", "description", "runbook"}, rule.title
        assert texts["runbook"] == f"{PAGE.relative_to(ROOT)}#{named(rule).lower()}", rule.title


def test_each_alert_has_a_section_and_each_section_an_alert() -> None:
    sections = SECTION.findall(PAGE.read_text(encoding="utf-8"))
    assert len(sections) == len(set(sections))
    assert set(sections) == {named(rule) for rule in alerts()}


def test_numbers_that_several_rules_share_stand_once() -> None:
    shared = {rule.content["record"] for rule in rules() if rule.group == "sgl-embed.objectives"}
    asked = " ".join(rule.expr for rule in rules())
    assert shared and all(asked.count(f"scalar({name}") > 1 for name in shared)


@pytest.mark.parametrize("folder", ["monitoring/targets", "deploy/compose/targets"])
def test_servers_on_hosts_belong_to_a_service_that_the_rules_can_tell_apart(folder: str) -> None:
    services = yaml.safe_load((ROOT / folder / "servers.yml").read_text(encoding="utf-8"))
    assert all(service["labels"]["namespace"] for service in services)


def test_kubernetes_gets_the_same_rules() -> None:
    assert MANIFEST.read_text(encoding="utf-8") == manifest(), "run make rules"
    groups = yaml.safe_load(manifest())["spec"]["groups"]
    of_files = [group for file in RULE_FILES for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    assert groups == of_files
