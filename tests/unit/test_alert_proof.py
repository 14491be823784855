"""How rules are made shorter, and how what was heard becomes a verdict; tests/monitoring/test_alerts_live.py has the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
import yaml

from tests.monitoring.proof.outcomes import Expected, Outcome, Phase, outcomes, table
from tests.monitoring.proof.shorter import milliseconds, shorter
from tests.monitoring.proof.webhook import Alert, Heard, Notification, Status, listening

RULES = sorted((Path(__file__).parents[2] / "monitoring/prometheus/rules").glob("*.yml"))
RANGE = re.compile(r"\[(\w+)\]")


@pytest.mark.parametrize(
    ("deployed", "short"),
    [
        ("sum(rate(requests_total[5m]))", "sum(rate(requests_total[5000ms]))"),
        ("max_over_time(up[1h30m:30s] offset 1h)", "max_over_time(up[90000ms:500ms] offset 60000ms)"),
        ("max_over_time(up[1h:])", "max_over_time(up[60000ms:])"),
        ("        for: 2m\n", "        for: 2000ms\n"),
        ("{scrape_interval: 15s, evaluation_interval: 15s}", "{scrape_interval: 250ms, evaluation_interval: 250ms}"),
        ("  group_wait: 30s\n  repeat_interval: 3d", "  group_wait: 500ms\n  repeat_interval: 4320000ms"),
        ("for: 10ms", "for: 1ms"),
        ("for: 0s", "for: 0ms"),
        # What is no time of theirs: names, labels, thresholds, words.
        ("namespace_job:embedding_errors:ratio_rate5m > 2", "namespace_job:embedding_errors:ratio_rate5m > 2"),
        ('{window: 1h}\nexpr: factor{window="1h"}', '{window: 1h}\nexpr: factor{window="1h"}'),
        ('summary: "waits for 5m: see interval 5m"', 'summary: "waits for 5m: see interval 5m"'),
    ],
)  # fmt: skip
def test_durations_are_shorter_by_the_factor(deployed: str, short: str) -> None:
    assert shorter(deployed, 60) == short


def test_nothing_but_time_changes_in_the_rules() -> None:
    assert RULES
    for file in RULES:
        text = file.read_text(encoding="utf-8")
        deployed, short = (list(rules_in(each)) for each in (text, shorter(text, 10)))
        assert [rule.pop("for", None) for rule in short] == [shortened(rule.pop("for", None)) for rule in deployed]
        for rule in deployed:
            rule["expr"] = RANGE.sub(lambda found: f"[{milliseconds(found[1]) // 10}ms]", rule["expr"])
        assert short == deployed


def rules_in(text: str) -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load(text)["groups"]:
        yield from group["rules"]


def shortened(duration: str | None) -> str | None:
    return duration and f"{milliseconds(duration) // 10}ms"


def test_a_duration_is_the_sum_of_its_parts() -> None:
    assert milliseconds("1h30m") == 5_400_000
    assert milliseconds("250ms") == 250
    with pytest.raises(ValueError, match="no duration"):
        milliseconds("soon")


PHASE = Phase("killed", Expected(frozenset({"Down"}), frozenset({"Burn"})), began=100.0, mended=160.0)


def judged(*heard: Heard) -> dict[str, str]:
    return {each.alert: each.verdict for each in outcomes(PHASE, heard)}


def test_what_was_to_be_heard_and_resolved_was() -> None:
    heard = [Heard("Down", "firing", 102.0), Heard("Down", "resolved", 165.0)]
    assert outcomes(PHASE, heard) == [Outcome("killed", "Down", 2.0, 5.0, "heard")]
    assert "| killed | Down | 2.0 s | 5.0 s | heard |" in table(outcomes(PHASE, heard))


def test_silence_where_something_was_to_be_heard_is_a_miss() -> None:
    (missed,) = outcomes(PHASE, [])
    assert (missed.verdict, missed.good) == ("missed", False)
    assert "| killed | Down | - | - | **missed** |" in table([missed])


def test_an_alert_that_stays_is_told() -> None:
    assert judged(Heard("Down", "firing", 102.0)) == {"Down": "not resolved"}


def test_what_follows_may_be_heard_and_anything_else_is_false() -> None:
    heard = [Heard("Down", "firing", 102.0), Heard("Down", "resolved", 165.0)]
    found = judged(*heard, Heard("Burn", "firing", 103.0), Heard("Other", "firing", 104.0))
    assert found == {"Down": "heard", "Burn": "follows", "Other": "false"}


def test_the_end_of_what_an_earlier_phase_began_is_nothing_of_this_one() -> None:
    heard = [Heard("Down", "firing", 102.0), Heard("Down", "resolved", 165.0)]
    assert judged(*heard, Heard("Other", "resolved", 101.0)) == {"Down": "heard"}


def said(status: Status) -> Notification:
    return Notification([Alert(status, {"alertname": "SlowP95"})])


def test_an_alert_that_begins_again_has_not_ended() -> None:
    with listening() as webhook:
        webhook.take(said("firing"))
        webhook.take(said("resolved"))
        again = [Timer(0.02, webhook.take, (said("firing"),)), Timer(0.04, webhook.take, (said("resolved"),))]
        for timer in again:
            timer.start()
        assert webhook.wait_for_the_end_of(["SlowP95"], since=0, quiet_s=0.2, timeout_s=10)
        assert [each.status for each in webhook.heard()] == ["firing", "resolved"] * 2


def test_one_that_is_never_resolved_has_no_end() -> None:
    with listening() as webhook:
        webhook.take(said("firing"))
        assert not webhook.wait_for_the_end_of(["SlowP95"], since=0, quiet_s=0.01, timeout_s=0.05)
