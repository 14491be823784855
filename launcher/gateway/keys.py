"""Where API keys are read from: a file, which may be read again, and the environment. No message and no ``repr`` shows one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import yaml

from launcher.config.load import StrictLoader
from launcher.config.schema import KeyLimits
from launcher.errors import ConfigError

ENVIRONMENT_VARIABLE = "SGL_EMBED_API_KEYS"
FORM = "lines of the form 'name: key' or 'name: {key: ..., requests_per_minute: ..., tokens_per_minute: ...}', each name once"


@dataclass(frozen=True, slots=True)
class ApiKey:
    key: str = field(repr=False)
    limits: KeyLimits = field(default_factory=KeyLimits)


class Keys:
    """``known`` maps names to keys, as they were last read.

    ``file`` is YAML, an entry a name; ``environment`` is ``name:key,name:key``, with names that the file lacks. Reading raises
    ``ConfigError`` naming the place, never the key.
    """

    def __init__(self, file: Path | None, environment: str | None) -> None:
        self._file = file
        self._environment = environment or ""
        self.reload()

    def __bool__(self) -> bool:
        """Whether a key is asked for at all."""
        return bool(self.known)

    def reload(self) -> None:
        keys = dict(read_file(self._file)) if self._file else {}
        for name, key in read_environment(self._environment):
            if name in keys:
                raise ConfigError(f"{ENVIRONMENT_VARIABLE}: the name {name!r} stands twice; give each key a name of its own")
            keys[name] = ApiKey(key)
        self.known = keys


def read_environment(value: str) -> Iterator[tuple[str, str]]:
    for i, entry in enumerate(filter(None, value.split(","))):
        name, colon, key = entry.strip().partition(":")
        if not colon or not name or not key:
            raise ConfigError(f"{ENVIRONMENT_VARIABLE}: entry {i + 1} is not of the form name:key")
        yield name, key


def read_file(file: Path) -> Iterator[tuple[str, ApiKey]]:
    place = f"server.api_keys_file: {file}"
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise ConfigError(f"{place}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        raise ConfigError(f"{place}: not UTF-8 {FORM}") from None
    if not isinstance(content, dict) or not content:
        raise ConfigError(f"{place}: expected {FORM}")
    return ((str(name), read_entry(entry, f"{place}: {name}")) for name, entry in content.items())


def read_entry(entry: Any, place: str) -> ApiKey:
    fields = dict(entry) if isinstance(entry, dict) else {"key": entry}
    key = fields.pop("key", None)
    if not isinstance(key, str) or not key:
        raise ConfigError(f"{place}: the key is not a text; put it in quotes")
    if not fields.keys() <= set(KeyLimits.__struct_fields__):
        # Not which: it may be a key that stands where a field's name should.
        raise ConfigError(f"{place}: may have key, {' and '.join(KeyLimits.__struct_fields__)}, and has something else")
    try:
        return ApiKey(key, msgspec.convert(fields, KeyLimits))
    except msgspec.ValidationError as error:
        wrong = str(error).partition(" - at `$.")
        raise ConfigError(f"{place}: {wrong[2].rstrip('`')}: {wrong[0][:1].lower()}{wrong[0][1:]}") from None
