"""Load by ``wrk``, in the background of a test."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from benchmarks.load import Counted, run_wrk
from tests.support.load import MODEL
from tests.support.texts import all_different

MISSING = "these tests need wrk: apt install wrk (Debian, Ubuntu), brew install wrk (macOS)"
CLIENTS = 8


def write_bodies(file: Path) -> Path:
    """Two texts a request, none of which comes twice in the file."""
    assert shutil.which("wrk"), MISSING
    texts = all_different(2000, 60)
    pairs = zip(texts[::2], texts[1::2], strict=True)
    file.write_text("".join(f'{{"model":"{MODEL}","input":["{first}","{second}"]}}\n' for first, second in pairs))
    return file


def load(base_url: str, bodies: Path, seconds: float, clients: int = CLIENTS) -> Counted:
    return run_wrk(f"{base_url}/v1/embeddings", bodies, clients, seconds, timed=False)


@contextmanager
def under_load_throughout(base_url: str, bodies: Path, window_s: float) -> Iterator[Future[list[Counted]]]:
    """Window after window, as long as the block takes; the last one is finished."""
    done = threading.Event()

    def windows() -> list[Counted]:
        counted = []
        while not done.is_set():
            counted.append(load(base_url, bodies, window_s))
        return counted

    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(windows)
        finally:
            done.set()


@contextmanager
def under_load(base_url: str, bodies: Path, seconds: float) -> Iterator[Future[Counted]]:
    """It goes on until ``seconds`` are over, and so does this."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(load, base_url, bodies, seconds)
