"""The log: a line that cannot be written hurts nobody."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launcher.errors import ConfigError
from launcher.telemetry import logs
from launcher.telemetry.logs import Log, start_logging
from tests.support.log_lines import objects_in

log = logging.getLogger("launcher.test")


@pytest.fixture
def start() -> Iterator[Callable[..., Log]]:
    """``start_logging``, whose traces in this process are removed afterwards."""
    root, ours = logging.getLogger(), logging.getLogger("launcher")
    before = (root.handlers[:], root.level, ours.level)
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook)
    asked = (logging.logThreads, logging.logProcesses, logging.logMultiprocessing)
    yield start_logging
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
    logging.logThreads, logging.logProcesses, logging.logMultiprocessing = asked
    root.handlers[:], _, _ = before
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A log file on a full disk."""
    path = tmp_path / "server.log"
    path.symlink_to("/dev/full")
    return path


def has_space_again(path: Path) -> None:
    path.unlink()


def test_lines_go_to_standard_error_and_to_the_file(
    start: Callable[..., Log], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "server.log"
    path.write_text("before\n")
    start("info", str(path), process="gateway 0")
    log.info("你好 %d", 1)
    log.debug("too quiet")
    written = path.read_text(encoding="utf-8").removeprefix("before\n")
    assert written.endswith(" INFO    launcher.test: gateway 0: 你好 1\n")
    assert capfd.readouterr().err == written


def test_a_full_disk_is_said_once_and_so_is_its_end(
    start: Callable[..., Log], full: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    start("info", str(full))
    for number in range(5):
        log.info("line %d", number)
    said = capfd.readouterr().err
    assert [said.count(f"line {number}\n") for number in range(5)] == [1] * 5
    assert said.count(f"log.file: {full} cannot be written: No space left on device; going on without it\n") == 1
    assert "Traceback" not in said

    has_space_again(full)
    log.info("too early to try")
    assert not full.exists()
    monkeypatch.setattr(logs, "RETRY_S", 0.0)
    monkeypatch.setattr("time.monotonic", lambda: float("inf"))
    log.info("after")
    log.info("more")
    # The five, the one that said so, and the one that came too early.
    assert f"{full} can be written again; 7 lines are missing in it\n" in capfd.readouterr().err
    assert [line.rpartition(": ")[2] for line in full.read_text().split("\n")][1::2] == ["after", "more"]


def test_a_file_that_is_cut_to_nothing_goes_on_from_there(start: Callable[..., Log], tmp_path: Path) -> None:
    """As logrotate's copytruncate does it."""
    path = tmp_path / "server.log"
    start("info", str(path), "json")
    log.info("before")
    os.truncate(path, 0)
    log.info("after")
    assert [entry["message"] for entry in objects_in(path.read_text())] == ["after"]


def test_a_reload_tries_at_once(start: Callable[..., Log], full: Path) -> None:
    started = start("info", str(full))
    log.info("lost")
    has_space_again(full)
    started.reload()
    log.info("kept")
    assert "launcher.test: kept\n" in full.read_text()


def test_a_reload_that_cannot_open_the_file_keeps_the_old_one(start: Callable[..., Log], tmp_path: Path) -> None:
    folder, moved = tmp_path / "logs", tmp_path / "moved"
    folder.mkdir()
    started = start("info", str(folder / "server.log"))
    folder.rename(moved)
    with pytest.raises(ConfigError, match=r"log\.file: .*server\.log cannot be written: No such file or directory"):
        started.reload()
    log.info("still here")
    assert (moved / "server.log").read_text().endswith("still here\n")


def test_no_file_is_left_open(start: Callable[..., Log], tmp_path: Path) -> None:
    started = start("info", str(tmp_path / "server.log"))
    before = len([*Path("/proc/self/fd").iterdir()])
    for _ in range(5):
        started.reload()
    assert len([*Path("/proc/self/fd").iterdir()]) == before


def test_a_standard_error_that_is_gone_is_no_error(start: Callable[..., Log], tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    start("info", str(path))
    kept = os.dup(2)
    try:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 2)
        os.close(full)
        log.info("said")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert path.read_text().endswith("launcher.test: said\n")


def test_what_is_no_text_is_escaped(start: Callable[..., Log], tmp_path: Path) -> None:
    path = tmp_path / "server.log"
    start("info", str(path))
    log.info("half a \ud83d")
    assert path.read_text().endswith("half a \\ud83d\n")
