"""What scales, and what it is asked to scale by."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, Object, at, label, least_of, most_of, target_of
from deploy.check.policies.report import finding
from deploy.check.promql import Series, read, seconds
from deploy.check.queries import adapter_rules, queries_in

SCALERS = ("ScaledObject", "HorizontalPodAutoscaler")
# The fewest scrapes from which rate() is reliable.
SCRAPES = 4
# https://prometheus.io/docs/prometheus/latest/configuration/configuration/
DEFAULT_INTERVAL_S = 60
MONITORS = (("ServiceMonitor", "endpoints"), ("PodMonitor", "podMetricsEndpoints"))
# The second counts refused requests too, as long as none is left out by its status.
OFFERED = ("embedding_requests_offered_total", "embedding_requests_total")


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


def autoscalers_count_what_is_offered(manifests: Manifests) -> Iterator[Finding]:
    for scaler in manifests.of(*SCALERS):
        asked = [(place, series) for place, query in _asked(manifests, scaler) for series in _series(query)]
        for place, series in asked:
            if series.metric in OFFERED and "status" in series.labels:
                text = f"{series.metric} by status leaves out what a full pod refuses, so that load beyond it shows nowhere"
                yield finding(manifests, scaler, place, f"{text}; ask for {OFFERED[0]}")
        if not any(series.metric in OFFERED and "status" not in series.labels for _, series in asked):
            yield finding(manifests, scaler, "spec", f"nothing here asks how many requests are offered: {OFFERED[0]}")


def _asked(manifests: Manifests, scaler: Object) -> Iterator[tuple[str, str]]:
    """Each query of its own, or that prometheus-adapter makes its metric from, and the field that leads there."""
    for index, trigger in enumerate(at(scaler, "spec.triggers", ())):
        yield f"spec.triggers[{index}].metadata.query", str(at(trigger, "metadata.query", ""))
    made = {at(rule, "name.as"): str(rule.get("metricsQuery", "")) for _, rule in adapter_rules(manifests)}
    for index, metric in enumerate(at(scaler, "spec.metrics", ())):
        for kind in ("external", "pods"):
            name = at(metric, f"{kind}.metric.name")
            if name in made:
                yield f"spec.metrics[{index}].{kind}.metric.name", made[name]


def autoscalers_count_their_own_namespace(manifests: Manifests) -> Iterator[Finding]:
    """Those that name one: a Prometheus that sees a single Deployment needs none."""
    for scaler in manifests.of(*SCALERS):
        own = str(at(scaler, "metadata.namespace"))
        for place, query in _asked(manifests, scaler):
            named = [each for series in _series(query) for each in series.wanted if each.label == "namespace"]
            if not all(re.fullmatch(each.pattern, own) for each in named):
                yield finding(manifests, scaler, place, f"asks for the load of another namespace; this one is {own}")


def no_answer_is_an_error(manifests: Manifests) -> Iterator[Finding]:
    for scaled in manifests.of("ScaledObject"):
        for index, trigger in enumerate(at(scaled, "spec.triggers", ())):
            # KEDA's default is true.
            if trigger.get("type") == "prometheus" and at(trigger, "metadata.ignoreNullValues", "true") != "false":
                text = 'an empty answer would be no load, and pods would be taken away; say "false"'
                yield finding(manifests, scaled, f"spec.triggers[{index}].metadata.ignoreNullValues", text)


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
    return [series.window_s for series in _series(query) if series.window_s is not None]


def _series(query: str) -> Sequence[Series]:
    """None where it is not PromQL, which another policy says."""
    try:
        return read(query)
    except ValueError:
        return ()


def autoscalers_have_their_metrics_scraped(manifests: Manifests) -> Iterator[Finding]:
    if not list(_intervals(manifests)):
        for scaler in manifests.of(*SCALERS):
            text = (
                "asks Prometheus, but no ServiceMonitor or PodMonitor here has the pods scraped; add the monitoring component"
            )
            yield finding(manifests, scaler, "spec", text)


def scrapes_end_before_the_next(manifests: Manifests) -> Iterator[Finding]:
    for monitor, field, endpoint in _scraped(manifests):
        timeout_s, interval_s = seconds(endpoint.get("scrapeTimeout", "0s")), _interval_s(endpoint)
        if timeout_s > interval_s:
            text = f"{timeout_s:g} s is more than the interval of {interval_s:g} s, which Prometheus refuses"
            yield finding(manifests, monitor, f"{field}.scrapeTimeout", text)


def _intervals(manifests: Manifests) -> Iterator[float]:
    return (_interval_s(endpoint) for _, _, endpoint in _scraped(manifests))


def _interval_s(endpoint: Object) -> float:
    return seconds(endpoint["interval"]) if "interval" in endpoint else DEFAULT_INTERVAL_S


def _scraped(manifests: Manifests) -> Iterator[tuple[Object, str, Object]]:
    for kind, key in MONITORS:
        for monitor in manifests.of(kind):
            for index, endpoint in enumerate(at(monitor, f"spec.{key}", ())):
                yield monitor, f"spec.{key}[{index}]", endpoint
