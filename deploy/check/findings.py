"""What a check has to say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class CannotCheck(Exception):
    """A check that cannot be made is a failed one; the message says what to do."""


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """``where`` is a file or an overlay, ``what`` an object and its field, ``text`` what is wrong and what to do."""

    where: str
    what: str
    text: str
    rule: str

    def __str__(self) -> str:
        place = f"{self.where}: {self.what}" if self.what else self.where
        return f"{place}: {self.text} [{self.rule}]"


@dataclass(frozen=True, slots=True)
class Outcome:
    """``subject`` counts what was looked at, such as "41 objects": nothing found in nothing is no success."""

    subject: str
    findings: Sequence[Finding]
