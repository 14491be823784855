"""Where the log goes and how a line looks."""

from __future__ import annotations

import logging

from launcher.errors import ConfigError


def start_logging(level: str, file: str | None, process: str | None = None) -> None:
    """Log to standard error and, where there is one, to ``file``; ``process`` names this one in each line.

    Raises ``ConfigError`` where the file cannot be written.
    """
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    if file:
        try:
            handlers.append(logging.FileHandler(file, encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"log.file: {file} cannot be written: {error.strerror}") from None
    said_by = f"{process}: " if process else ""
    # The level is for our own lines; what the libraries have to say below a warning is of no interest to an operator.
    logging.basicConfig(
        level=logging.WARNING,
        format=f"%(asctime)s %(levelname)-7s %(name)s: {said_by}%(message)s",
        handlers=handlers,
        force=True,
    )
    logging.getLogger("launcher").setLevel(level.upper())
