"""What keeps others out of a worker: before its own HTTP API, and where torch would listen."""

from __future__ import annotations

import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from launcher.engines.sglang.plugin.guard import Guard, Secret, guard_all, set_key
from launcher.engines.sglang.plugin.hooks import meet_nobody

KEY = "of-this-start"


async def through(guard: Guard, scope: dict[str, Any]) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await guard(scope, None, send)
    return sent


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "reached"})


def scope(kind: str, *authorization: bytes) -> dict[str, Any]:
    return {"type": kind, "path": "/health", "headers": [(b"authorization", value) for value in authorization]}


async def test_it_asks_for_a_key_whatever_the_path() -> None:
    guard = Guard(app, (KEY, "of-the-admin"))
    for shown in (b"Bearer of-this-start", b"Bearer of-the-admin"):
        assert await through(guard, scope("http", shown)) == [{"type": "reached"}]
    for refused in ((), (b"",), (b"Bearer ",), (b"Bearer of-this-star",), (b"of-this-start",), (b"", b"Bearer of-this-start")):
        assert (await through(guard, scope("http", *refused)))[0]["status"] == 401
    assert (await through(guard, scope("websocket")))[0]["type"] == "websocket.close"
    assert await through(guard, {"type": "lifespan"}) == [{"type": "reached"}]


async def test_without_a_key_it_lets_nobody_in() -> None:
    assert (await through(Guard(app, ()), scope("http", b"Bearer ")))[0]["status"] == 401


def test_it_stands_before_sglangs_own_check() -> None:
    added: list[Any] = []

    class App:
        def add_middleware(self, kind: type, keys: tuple[str, ...]) -> None:
            added.append((kind, keys))

    guard_all(lambda app, **keys: added.append(keys), App(), api_key=KEY, admin_api_key=None)
    assert added == [{"api_key": KEY, "admin_api_key": None}, (Guard, (KEY,))]


@pytest.mark.parametrize(("named", "key"), [(None, KEY), ("of-the-operator", "of-the-operator")])
def test_a_key_that_the_operator_names_is_kept(monkeypatch: pytest.MonkeyPatch, named: str | None, key: str) -> None:
    args = SimpleNamespace(api_key=named)
    monkeypatch.setenv("SGLEMBED_KEY", KEY)
    set_key(args, [])
    assert args.api_key == key
    with pytest.raises(KeyError):
        # It is not there for the processes that SGLang starts.
        set_key(args, [])


def test_a_secret_is_printed_only_where_it_is_meant() -> None:
    secret = Secret(KEY)
    assert f"{[secret]} { ({'api_key': secret}) }".count(KEY) == 0
    assert f"Bearer {secret}" == f"Bearer {KEY}"
    assert repr(pickle.loads(pickle.dumps(secret))) == "'<secret>'"


def test_a_single_process_looks_for_others_in_the_private_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGLEMBED_BATCHES", "ipc:///run/private/worker-3")
    named = {"world_size": 1, "rank": 0, "distributed_init_method": "tcp://127.0.0.1:29500"}
    assert meet_nobody(**named) == ((), named | {"distributed_init_method": "file:///run/private/worker-3.meeting"})
    assert meet_nobody(**(named | {"world_size": 2})) is None
