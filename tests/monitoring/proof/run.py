"""One run: nothing wrong for a while, then one trouble after the other, each mended once it was heard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.monitoring.proof.deployed import Deployed
from tests.monitoring.proof.outcomes import Expected, Outcome, Phase, outcomes
from tests.monitoring.proof.service import Service, running_service
from tests.monitoring.proof.webhook import Webhook, listening
from tests.support.alertmanager import running_alertmanager
from tests.support.prometheus import RunningPrometheus

# As deployed; a factor shortens them. What a busy machine may take besides is not shortened.
HEALTHY_S = 300.0
HEARD_WITHIN_S = 900.0
RESOLVED_WITHIN_S = 1200.0
SLACK_S = 30.0
# An alert may begin again while the trouble leaves its window; then it takes as long as its `for` to be heard.
QUIET_S = 180.0
BURN = frozenset({"ErrorBudgetBurn", "LatencyBudgetBurn"})


@dataclass(frozen=True)
class Trouble:
    name: str
    expected: Expected
    begin: Callable[[Service], None]
    mend: Callable[[Service], None]


# The last leaves budgets burnt, of which windows of hours tell long after.
TROUBLES = (
    Trouble("an instance killed", Expected(frozenset({"InstanceDown"})), Service.kill_one, Service.start_it_again),
    Trouble(
        "2.5 s for each batch",
        # What waits longer than it takes is what makes it slow.
        Expected(frozenset({"SlowP95"}), BURN - {"ErrorBudgetBurn"} | {"Saturated"}),
        Service.slow_down,
        Service.recover,
    ),
    Trouble(
        "a fifth of requests fail",
        # And what the one before may have left in a window.
        Expected(frozenset({"Errors"}), BURN | {"Saturated"}),
        Service.fail,
        Service.recover,
    ),
)


def prove(deployed: Deployed, folder: Path, model: Path, note: Callable[[str], None]) -> list[Outcome]:
    """``folder`` is for files of this run. Nobody is heard in a healthy phase that goes well, which has no outcomes."""
    with (
        listening() as webhook,
        running_alertmanager(folder, deployed.alertmanager_config(webhook.url)) as alertmanager,
        running_service(folder, model) as service,
        watched(deployed, folder, service, alertmanager),
    ):
        note("all servers are scraped")
        return phases(deployed, service, webhook, note)


@contextmanager
def watched(deployed: Deployed, folder: Path, service: Service, alertmanager: str) -> Iterator[None]:
    config = deployed.prometheus_config(folder, service.urls, alertmanager)
    prometheus = RunningPrometheus(folder, config, deployed.prometheus_options())
    try:
        prometheus.wait_ready(len(service.urls), SLACK_S + 2 * deployed.scrape_interval_s())
        yield
    finally:
        prometheus.stop()


def phases(deployed: Deployed, service: Service, webhook: Webhook, note: Callable[[str], None]) -> list[Outcome]:
    found = healthy(deployed, webhook)
    note(f"nothing was wrong for {deployed.seconds(HEALTHY_S):g} s: {len(found)} alerts heard")
    for trouble in TROUBLES:
        made = go_through(trouble, deployed, service, webhook)
        note(f"{trouble.name}: " + ", ".join(f"{each.alert} {each.verdict}" for each in made))
        found += made
    return found


def healthy(deployed: Deployed, webhook: Webhook) -> list[Outcome]:
    began = time.monotonic()
    # The first to be heard would end it.
    webhook.wait_for_any(began, deployed.seconds(HEALTHY_S))
    return outcomes(Phase("nothing wrong", Expected(), began, time.monotonic()), webhook.heard(began))


def go_through(trouble: Trouble, deployed: Deployed, service: Service, webhook: Webhook) -> list[Outcome]:
    began = time.monotonic()
    trouble.begin(service)
    webhook.wait_for(trouble.expected.alerts, "firing", began, deployed.seconds(HEARD_WITHIN_S) + SLACK_S)
    mended = time.monotonic()
    trouble.mend(service)
    timeout_s = deployed.seconds(RESOLVED_WITHIN_S) + SLACK_S
    webhook.wait_for_the_end_of(trouble.expected.alerts, began, deployed.seconds(QUIET_S), timeout_s)
    return outcomes(Phase(trouble.name, trouble.expected, began, mended), webhook.heard(began))
