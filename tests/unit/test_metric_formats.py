"""The forms that /metrics is shown in: the same series in both, and exemplars in the one that has a place for them."""

from __future__ import annotations

import pytest
from prometheus_client import Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open_metrics
from prometheus_client.parser import text_string_to_metric_families as read_plain

from launcher.telemetry.formats import format_for, open_metrics, plain
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.processes import ProcessMetrics
from launcher.telemetry.registry import Registry

TRACE = "0af7651916cd43dd8448eb211c80319c"
# Of Prometheus 2.42 and of 3.5.
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,"
    "*/*;q=0.1",
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
)


@pytest.fixture
def metrics() -> Metrics:
    registry = Registry()
    ProcessMetrics(registry, ["worker 0"])
    # As SGLang names its own.
    Counter("sglang:prompt_tokens", "Tokens.", registry=registry).inc()
    metrics = Metrics(registry, {"name": "m"}, ready=lambda: True)
    metrics.offered("embeddings")
    metrics.answered("embeddings", 200, 0.004, TRACE)
    return metrics


@pytest.mark.parametrize("accept", PROMETHEUS)
def test_prometheus_gets_openmetrics(accept: str) -> None:
    assert format_for(accept) == (open_metrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/plain", "text/html", "application/openmetrics-text;version=2.0.0", "a;version=abc,;,=;q"]
)
def test_whoever_does_not_ask_for_it_gets_the_plain_form(accept: str) -> None:
    assert format_for(accept) == (plain, "text/plain; version=0.0.4; charset=utf-8")


def test_both_forms_show_the_same_series(metrics: Metrics) -> None:
    in_plain = {
        (sample.name, *sorted(sample.labels.items()), sample.value)
        for family in read_plain(metrics.render().decode())
        for sample in family.samples
    }
    in_open_metrics = {
        (sample.name, *sorted(sample.labels.items()), sample.value)
        for family in read_open_metrics(metrics.render(open_metrics).decode())
        for sample in family.samples
    }
    # When a series began has names of its own in each.
    assert {sample for sample in in_open_metrics if not str(sample[0]).endswith("_created")} == {
        sample for sample in in_plain if not str(sample[0]).endswith("_created")
    }


def test_the_bucket_of_a_traced_request_names_its_trace(metrics: Metrics) -> None:
    (exemplar,) = [
        sample.exemplar
        for family in read_open_metrics(metrics.render(open_metrics).decode())
        for sample in family.samples
        if sample.exemplar
    ]
    assert (exemplar.labels, exemplar.value) == ({"trace_id": TRACE}, 0.004)
