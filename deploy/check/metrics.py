"""Every metric that is named anywhere is one that the server exports, with the labels that are asked for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from deploy.check.findings import Finding, Outcome
from deploy.check.live import Exported, exported_metrics
from deploy.check.promql import Series, read
from deploy.check.queries import Query, queries_of
from deploy.check.tree import Tree

RULE = "metrics-are-exported"
OURS = "embedding_"
# What other programs export, or Prometheus itself.
ELSEWHERE = re.compile(r"up|ALERTS|(alertmanager|container|DCGM|go|kube|nginx|node|process|prometheus|python|redis|scrape)_\w+")
# Of a GPU and of SGLang's workers, which the server that is asked has none of.
OF_WORKERS = re.compile(r"embedding_(gpu_\w+|watchdog_checks_total)|sglang:\w+")
# What Prometheus adds to whatever it scrapes.
OF_THE_TARGET = {"cluster", "container", "endpoint", "instance", "job", "namespace", "node", "pod", "replica", "service"}
# All values of these are there from the first scrape on; of others a server that has just started shows few.
CLOSED = {"level", "reason", "stage", "state", "task"}


def check(tree: Tree) -> Outcome:
    queries = list(queries_of(tree))
    return Outcome(f"{len(queries)} queries and names", list(compare(queries, exported_metrics())))


def compare(queries: Sequence[Query], exported: Exported) -> Iterator[Finding]:
    recorded = {query.records for query in queries if query.records}
    for query in queries:
        if query.is_name and f"{query.text}_bucket" in exported:
            continue
        try:
            wanted = read(query.text)
        except ValueError as error:
            yield Finding(query.where, query.place, f"not PromQL: {error}", RULE)
            continue
        for series in wanted:
            for text in faults(series, recorded, exported):
                yield Finding(query.where, query.place, text, RULE)


def faults(series: Series, recorded: set[str], exported: Exported) -> Iterator[str]:
    if series.metric in recorded or any(some.fullmatch(series.metric) for some in (ELSEWHERE, OF_WORKERS)):
        return
    if series.metric not in exported:
        yield f"the server exports no {series.metric}" if series.metric.startswith(OURS) else f"nothing records {series.metric}"
        return
    labels = exported[series.metric]
    for label in sorted(series.labels - labels.keys() - OF_THE_TARGET):
        yield f"{series.metric} has no label {label}; it has {', '.join(sorted(labels)) or 'none'}"
    for wanted in series.wanted:
        values = labels.get(wanted.label, set())
        if wanted.label in CLOSED and values and not any(re.fullmatch(wanted.pattern, value) for value in values):
            yield f"{series.metric} has no {wanted.label} {wanted.pattern}; it has {', '.join(sorted(values))}"
