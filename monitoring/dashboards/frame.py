"""A board around its panels: variables, links to the other boards, places and ids."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    Dashboard,
    DashboardCursorSync,
    DashboardLinkType,
    DataSourceRef,
    VariableModel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from grafana_foundation_sdk.models.dashboard import Panel as PanelModel

Panel = Builder[PanelModel]
Variable = Builder[VariableModel]
DATASOURCE = "datasource"
JOB = "sgl-embed"
TAG = "sgl-embed"


@dataclass(frozen=True, slots=True)
class Row:
    """A heading, and the panels under it from left to right."""

    title: str
    panels: Sequence[Panel]


def board(name: str, text: str, rows: Sequence[Row], variables: Sequence[Variable] = ()) -> Dashboard:
    """``name`` is the last part of its uid; the JSON's file has it too."""
    made = dashboard.Dashboard(f"sgl-embed: {name}").uid(f"sgl-embed-{name}").description(text).tags([TAG])
    made = made.time("now-1h", "now").refresh("30s").timezone("browser").tooltip(DashboardCursorSync.CROSSHAIR).readonly()
    made = made.link(to_the_other_boards())
    for variable in (*common_variables(), *variables):
        made = made.with_variable(variable)
    for row in rows:
        made = made.with_row(dashboard.Row(row.title))
        for panel in row.panels:
            made = made.with_panel(panel)
    return numbered(made.build())


def numbered(made: Dashboard) -> Dashboard:
    for number, panel in enumerate(made.panels or (), 1):
        panel.id_val = number
    return made


def to_the_other_boards() -> dashboard.DashboardLink:
    """With the same variables and time."""
    link = dashboard.DashboardLink("sgl-embed").type(DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.icon("external link").include_vars(True).keep_time(True)


def common_variables() -> list[Variable]:
    source = dashboard.DatasourceVariable(DATASOURCE).label("Prometheus").type("prometheus")
    job = label_values("job", "embedding_ready").current(VariableOption(text=JOB, value=JOB, selected=True))
    return [
        source,
        everything(label_values("namespace", "embedding_ready")),
        job,
        everything(label_values("instance", 'embedding_ready{namespace=~"$namespace",job="$job"}')),
    ]


def label_values(label: str, series: str, name: str = "") -> dashboard.QueryVariable:
    """The values that ``label`` has in these series; the first is chosen unless one is set."""
    source = DataSourceRef(type_val="prometheus", uid=f"${{{DATASOURCE}}}")
    # As Grafana's own editor writes it.
    asked: dict[str, object] = {"query": f"label_values({series}, {label})", "refId": "StandardVariableQuery"}
    variable = dashboard.QueryVariable(name or label).label((name or label).capitalize()).datasource(source).query(asked)
    return variable.refresh(VariableRefresh.ON_TIME_RANGE_CHANGED).sort(VariableSort.ALPHABETICAL_ASC)


def everything(variable: dashboard.QueryVariable) -> dashboard.QueryVariable:
    """One, several or all, which it is at first."""
    chosen = VariableOption(text="All", value="$__all", selected=True)
    return variable.multi(True).include_all(True).all_value(".*").current(chosen)


def written(made: Dashboard) -> str:
    return json.dumps(made, cls=JSONEncoder, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
