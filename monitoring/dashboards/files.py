"""Which boards there are, and their files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from monitoring.dashboards.autoscaling import autoscaling
from monitoring.dashboards.engine import engine
from monitoring.dashboards.frame import written
from monitoring.dashboards.service import service
from monitoring.dashboards.workers import workers

FOLDER = Path(__file__).parents[1] / "grafana/dashboards"
BOARDS = {"service": service, "engine": engine, "workers": workers, "autoscaling": autoscaling}


def contents() -> Mapping[Path, str]:
    """What each file in ``FOLDER`` should hold."""
    return {FOLDER / f"{name}.json": written(made()) for name, made in BOARDS.items()}
