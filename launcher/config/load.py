"""YAML and ``--set`` to a ``Config``, or a ``ConfigError`` that names the key."""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import yaml

from launcher.config.explain import explain
from launcher.config.schema import Config, Section
from launcher.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ConfigSource:
    """Where a configuration comes from, for those who read it again."""

    path: Path | None
    overrides: tuple[str, ...]

    def read(self) -> Config:
        """Raises as ``load_config``."""
        return load_config(self.path, self.overrides)


def load_config(path: Path | None = None, overrides: Iterable[str] = ()) -> Config:
    """Defaults, then the file at ``path``, then each ``a.b=value`` of ``overrides`` (the value is YAML).

    Raises ``ConfigError`` for an unreadable file, an unknown key (with the nearest known one) or a value out of range.
    """
    settings = _read(path) if path else {}
    config = _check(settings, f"{path}: ")
    for override in overrides:
        _apply(settings, override)
        config = _check(settings, "")
    return config


def _check(settings: dict[str, Any], origin: str) -> Config:
    _refuse_unknown_keys(settings, Config, prefix="", origin=origin)
    try:
        return msgspec.convert(settings, Config)
    except msgspec.ValidationError as error:
        key, reason = explain(error, Config)
        raise ConfigError(f"{origin}{key}: {reason}") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=StrictLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not a UTF-8 text file") from None
    except yaml.MarkedYAMLError as error:
        line = f" (line {error.problem_mark.line + 1})" if error.problem_mark else ""
        raise ConfigError(f"{path}: not valid YAML: {error.problem}{line}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {str(error).splitlines()[0]}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected sections such as 'model:' at the top level, got {type(content).__name__}")
    return content


class StrictLoader(yaml.SafeLoader):
    """YAML lets a repeated key silently replace the first; an operator who edits the first would wonder why."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)


def _apply(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override}: expected key=value, such as server.port=8080")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ConfigError(f"--set {key}: {text!r} is not a YAML value; quote it") from None
    *sections, name = key.split(".")
    for section in sections:
        if settings.get(section) is None:
            settings[section] = {}
        settings = settings[section]
        if not isinstance(settings, dict):
            raise ConfigError(f"--set {key}: {section} is a single value, not a section")
    settings[name] = value


def _refuse_unknown_keys(settings: Mapping[Any, Any], section: type[Section], prefix: str, origin: str) -> None:
    known = {field.name: field.type for field in msgspec.structs.fields(section)}
    for key, value in settings.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}"
            raise ConfigError(f"{origin}{prefix}{key}: unknown key, {hint}")
        kind = known[key]
        if isinstance(kind, type) and issubclass(kind, Section):
            if not isinstance(value, Mapping):
                raise ConfigError(f"{origin}{prefix}{key}: expected a section with keys, got {value!r}")
            _refuse_unknown_keys(value, kind, f"{prefix}{key}.", origin)
