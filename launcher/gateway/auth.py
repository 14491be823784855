"""API keys: named, read once at start, compared in constant time, never logged."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import yaml

from launcher.config.load import StrictLoader
from launcher.errors import ConfigError, Unauthorized

ENVIRONMENT_VARIABLE = "SGL_EMBED_API_KEYS"


def read_keys(file: Path | None, environment: str | None) -> dict[str, str]:
    """Names to keys, from a YAML file (``name: key`` a line) and from ``name:key,name:key``.

    Raises ``ConfigError`` naming the place, never the key.
    """
    keys = _from_file(file) if file else {}
    for i, entry in enumerate(filter(None, (environment or "").split(","))):
        name, colon, key = entry.strip().partition(":")
        if not colon or not name or not key:
            raise ConfigError(f"{ENVIRONMENT_VARIABLE}: entry {i + 1} is not of the form name:key")
        if name in keys:
            raise ConfigError(f"{ENVIRONMENT_VARIABLE}: the name {name!r} stands twice; give each key a name of its own")
        keys[name] = key
    return keys


def _from_file(file: Path) -> dict[str, str]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise ConfigError(f"server.api_keys_file: {file}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"server.api_keys_file: {file}: not UTF-8 lines of the form 'name: key', each name once") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"server.api_keys_file: {file}: expected lines of the form 'name: key'")
    if bad := [name for name, key in content.items() if not isinstance(key, str) or not key]:
        raise ConfigError(f"server.api_keys_file: {file}: the key of {bad[0]!r} is not a text; put it in quotes")
    return {str(name): key for name, key in content.items()}


class KeyCheck:
    """Finds who holds the key of an ``Authorization`` header."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self._digests = {name: sha256(key.encode()).digest() for name, key in keys.items()}

    def name_of(self, authorization: bytes) -> str:
        """The key's name, for the header's value as it came. Raises ``Unauthorized``."""
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise Unauthorized("an API key is needed here: send the header 'Authorization: Bearer <key>'")
        digest = sha256(key.strip()).digest()
        # Each digest is compared, so that the time says nothing about which one matched.
        matches = [name for name, known in self._digests.items() if hmac.compare_digest(known, digest)]
        if not matches:
            raise Unauthorized("this API key is not known here")
        return matches[0]
