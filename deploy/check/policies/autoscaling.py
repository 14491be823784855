"""What scales, and what it is asked to scale by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, at, label, least_of, most_of, target_of
from deploy.check.policies.report import finding
from deploy.check.promql import read, seconds
from deploy.check.queries import adapter_rules, queries_in

SCALERS = ("ScaledObject", "HorizontalPodAutoscaler")
# The fewest scrapes from which rate() is reliable.
SCRAPES = 4
# https://prometheus.io/docs/prometheus/latest/configuration/configuration/
DEFAULT_INTERVAL_S = 60


def autoscalers_have_a_target(manifests: Manifests) -> Iterator[Finding]:
    for scaler in manifests.of(*SCALERS):
        kind, name = target_of(scaler)
        if manifests.find(kind, name) is None:
            yield finding(manifests, scaler, "spec.scaleTargetRef", f"there is no {kind} {name} here")


def one_autoscaler_for_each(manifests: Manifests) -> Iterator[Finding]:
    counts = Counter(target_of(scaler) for scaler in manifests.of(*SCALERS))
    for scaler in manifests.of(*SCALERS):
        kind, name = target_of(scaler)
        if counts[kind, name] > 1:
            text = f"{counts[kind, name]} autoscalers scale {kind} {name}, and undo each other's work; keep one component"
            yield finding(manifests, scaler, "spec.scaleTargetRef", text)


def no_replicas_under_an_autoscaler(manifests: Manifests) -> Iterator[Finding]:
    for scaler in manifests.of(*SCALERS):
        target = manifests.find(*target_of(scaler))
        if target and at(target, "spec.replicas") is not None:
            yield finding(manifests, target, "spec.replicas", f"each apply would undo what {label(scaler)} did; remove it")


def autoscalers_have_bounds(manifests: Manifests) -> Iterator[Finding]:
    for scaler in manifests.of(*SCALERS):
        least, most = least_of(scaler), most_of(scaler)
        if not 1 <= least <= most:
            text = f"between {least} and {most} replicas: expected at least 1, since where no pod is none counts requests"
            yield finding(manifests, scaler, "spec", text)


def external_metrics_are_made(manifests: Manifests) -> Iterator[Finding]:
    made = {str(at(rule, "name.as")) for _, rule in adapter_rules(manifests)}
    for scaler in manifests.of("HorizontalPodAutoscaler"):
        for index, metric in enumerate(at(scaler, "spec.metrics", ())):
            for kind in ("external", "pods"):
                name = at(metric, f"{kind}.metric.name")
                if name is not None and name not in made:
                    text = f"no rule of prometheus-adapter here makes {name}; there is {', '.join(sorted(made)) or 'none'}"
                    yield finding(manifests, scaler, f"spec.metrics[{index}].{kind}.metric.name", text)


def queries_are_promql(manifests: Manifests) -> Iterator[Finding]:
    for query in queries_in(manifests):
        try:
            read(query.text)
        except ValueError as error:
            yield Finding(manifests.name, query.place, f"not PromQL: {error}", "")


def windows_span_four_scrapes(manifests: Manifests) -> Iterator[Finding]:
    slowest = max(_intervals(manifests), default=0)
    for query in queries_in(manifests):
        for window_s in _windows(query.text):
            if window_s < SCRAPES * slowest:
                text = f"[{window_s:g}s] is less than {SCRAPES} scrapes of {slowest:g} s; scrape more often or look back longer"
                yield Finding(manifests.name, query.place, text, "")


def _windows(query: str) -> list[float]:
    try:
        return [series.window_s for series in read(query) if series.window_s is not None]
    except ValueError:
        return []


def autoscalers_have_their_metrics_scraped(manifests: Manifests) -> Iterator[Finding]:
    if not list(_intervals(manifests)):
        for scaler in manifests.of(*SCALERS):
            text = (
                "asks Prometheus, but no ServiceMonitor or PodMonitor here has the pods scraped; add the monitoring component"
            )
            yield finding(manifests, scaler, "spec", text)


def _intervals(manifests: Manifests) -> Iterator[float]:
    for kind, key in (("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints")):
        for monitor in manifests.of(kind):
            for endpoint in at(monitor, f"spec.{key}", ()):
                yield seconds(endpoint["interval"]) if "interval" in endpoint else DEFAULT_INTERVAL_S
