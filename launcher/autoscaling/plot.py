"""A simulated run as a picture. Serving needs no matplotlib, so it may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launcher.autoscaling.simulate import Moment
from launcher.errors import ConfigError


def plot(moments: Sequence[Moment], pod_qps: float, title: str, path: Path) -> None:
    """Raises ``ConfigError`` where matplotlib is missing or the file cannot be written."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ConfigError(
            "--plot: needs matplotlib, which is not installed; pip install matplotlib, or leave --plot out"
        ) from None
    figure = Figure(figsize=(9, 6), layout="constrained")
    load, pods = figure.subplots(2, 1, sharex=True)
    minutes = [moment.at / 60 for moment in moments]
    load.plot(minutes, [moment.offered for moment in moments], label="offered")
    load.plot(minutes, [moment.ready * pod_qps for moment in moments], label="ready pods can do")
    load.fill_between(minutes, [moment.refused for moment in moments], color="tab:red", alpha=0.5, label="refused")
    load.set(ylabel="requests/s", title=title)
    pods.step(minutes, [moment.replicas for moment in moments], where="post", label="wanted")
    pods.step(minutes, [moment.ready for moment in moments], where="post", label="ready")
    pods.set(ylabel="pods", xlabel="minutes")
    for axes in (load, pods):
        axes.legend()
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise ConfigError(f"--plot {path}: cannot be written: {error}") from None
