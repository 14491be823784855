"""What the autoscaler sees, wants and may do. Replicas and targets are told by kube-state-metrics."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, VariableOption

from monitoring.dashboards.frame import Row, board, label_values
from monitoring.dashboards.panels import GREEN, RED, YELLOW, lines, number, query, states
from monitoring.dashboards.promql import SERVER, SERVER_NAME, SERVICE, ready_servers, selector, series, sum_by, total

DEPLOYMENT = "sgl-embed"
# KEDA makes an HPA of its own name for a ScaledObject.
HPA = ('namespace=~"$namespace"', 'horizontalpodautoscaler=~"(keda-hpa-)?$deployment"')
DEPLOYED = ('namespace=~"$namespace"', 'deployment="$deployment"')
# By KEDA's numbers for its triggers, and by the names of k8s/components/autoscaling-adapter.
OFFERED_TARGET = 'metric_name=~"s0-prometheus|sgl_embed_offered_qps"'
TOKENS_TARGET = 'metric_name=~"s1-prometheus|sgl_embed_tokens_in_flight"'
AVERAGE = 'metric_target_type="average"'
TRUE = 'status="true"'
# A namespace has an autoscaler and servers of its own; what one has is not divided by what another should have.
NAMESPACE = "namespace"
NAMED = "{{namespace}}"
EMBEDDINGS = 'task="embeddings"'


def autoscaling() -> Dashboard:
    text = "Load against the autoscaler's targets, and replicas that there are, that are wanted and that there may be."
    deployment = label_values("deployment", 'kube_deployment_spec_replicas{namespace=~"$namespace"}')
    deployment = deployment.current(VariableOption(text=DEPLOYMENT, value=DEPLOYMENT, selected=True))
    return board("autoscaling", text, [now(), load(), replicas()], [deployment])


def hpa(metric: str, *matchers: str) -> str:
    return selector(f"kube_horizontalpodautoscaler_{metric}", *HPA, *matchers)


def ready() -> str:
    return sum_by(NAMESPACE, selector("kube_deployment_status_replicas_ready", *DEPLOYED))


def most(expression: str) -> str:
    return f"max by ({NAMESPACE}) ({expression})"


def target(matcher: str) -> str:
    """Of one pod."""
    return most(hpa("spec_target_metric", matcher, AVERAGE))


def now() -> Row:
    at_max = most(f"{hpa('status_desired_replicas')} >= bool {hpa('spec_max_replicas')}")
    return Row(
        "Now",
        [
            number(
                "Pods that are ready",
                "Of the Deployment.",
                "short",
                query(ready(), NAMED),
                steps={None: RED, 1: YELLOW, 2: GREEN},
            ),
            number("Wanted", "Pods that the autoscaler wants.", "short", query(most(hpa("status_desired_replicas")), NAMED)),
            number("Allowed", "Pods that it may have.", "short", query(most(hpa("spec_max_replicas")), NAMED)),
            number(
                "At its maximum",
                "1: it wants all that it may have, and perhaps more. More load will be refused; the alert AutoscalerAtMax "
                "begins here.",
                "bool_yes_no",
                query(at_max, NAMED),
                steps={1: RED},
            ),
            number(
                "Load by target",
                "Offered requests by what all ready pods should have. Above 1 more pods are wanted.",
                "percentunit",
                query(f"{offered()} / ({ready()} * {target(OFFERED_TARGET)})", NAMED),
                steps={1: YELLOW, 1.5: RED},
            ),
            number(
                "Refused",
                "Requests a second that got 429 because the queue was full; and connections, 503 because there were too many.",
                "reqps",
                query(refused(), NAMED),
                steps={0.1: RED},
            ),
        ],
    )


def offered() -> str:
    """Of all servers, as the autoscaler's own query has it."""
    return sum_by(NAMESPACE, f"rate({selector('embedding_requests_offered_total', *SERVICE, EMBEDDINGS)}[1m])")


def refused() -> str:
    return total("embedding_requests_rejected_total", 'reason=~"overloaded|too_many_connections"', by=NAMESPACE)


def tokens() -> str:
    return sum_by(NAMESPACE, selector("embedding_tokens_in_flight", *SERVICE))


def load() -> Row:
    requests = lines(
        "Offered requests, by pod",
        "What the autoscaler divides by the number of pods, and its target. Of all servers of the job, whichever are chosen "
        "above.",
        "reqps",
        query(f"{offered()} / {ready()}", f"offered to one pod {NAMED}"),
        query(target(OFFERED_TARGET), f"target {NAMED}"),
    )
    waiting = lines(
        "Tokens in flight, by pod",
        "The other thing that it looks at: it does not lag as a rate does, and knows the size of requests.",
        "short",
        query(f"{tokens()} / {ready()}", f"in flight in one pod {NAMED}"),
        query(target(TOKENS_TARGET), f"target {NAMED}"),
    )
    spread = lines(
        "Offered requests, of each server",
        "Whether the load is spread evenly, and whether a new pod gets its share.",
        "reqps",
        query(total("embedding_requests_offered_total", EMBEDDINGS, by=SERVER), SERVER_NAME),
        stacked=True,
    )
    whole = lines(
        "Offered requests",
        "Of all servers together, and what all ready pods should have.",
        "reqps",
        query(offered(), f"offered {NAMED}"),
        query(f"{ready()} * {target(OFFERED_TARGET)}", f"target of all ready pods {NAMED}"),
        width=12,
    )
    turned_away = lines(
        "Refused for load",
        "While more pods start, clients get 429 because the queue is full, or 503 because there are too many connections.",
        "reqps",
        query(refused(), f"refused {NAMED}"),
        width=12,
    )
    return Row("Load", [requests, waiting, spread, whole, turned_away])


def replicas() -> Row:
    counts = lines(
        "Replicas",
        "Wanted above ready: pods are starting, or there is no room for them.",
        "short",
        query(most(hpa("status_current_replicas")), f"current {NAMED}"),
        query(most(hpa("status_desired_replicas")), f"wanted {NAMED}"),
        query(ready(), f"ready {NAMED}"),
        query(most(hpa("spec_min_replicas")), f"least {NAMED}"),
        query(most(hpa("spec_max_replicas")), f"most {NAMED}"),
        width=12,
    )
    conditions = states(
        "The autoscaler's conditions",
        "AbleToScale and ScalingActive should be true: else it cannot read its metrics, or may not scale. ScalingLimited: it "
        "would go beyond its least or its most, or faster than it may.",
        {0: ("false", "text"), 1: ("true", "blue")},
        query(f"max by (condition, {NAMESPACE}) ({hpa('status_condition', TRUE)})", f"{{{{condition}}}} {NAMED}"),
        width=12,
    )
    taking = lines(
        "Servers that take requests",
        "What Prometheus sees of the pods themselves. Fewer than ready pods: some are not scraped.",
        "short",
        query(ready_servers(NAMESPACE), f"ready {NAMED}"),
        query(sum_by(NAMESPACE, series("up")), f"answering {NAMED}"),
        width=12,
    )
    missing = lines(
        "Pods that are not there yet",
        "Replicas that the Deployment should have, less those that are ready.",
        "short",
        query(f"{sum_by(NAMESPACE, selector('kube_deployment_spec_replicas', *DEPLOYED))} - {ready()}", f"missing {NAMED}"),
        width=12,
    )
    return Row("Replicas", [counts, conditions, taking, missing])
