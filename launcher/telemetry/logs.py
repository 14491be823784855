"""Where the log goes and how a line looks. A line that cannot be written is lost, and nothing else is."""

from __future__ import annotations

import logging
import os
import sys
import time

from launcher.errors import ConfigError

log = logging.getLogger("launcher.log")

# From a line that could not be written to the next that is tried.
RETRY_S = 5.0


class LineWriter(logging.Handler):
    """Writes into an open file: a line a call, so that those of several processes do not mix."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self.write(self.format(record).encode("utf-8", "backslashreplace") + b"\n")
        except OSError:
            # A terminal or a pipe that is gone; there is nowhere left to say so.
            pass
        except Exception:
            # A line with other arguments than its text takes: our bug, told as logging tells it.
            self.handleError(record)

    def write(self, line: bytes) -> None:
        """Raises ``OSError``."""
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self.fd, rest) :]


class LogFile(LineWriter):
    """A file at ``path``, which may be moved away and then reloaded.

    When it cannot be written, that is said once, and when it can be again, how many lines it lacks.
    """

    def __init__(self, path: str) -> None:
        """Raises ``OSError``."""
        super().__init__(open_to_append(path))
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
            super().write(line)
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
        self.acquire()
        try:
            self._reopen()
        except OSError as error:
            raise ConfigError(f"log.file: {self._path} cannot be written: {error.strerror}") from None
        else:
            self._retry_at = 0.0
        finally:
            self.release()

    def _reopen(self) -> None:
        old, self.fd = self.fd, open_to_append(self._path)
        os.close(old)


class Log:
    """This process's log."""

    def __init__(self, file: LogFile | None) -> None:
        self._file = file

    def set_level(self, level: str) -> None:
        # The level is for our own lines; what the libraries have to say below a warning is of no interest to an operator.
        logging.getLogger("launcher").setLevel(level.upper())

    def reload(self) -> None:
        """Raises as ``LogFile.reload``."""
        if self._file:
            self._file.reload()


def start_logging(level: str, file: str | None, process: str | None = None) -> Log:
    """Log to standard error and, where there is one, to ``file``; ``process`` names this one in each line.

    Raises ``ConfigError`` where the file cannot be opened.
    """
    try:
        log_file = LogFile(file) if file else None
    except OSError as error:
        raise ConfigError(f"log.file: {file} cannot be written: {error.strerror}") from None
    # Where there is no standard error, its number may belong to any other file.
    standard_error = LineWriter(sys.stderr.fileno()) if sys.stderr else None
    said_by = f"{process}: " if process else ""
    logging.basicConfig(
        level=logging.WARNING,
        format=f"%(asctime)s %(levelname)-7s %(name)s: {said_by}%(message)s",
        handlers=[handler for handler in (log_file, standard_error) if handler],
        force=True,
    )
    started = Log(log_file)
    started.set_level(level)
    return started


def open_to_append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
