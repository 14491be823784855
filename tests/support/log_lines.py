"""A log in JSON, read as strictly as a program would."""

from __future__ import annotations

from typing import Any

import orjson

COMMON = {"ts", "level", "logger", "process", "message"}


def objects_in(log: str) -> list[dict[str, Any]]:
    """One for each line. Fails where a line is none, or lacks what each has."""
    assert log.endswith("\n")
    found = []
    for line in log.removesuffix("\n").split("\n"):
        try:
            entry = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise AssertionError(f"not JSON: {line!r}: {error}") from None
        assert entry.keys() >= COMMON, line
        found.append(entry)
    return found
