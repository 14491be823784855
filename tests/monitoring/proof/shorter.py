"""Rules and configurations whose durations are all shorter by one factor. Pure.

Only what Prometheus and Alertmanager count in time is: ranges, offsets, how long an alert waits, intervals. Thresholds stay,
also those in seconds, and so do the names of recorded series, which still say 5m.
"""

from __future__ import annotations

import re

UNITS_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000, "y": 31_536_000_000}
DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
KEYS = (
    *("for", "keep_firing_for", "interval", "scrape_interval", "evaluation_interval"),
    *("group_wait", "group_interval", "repeat_interval", "resolve_timeout"),
)
PLACES = re.compile(
    rf"(?P<range>\[{DURATION}(?::(?:{DURATION})?)?\])"
    rf"|(?P<offset>\boffset\s+-?{DURATION}\b)"
    rf"|(?P<key>(?<![\w.])(?:{'|'.join(KEYS)}):[ ]*{DURATION}\b)"
)


def shorter(text: str, factor: float) -> str:
    return PLACES.sub(lambda place: re.sub(DURATION, lambda found: _shorter_duration(found[0], factor), place[0]), text)


def milliseconds(duration: str) -> int:
    """Raises ``ValueError`` where it is none, as Prometheus writes them."""
    if not re.fullmatch(DURATION, duration):
        raise ValueError(f"{duration!r} is no duration: expected one such as 5m or 1h30m")
    return sum(int(count) * UNITS_MS[unit] for count, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


def _shorter_duration(duration: str, factor: float) -> str:
    # Nought would switch off what it is the time of, where it was not so before.
    was = milliseconds(duration)
    return f"{max(round(was / factor), min(was, 1))}ms"
