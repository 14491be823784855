"""What differs between two configurations."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from launcher.config.schema import Section


def changed_keys(before: Section, after: Section, prefix: str = "") -> Iterator[str]:
    """The dotted keys whose values differ; both must be of one type."""
    for field in msgspec.structs.fields(before):
        old, new = getattr(before, field.name), getattr(after, field.name)
        if isinstance(old, Section):
            yield from changed_keys(old, new, f"{prefix}{field.name}.")
        elif old != new:
            yield f"{prefix}{field.name}"
