"""A program in a terminal of its own, as somebody who sits before it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import monotonic

CTRL_C = b"\x03"
# Lines, columns.
SIZE = (24, 80)
WITHOUT_TEXT = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def begin_session(its: int) -> None:
    """With ``its`` as the controlling terminal, so that Ctrl-C becomes SIGINT, which background jobs ignore."""
    fcntl.ioctl(its, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """``raw`` is all that was written so far."""

    def __init__(self, command: tuple[str, ...], environment: Mapping[str, str]) -> None:
        self._ours, its = pty.openpty()
        fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", *SIZE, 0, 0))
        self.settings = termios.tcgetattr(its)
        self.process = subprocess.Popen(
            command,
            stdin=its,
            stdout=its,
            stderr=its,
            env={**os.environ, "TERM": "xterm-256color", **environment},
            start_new_session=True,
            preexec_fn=lambda: begin_session(its),
        )
        # Kept open: the settings can be asked for after the end.
        self._its = its
        self.raw = ""

    def press(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def wait_for(self, pattern: str, timeout_s: float = 60) -> None:
        """Until what is written from now on holds it. Raises ``TimeoutError`` with all that was written."""
        began, deadline = len(self.raw), monotonic() + timeout_s
        while not re.search(pattern, WITHOUT_TEXT.sub("", self.raw[began:])):
            if not self._read(deadline - monotonic()):
                raise TimeoutError(f"no {pattern!r} within {timeout_s} s:\n{self.raw}")

    def wait(self, timeout_s: float = 20) -> int:
        """The exit status, after all was read."""
        status = self.process.wait(timeout_s)
        while self._read(0.0):
            pass
        return status

    def settings_now(self) -> list[object]:
        return termios.tcgetattr(self._its)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._its)
        os.close(self._ours)

    def _read(self, timeout_s: float) -> bool:
        if not select.select([self._ours], [], [], max(timeout_s, 0))[0]:
            return False
        self.raw += os.read(self._ours, 1 << 16).decode(errors="replace")
        return True


@contextmanager
def terminal(*arguments: str, environment: Mapping[str, str] | None = None) -> Iterator[Terminal]:
    """``sgl-embed`` with these arguments; what has not ended by itself is killed."""
    opened = Terminal((sys.executable, "-m", "launcher", *arguments), environment or {})
    try:
        yield opened
    finally:
        opened.close()
