"""Servers asked for their metrics, all at once."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic

from launcher.telemetry.exposition import Exposition, printable, read

# Of a server with thousands of API keys it is 1 MB.
MAX_BYTES = 16 << 20
EVERY_SERVER_HAS = "embedding_ready"


@dataclass(frozen=True, slots=True)
class Scrape:
    """``at_s`` is monotonic."""

    at_s: float
    shown: Exposition


@dataclass(frozen=True, slots=True)
class NoScrape:
    reason: str


def scrape_all(urls: Sequence[str], timeout_s: float) -> list[Scrape | NoScrape]:
    """In the order of ``urls``, and not later than ``timeout_s`` from now, whatever a server or a resolver does."""
    deadline = monotonic() + timeout_s
    replies: SimpleQueue[tuple[str, Scrape | NoScrape]] = SimpleQueue()

    def ask(url: str) -> None:
        replies.put((url, scrape(url, timeout_s)))

    for url in urls:
        # A daemon: whoever leaves does not wait for those that do not answer.
        Thread(target=ask, args=(url,), daemon=True).start()
    found: dict[str, Scrape | NoScrape] = {}
    while len(found) < len(urls):
        try:
            url, reply = replies.get(timeout=max(deadline - monotonic(), 0))
        except Empty:
            break
        found[url] = reply
    return [found.get(url, NoScrape(f"no answer within {timeout_s:g} s")) for url in urls]


def scrape(url: str, timeout_s: float) -> Scrape | NoScrape:
    """``url`` is a server's, without the path."""
    try:
        with urllib.request.urlopen(f"{url}/metrics", timeout=timeout_s) as reply:
            # What it shows was counted just before it began to answer.
            at_s = monotonic()
            shown = read(reply.read(MAX_BYTES).decode())
    except urllib.error.URLError as error:
        return NoScrape(printable(str(error.reason)))
    except Exception as error:
        # What a port may answer has no end: half a reply, another protocol, a page. None of it may end the view.
        return NoScrape(printable(f"no metrics: {error}"))
    if EVERY_SERVER_HAS not in shown.gauges:
        return NoScrape(f"no metrics: {EVERY_SERVER_HAS} is not among them")
    return Scrape(at_s, shown)
