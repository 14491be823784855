"""The model as clients see it: its names, its vector space, its limits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from launcher.errors import ModelNotFound

Role = Literal["query", "passage"]


@dataclass(frozen=True, slots=True)
class ServedModel:
    """``fingerprint`` names the vector space: vectors may be compared only where it is equal.

    ``prompts`` maps a role to the text put before an input; ``matryoshka_dimensions`` are the smaller sizes that a
    request may ask for; ``created`` is the start of serving in Unix seconds; ``engine`` and ``dtype`` say what computes,
    ``weights`` whether they are rounded further, to "int8".
    """

    name: str
    aliases: tuple[str, ...]
    fingerprint: str
    revision: str | None
    dimensions: int
    matryoshka_dimensions: tuple[int, ...]
    max_tokens: int
    pooling: str
    engine: str
    dtype: str
    weights: str
    prompts: Mapping[str, str]
    created: int

    def role_of(self, requested: str) -> Role | None:
        """The role that a request's model name implies: ``<name>-query``, ``<name>-passage``, or none.

        Raises ``ModelNotFound`` for any other name.
        """
        if requested == self.name or requested in self.aliases:
            return None
        base, _, suffix = requested.rpartition("-")
        if base == self.name or base in self.aliases:
            if suffix == "query":
                return "query"
            if suffix == "passage":
                return "passage"
        raise ModelNotFound(requested, self.name)
