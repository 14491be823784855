"""How a line of the log looks: text for people, or JSON for programs."""

from __future__ import annotations

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Literal

import orjson

LogFormat = Literal["text", "json"]
# From what was logged to the line, with its end.
Form = Callable[[logging.LogRecord], bytes]

# Who speaks where no other is named: the process that was started.
SERVER = "server"


class Structured:
    """What is logged in the place of a text, with some of it by name: ``str()`` is its text."""

    __slots__ = ()

    def fields(self) -> Mapping[str, object]:
        """For JSON. "message" and "process" may be among them; without them they are the text and the process that logs."""
        raise NotImplementedError


class Event(Structured):
    """A text, and fields that say parts of it again for programs."""

    __slots__ = ("_fields", "_text")

    def __init__(self, text: str, **fields: object) -> None:
        self._text = text
        self._fields = fields

    def __str__(self) -> str:
        return self._text

    def fields(self) -> Mapping[str, object]:
        return self._fields


class TextLines:
    """A line begins with the local time; what a message or a traceback adds in lines of its own follows as it is."""

    def __init__(self, process: str | None) -> None:
        self._said_by = f"{process}: " if process else ""
        self._time = Seconds("%Y-%m-%d %H:%M:%S", time.localtime)

    def __call__(self, record: logging.LogRecord) -> bytes:
        when = f"{self._time.of(record.created)},{int(record.msecs):03d}"
        line = f"{when} {record.levelname:<7} {record.name}: {self._said_by}{record.getMessage()}\n"
        if record.exc_info:
            line += traceback_of(record)
        return line.encode("utf-8", "backslashreplace")


class JsonLines:
    """One object a line, whatever is in it; its fields are described in docs/operations/logging.md."""

    def __init__(self, process: str | None) -> None:
        self._process = process or SERVER
        self._time = Seconds("%Y-%m-%dT%H:%M:%S", time.gmtime)

    def __call__(self, record: logging.LogRecord) -> bytes:
        fields: dict[str, object] = {
            "ts": f"{self._time.of(record.created)}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
        }
        said = record.msg
        if isinstance(said, Structured):
            own = said.fields()
            if "message" not in own:
                fields["message"] = str(said)
            fields.update(own)
        else:
            fields["message"] = record.getMessage()
        if record.exc_info:
            fields["traceback"] = traceback_of(record).rstrip("\n")
        try:
            return orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE)
        except TypeError:
            # Half of a character, which UTF-8 has no bytes for.
            whole = {name: escaped(value) if isinstance(value, str) else value for name, value in fields.items()}
            return orjson.dumps(whole, option=orjson.OPT_APPEND_NEWLINE)


class Seconds:
    """Times as text, made anew once a second: it takes longer than all else in a line."""

    def __init__(self, form: str, split: Callable[[float], time.struct_time]) -> None:
        self._form = form
        self._split = split
        self._last: tuple[int, str] = (-1, "")

    def of(self, created: float) -> str:
        """Without what is below a second."""
        second = int(created)
        last, text = self._last
        if last != second:
            text = time.strftime(self._form, self._split(second))
            self._last = (second, text)
        return text


FORMS: Mapping[LogFormat, Callable[[str | None], Form]] = {"text": TextLines, "json": JsonLines}


def traceback_of(record: logging.LogRecord) -> str:
    assert record.exc_info
    return "".join(traceback.format_exception(*record.exc_info))


def escaped(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
