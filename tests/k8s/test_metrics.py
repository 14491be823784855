"""Every metric that is named anywhere is one that a live server exports, and one that is not is found."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from deploy.check import metrics
from deploy.check.live import Exported
from deploy.check.manifests import Manifests
from deploy.check.promql import Series, Wanted, read, seconds
from deploy.check.queries import Query, queries_in, queries_in_prose, queries_of
from deploy.check.tree import Tree
from tests.k8s.edits import edited, replace

RULES = """
groups:
  - name: x
    rules:
      - record: job:offered:rate1m
        expr: sum(rate(embedding_requests_offered_total[1m]))
      - alert: Busy
        expr: job:offered:rate1m > 100 and job:ofered:rate1m > 1
"""


def found(exported: Exported, *texts: str) -> list[str]:
    return [finding.text for finding in metrics.compare([Query("x", "", text) for text in texts], exported)]


def test_every_metric_in_the_tree_is_exported(tree: Tree, exported: Exported) -> None:
    queries = list(queries_of(tree))
    assert {query.where.partition("/")[0] for query in queries} >= {"docs", "k8s"}
    assert [str(finding) for finding in metrics.compare(queries, exported)] == []


@pytest.mark.parametrize(
    "overlay, name, path",
    [
        ("gpu", "ScaledObject", "spec triggers 0 metadata query"),
        ("gpu-gateway-api", "ConfigMap/sgl-embed-adapter", "data config.yaml"),
    ],
)
def test_wrong_metric_of_an_autoscaler_is_found(
    overlays: Mapping[str, Manifests], exported: Exported, overlay: str, name: str, path: str
) -> None:
    broken = edited(overlays[overlay], replace(name, path, "_offered_total", "_tried_total"))
    texts = {finding.text for finding in metrics.compare(list(queries_in(broken)), exported)}
    assert texts == {"the server exports no embedding_requests_tried_total"}


@pytest.mark.parametrize(
    "query, text",
    [
        ("embedding_request_duration_seconds", "the server exports no embedding_request_duration_seconds"),
        ('embedding_requests_total{code="200"}', "embedding_requests_total has no label code; it has status, task"),
        ("sum by (model) (embedding_tokens_in_flight)", "embedding_tokens_in_flight has no label model; it has none"),
        (
            'embedding_requests_offered_total{task="embed"}',
            "embedding_requests_offered_total has no task embed; it has embeddings, ",
        ),
        ('embedding_process_state{state=~"away|lost"}', "embedding_process_state has no state away|lost; it has "),
        (
            'embedding_requests_rejected_total{reason="overload"}',
            "embedding_requests_rejected_total has no reason overload; it has ",
        ),
        ("job:offered:rate5m", "nothing records job:offered:rate5m"),
        ("sum(rate(x[1m])", "not PromQL: "),
    ],
)
def test_what_would_match_nothing_is_found(exported: Exported, query: str, text: str) -> None:
    (finding,) = found(exported, query)
    assert finding.startswith(text)


def test_what_is_exported_or_is_of_others_is_not_found(exported: Exported) -> None:
    assert (
        found(
            exported,
            'histogram_quantile(1, sum by (le, pod) (rate(embedding_request_duration_seconds_bucket{task="tokenize"}[5m])))',
            'embedding_requests_total{job="sgl-embed",status=~"5.."} / on (instance) up{job="sgl-embed"}',
            'absent(embedding_process_restarts_total) or embedding_key_requests_total{key="team-a"}',
            'kube_deployment_spec_replicas{deployment="sgl-embed"} != kube_deployment_status_replicas_ready',
        )
        == []
    )


def test_recorded_names_are_known(tmp_path: Path, exported: Exported) -> None:
    folder = tmp_path / "monitoring/prometheus/rules"
    folder.mkdir(parents=True)
    (folder / "busy.yml").write_text(RULES, encoding="utf-8")
    tree = Tree(tmp_path)
    vars(tree)["overlays"] = []
    assert [str(finding) for finding in metrics.compare(list(queries_of(tree)), exported)] == [
        "monitoring/prometheus/rules/busy.yml: Busy: nothing records job:ofered:rate1m [metrics-are-exported]"
    ]


def test_prose_is_read_by_names_and_by_blocks() -> None:
    text = (
        "`embedding_ready`, `embedding_*`, `job:embedding_ready:sum`\n"
        "```promql\nsum(\nembedding_a\n)\n\nembedding_b\n```\nembedding_batch(\nembedding_c"
    )
    assert [(query.place, query.text.split(), query.is_name) for query in queries_in_prose("x.md", text)] == [
        ("line 3", ["sum(", "embedding_a", ")"], False),
        ("line 7", ["embedding_b"], False),
        ("line 1", ["embedding_ready"], True),
        ("line 10", ["embedding_c"], True),
    ]


def test_histogram_may_go_by_its_name_in_prose_alone(exported: Exported) -> None:
    name = "embedding_batch_tokens"
    assert list(metrics.compare([Query("x.md", "", name, is_name=True)], exported)) == []
    assert found(exported, name) == [f"the server exports no {name}"]


def test_promql_is_read_to_its_leaves() -> None:
    assert read(
        'topk(3, sum by (a) (rate(x{b=~"c.",d!="e"}[1m30s])) > bool -max_over_time((y)[1h:1m])) unless on (f) {__name__="z"}'
    ) == [
        Series("x", frozenset("abd"), (Wanted("b", "c."),), 90.0),
        Series("y", frozenset(), ()),
        Series("z", frozenset(), ()),
    ]


@pytest.mark.parametrize("text, number", [("15s", 15), ("1m30s", 90), ("500ms", 0.5), ("1h", 3600)])
def test_durations(text: str, number: float) -> None:
    assert seconds(text) == number
