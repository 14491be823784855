"""What an autoscaler is told, whichever manifest it was read from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# https://kubernetes.io/docs/concepts/workloads/autoscaling/horizontal-pod-autoscale/, "Algorithm details".
TOLERANCE = 0.1
SYNC_S = 15

Compared = Literal["average", "value", "pods"]
Counted = Literal["offered", "completed", "tokens_in_flight"]


@dataclass(frozen=True, slots=True)
class Signal:
    """What a query reads: a rate over ``window_s`` seconds, or, without one, a gauge as it was scraped last."""

    counted: Counted
    window_s: float | None


@dataclass(frozen=True, slots=True)
class Metric:
    """``target`` is one pod's share ("average": of the sum over all; "pods": of each pod's own), or the whole ("value")."""

    key: str
    signal: Signal
    target: float
    compared: Compared
    # KEDA's ignoreNullValues: a query without a result is 0, not an error.
    null_is_zero: bool = False


@dataclass(frozen=True, slots=True)
class Policy:
    kind: Literal["Pods", "Percent"]
    value: int
    period_s: int


@dataclass(frozen=True, slots=True)
class Rules:
    """One direction. ``select`` says which policy holds: the one with the most change, the least, or that there is none."""

    policies: tuple[Policy, ...]
    window_s: int
    select: Literal["Max", "Min", "Disabled"] = "Max"
    tolerance: float = TOLERANCE


# The same page, "Default behavior".
DEFAULT_UP = Rules((Policy("Percent", 100, 15), Policy("Pods", 4, 15)), window_s=0)
DEFAULT_DOWN = Rules((Policy("Percent", 100, 15),), window_s=300)


@dataclass(frozen=True, slots=True)
class Autoscaler:
    deployment: str
    least: int
    most: int
    metrics: tuple[Metric, ...]
    up: Rules = DEFAULT_UP
    down: Rules = DEFAULT_DOWN
