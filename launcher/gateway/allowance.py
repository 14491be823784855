"""How much may be used in a minute: the generic cell rate algorithm, with the time given by whoever asks."""

from __future__ import annotations

import math

WINDOW_S = 60.0
# Below what a clock can tell after a few additions.
NEGLIGIBLE_S = 1e-6


class Allowance:
    """A minute's worth may be used at once; what is used comes back evenly. ``per_minute`` may be infinite.

    Its one number is the time at which all that was used will have come back. Times are in seconds of one monotonic clock.
    """

    def __init__(self, per_minute: float) -> None:
        self._interval_s = WINDOW_S / per_minute
        # Of less than one a minute, one may be used at once all the same.
        self._reserve_s = max(WINDOW_S, self._interval_s)
        self._whole_at = -math.inf

    def wait_s(self, now: float) -> float:
        """How long until one more may be used; 0 where it may be now."""
        wait_s = self._whole_at + self._interval_s - self._reserve_s - now
        return wait_s if wait_s > NEGLIGIBLE_S else 0.0

    def use(self, count: int, now: float) -> None:
        """Take ``count`` out, also where that many are not there: then nothing is until the debt has come back."""
        self._whole_at = max(self._whole_at, now) + count * self._interval_s
