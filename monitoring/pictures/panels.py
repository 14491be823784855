"""Each kind of panel, drawn into its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, FuncFormatter, MaxNLocator

from monitoring.pictures.answers import Series

Panel = Mapping[str, Any]
Draw = Callable[[Axes, Panel, Sequence[Series]], None]
# More would hide each other. Those that are 0 throughout are left out where others are not.
MOST_LINES = 10
TEXT = 7
ENGINEERS = EngFormatter(sep=" ")
NAMED_COLOURS = {"green": "#56A64B", "yellow": "#E0B400", "red": "#E02F44", "blue": "#3274D9", "text": "#8E8E8E"}


def draw(axes: Axes, panel: Panel, found: Sequence[Series]) -> None:
    axes.set_title(panel["title"], fontsize=TEXT + 1, loc="left", pad=3)
    axes.tick_params(labelsize=TEXT - 1, length=2, pad=1)
    found = [each for each in found if each.values.size]
    if found:
        KINDS[panel["type"]](axes, panel, found)
    else:
        bare(axes)
        axes.text(0.5, 0.5, "no data here", ha="center", va="center", fontsize=TEXT + 1, color="#8E8E8E")


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def unit_of(panel: Panel) -> str:
    return str(panel["fieldConfig"]["defaults"]["unit"])


def shown(value: float, unit: str) -> str:
    """In three digits."""
    rounded = float(f"{value:.3g}")
    match unit:
        case "percentunit":
            return f"{100 * value:.3g} %"
        case "bytes":
            return f"{value / 2**20:,.0f} MiB"
        case "bool_yes_no":
            return "yes" if value else "no"
        case "s":
            return ENGINEERS.format_eng(rounded) + "s"
        case "reqps":
            return ENGINEERS.format_eng(rounded) + "/s"
    return ENGINEERS.format_eng(rounded).replace(" ", "")


def clock(axes: Axes, found: Sequence[Series]) -> None:
    """Minutes since the window's begin would say less than the time of day does beside a log."""
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda at, _: datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S")))
    axes.set_xlim(min(each.times[0] for each in found), max(each.times[-1] for each in found) + 1)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def lines(axes: Axes, panel: Panel, found: Sequence[Series]) -> None:
    custom = panel["fieldConfig"]["defaults"]["custom"]
    found = sorted(found, key=lambda each: each.values.mean(), reverse=True)
    found = [each for each in found if each.values.any()][:MOST_LINES] or found[:MOST_LINES]
    if custom.get("stacking", {}).get("mode") == "normal":
        times = np.unique(np.concatenate([each.times for each in found]))
        heights = [np.interp(times, each.times, each.values, left=0, right=0) for each in found]
        axes.stackplot(times, heights, labels=[each.legend for each in found], alpha=0.7)
    else:
        for each in found:
            axes.plot(each.times, each.values, label=each.legend, linewidth=0.9)
    axes.set_ylim(0, axes.get_ylim()[1] if any(each.values.any() for each in found) else 1)
    limits = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", ()) if "thresholdsStyle" in custom else ()
    for step in limits:
        if step["value"] is not None and step["value"] < axes.get_ylim()[1]:
            axes.axhline(step["value"], color=NAMED_COLOURS[step["color"]], linewidth=0.7, linestyle="--")
    axes.yaxis.set_major_locator(MaxNLocator(4))
    unit = unit_of(panel)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, unit)))
    axes.grid(axis="y", linewidth=0.3)
    clock(axes, found)
    axes.legend(fontsize=TEXT - 1.5, ncols=3, loc="upper left", framealpha=0.6, borderpad=0.2, handlelength=1, columnspacing=1)


def numbers(axes: Axes, panel: Panel, found: Sequence[Series]) -> None:
    bare(axes)
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    for place, each in enumerate(found, 1):
        value = float(each.values[-1])
        colour = [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]
        text = f"{each.legend} {shown(value, unit_of(panel))}".strip()
        height = 1 - place / (len(found) + 1)
        axes.text(0.5, height, text, ha="center", va="center", fontsize=2 * TEXT, color=NAMED_COLOURS[colour])


def heat(axes: Axes, panel: Panel, found: Sequence[Series]) -> None:
    """Of a histogram's buckets, each of which holds those below it too."""
    ordered = sorted(found, key=lambda each: float(each.labels["le"]))
    times = np.unique(np.concatenate([each.times for each in ordered]))
    below = np.array([np.interp(times, each.times, each.values) for each in ordered])
    cells = np.diff(below, axis=0, prepend=0).clip(0)
    axes.pcolormesh(times, np.arange(len(ordered)), np.sqrt(cells), cmap="Oranges", shading="nearest")
    unit = panel["options"]["yAxis"]["unit"]
    axes.set_yticks(range(len(ordered)), [bound(each, unit) for each in ordered], fontsize=TEXT - 2)
    clock(axes, found)


def bound(bucket: Series, unit: str) -> str:
    most = float(bucket.labels["le"])
    return f"≤ {shown(most, unit)}" if np.isfinite(most) else "more"


def facts(axes: Axes, panel: Panel, found: Sequence[Series]) -> None:
    bare(axes)
    labels = sorted({label for each in found for label in each.labels})
    cells = [[each.labels.get(label, "")[:40] for label in labels] for each in found]
    table = axes.table(cells, colLabels=labels, loc="upper center", cellLoc="left", edges="horizontal")
    table.auto_set_font_size(False)
    table.set_fontsize(TEXT)


def states(axes: Axes, panel: Panel, found: Sequence[Series]) -> None:
    names = panel["fieldConfig"]["defaults"]["mappings"][0]["options"]
    step = float(np.median(np.diff(found[0].times))) if found[0].times.size > 1 else 1.0
    for place, each in enumerate(found):
        colours = [NAMED_COLOURS[names[f"{value:.0f}"]["color"]] for value in each.values]
        axes.broken_barh([(at, step) for at in each.times], (place - 0.4, 0.8), facecolors=colours)
        last = names[f"{each.values[-1]:.0f}"]["text"]
        axes.text(each.times[0], place, f" {each.legend}", ha="left", va="center", fontsize=TEXT, color="white")
        axes.text(each.times[-1], place, last, ha="right", va="center", fontsize=TEXT, color="white")
    axes.set_yticks([])
    clock(axes, found)


KINDS: Mapping[str, Draw] = {
    "timeseries": lines,
    "stat": numbers,
    "heatmap": heat,
    "table": facts,
    "state-timeline": states,
}
