"""Where PromQL and the names of metrics stand: in manifests, in rule files, on dashboards and in the documentation."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from deploy.check.manifests import Manifests, Object, at, label
from deploy.check.tree import Tree, documents
from monitoring.expressions import expressions_of, filled, read_board

RULE_FILES = ("monitoring/prometheus/rules/*.yml",)
BOARDS = ("monitoring/grafana/dashboards/*.json",)
PROSE = ("README*.md", "docs/**/*.md", "k8s/**/*.md", "deploy/**/*.md")
# One after a colon is part of what a rule records.
METRIC = re.compile(r"(?<!:)\bembedding_[a-z_]+\b(?!:)")
# What clients' libraries and checkpoints call so.
NO_METRICS = {"embedding_ctx_length", "embedding_type", "embedding_batch"}
BLOCK = re.compile(r"^```promql\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
PARAGRAPH = re.compile(r"\S(?:.|\n(?!\n))*")


@dataclass(frozen=True, slots=True)
class Query:
    """``where`` is a file or an overlay, ``place`` where in it; ``records`` is the name that a rule gives the result.

    ``is_name``: not PromQL but a metric that a document names, which for a histogram has no ``_bucket``.
    """

    where: str
    place: str
    text: str
    records: str | None = None
    is_name: bool = False


def queries_of(tree: Tree) -> Iterator[Query]:
    for overlay in tree.overlays:
        yield from queries_in(overlay)
    for path in tree.files(*RULE_FILES):
        for content in documents(path.read_text(encoding="utf-8")):
            yield from rule_queries(tree.name_of(path), "", content)
    for path in tree.files(*BOARDS):
        for found in expressions_of(path.stem, read_board(path)):
            yield Query(tree.name_of(path), found.place, filled(found.text))
    for path in tree.files(*PROSE):
        yield from queries_in_prose(tree.name_of(path), path.read_text(encoding="utf-8"))


def queries_in(manifests: Manifests) -> Iterator[Query]:
    for scaled in manifests.of("ScaledObject"):
        for index, trigger in enumerate(at(scaled, "spec.triggers", ())):
            if trigger.get("type") == "prometheus":
                place = f"{label(scaled)} spec.triggers[{index}].metadata.query"
                yield Query(manifests.name, place, str(at(trigger, "metadata.query", "")))
    for found, rule in adapter_rules(manifests):
        for key in ("seriesQuery", "metricsQuery"):
            yield Query(manifests.name, f"{label(found)} {at(rule, 'name.as')} {key}", str(rule.get(key, "")))
    for found in manifests.of("PrometheusRule"):
        yield from rule_queries(manifests.name, label(found), at(found, "spec", {}))


def adapter_rules(manifests: Manifests) -> Iterator[tuple[Object, Object]]:
    """Each rule of prometheus-adapter, with the ConfigMap that it stands in."""
    for found in manifests.of("ConfigMap"):
        for text in at(found, "data", {}).values():
            # A cheap look first: most of these are other programs' files.
            if "metricsQuery:" in text:
                content = yaml.load(text, Loader=yaml.CSafeLoader)
                for rule in (*content.get("externalRules", ()), *content.get("rules", ())):
                    yield found, rule


def rule_queries(where: str, place: str, content: Object) -> Iterator[Query]:
    """Of a file of Prometheus rules; any other has no ``groups``."""
    for group in content.get("groups", ()):
        for rule in group.get("rules", ()):
            name = rule.get("alert") or rule.get("record")
            yield Query(where, f"{place} {name}".lstrip(), str(rule.get("expr")), rule.get("record"))


def queries_in_prose(where: str, text: str) -> Iterator[Query]:
    """Queries of blocks marked ``promql``, with empty lines between them, and each metric that stands elsewhere."""
    for block in BLOCK.finditer(text):
        for query in PARAGRAPH.finditer(block[1]):
            first = text.count("\n", 0, block.start(1) + query.start()) + 1
            yield Query(where, f"line {first}", query[0])
    rest = BLOCK.sub(lambda block: "\n" * block[0].count("\n"), text)
    for number, line in enumerate(rest.splitlines(), 1):
        for found in METRIC.finditer(line):
            # `embedding_*` is all of them, and `embedding_batch(` a function.
            if found[0] not in NO_METRICS and line[found.end() : found.end() + 1] not in ("*", "("):
                yield Query(where, f"line {number}", found[0], is_name=True)
