"""API keys: how they are read, who is who, and what each may use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from launcher.config.schema import KeyLimits
from launcher.errors import ConfigError, RateLimited, Unauthorized
from launcher.gateway.allowance import Allowance
from launcher.gateway.auth import Caller, KeyCheck
from launcher.gateway.keys import ApiKey, Keys


class Told:
    """What of ``Hooks`` a key check calls."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.counts: Counter[str] = Counter()

    def callers(self, names: Iterable[str]) -> None:
        self.names += names

    def called(self, name: str) -> None:
        self.counts[f"{name} called"] += 1

    def limited(self, name: str) -> None:
        self.counts[f"{name} limited"] += 1

    def spent(self, name: str, tokens: int) -> None:
        self.counts[f"{name} spent"] += tokens


class Held:
    """In place of ``Keys``: others are read next."""

    def __init__(self, known: Mapping[str, ApiKey]) -> None:
        self.known = self.to_come = known

    def reload(self) -> None:
        self.known = self.to_come


class Checked:
    """A key check with a clock that stands until it is set."""

    def __init__(self, keys: Mapping[str, ApiKey], processes: int = 1) -> None:
        self.now = 1000.0
        self.told = Told()
        self.keys = Held(keys)
        self.check = KeyCheck(self.keys, self.told, processes, lambda: self.now)  # type: ignore[arg-type]

    def reload(self, keys: Mapping[str, ApiKey]) -> None:
        self.keys.to_come = keys
        self.check.reload()

    def ask(self, key: str = "sk-1") -> float:
        """How long a request has to wait; 0 where it was let in."""
        try:
            self.caller(f"Bearer {key}".encode()).begin()
        except RateLimited as error:
            return error.retry_after_s
        return 0.0

    def caller(self, authorization: bytes) -> Caller:
        return self.check.caller_of([(b"accept", b"*/*"), (b"authorization", authorization)])

    def spend(self, tokens: int, key: str = "sk-1") -> None:
        self.caller(f"Bearer {key}".encode()).spend(tokens)


def limited(requests: int | None = None, tokens: int | None = None, key: str = "sk-1") -> ApiKey:
    return ApiKey(key, KeyLimits(requests_per_minute=requests, tokens_per_minute=tokens))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys"


def test_keys_come_from_file_and_environment(file: Path) -> None:
    file.write_text("# team keys\nsearch: sk-1\nbatch: 'sk:2'\n")
    keys = Keys(file, "ops:sk-3,").known
    assert keys == {"search": ApiKey("sk-1"), "batch": ApiKey("sk:2"), "ops": ApiKey("sk-3")}


@pytest.mark.parametrize("environment", [None, "", ","])
def test_no_source_holds_no_key(environment: str | None) -> None:
    assert not Keys(None, environment)
    assert Keys(None, environment).known == {}


def test_a_key_may_have_limits(file: Path) -> None:
    file.write_text("a: {key: sk-1, requests_per_minute: 60}\nb: {key: sk-2, tokens_per_minute: 9000}\nc: {key: sk-3}\n")
    assert Keys(file, None).known == {"a": limited(60), "b": limited(tokens=9000, key="sk-2"), "c": ApiKey("sk-3")}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected lines of the form"),
        ("just sk-1", "expected lines of the form"),
        ("- sk-1", "expected lines of the form"),
        (":\n: -", "not UTF-8 lines of the form"),
        ("a: sk-1\na: sk-1", "each name once"),
        ("a: 5", "a: the key is not a text; put it in quotes"),
        ("a:", "a: the key is not a text"),
        ("a: [sk-1]", "a: the key is not a text"),
        ("a: {requests_per_minute: 5}", "a: the key is not a text"),
        ("a: {key: b, sk-1}", "a: may have key, requests_per_minute and tokens_per_minute, and has something else"),
        ("a: {key: sk-1, requests_per_minute: 0}", "a: requests_per_minute: expected `int` >= 1"),
        ("a: {key: sk-1, tokens_per_minute: many}", "a: tokens_per_minute: expected `int | null`, got `str`"),
    ],
)
def test_a_bad_key_file_is_refused_without_showing_keys(file: Path, content: str, message: str) -> None:
    file.write_text(content)
    with pytest.raises(ConfigError) as refused:
        Keys(file, None)
    assert str(refused.value).startswith(f"server.api_keys_file: {file}: ")
    assert message in str(refused.value)
    assert "sk-1" not in str(refused.value)


