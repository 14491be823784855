"""The cache's second level against a real Redis, in good days and in bad ones."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import numpy as np
import pytest

from launcher.cache.redis import LENGTH_TOLERANCE, MAX_PENDING_WRITES, RedisCache, read_url
from launcher.errors import ConfigError
from tests.support.log import Said
from tests.support.redis import RunningRedis, running_redis

DIMENSIONS = 16
UP = "Redis answers"
DOWN = "serving without Redis"
# Long enough that a busy machine does not turn a slow reply into a failure.
PATIENCE_S = 10.0


def a_cache(redis: RunningRedis | str, **settings: object) -> RedisCache:
    url = redis if isinstance(redis, str) else redis.url
    defaults = {"fingerprint": "abc", "dimensions": DIMENSIONS, "ttl_s": 100, "timeout_s": PATIENCE_S, "retry_s": 0.01}
    return RedisCache(url, **{**defaults, **settings})


@pytest.fixture
async def cache(redis_server: RunningRedis, said: Said) -> AsyncIterator[RedisCache]:
    async with a_cache(redis_server) as cache:
        await said.wait_for(UP)
        yield cache


def entries(count: int, seed: int = 0) -> tuple[list[bytes], np.ndarray]:
    rng = np.random.default_rng(seed)
    keys = [rng.integers(0, 20_000, rng.integers(2, 40)).astype(np.int32).tobytes() for _ in range(count)]
    vectors = rng.normal(size=(count, DIMENSIONS)).astype(np.float32)
    return keys, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


async def written(cache: RedisCache) -> None:
    """Lookups that come one after the other take turns with writes: what waited before the first is there after the last."""
    for turn in range(2 + MAX_PENDING_WRITES // 64):
        await cache.get([b"turn %d" % turn])


def answer_at_once(lookup: Coroutine[Any, Any, dict[bytes, np.ndarray]]) -> dict[bytes, np.ndarray]:
    """The answer of a lookup that waits for nothing; a failure where it does."""
    with pytest.raises(StopIteration) as end:
        lookup.send(None)
    return end.value.value


async def test_what_was_put_is_found_by_another_server(cache, redis_server, said):
    keys, vectors = entries(300)
    cache.put(keys, vectors)
    await written(cache)
    async with a_cache(redis_server) as other:
        await said.wait_for(UP, times=2)
        found = await other.get([*keys, keys[0], b"unknown"])
    assert found.keys() == set(keys)
    for key, vector in zip(keys, vectors, strict=True):
        np.testing.assert_array_equal(found[key], vector)


async def test_values_are_raw_numbers_that_expire_under_names_without_text(cache, redis_server):
    keys, vectors = entries(3)
    cache.put(keys, vectors)
    await written(cache)
    names = list(redis_server.client.scan_iter())
    assert len(names) == 3
    for name in names:
        assert re.fullmatch(rb"sgl-embed:abc:[0-9a-f]{64}", name)
        assert 0 < redis_server.client.ttl(name) <= 100
    assert {redis_server.client.get(name) for name in names} == {vector.tobytes() for vector in vectors}


async def test_another_vector_space_is_never_seen(cache, redis_server, said):
    keys, vectors = entries(5)
    cache.put(keys, vectors)
    await written(cache)
    async with a_cache(redis_server, fingerprint="abd") as other:
        await said.wait_for(UP, times=2)
        assert await other.get(keys) == {}


def garbage(right: bytes) -> Iterator[bytes]:
    numbers = np.frombuffer(right, "<f4")
    rng = np.random.default_rng(1)
    yield b""
    yield right[:-1]
    yield right + b"\0"
    yield right[: len(right) // 2]
    yield bytes(len(right))
    for bad in (np.nan, np.inf, -np.inf, 3.4e38):
        spoilt = numbers.copy()
        spoilt[3] = bad
        yield spoilt.tobytes()
    yield (numbers * (1 + LENGTH_TOLERANCE)).tobytes()
    yield numbers.astype(">f4").tobytes()
    yield numbers.astype("<f8").tobytes()[: len(right)]
    for _ in range(20):
        yield rng.bytes(len(right))


async def test_garbage_is_not_there(cache, redis_server):
    keys, vectors = entries(2)
    cache.put(keys, vectors)
    await written(cache)
    names = {redis_server.client.get(name): name for name in redis_server.client.scan_iter()}
    name = names[vectors[0].tobytes()]
    for value in garbage(vectors[0].tobytes()):
        redis_server.client.set(name, value)
        assert (await cache.get(keys)).keys() == {keys[1]}, value
    redis_server.client.delete(name)
    redis_server.client.rpush(name, b"a list")
    assert (await cache.get(keys)).keys() == {keys[1]}


async def test_a_killed_redis_is_a_miss_and_is_used_again_when_it_is_back(cache, redis_server, said):
    keys, vectors = entries(10)
    cache.put(keys, vectors)
    await written(cache)
    redis_server.kill()
    for _ in range(5):
        assert await cache.get(keys) == {}
        cache.put(keys, vectors)
    await said.wait_for(DOWN)
    redis_server.start()
    await said.wait_for(UP, times=2)
    assert await cache.get(keys) == {}
    cache.put(keys, vectors)
    await written(cache)
    assert (await cache.get(keys)).keys() == set(keys)
    assert cache.unready_reason() is None


async def test_a_frozen_redis_costs_one_timeout_and_then_nothing(redis_server, said):
    keys, vectors = entries(200)
    async with a_cache(redis_server, timeout_s=0.2) as cache:
        await said.wait_for(UP)
        cache.put(keys, vectors)
        await written(cache)
        redis_server.freeze()
        # Each of them would need several commands.
        assert await asyncio.gather(*(cache.get(keys) for _ in range(20))) == [{}] * 20
        assert [DOWN in line for line in said.lines] == [False, True]
        assert answer_at_once(cache.get(keys)) == {}
        redis_server.thaw()
        await said.wait_for(UP, times=2)
        found = await cache.get(keys)
    # Replies that came too late have not been taken for others.
    for key, vector in zip(keys, vectors, strict=True):
        np.testing.assert_array_equal(found[key], vector)


async def test_freezing_again_and_again_mixes_nothing_up_and_leaves_no_connections(redis_server, said):
    keys, vectors = entries(64)
    place = {key: i for i, key in enumerate(keys)}
    async with a_cache(redis_server, timeout_s=0.05) as cache:
        for cycle in range(1, 6):
            await said.wait_until_last(UP)
            cache.put(keys, vectors)
            lookups = [asyncio.create_task(cache.get([keys[(i * cycle) % 64]])) for i in range(30)]
            await asyncio.sleep(0)
            redis_server.freeze()
            lookups += [asyncio.create_task(cache.get([keys[(i * 7) % 64]])) for i in range(30)]
            for found in await asyncio.gather(*lookups):
                for key, vector in found.items():
                    np.testing.assert_array_equal(vector, vectors[place[key]])
            redis_server.thaw()
        await said.wait_until_last(UP)
        # Redis sees at the latest here that the others were closed.
        redis_server.client.ping()
        assert len(redis_server.client.client_list()) == 2, "more than the cache's connection and the test's"


async def test_a_cancelled_request_leaves_no_reply_behind_for_others(cache):
    keys, vectors = entries(64)
    cache.put(keys, vectors)
    await written(cache)
    for i in range(200):
        lookup = asyncio.create_task(cache.get([keys[i % 64]]))
        for _ in range(i % 4):
            await asyncio.sleep(0)
        lookup.cancel()
        key = keys[(i + 1) % 64]
        np.testing.assert_array_equal((await cache.get([key]))[key], vectors[(i + 1) % 64])
        await asyncio.gather(lookup, return_exceptions=True)


async def test_a_full_redis_is_still_read(said, tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("full"), "--maxmemory-policy", "noeviction") as redis_server:
        async with a_cache(redis_server) as cache:
            await said.wait_for(UP)
            (old, new), vectors = entries(2)
            cache.put([old], vectors[:1])
            await written(cache)
            redis_server.client.config_set("maxmemory", "1mb")
            cache.put([new], vectors[1:])
            await said.wait_for("Redis keeps no new vectors: ")
            assert (await cache.get([old, new])).keys() == {old}


async def test_a_password_opens_it_and_is_never_logged(said, tmp_path_factory):
    with running_redis(tmp_path_factory.mktemp("locked")) as redis_server:
        redis_server.client.config_set("requirepass", "s3cr3t-w0rd")
        redis_server.client.execute_command("AUTH", "s3cr3t-w0rd")
        async with a_cache(redis_server.url):
            await said.wait_for(DOWN)
        async with a_cache(redis_server.url.replace("unix://", "unix://:wr0ng-w0rd@")):
            await said.wait_for(DOWN, times=2)
        async with a_cache(redis_server.url.replace("unix://", "unix://:s3cr3t-w0rd@")):
            await said.wait_for(UP)
    assert "w0rd" not in "".join(said.lines)


async def test_a_dead_task_makes_the_server_unready_and_holds_nobody_up(cache):
    keys, vectors = entries(3)
    (task,) = [task for task in asyncio.all_tasks() if task.get_name() == "redis"]
    lookup = asyncio.create_task(cache.get(keys))
    await asyncio.sleep(0)
    task.cancel()
    assert await lookup == {}
    cache.put(keys, vectors)
    assert answer_at_once(cache.get(keys)) == {}
    assert cache.unready_reason() == "the task that talks to Redis has ended unexpectedly"


async def test_an_unreachable_redis_is_not_an_error(said, tmp_path):
    keys, vectors = entries(3)
    async with a_cache(f"unix://{tmp_path}/nobody.sock") as cache:
        cache.put(keys, vectors)
        assert await cache.get(keys) == {}
        await said.wait_for(DOWN)
        assert cache.unready_reason() is None
    # The same complaint is not repeated at each attempt.
    assert len(said.lines) == 1


async def test_writes_that_wait_are_bounded(redis_server, said):
    keys, vectors = entries(3 * MAX_PENDING_WRITES // 2)
    async with a_cache(redis_server) as cache:
        await said.wait_for(UP)
        for start in range(0, len(keys), 100):
            cache.put(keys[start : start + 100], vectors[start : start + 100])
        await written(cache)
        assert redis_server.client.dbsize() == MAX_PENDING_WRITES


async def test_no_lookup_waits_for_more_than_the_write_under_way(cache):
    keys, vectors = entries(64)
    others, _ = entries(64, seed=1)
    lookups = [asyncio.create_task(cache.get(wanted)) for wanted in (others, keys)]
    cache.put(keys, vectors)
    # Each lookup is a command of its own; a write between them would be found by the second.
    assert await asyncio.gather(*lookups) == [{}, {}]
    await written(cache)
    assert (await cache.get(keys)).keys() == set(keys)


@pytest.mark.parametrize("url", ["redis://a", "redis://a/", "rediss://u@a:1/2", "redis://a?db=3", "unix:///a/b.sock?db=4"])
def test_a_url_of_a_database_is_taken(url):
    assert read_url(url, None) == url


def test_the_environment_goes_before_the_configuration():
    assert read_url(None, None) is None
    assert read_url("redis://a", None) == "redis://a"
    assert read_url("redis://a", "redis://:secret@b") == "redis://:secret@b"
    assert read_url(None, "unix:///a?username=b&password=secret") == "unix:///a?username=b&password=secret"


@pytest.mark.parametrize(
    "configured, environment, message",
    [
        ("redis://:s3cr3t@host:6379/0", None, "cache.redis.url: holds a password; set the whole URL in SGL_EMBED_REDIS_URL"),
        ("redis://host?password=s3cr3t", None, "cache.redis.url: holds a password"),
        ("http://host", None, "cache.redis.url: not a URL such as redis://host:6379/0"),
        (None, "host:6379", "SGL_EMBED_REDIS_URL: not a URL"),
        (None, "redis://user:s3cr3t:6379/0", "SGL_EMBED_REDIS_URL: not a URL"),
        (None, "redis://:pass/s3cr3t@host:6379/0", "SGL_EMBED_REDIS_URL: not a URL"),
        (None, "redis://:12#s3cr3t@host:6379/0", "SGL_EMBED_REDIS_URL: not a URL"),
        (None, "redis://:12?s3cr3t@host:6379/0", "SGL_EMBED_REDIS_URL: after its ? only db=NUMBER may stand"),
        ("redis://host?foo=bar", None, "cache.redis.url: after its ? only db=NUMBER may stand"),
        ("redis://host?protocol=3", None, "cache.redis.url: after its ? only db=NUMBER may stand"),
        ("redis://host?socket_timeout=9", None, "cache.redis.url: after its ?"),
        ("redis://host?username=me", None, "cache.redis.url: after its ?"),
        ("redis://host?db=", None, "cache.redis.url: after its ?"),
        ("redis://host?db=-1", None, "cache.redis.url: after its ?"),
        ("redis://host/cache", None, "cache.redis.url: not a URL"),
        ("redis:6379", None, "cache.redis.url: not a URL"),
        ("unix://", None, "cache.redis.url: not a URL"),
        ("unix://redis.sock", None, "cache.redis.url: not a URL"),
        ("unix://run/redis.sock", None, "cache.redis.url: not a URL"),
    ],
)
def test_a_wrong_url_is_named_and_not_shown(configured, environment, message):
    with pytest.raises(ConfigError) as refused:
        read_url(configured, environment)
    assert str(refused.value).startswith(message)
    assert "s3cr3t" not in str(refused.value)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "redis.asyncio", None)
    with pytest.raises(
        ConfigError, match=r"cache\.redis\.url: the package redis is not installed here: pip install --editable"
    ):
        read_url("redis://host", None)
