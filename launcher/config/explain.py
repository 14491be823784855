"""What msgspec found wrong, in the words of whoever wrote it: which field, and what it may be."""

from __future__ import annotations

from typing import Any, get_args

import msgspec

AT = " - at `$."
MISSING = "missing required field `"


def explain(error: msgspec.ValidationError, root: type[msgspec.Struct]) -> tuple[str, str]:
    """The dotted path of the field at fault ("" for the whole) and the reason, for a value that should have been a ``root``."""
    reason, _, path = str(error).partition(AT)
    path = path.rstrip("`")
    reason = reason[:1].lower() + reason[1:]
    if reason.startswith("object " + MISSING):
        name = reason.partition(MISSING)[2].rstrip("`")
        return f"{path}.{name}".lstrip("."), "this field is required"
    if reason.startswith("invalid enum value"):
        reason += f", expected {' or '.join(_choices(root, path.split('.')))}"
    return path, reason


def _choices(root: type[msgspec.Struct], path: list[str]) -> list[str]:
    kind: Any = root
    for name in path:
        structs = [leaf for leaf in _leaves(kind) if isinstance(leaf, type) and issubclass(leaf, msgspec.Struct)]
        fields = {field.encode_name: field for struct in structs for field in msgspec.structs.fields(struct)}
        kind = fields[name.partition("[")[0]].type
    return [value for value in _leaves(kind) if isinstance(value, str)]


def _leaves(kind: Any) -> list[Any]:
    arguments = get_args(kind)
    return [leaf for argument in arguments for leaf in _leaves(argument)] if arguments else [kind]
