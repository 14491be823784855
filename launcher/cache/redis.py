"""Vectors of past inputs in a Redis, shared by all servers of the same model. The only file that imports the package redis."""

from __future__ import annotations

import asyncio
import logging
import re
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

import numpy as np

from launcher.cache.base import Vectors
from launcher.errors import ConfigError
from launcher.telemetry.hooks import CacheLevel

if TYPE_CHECKING:
    from redis.asyncio import Redis

log = logging.getLogger("launcher.cache.redis")

ENVIRONMENT_VARIABLE = "SGL_EMBED_REDIS_URL"
NO_URL = "not a URL such as redis://host:6379/0 (0: the database), rediss://host or unix:///path"
# The client takes others for its defaults, in silence.
PATHS = {"redis": re.compile(r"(/[0-9]*)?"), "rediss": re.compile(r"(/[0-9]*)?"), "unix": re.compile(r"/.+")}
# Nobody waits for a connection: until there is one, each answer is "not there".
CONNECT_TIMEOUT_S = 2.0
RETRY_S = 1.0
# So that a short request gets its turn between the parts of a long one, and the event loop too.
MAX_KEYS_PER_COMMAND = 64
# Waiting to be written; beyond it they are forgotten.
MAX_PENDING_WRITES = 4096
# How far from 1 the squared length of a vector may be that this server has written.
LENGTH_TOLERANCE = 1e-3


def read_url(configured: str | None, environment: str | None) -> str | None:
    """Where Redis is: the environment's URL, else the configured one, else None.

    Raises ``ConfigError`` where it cannot be used, naming its place and never showing it: it may hold a password.
    """
    url = environment or configured
    if not url:
        return None
    place = ENVIRONMENT_VARIABLE if environment else "cache.redis.url"
    try:
        parts = urlsplit(url)
        client_of(url)
    except ImportError:
        message = f"{place}: the package redis is not installed here: pip install --editable '.[redis]' in the checkout"
        raise ConfigError(message) from None
    except ValueError:
        raise ConfigError(f"{place}: {NO_URL}") from None
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    if not environment and (parts.password or "password" in query):
        raise ConfigError(f"{place}: holds a password; set the whole URL in {ENVIRONMENT_VARIABLE} instead")
    if not PATHS[parts.scheme].fullmatch(parts.path) or (parts.scheme == "unix" and parts.hostname) or parts.fragment:
        raise ConfigError(f"{place}: {NO_URL}")
    if not query.keys() <= {"db", *(("username", "password") if environment else ())} or not query.get("db", "0").isdecimal():
        raise ConfigError(f"{place}: after its ? only db=NUMBER may stand, and in {ENVIRONMENT_VARIABLE} username and password")
    return url


def client_of(url: str) -> Redis:
    """Opens no connection yet. Raises ``ValueError`` for what is no such URL, ``ImportError`` without the extra."""
    from redis.asyncio import Redis
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    return Redis.from_url(
        url,
        # RESP3 begins with a handshake that makes the client change its timeouts.
        protocol=2,
        socket_timeout=None,
        socket_connect_timeout=CONNECT_TIMEOUT_S,
        retry=Retry(NoBackoff(), 0),
    )


@dataclass(frozen=True, slots=True)
class Lookup:
    keys: Sequence[bytes]
    answer: asyncio.Future[dict[bytes, Vectors]]

    def finish(self, found: Mapping[bytes, Vectors]) -> None:
        if not self.answer.done():
            self.answer.set_result({key: found[key] for key in self.keys if key in found})


