"""The kinds of panels that boards have, each with what all of its kind share. Widths are in Grafana's 24 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import common, dashboard, heatmap, prometheus, stat, statetimeline, table, timeseries
from grafana_foundation_sdk.models.common import (
    AxisPlacement,
    GraphDrawStyle,
    GraphThresholdsStyleMode,
    LegendDisplayMode,
    LegendPlacement,
    SortOrder,
    StackingMode,
    TooltipDisplayMode,
    VisibilityMode,
)
from grafana_foundation_sdk.models.dashboard import (
    DataSourceRef,
    DataTransformerConfig,
    FieldColorModeId,
    Threshold,
    ThresholdsMode,
    ValueMap,
    ValueMappingResult,
)
from grafana_foundation_sdk.models.heatmap import HeatmapColorMode, HeatmapColorScale
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from monitoring.dashboards.frame import DATASOURCE, Panel

Query = prometheus.Dataquery
# From which value on which colour; None: below all others.
Steps = Mapping[float | None, str]
GREEN, YELLOW, RED = "green", "yellow", "red"
TALL, LOW = 8, 4
# At least: in less than a scrape's interval nothing is new.
COUNTED_OVER = "1m"


def source() -> DataSourceRef:
    return DataSourceRef(type_val="prometheus", uid=f"${{{DATASOURCE}}}")


def query(expression: str, legend: str = "", *, exemplars: bool = False) -> Query:
    asked = Query().expr(expression).range().legend_format(legend)
    return asked.exemplar(True) if exemplars else asked


def lines(
    title: str,
    text: str,
    unit: str,
    *queries: Query,
    width: int = 8,
    stacked: bool = False,
    most: float | None = None,
    steps: Steps | None = None,
) -> timeseries.Panel:
    """Values over time, from 0 on; ``most``: the top of the axis where that is known. ``steps`` are drawn as lines."""
    panel = _placed(timeseries.Panel(), title, text, width, TALL).unit(unit).min(0)
    panel = panel.line_width(1).fill_opacity(30 if stacked else 8).show_points(VisibilityMode.NEVER)
    panel = panel.legend(
        common.VizLegendOptions()
        .show_legend(True)
        .display_mode(LegendDisplayMode.TABLE)
        .placement(LegendPlacement.BOTTOM)
        .calcs(["mean", "max", "lastNotNull"])
    )
    panel = panel.tooltip(common.VizTooltipOptions().mode(TooltipDisplayMode.MULTI).sort(SortOrder.DESCENDING))
    if stacked:
        panel = panel.stacking(common.StackingConfig().mode(StackingMode.NORMAL).group("A"))
    if most is not None:
        panel = panel.max(most)
    if steps:
        style = common.GraphThresholdsStyleConfig().mode(GraphThresholdsStyleMode.DASHED)
        panel = panel.thresholds(_thresholds(steps)).thresholds_style(style)
    asking: timeseries.Panel = _asking(panel, queries)
    return asking


def bars(title: str, text: str, unit: str, *queries: Query, width: int = 8) -> Panel:
    """Counts of what seldom happens."""
    panel = lines(title, text, unit, *queries, width=width, stacked=True)
    return panel.draw_style(GraphDrawStyle.BARS).fill_opacity(80).interval(COUNTED_OVER)


def number(
    title: str, text: str, unit: str, *queries: Query, steps: Steps | None = None, width: int = 4, height: int = LOW
) -> Panel:
    """The value of the end of the time that is shown, in the colour of the step that it is on: what is gone by then is none."""
    panel = _placed(stat.Panel(), title, text, width, height).unit(unit).thresholds(_thresholds(steps or {}))
    panel = panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS))
    panel = panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    asking: Panel = _asking(panel, [asked.instant() for asked in queries])
    return asking


def heat(title: str, text: str, unit: str, asked: Query, *, width: int = 12) -> Panel:
    """Of a histogram's buckets: dark where few were, light where many were."""
    panel = _placed(heatmap.Panel(), title, text, width, TALL).calculate(False).interval(COUNTED_OVER)
    # The values of the cells are counts; the unit is the axis's.
    panel = panel.unit("short").y_axis(heatmap.YAxisConfig().unit(unit).axis_placement(AxisPlacement.LEFT))
    panel = panel.color(
        heatmap.HeatmapColorOptions()
        .mode(HeatmapColorMode.SCHEME)
        .scheme("Oranges")
        .scale(HeatmapColorScale.EXPONENTIAL)
        .exponent(0.5)
        .steps(64)
    )
    asking: Panel = _asking(panel, [asked.format(PromQueryFormat.HEATMAP).legend_format("{{le}}")])
    return asking


def facts(title: str, text: str, expression: str, labels: Sequence[str], *, width: int = 24, height: int = TALL) -> Panel:
    """A table of what the series' labels say now, one row each."""
    panel = _placed(table.Panel(), title, text, width, height).unit("short")
    panel = panel.with_transformation(
        DataTransformerConfig(
            id_val="organize",
            options={"excludeByName": {"Time": True}, "indexByName": {label: place for place, label in enumerate(labels)}},
        )
    )
    asking: Panel = _asking(panel, [Query().expr(expression).instant().format(PromQueryFormat.TABLE)])
    return asking


def states(title: str, text: str, names: Mapping[int, tuple[str, str]], asked: Query, *, width: int = 24) -> Panel:
    """Which state each series was in; ``names`` are each value's words and colour."""
    mapped = {str(value): ValueMappingResult(text=name, color=colour, index=value) for value, (name, colour) in names.items()}
    panel = _placed(statetimeline.Panel(), title, text, width, TALL).unit("short").mappings([ValueMap(options=mapped)])
    panel = panel.color_scheme(dashboard.FieldColor().mode(FieldColorModeId.THRESHOLDS)).merge_values(True)
    asking: Panel = _asking(panel, [asked])
    return asking


def _placed(panel: Any, title: str, text: str, width: int, height: int) -> Any:
    return panel.title(title).description(text).datasource(source()).span(width).height(height)


def _asking(panel: Any, queries: Sequence[Query]) -> Any:
    for letter, asked in zip("ABCDEFGH", queries, strict=False):
        panel = panel.with_target(asked.ref_id(letter).datasource(source()))
    return panel


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    listed = [Threshold(value=value, color=colour) for value, colour in {None: GREEN, **steps}.items()]
    return dashboard.ThresholdsConfig().mode(ThresholdsMode.ABSOLUTE).steps(listed)
