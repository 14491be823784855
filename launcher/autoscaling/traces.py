"""How many requests a second are offered, over time."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# How fast a flash crowd comes, and how fast it loses interest.
CROWD_RISE_S = 30
CROWD_FADE_S = 300
SPIKE_S = 60


@dataclass(frozen=True, slots=True)
class Trace:
    """``qps(t)`` from 0 to ``length_s``; what is judged ends at ``busy_s``, from where on it is what it was before."""

    name: str
    qps: Callable[[float], float]
    busy_s: int
    length_s: int


def step(low: float, high: float, hold_s: int, rest_s: int) -> Trace:
    """``high`` at once, for ``hold_s``."""
    return Trace("step", lambda t: high if 0 <= t < hold_s else low, hold_s, hold_s + rest_s)


def ramp(low: float, high: float, hold_s: int, rest_s: int) -> Trace:
    """Up to ``high`` in a straight line over half of ``hold_s``, and then that."""
    rise_s = hold_s / 2

    def qps(t: float) -> float:
        return low + (high - low) * min(t / rise_s, 1.0) if 0 <= t < hold_s else low

    return Trace("ramp", qps, hold_s, hold_s + rest_s)


def diurnal(low: float, high: float, hold_s: int, rest_s: int) -> Trace:
    """From ``low`` to ``high`` and back as a day goes, in ``hold_s``."""

    def qps(t: float) -> float:
        return low + (high - low) * (1 - math.cos(2 * math.pi * t / hold_s)) / 2 if 0 <= t < hold_s else low

    return Trace("diurnal", qps, hold_s, hold_s + rest_s)


def spike(low: float, high: float, hold_s: int, rest_s: int) -> Trace:
    """``high`` for a minute at the beginning of ``hold_s``: over before a pod has started."""
    return Trace("spike", lambda t: high if 0 <= t < SPIKE_S else low, hold_s, hold_s + rest_s)


def flash_crowd(low: float, high: float, hold_s: int, rest_s: int) -> Trace:
    """Up to ``high`` in half a minute, and falling by half every three and a half."""

    def qps(t: float) -> float:
        if not 0 <= t < hold_s:
            return low
        share = t / CROWD_RISE_S if t < CROWD_RISE_S else math.exp(-(t - CROWD_RISE_S) / CROWD_FADE_S)
        return low + (high - low) * share

    return Trace("flash-crowd", qps, hold_s, hold_s + rest_s)


TRACES: dict[str, Callable[[float, float, int, int], Trace]] = {
    "step": step,
    "ramp": ramp,
    "diurnal": diurnal,
    "spike": spike,
    "flash-crowd": flash_crowd,
}
