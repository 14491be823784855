"""Where the log goes. A line that cannot be written is lost, and nothing else is."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Protocol

from launcher.errors import ConfigError
from launcher.telemetry.lines import FORMS, Form, LogFormat

log = logging.getLogger("launcher.log")

# From a line that could not be written to the next that is tried.
RETRY_S = 5.0


class Sink(Protocol):
    def write(self, line: bytes) -> None:
        """Never raises: a line that cannot be written is lost."""


class LogWriter(logging.Handler):
    """Makes each line once and writes it into every sink."""

    def __init__(self, form: Form, sinks: Iterable[Sink]) -> None:
        super().__init__()
        self._form = form
        self._sinks = tuple(sinks)

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self._form(record)
        except Exception:
            line = self._form(wrong_line(record))
        for sink in self._sinks:
            sink.write(line)


class StandardError:
    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, line: bytes) -> None:
        # A terminal or a pipe that is gone; there is nowhere left to say so.
        with suppress(OSError):
            write_all(self._fd, line)


class LogFile:
    """A file at ``path``, which may be moved away and then reopened. Its writer's lock guards it.

    When it cannot be written, that is said once, and when it can be again, how many lines it lacks.
    """

    def __init__(self, path: str) -> None:
        """Raises ``OSError``."""
        self._fd = open_to_append(path)
        self._path = path
        self._lost = 0
        self._retry_at = 0.0

    def write(self, line: bytes) -> None:
        if self._lost and time.monotonic() < self._retry_at:
            self._lost += 1
            return
        try:
            if self._lost:
                self._reopen()
                # The last one may have been cut off in its middle.
                line = b"\n" + line
            write_all(self._fd, line)
        except OSError as error:
            self._lost += 1
            self._retry_at = time.monotonic() + RETRY_S
            if self._lost == 1:
                # Comes back here, and is lost at once.
                log.error("log.file: %s cannot be written: %s; going on without it", self._path, error.strerror)
        else:
            if lost := self._lost:
                self._lost = 0
                log.error("log.file: %s can be written again; %d lines are missing in it", self._path, lost)

    def reload(self) -> None:
        """Go on in a new file where the old one was moved away. Raises ``ConfigError`` and keeps the old one."""
        try:
            self._reopen()
        except OSError as error:
            raise ConfigError(f"log.file: {self._path} cannot be written: {error.strerror}") from None
        self._retry_at = 0.0

    def _reopen(self) -> None:
        old, self._fd = self._fd, open_to_append(self._path)
        os.close(old)


class Log:
    """This process's log."""

    def __init__(self, writer: LogWriter, file: LogFile | None) -> None:
        self._writer = writer
        self._file = file

    def set_level(self, level: str) -> None:
        # The level is for our own lines; what the libraries have to say below a warning is of no interest to an operator.
        logging.getLogger("launcher").setLevel(level.upper())

    def reload(self) -> None:
        """Raises as ``LogFile.reload``."""
        if self._file:
            self._writer.acquire()
            try:
                self._file.reload()
            finally:
                self._writer.release()


def start_logging(level: str, file: str | None, form: LogFormat = "text", process: str | None = None) -> Log:
    """Log to standard error and, where there is one, to ``file``; ``process`` names this one in each line.

    Raises ``ConfigError`` where the file cannot be opened.
    """
    try:
        log_file = LogFile(file) if file else None
    except OSError as error:
        raise ConfigError(f"log.file: {file} cannot be written: {error.strerror}") from None
    # Where there is no standard error, its number may belong to any other file.
    standard_error = StandardError(sys.stderr.fileno()) if sys.stderr else None
    writer = LogWriter(FORMS[form](process), [sink for sink in (log_file, standard_error) if sink])
    logging.basicConfig(level=logging.WARNING, handlers=[writer], force=True)
    # logging asks for these for each line, and no line of ours shows them.
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    log_what_python_says()
    started = Log(writer, log_file)
    started.set_level(level)
    return started


def log_what_python_says() -> None:
    """Warnings, and errors that nobody caught: Python would print them to standard error as they are."""

    def uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        log.critical("an error that nobody caught: a bug", exc_info=(kind, error, trace))

    def uncaught_elsewhere(args: threading.ExceptHookArgs | sys.UnraisableHookArgs) -> None:
        """In a thread, or where an object is cleared away."""
        uncaught(args.exc_type, args.exc_value or args.exc_type(), args.exc_traceback)

    logging.captureWarnings(True)
    sys.excepthook = uncaught
    threading.excepthook = uncaught_elsewhere
    sys.unraisablehook = uncaught_elsewhere


def wrong_line(record: logging.LogRecord) -> logging.LogRecord:
    """In the place of ``record``, whose text takes other arguments or whose fields cannot be written: our bug. What it would
    have said is left out, since nobody knows what that is."""
    where = (record.pathname, record.lineno)
    return logging.LogRecord(log.name, logging.ERROR, *where, "a line of %s:%d cannot be made: a bug", where, sys.exc_info())


def write_all(fd: int, line: bytes) -> None:
    """In one call as a rule, so that the lines of several processes do not mix. Raises ``OSError``."""
    written = os.write(fd, line)
    while written < len(line):
        written += os.write(fd, line[written:])


def open_to_append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
