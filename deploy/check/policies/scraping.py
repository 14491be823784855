"""What is scraped is what the rules ask for."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, Object, at, label, name_of, pod_labels, selects
from deploy.check.policies.report import finding
from deploy.check.promql import read
from deploy.check.queries import rule_queries


def monitors_give_the_job_of_the_rules(manifests: Manifests) -> Iterator[Finding]:
    asked = set(_asked_jobs(manifests))
    for monitor in manifests.of("ServiceMonitor", "PodMonitor"):
        for job in sorted(set(_jobs(manifests, monitor))):
            wrong = sorted(pattern for pattern in asked if not re.fullmatch(pattern, job))
            if wrong:
                text = (
                    f"what it scrapes has the job {job}, and the rules here ask for {', '.join(wrong)}, so that no alert comes"
                )
                yield finding(manifests, monitor, "spec.jobLabel", text)


def _asked_jobs(manifests: Manifests) -> Iterator[str]:
    for rules in manifests.of("PrometheusRule"):
        for query in rule_queries(manifests.name, label(rules), at(rules, "spec", {})):
            try:
                asked = read(query.text)
            except ValueError:
                # Another policy says so.
                continue
            yield from (wanted.pattern for series in asked for wanted in series.wanted if wanted.label == "job")


def _jobs(manifests: Manifests, monitor: Object) -> Iterator[str]:
    """As the operator makes them: from the label that ``jobLabel`` names, or else from names."""
    chosen = at(monitor, "spec.jobLabel", "")
    if monitor["kind"] == "ServiceMonitor":
        for service in manifests.of("Service"):
            labels = at(service, "metadata.labels", {})
            if selects(at(monitor, "spec.selector", {}), labels):
                yield str(labels.get(chosen, name_of(service)))
        return
    for workload in manifests.workloads():
        if selects(at(monitor, "spec.selector", {}), pod_labels(workload)):
            yield str(pod_labels(workload).get(chosen, f"{at(monitor, 'metadata.namespace')}/{name_of(monitor)}"))