def test_a_key_file_that_cannot_be_read_is_named(file: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        Keys(file, None)
    file.write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Keys(file, None)


def test_a_bad_file_leaves_what_was_known(file: Path) -> None:
    file.write_text("a: sk-1")
    keys = Keys(file, "b:sk-2")
    file.write_text("b: sk-3")
    with pytest.raises(ConfigError, match="the name 'b' stands twice"):
        keys.reload()
    assert keys.known == {"a": ApiKey("sk-1"), "b": ApiKey("sk-2")}


def test_bad_environment() -> None:
    with pytest.raises(ConfigError, match="entry 2 is not of the form name:key") as refused:
        Keys(None, "a:b,secret")
    assert "secret" not in str(refused.value)
    with pytest.raises(ConfigError, match="the name 'search' stands twice") as refused:
        Keys(None, "search:one,search:two")
    assert "two" not in str(refused.value)


def test_nothing_that_is_printed_shows_a_key(file: Path) -> None:
    file.write_text("a: sk-1")
    keys = Keys(file, "b:sk-2")
    assert "sk-" not in f"{keys} {keys.known}"


def test_a_header_names_its_caller() -> None:
    checked = Checked({"search": ApiKey("sk-1"), "batch": ApiKey("sk-2"), "école": ApiKey("clé")})
    assert checked.caller(b"Bearer sk-2").name == "batch"
    assert checked.caller(b"bearer  sk-1 ").name == "search"
    assert checked.caller("Bearer clé".encode()).name == "école"
    for header in (b"", b"Bearer", b"Bearer ", b"Basic sk-1", b"sk-1", b"Bearer sk-3", b"Bearer sk-1x", b"Bearer \xff"):
        with pytest.raises(Unauthorized):
            checked.caller(header)


def test_other_keys_take_the_place_of_the_first() -> None:
    checked = Checked({"a": ApiKey("sk-1"), "b": ApiKey("sk-2")})
    checked.reload({"b": ApiKey("sk-2"), "c": ApiKey("sk-3")})
    assert checked.caller(b"Bearer sk-3").name == "c"
    with pytest.raises(Unauthorized):
        checked.caller(b"Bearer sk-1")
    assert checked.told.names == ["a", "b", "b", "c"]


def test_a_minutes_requests_at_once_and_then_evenly() -> None:
    checked = Checked({"a": limited(requests=3), "b": ApiKey("sk-2")})
    assert [checked.ask() for _ in range(5)] == [0, 0, 0, 20, 20]
    assert checked.ask("sk-2") == 0
    checked.now += 19.5
    assert checked.ask() == pytest.approx(0.5)
    checked.now += 0.5
    assert [checked.ask(), checked.ask()] == [0, 20]
    checked.now += 600
    assert [checked.ask() for _ in range(4)] == [0, 0, 0, 20]
    assert checked.told.counts == {"a called": 12, "a limited": 5, "b called": 1}


def test_tokens_are_owed_and_come_back() -> None:
    checked = Checked({"a": limited(tokens=600)})
    assert checked.ask() == 0
    checked.spend(1200)
    # 600 of them are a debt of a minute, and a request needs one more.
    assert checked.ask() == pytest.approx(60.1)
    checked.now += 60
    assert checked.ask() == pytest.approx(0.1)
    checked.now += 0.1
    assert checked.ask() == 0
    assert checked.told.counts["a spent"] == 1200


@pytest.mark.parametrize(
    ("used", "message"),
    [
        (10, "the key 'a' has used up its 1 requests a minute; try again in 60 s"),
        (60000, "6000 tokens a minute; try again in 541 s"),
    ],
)
def test_the_limit_that_takes_longer_is_named(used: int, message: str) -> None:
    checked = Checked({"a": limited(requests=1, tokens=6000)})
    caller = checked.caller(b"Bearer sk-1")
    caller.begin()
    caller.spend(used)
    with pytest.raises(RateLimited, match=message):
        caller.begin()


def test_each_process_grants_its_share_and_at_least_one() -> None:
    four = Checked({"a": limited(requests=8)}, processes=4)
    assert [four.ask() for _ in range(3)] == [0, 0, 30]
    one = Checked({"a": limited(requests=1)}, processes=4)
    assert [one.ask() for _ in range(2)] == [0, 240]
    one.now += 240
    assert [one.ask() for _ in range(2)] == [0, 240]


def test_what_was_used_stays_used_unless_the_limit_changes() -> None:
    checked = Checked({"a": limited(requests=1)})
    assert checked.ask() == 0
    checked.reload({"a": limited(requests=1, key="sk-new")})
    assert checked.ask("sk-new") == 60
    checked.reload({"a": limited(requests=2, key="sk-new")})
    assert [checked.ask("sk-new") for _ in range(3)] == [0, 0, 30]


@pytest.mark.parametrize("per_minute", [1, 7, 60, 1000, 1e9])
def test_whoever_comes_back_when_told_is_let_in(per_minute: float) -> None:
    allowance, now = Allowance(per_minute), 3e7
    for count in (1, 5, 100_000):
        allowance.use(count, now)
        now += allowance.wait_s(now)
        assert allowance.wait_s(now) == 0
