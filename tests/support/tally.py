"""Load by ``wrk`` of good requests and bad ones, and what came of it in any part of the time."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from tests.support.wrk import MISSING

SCRIPT = Path(__file__).with_suffix(".lua")
MARK = "RESULT "
REPLY_TIMEOUT_S = 30
# The finest part of the time that replies are counted by.
BINS_PER_S = 20


class Tally(msgspec.Struct, frozen=True):
    """What tally.lua prints. ``refused``: replies of a status from 400 on; ``lost``: requests without one."""

    requests: int
    seconds: float
    refused: int
    lost: int
    p95_s: float
    rows: tuple[tuple[int, int, int], ...]

    def replies(self, since: float = 0.0, until: float = math.inf) -> dict[int, int]:
        """By status, those between the two (seconds since 1970); a bin that lies across an end counts in part."""
        found: dict[int, float] = {}
        for number, status, count in self.rows:
            begin, end = number / BINS_PER_S, (number + 1) / BINS_PER_S
            inside = max(min(end, until) - max(begin, since), 0.0) / (end - begin)
            found[status] = found.get(status, 0.0) + inside * count
        return {status: round(count) for status, count in found.items()}


@dataclass(frozen=True)
class Request:
    """``timeout_ms``: how long it may take, as its header has it; None: it has no such header."""

    body: object
    timeout_ms: int | None = None

    def line(self) -> str:
        return f"{self.timeout_ms or ''}\t{json.dumps(self.body)}\n"


def write_requests(file: Path, requests: Sequence[Request]) -> Path:
    """They are sent in turn, each time from the first on."""
    file.write_text("".join(request.line() for request in requests), encoding="utf-8")
    return file


def tally(base_url: str, requests: Path, clients: int, seconds: int) -> Tally:
    assert shutil.which("wrk"), MISSING
    command = [
        *("wrk", "--threads", "1", "--connections", str(clients), "--duration", f"{seconds}s"),
        *("--timeout", f"{REPLY_TIMEOUT_S}s", "--latency", "--script", str(SCRIPT), f"{base_url}/v1/embeddings"),
        *("--", str(requests), str(BINS_PER_S)),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 2 * REPLY_TIMEOUT_S)
    (line,) = (line for line in done.stdout.splitlines() if line.startswith(MARK))
    return msgspec.json.decode(line.removeprefix(MARK), type=Tally)
