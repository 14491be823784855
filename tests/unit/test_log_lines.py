"""How a line of the log looks: text and JSON, whatever is in it."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable

import orjson
import pytest

from launcher.gateway.access import Entry
from launcher.gateway.work import Work
from launcher.telemetry.lines import Event, Form, JsonLines, TextLines
from launcher.telemetry.tracing import Tracer
from tests.support.log_lines import objects_in
from tests.support.spans import PARENT, Kept

NASTY = [
    'a "quoted" \\ text',
    "two\nlines\r\nand three",
    'forged\n{"ts": "now", "level": "info", "message": "never said"}',
    "\x00\x1b[31m\x7f\u2028\u0085",
    "你好 🙂",
    "half a \ud83d",
    "",
]


def record(message: object, *args: object, error: BaseException | None = None) -> logging.LogRecord:
    told = (type(error), error, error.__traceback__) if error else None
    return logging.LogRecord("launcher.test", logging.WARNING, "test.py", 1, message, args, told)


def raised(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


def answered() -> Entry:
    entry = Entry("POST", b"/v1/embeddings", "r-1")
    entry.status, entry.seconds, entry.key, entry.task = 200, 0.0123456, "search", "embeddings"
    entry.work = Work(3, 40, 1, 0.0001, "partial", 0.0002, 0.01, 0.00003)
    return entry


def refused() -> Entry:
    entry = Entry("GET", "/你好".encode() + b"\xff%0A", "r-2")
    entry.status, entry.seconds, entry.reason = 404, 0.0002, "not_found"
    return entry


@pytest.mark.parametrize("said", NASTY)
@pytest.mark.parametrize("form", [JsonLines("gateway 0"), JsonLines(None)])
def test_any_message_is_one_object_on_one_line(form: Form, said: str) -> None:
    for made in (record(said), record("%s", said), record(Event(said, path=said)), record("x", error=raised(said))):
        (entry,) = objects_in(form(made).decode())
        whole = said.encode("utf-8", "backslashreplace").decode()
        assert whole in (entry["message"], entry["traceback"].partition("ValueError: ")[2] if made.exc_info else None)


def test_a_traceback_is_one_field() -> None:
    (entry,) = objects_in(JsonLines(None)(record("failed", error=raised("too\nlong"))).decode())
    assert entry["message"] == "failed"
    assert entry["traceback"].startswith("Traceback (most recent call last):\n")
    assert entry["traceback"].endswith("ValueError: too\nlong")


def test_the_common_fields() -> None:
    made = record("你好 %d", 1)
    made.created, made.msecs = 1795299931.0067, 6.7
    assert objects_in(JsonLines("gateway 1")(made).decode()) == [
        {
            "ts": "2026-11-21T22:25:31.006Z",
            "level": "warning",
            "logger": "launcher.test",
            "process": "gateway 1",
            "message": "你好 1",
        }
    ]
    assert objects_in(JsonLines(None)(made).decode())[0]["process"] == "server"


def test_the_time_follows_the_records() -> None:
    form = JsonLines(None)
    times = []
    for created in (1795299931.999, 1795299932.001, 1795299931.5):
        made = record("x")
        made.created, made.msecs = created, created % 1 * 1000
        times.append(orjson.loads(form(made))["ts"][-7:])
    assert times == ["31.999Z", "32.000Z", "31.500Z"] or times == ["31.998Z", "32.000Z", "31.500Z"]


def test_what_an_event_says_of_its_origin_wins() -> None:
    made = record(Event("worker 0: 加载", process="worker 0", message="加载"))
    (entry,) = objects_in(JsonLines("server")(made).decode())
    assert (entry["process"], entry["message"]) == ("worker 0", "加载")
    assert TextLines(None)(made).decode().endswith(" WARNING launcher.test: worker 0: 加载\n")


def test_a_request_in_text() -> None:
    assert str(answered()) == (
        "POST /v1/embeddings 200 12.3ms inputs=3 tokens=40 truncated=1 cache=partial"
        " tokenize=0.1ms queue=0.2ms inference=10.0ms encode=0.0ms key=search id=r-1"
    )
    assert str(refused()) == r"GET /\xe4\xbd\xa0\xe5\xa5\xbd\xff%0A 404 0.2ms reason=not_found key=- id=r-2"


def test_a_traced_request_names_its_trace() -> None:
    entry = answered()
    entry.trace = Tracer(Kept(), sample=1, scheme="http").begin([(b"traceparent", PARENT)], "/v1/embeddings", 0.0)
    assert str(entry).endswith(" key=search id=r-1 trace=0af7651916cd43dd8448eb211c80319c")
    assert entry.fields()["trace_id"] == "0af7651916cd43dd8448eb211c80319c"


def test_a_request_in_json() -> None:
    assert answered().fields() == {
        "message": "POST /v1/embeddings 200",
        "request_id": "r-1",
        "method": "POST",
        "path": "/v1/embeddings",
        "status": 200,
        "duration_ms": 12.346,
        "key": "search",
        "task": "embeddings",
        "inputs": 3,
        "tokens": 40,
        "truncated": 1,
        "cache": "partial",
        "tokenize_ms": 0.1,
        "queue_ms": 0.2,
        "inference_ms": 10.0,
        "encode_ms": 0.03,
    }
    assert refused().fields() == {
        "message": r"GET /\xe4\xbd\xa0\xe5\xa5\xbd\xff%0A 404",
        "request_id": "r-2",
        "method": "GET",
        "path": r"/\xe4\xbd\xa0\xe5\xa5\xbd\xff%0A",
        "status": 404,
        "duration_ms": 0.2,
        "reason": "not_found",
    }


def test_what_was_only_tokenized_has_no_times_of_the_engine() -> None:
    work = Work(2, 9, 0, 0.0015)
    assert str(work) == "inputs=2 tokens=9 tokenize=1.5ms"
    assert work.fields() == {"inputs": 2, "tokens": 9, "truncated": 0, "tokenize_ms": 1.5}


# Everything that Python itself would print over many lines.
TALK = """
import gc, logging, sys, threading, warnings
from launcher.telemetry.logs import start_logging
start_logging("info", None, {format!r})
class Broken:
    def __del__(self): raise ValueError("in __del__")
Broken(); gc.collect()
def fail(): raise ValueError("in a thread")
thread = threading.Thread(target=fail); thread.start(); thread.join()
warnings.warn("a warning\\nof two lines")
logging.getLogger("launcher.test").info("%d", "sk-secret")
raise ValueError("at last\\nthe end")
"""


@pytest.fixture
def talk() -> Callable[[str], str]:
    def run(form: str) -> str:
        done = subprocess.run([sys.executable, "-c", TALK.format(format=form)], capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    return run


def test_what_python_says_is_in_the_log_too(talk: Callable[[str], str]) -> None:
    entries = objects_in(talk("json"))
    ends = [re.split(r"\n(?=\w+Error: )", entry.get("traceback", ""))[-1] for entry in entries]
    assert ends == [
        "ValueError: in __del__",
        "ValueError: in a thread",
        "",
        "TypeError: %d format: a real number is required, not str",
        "ValueError: at last\nthe end",
    ]
    assert "a warning\nof two lines" in entries[2]["message"]
    assert re.fullmatch(r"a line of .*<?string>?:\d+ cannot be made: a bug", entries[3]["message"])
    assert "sk-secret" not in str(entries)


def test_what_python_says_is_in_a_text_log_as_well(talk: Callable[[str], str]) -> None:
    said = talk("text")
    assert said.count("CRITICAL launcher.log: an error that nobody caught: a bug\nTraceback") == 3
    assert "sk-secret" not in said
