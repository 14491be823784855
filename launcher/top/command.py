"""``sgl-embed top``: scrape, draw, wait, for as long as somebody looks."""

from __future__ import annotations

import signal
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, sleep

from rich.console import Console
from rich.live import Live

from launcher.errors import NoAnswer
from launcher.top.frame import Frame, Watched, frame
from launcher.top.scrape import scrape_all
from launcher.top.screen import Screen

TIMEOUT_S = 2.0
# As wide as a line of what came before may be.
MOST_FRAMES = 40


def top(urls: Sequence[str], interval_s: float, once: bool) -> int:
    """Raises ``NoAnswer`` where one picture was asked for and no server answered."""
    console = Console(highlight=False)
    watched = [Watched(url) for url in urls]
    if once or not sys.stdout.isatty() or console.is_dumb_terminal:
        return _once(watched, interval_s, console)
    # As at Ctrl-C, the terminal is to be left as it was.
    signal.signal(signal.SIGTERM, _leave)
    with suppress(KeyboardInterrupt):
        _draw(watched, interval_s, console)
    return 0


def _draw(watched: Sequence[Watched], interval_s: float, console: Console) -> None:
    frames: deque[Frame] = deque(maxlen=MOST_FRAMES)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            due_s = monotonic() + interval_s
            watched = _look(watched)
            frames.append(frame(watched))
            live.update(Screen(frames), refresh=True)
            sleep(max(due_s - monotonic(), 0))


def _once(watched: Sequence[Watched], interval_s: float, console: Console) -> int:
    watched = _look(watched)
    sleep(interval_s)
    watched = _look(watched)
    if all(server.failure for server in watched):
        raise NoAnswer("; ".join(f"{server.url}: {server.failure}" for server in watched))
    console.print(Screen([frame(watched)]))
    return 0


def _look(watched: Sequence[Watched]) -> list[Watched]:
    seen = scrape_all([server.url for server in watched], TIMEOUT_S)
    return [server.after(each) for server, each in zip(watched, seen, strict=True)]


def _leave(number: int, _: object) -> None:
    raise SystemExit(128 + number)
