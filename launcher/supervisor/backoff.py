"""When a process that ended is started again. Pure."""

from __future__ import annotations

# Who worked for so long did not end because of how it was started.
STABLE_S = 60.0
MAX_FAILURES = 8
MAX_DELAY_S = 30.0


def count_failures(failures: int, uptime_s: float) -> int:
    """How many ends in a row are to be counted after one that came ``uptime_s`` after the process had become ready."""
    return 1 if uptime_s >= STABLE_S else failures + 1


def restart_delay_s(failures: int) -> float | None:
    """0 after the first of ``failures`` in a row, then 1, 2, 4, … seconds; None: it is of no use any more."""
    if failures > MAX_FAILURES:
        return None
    return 0.0 if failures <= 1 else min(2.0 ** (failures - 2), MAX_DELAY_S)