class RedisCache:
    """A cache level that never fails: while Redis is down or slow, nothing is found there and nothing is written.

    One task talks to Redis, one command at a time; what comes meanwhile shares the next command. No request is ever in
    the middle of a command, so that a request that is cancelled cannot leave a reply behind for the next one. The task
    runs inside ``async with``. A failure makes the level down at once for all; from then on nobody waits, until the task
    has had an answer again.
    """

    name: CacheLevel = "redis"

    def __init__(
        self, url: str, *, fingerprint: str, dimensions: int, ttl_s: int, timeout_s: float, retry_s: float = RETRY_S
    ) -> None:
        """``url`` as from ``read_url``; ``fingerprint`` names the vector space; ``timeout_s`` is for one command.

        While it is down, it is tried every ``retry_s``.
        """
        self._client = client_of(url)
        self._prefix = f"sgl-embed:{fingerprint}:"
        self._dimensions = dimensions
        self._ttl_s = ttl_s
        self._timeout_s = timeout_s
        self._retry_s = retry_s
        self._up = False
        self._complaint = ""
        self._lookups: deque[Lookup] = deque()
        self._writes: dict[bytes, Vectors] = {}
        self._arrived = asyncio.Event()

    async def __aenter__(self) -> RedisCache:
        self._task = asyncio.create_task(self._run(), name="redis")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self._client.aclose()

    def unready_reason(self) -> str | None:
        """A dead task would be silent for ever; Redis being down is no reason."""
        return "the task that talks to Redis has ended unexpectedly" if self._task.done() else None

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        wanted = list(dict.fromkeys(keys))
        found: dict[bytes, Vectors] = {}
        for start in range(0, len(wanted), MAX_KEYS_PER_COMMAND):
            if not self._up:
                break
            lookup = Lookup(wanted[start : start + MAX_KEYS_PER_COMMAND], asyncio.get_running_loop().create_future())
            self._lookups.append(lookup)
            self._arrived.set()
            found |= await lookup.answer
        return found

    def put(self, keys: Sequence[bytes], vectors: Sequence[Vectors] | Vectors) -> None:
        """Have them written later."""
        room = MAX_PENDING_WRITES - len(self._writes)
        if self._up and room > 0:
            self._writes.update(islice(zip(keys, vectors, strict=True), room))
            self._arrived.set()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    await self._probe()
                    await self._serve()
                except Exception as error:  # whatever it is, no request may fail by it
                    self._go_down(error)
                await asyncio.sleep(self._retry_s)
        finally:
            # Without this task, a lookup would wait for ever.
            self._give_up()

    async def _probe(self) -> None:
        """Connect, and ask as requests will: whoever may not read, or is too slow, does not pass."""
        for timeout_s in (CONNECT_TIMEOUT_S, self._timeout_s):
            async with asyncio.timeout(timeout_s):
                await self._client.mget([self._prefix])
        self._up = True
        self._complaint = ""
        log.info("Redis answers: vectors are kept there")

    async def _serve(self) -> None:
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            while self._lookups or self._writes:
                # A request waits for a lookup, nobody for a write.
                while self._lookups:
                    await self._read(take_lookups(self._lookups, MAX_KEYS_PER_COMMAND))
                if self._writes:
                    await self._write([self._writes.popitem() for _ in range(min(len(self._writes), MAX_KEYS_PER_COMMAND))])

    async def _read(self, lookups: Sequence[Lookup]) -> None:
        keys = [key for lookup in lookups for key in lookup.keys]
        found: dict[bytes, Vectors] = {}
        try:
            async with asyncio.timeout(self._timeout_s):
                values = await self._client.mget(list(map(self._name, keys)))
            found = valid_vectors(keys, values, self._dimensions)
        finally:
            for lookup in lookups:
                lookup.finish(found)

    async def _write(self, entries: Sequence[tuple[bytes, Vectors]]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, vector in entries:
            pipeline.set(self._name(key), vector.astype("<f4").tobytes(), ex=self._ttl_s)
        async with asyncio.timeout(self._timeout_s):
            replies = await pipeline.execute(raise_on_error=False)
        if refusals := [reply for reply in replies if isinstance(reply, Exception)]:
            # A full or a read-only Redis can still be read.
            self._complain(f"Redis keeps no new vectors: {refusals[0]}")

    def _go_down(self, error: Exception) -> None:
        self._give_up()
        reason = str(error) or "no answer in time"
        self._complain(f"serving without Redis until it answers: {reason} (tried again every {self._retry_s:g} s)")

    def _give_up(self) -> None:
        self._up = False
        self._writes.clear()
        while self._lookups:
            self._lookups.popleft().finish({})

    def _complain(self, complaint: str) -> None:
        """Log it, once as long as it stays the same."""
        if complaint != self._complaint:
            log.warning("%s", complaint)
            self._complaint = complaint

    def _name(self, key: bytes) -> str:
        return self._prefix + blake2b(key, digest_size=32).hexdigest()


def take_lookups(queue: deque[Lookup], max_keys: int) -> list[Lookup]:
    """Take lookups from the queue's front as long as they fit ``max_keys``; at least one."""
    taken = [queue.popleft()]
    room = max_keys - len(taken[0].keys)
    while queue and len(queue[0].keys) <= room:
        taken.append(queue.popleft())
        room -= len(taken[-1].keys)
    return taken


def valid_vectors(keys: Sequence[bytes], values: Sequence[bytes | str | None], dimensions: int) -> dict[bytes, Vectors]:
    """The vectors among ``values``, the i-th belonging to ``keys[i]``: little-endian float32 [dimensions] of unit length.

    Anything else is left out: someone else wrote it. NaN and infinity are not of unit length either.
    """
    size = 4 * dimensions
    kept = {k: value for k, value in zip(keys, values, strict=True) if isinstance(value, bytes) and len(value) == size}
    vectors = np.frombuffer(b"".join(kept.values()), "<f4").reshape(-1, dimensions)
    with np.errstate(all="ignore"):
        is_unit = np.abs(np.einsum("ij,ij->i", vectors, vectors) - 1) <= LENGTH_TOLERANCE
    return {key: vector for key, vector, ok in zip(kept, vectors, is_unit, strict=True) if ok}
