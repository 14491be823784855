"""What SIGHUP does: some parts are read anew, each by itself, while requests go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import NoReturn

from launcher.compose import Reloadable
from launcher.config.changes import changed_keys
from launcher.config.load import ConfigSource
from launcher.config.schema import Config
from launcher.config.schema import Log as LogSection
from launcher.errors import ConfigError
from launcher.gateway.access import AccessLog
from launcher.telemetry.logs import Log

log = logging.getLogger("launcher.serve")

TAKEN = {"log.level", "log.requests", "log.slow_request_s"}


class Reload:
    """``parts`` by what they are called in the log; None where this server has no such part."""

    def __init__(self, parts: Mapping[str, Reloadable | None]) -> None:
        self._parts = {name: part for name, part in parts.items() if part is not None}

    async def on(self, hangup: asyncio.Event) -> NoReturn:
        """Each time the event is set."""
        while True:
            await hangup.wait()
            hangup.clear()
            self()

    def __call__(self) -> None:
        done = [name for name, part in self._parts.items() if self._succeeds(name, part)]
        log.info("SIGHUP: reloaded %s", ", ".join(done) or "nothing")

    def _succeeds(self, name: str, part: Reloadable) -> bool:
        try:
            part.reload()
        except ConfigError as error:
            log.error("SIGHUP: %s: stays as it was: %s", name, error)
        except Exception:
            log.exception("SIGHUP: %s: a bug", name)
        else:
            return True
        return False


class LogSettings:
    """Of the configuration, only what ``log_as`` sets is taken anew.

    ``access`` is None in a process that takes no requests. ``started_with``, where given, is what the configuration was at the
    start, and the keys that have changed since are said.
    """

    def __init__(self, source: ConfigSource, logs: Log, access: AccessLog | None, started_with: Config | None = None) -> None:
        self._source = source
        self._logs = logs
        self._access = access
        self._started_with = started_with

    def reload(self) -> None:
        now = self._source.read()
        log_as(now.log, self._logs, self._access)
        if self._started_with and (others := [key for key in changed_keys(self._started_with, now) if key not in TAKEN]):
            log.warning("SIGHUP: these have changed too, and need a restart: %s", ", ".join(others))


def log_as(settings: LogSection, logs: Log, access: AccessLog | None) -> None:
    logs.set_level(settings.level)
    if access:
        access.sample(settings.requests, settings.slow_request_s)
