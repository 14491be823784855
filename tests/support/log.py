"""What a part of the project logs, to be waited for."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DEADLINE_S = 30


class Said(logging.Handler):
    """Holds the lines as they come. Waiting for one has a deadline."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self._news = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())
        self._news.set()

    async def wait_for(self, text: str, times: int = 1) -> None:
        await self._wait_until(lambda: sum(text in line for line in self.lines) >= times)

    async def wait_until_last(self, text: str) -> None:
        await self._wait_until(lambda: bool(self.lines) and text in self.lines[-1])

    async def _wait_until(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():
                self._news.clear()
                await self._news.wait()


@contextmanager
def listening_to(name: str) -> Iterator[Said]:
    logger, said = logging.getLogger(name), Said()
    level = logger.level
    logger.addHandler(said)
    logger.setLevel(logging.INFO)
    try:
        yield said
    finally:
        logger.removeHandler(said)
        logger.setLevel(level)
