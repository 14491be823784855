"""The HorizontalPodAutoscaler's algorithm, as documented:
https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/
Where the page leaves something open, as the controller's source does it (pkg/controller/podautoscaler).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from launcher.autoscaling.rules import TOLERANCE, Autoscaler, Policy, Rules

# The controller counts in thousandths, where 0.3 / 0.1 is 3 and not a little more.
ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far from 1 the ratio of the metric to its target may be before anything is done."""

    down: float = TOLERANCE
    up: float = TOLERANCE

    def holds(self, ratio: float) -> bool:
        return 1 - self.down <= ratio <= 1 + self.up


def for_average(total: float, target: float, current: int, tolerance: Tolerance) -> int:
    """A sum over all pods, against what one pod should have of it (``AverageValue`` of an external metric)."""
    return current if tolerance.holds(total / (target * current)) else _ceil(total / target)


def for_value(value: float, target: float, current: int, ready: int, tolerance: Tolerance) -> int:
    """A number that is no sum, against the number it should be (``Value``)."""
    return current if tolerance.holds(value / target) else _ceil(value / target * ready)


def for_pods(values: Sequence[float | None], unready: int, target: float, current: int, tolerance: Tolerance) -> int | None:
    """Each pod's own number (``Pods``); None is a pod without one, ``unready`` are pods beside those, not yet counted in.

    Returns None where no pod has a number. Pods without one are taken to be at the target when fewer pods are wanted, and at 0
    when more are; unready pods at 0 when more are. Neither may turn the direction.
    """
    known = [value for value in values if value is not None]
    if not known:
        return None
    missing = len(values) - len(known)
    ratio = sum(known) / len(known) / target
    rebalanced = unready if ratio > 1 else 0
    if not missing and not rebalanced:
        return current if tolerance.holds(ratio) else _ceil(ratio * len(known))
    counted = len(known) + missing + rebalanced
    assumed = missing * target if ratio < 1 else 0.0
    cautious = (sum(known) + assumed) / counted / target
    if tolerance.holds(cautious) or (cautious > 1) != (ratio > 1):
        return current
    wanted = _ceil(cautious * counted)
    return current if (wanted > current) != (ratio > 1) else wanted


def combine(proposals: Sequence[int | None], current: int) -> int | None:
    """The most that any metric asks for. None, no change: none could be read, or one could not and the others want fewer."""
    known = [proposal for proposal in proposals if proposal is not None]
    if not known or (len(known) < len(proposals) and max(known) < current):
        return None
    return max(known)


@dataclass(slots=True)
class Controller:
    """What the controller remembers between two syncs. Times are in seconds, and may begin anywhere."""

    autoscaler: Autoscaler
    _recommended: list[tuple[float, int]] = field(default_factory=list, init=False)
    _changes: list[tuple[float, int]] = field(default_factory=list, init=False)

    def decide(self, now: float, current: int, wanted: int | None) -> int:
        """How many pods there shall be from now on. ``wanted`` is what ``combine`` gave."""
        least, most = self.autoscaler.least, self.autoscaler.most
        if not self._recommended:
            self._recommended.append((now, current))
        if not least <= current <= most:
            chosen = min(max(current, least), most)
        elif wanted is None:
            return current
        else:
            chosen = self._limited(now, current, self._stabilized(now, current, wanted))
        if chosen != current:
            self._changes.append((now, chosen - current))
        return chosen

    def _stabilized(self, now: float, current: int, wanted: int) -> int:
        """The least that was recommended within the window for more pods, the most within that for fewer."""
        up_s, down_s = self.autoscaler.up.window_s, self.autoscaler.down.window_s
        more = min([wanted, *(replicas for at, replicas in self._recommended if at > now - up_s)])
        fewer = max([wanted, *(replicas for at, replicas in self._recommended if at > now - down_s)])
        self._recommended = [(at, replicas) for at, replicas in self._recommended if at > now - max(up_s, down_s)]
        self._recommended.append((now, wanted))
        return min(max(current, more), fewer)

    def _limited(self, now: float, current: int, wanted: int) -> int:
        self._forget(now)
        if wanted > current:
            allowed = max(current, upper_limit(self.autoscaler.up, now, current, self._changes))
            return min(wanted, allowed, self.autoscaler.most)
        if wanted < current:
            allowed = min(current, lower_limit(self.autoscaler.down, now, current, self._changes))
            return max(wanted, allowed, self.autoscaler.least)
        return current

    def _forget(self, now: float) -> None:
        longest = max(
            (policy.period_s for rules in (self.autoscaler.up, self.autoscaler.down) for policy in rules.policies), default=0
        )
        self._changes = [(at, change) for at, change in self._changes if at > now - longest]


def upper_limit(rules: Rules, now: float, current: int, changes: Sequence[tuple[float, int]]) -> int:
    """How many pods the policies allow now; ``changes`` are the past ones, as (time, pods more or fewer)."""
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        before = _at_period_start(policy, now, current, changes)
        # Rounded up, or one pod and 50 % would stay one pod for ever.
        limits.append(before + policy.value if policy.kind == "Pods" else _ceil(before * (1 + policy.value / 100)))
    return max(limits) if rules.select == "Max" else min(limits)


def lower_limit(rules: Rules, now: float, current: int, changes: Sequence[tuple[float, int]]) -> int:
    """How few pods the policies allow now."""
    if rules.select == "Disabled":
        return current
    limits = []
    for policy in rules.policies:
        before = _at_period_start(policy, now, current, changes)
        limits.append(
            before - policy.value if policy.kind == "Pods" else math.floor(before * (1 - policy.value / 100) + ROUNDING)
        )
    return min(limits) if rules.select == "Max" else max(limits)


def _at_period_start(policy: Policy, now: float, current: int, changes: Sequence[tuple[float, int]]) -> int:
    return current - sum(change for at, change in changes if at > now - policy.period_s)


def _ceil(value: float) -> int:
    return math.ceil(value - ROUNDING)
