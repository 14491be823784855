"""The server's certificate and its key."""

from __future__ import annotations

import logging
import ssl
from pathlib import Path
from typing import NoReturn

from launcher.config.schema import Tls
from launcher.errors import ConfigError

log = logging.getLogger("launcher.serve")


class Certificate:
    """``context`` is what new connections should use; ``reload`` replaces it, and connections that are open keep theirs."""

    def __init__(self, cert_file: Path, key_file: Path) -> None:
        """Raises ``ConfigError`` where they cannot be used."""
        self._cert_file = cert_file
        self._key_file = key_file
        self._state = self._look()
        self.context = read_context(cert_file, key_file)

    def reload(self) -> None:
        """Use what the files hold now. Raises ``ConfigError``, and then goes on with what was used before."""
        self._state = self._look()
        self.context = read_context(self._cert_file, self._key_file)

    def reload_if_changed(self) -> None:
        """What cannot be used is logged."""
        if self._look() == self._state:
            return
        try:
            self.reload()
        except ConfigError as error:
            log.error("the TLS certificate stays as it was: %s", error)
        else:
            log.info("the TLS certificate was read again from %s", self._cert_file)

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [file_state(file) for file in (self._cert_file, self._key_file)]


def read_certificate(tls: Tls) -> Certificate | None:
    """None: plain HTTP. Raises ``ConfigError``."""
    if tls.cert_file and tls.key_file:
        return Certificate(Path(tls.cert_file), Path(tls.key_file))
    if tls.cert_file:
        raise ConfigError("server.tls.key_file: missing; the certificate of server.tls.cert_file needs its private key")
    if tls.key_file:
        raise ConfigError("server.tls.cert_file: missing; the key of server.tls.key_file needs its certificate")
    return None


def read_context(cert_file: Path, key_file: Path) -> ssl.SSLContext:
    """Raises ``ConfigError`` naming the key at fault."""
    for key, file in (("cert_file", cert_file), ("key_file", key_file)):
        try:
            file.read_bytes()
        except OSError as error:
            raise ConfigError(f"server.tls.{key}: {file}: cannot be read: {error.strerror}") from None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(cert_file, key_file, password=refuse_passphrase)
    except (ssl.SSLError, OSError) as error:
        why = getattr(error, "reason", None) or "not PEM"
        raise ConfigError(
            f"server.tls.cert_file, server.tls.key_file: {cert_file} and {key_file} are not a certificate and its key: {why}"
        ) from None
    return context


def refuse_passphrase() -> NoReturn:
    raise ConfigError("server.tls.key_file: the key has a passphrase, which nobody is there to type; store it without one")


def file_state(file: Path) -> tuple[int, int, int] | None:
    """Differs when the file has been changed or replaced, also by way of a link to it; None where there is none."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
