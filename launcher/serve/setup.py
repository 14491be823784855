"""What each gateway process is told at its start."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from launcher.compose import Secrets
from launcher.embedding.model import ServedModel
from launcher.plan import Plan


@dataclass(frozen=True, slots=True)
class Setup:
    """``engine`` is where the parent answers batches (a ZeroMQ endpoint), ``slots`` how many of one gateway's may be there."""

    plan: Plan
    model: ServedModel
    secrets: Secrets
    engine: str
    slots: int
    metrics_folder: Path
