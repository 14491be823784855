"""What was heard in a phase, against what should have been. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from tests.monitoring.proof.webhook import Heard

Verdict = Literal["heard", "missed", "not resolved", "false", "follows"]


@dataclass(frozen=True)
class Expected:
    """``alerts`` must be heard and resolved. ``consequences`` may be heard: they are true too, but not at once."""

    alerts: frozenset[str] = frozenset()
    consequences: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Phase:
    """``began`` is when the trouble did, ``mended`` when its end did; seconds of the monotonic clock."""

    name: str
    expected: Expected
    began: float
    mended: float


@dataclass(frozen=True)
class Outcome:
    """``fired_s`` after the trouble began, ``resolved_s`` after its end began; None: not heard."""

    phase: str
    alert: str
    fired_s: float | None
    resolved_s: float | None
    verdict: Verdict

    @property
    def good(self) -> bool:
        return self.verdict in ("heard", "follows")


def outcomes(phase: Phase, heard: Sequence[Heard]) -> list[Outcome]:
    """``heard``: all since the phase began, of which some may have been heard before it too."""
    names = sorted(phase.expected.alerts) + sorted({each.name for each in heard} - phase.expected.alerts)
    made = [_outcome(name, phase, heard) for name in names]
    # The end of what an earlier phase began.
    return [each for each in made if each.fired_s is not None or each.alert in phase.expected.alerts]


def _outcome(name: str, phase: Phase, heard: Sequence[Heard]) -> Outcome:
    fired = [each.at - phase.began for each in heard if (each.name, each.status) == (name, "firing")]
    resolved = [each.at - phase.mended for each in heard if (each.name, each.status) == (name, "resolved")]
    fired_s, resolved_s = min(fired, default=None), max(resolved, default=None)
    return Outcome(phase.name, name, fired_s, resolved_s, _verdict(name, phase.expected, fired_s, resolved_s))


def _verdict(name: str, expected: Expected, fired_s: float | None, resolved_s: float | None) -> Verdict:
    if name not in expected.alerts:
        return "follows" if name in expected.consequences else "false"
    if fired_s is None:
        return "missed"
    return "heard" if resolved_s is not None else "not resolved"


def table(found: Collection[Outcome]) -> str:
    lines = [
        f"| {each.phase} | {each.alert} | {_seconds(each.fired_s)} | {_seconds(each.resolved_s)} | {_shown(each)} |"
        for each in found
    ]
    heading = ("| phase | alert | heard after | resolved, since the trouble's end began | |", "| --- | --- | --- | --- | --- |")
    return "\n".join([*heading, *lines])


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"


def _shown(outcome: Outcome) -> str:
    return outcome.verdict if outcome.good else f"**{outcome.verdict}**"
