"""Who hears what: monitoring/alertmanager, asked of amtool and of a running Alertmanager."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
import yaml

from deploy.check.programs import run
from deploy.check.tree import ROOT
from tests.monitoring.rules import alerts
from tests.support.alertmanager import running_alertmanager

FILE = ROOT / "monitoring/alertmanager/alertmanager.yml"
NAMES = {rule.content["alert"] for rule in alerts()}
SERVICE = {"job": "sgl-embed", "namespace": "search"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of one that runs as it is shipped, with nobody to tell."""
    config = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    with running_alertmanager(tmp_path_factory.mktemp("alertmanager"), config) as address:
        yield address


def muted(address: str, *firing: Mapping[str, str]) -> set[str]:
    """Those of them that nobody is told of."""
    alerts_url = f"http://{address}/api/v2/alerts"
    assert httpx.post(alerts_url, json=[{"labels": each} for each in firing]).status_code == 200
    known = httpx.get(alerts_url, params={"filter": f'job="{firing[0]["job"]}"'}).json()
    assert len(known) == len(firing)
    silent = [each["labels"] for each in known if each["status"]["inhibitedBy"]]
    return {f"{each['severity']} {each['alertname']}" for each in silent}


@pytest.mark.parametrize(("severity", "receiver"), [("page", "pages"), ("ticket", "tickets"), ("", "tickets")])
def test_pages_and_tickets_have_receivers_of_their_own(severity: str, receiver: str) -> None:
    ended = run("amtool", "config", "routes", "test", f"--config.file={FILE}", f"severity={severity}", "alertname=Errors")
    assert ended.stdout.split() == [receiver], ended.stderr


def test_the_webhook_of_the_comments_can_be_taken_as_it_stands(tmp_path: Path) -> None:
    shipped = FILE.read_text(encoding="utf-8")
    with_webhooks = re.sub(r"^( +)# (webhook_configs:|  - url_file:)", r"\1\2", shipped, flags=re.MULTILINE)
    receivers = yaml.safe_load(with_webhooks)["receivers"]
    assert [list(each["webhook_configs"][0]) for each in receivers] == [["url_file"], ["url_file"]]
    # Older ones than 0.26, as Debian 12's, know no url_file.
    file = tmp_path / "alertmanager.yml"
    file.write_text(with_webhooks.replace("url_file: ", "url: http://127.0.0.1"), encoding="utf-8")
    ended = run("amtool", "check-config", file)
    assert ended.returncode == 0, ended.stdout


def test_clusters_and_namespaces_are_told_apart() -> None:
    config = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    grouped = [each["group_by"] for each in (config["route"], *config["route"]["routes"])]
    assert all({"cluster", "namespace", "job"} <= set(labels) for labels in grouped)
    assert all("cluster" in rule["equal"] for rule in config["inhibit_rules"])


def test_what_is_muted_is_an_alert_that_there_is() -> None:
    rules = yaml.safe_load(FILE.read_text(encoding="utf-8"))["inhibit_rules"]
    matchers = [text for rule in rules for text in (*rule["source_matchers"], *rule["target_matchers"])]
    named = {name for text in matchers if text.startswith("alertname") for name in re.findall(r"[A-Z]\w+", text)}
    assert named and named <= NAMES


def page(alert: str, **others: str) -> dict[str, str]:
    return {"alertname": alert, "severity": "page", **SERVICE, **others}


def ticket(alert: str, **others: str) -> dict[str, str]:
    return {"alertname": alert, "severity": "ticket", **SERVICE, **others}


DOWN = page("InstanceDown", instance="a")
ABSENT = {"alertname": "Absent", "severity": "page", "job": "sgl-embed"}


@pytest.mark.parametrize(
    ("case", "firing", "expected"),
    [
        (
            "an instance is down",
            (DOWN, page("Stuck", instance="a"), ticket("RestartLoop", instance="a"), ticket("Refused"), page("Errors")),
            {"page Stuck", "ticket RestartLoop", "ticket Refused"},
        ),
        ("another instance is down", (DOWN, page("Stuck", instance="b"), ticket("RestartLoop", instance="b")), set()),
        ("another service's is down", (DOWN | {"namespace": "next"}, ticket("Refused")), set()),
        (
            "none is ready",
            (page("NoneReady"), ticket("NotReady", instance="a"), ticket("ConnectionsRefused"), page("Errors")),
            {"ticket NotReady", "ticket ConnectionsRefused"},
        ),
        (
            "one budget, twice",
            (page("ErrorBudgetBurn", window="1h"), ticket("ErrorBudgetBurn", window="3d"), ticket("LatencyBudgetBurn")),
            {"ticket ErrorBudgetBurn"},
        ),
        (
            "nobody is asked",
            (ABSENT, page("Errors"), ticket("NotReady")),
            {"page Errors", "ticket NotReady"},
        ),
        ("nobody is asked elsewhere", (ABSENT | {"cluster": "east"}, page("Errors", cluster="west")), set()),
        ("nobody is asked here", (ABSENT | {"cluster": "east"}, page("Errors", cluster="east")), {"page Errors"}),
        (
            "elsewhere much is wrong",
            (
                page("InstanceDown", instance="a", cluster="east"),
                page("Errors", cluster="east"),
                page("Stuck", instance="a", cluster="west"),
                ticket("Refused", cluster="west"),
                ticket("Errors", cluster="west"),
            ),
            set(),
        ),
        ("no cause is known", (page("Errors"), ticket("Refused"), ticket("Saturated")), set()),
    ],
)
def test_who_is_told_of_the_cause_is_not_told_of_what_follows(
    address: str, case: str, firing: tuple[dict[str, str], ...], expected: set[str]
) -> None:
    # Each case has a service of its own, so that those before it mute nothing here.
    assert muted(address, *(each | {"job": case} for each in firing)) == expected
