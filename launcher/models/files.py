"""Reading a checkpoint's JSON files, with errors that name the file and the line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launcher.errors import ModelError


def read_json(path: Path) -> Any:
    """Raises ``ModelError`` when the file is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a model folder needs it") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ModelError(f"{path}: is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise ModelError(f"{path}: line {error.lineno}: not valid JSON: {error.msg}") from error


def read_object(path: Path) -> Mapping[str, Any]:
    """Like ``read_json``, for a file that holds one JSON object."""
    content = read_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_optional_object(path: Path) -> Mapping[str, Any]:
    """Like ``read_object``; a file that is not there reads as empty."""
    return read_object(path) if path.exists() else {}
