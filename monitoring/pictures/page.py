"""A board's panels where Grafana would place them, as one small PNG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from PIL import Image

from monitoring.pictures.answers import Window
from monitoring.pictures.panels import TEXT, draw

COLUMNS = 24
WIDTH_IN, UNIT_IN, HEAD_IN = 13.0, 0.26, 0.5
DPI = 90
# Inside a panel's place: for its labels at the left and below.
LEFT, RIGHT, ABOVE, BELOW = 0.5, 0.1, 0.22, 0.2
NOTE = "drawn by matplotlib from the board's own queries; no Grafana was run"


def write_picture(board: Mapping[str, Any], window: Window, file: Path) -> None:
    height = HEAD_IN + UNIT_IN * max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = Figure(figsize=(WIDTH_IN, height), dpi=DPI)
    when = datetime.fromtimestamp(window.end, UTC).strftime("%Y-%m-%d %H:%M UTC")
    figure.text(0.01, 1 - 0.25 / height, f"{board['title']}: {NOTE}; {when}", fontsize=TEXT + 3, va="center")
    for panel in board["panels"]:
        grid = panel["gridPos"]
        left, top = grid["x"] * WIDTH_IN / COLUMNS, height - HEAD_IN - grid["y"] * UNIT_IN
        if panel["type"] == "row":
            figure.text(0.01, (top - UNIT_IN / 2) / height, panel["title"], fontsize=TEXT + 2, weight="bold", va="center")
            continue
        wide, high = grid["w"] * WIDTH_IN / COLUMNS - LEFT - RIGHT, grid["h"] * UNIT_IN - ABOVE - BELOW
        place = (
            (left + LEFT) / WIDTH_IN,
            (top - grid["h"] * UNIT_IN + BELOW) / height,
            wide / WIDTH_IN,
            high / height,
        )
        draw(figure.add_axes(place), panel, [found for target in panel["targets"] for found in window.ask(target)])
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    # A palette makes the file a third as large.
    Image.open(drawn).convert("RGB").quantize().save(file, optimize=True)
