"""What the autoscaler sees, wants and may do. Replicas and targets are told by kube-state-metrics."""

from __future__ import annotations

from grafana_foundation_sdk.models.dashboard import Dashboard, VariableOption

from monitoring.dashboards.frame import Row, board, label_values
from monitoring.dashboards.panels import GREEN, RED, YELLOW, lines, number, query, states
from monitoring.dashboards.promql import SERVICE, selector, series, sum_by, total

DEPLOYMENT = "sgl-embed"
# KEDA makes an HPA of its own name for a ScaledObject.
HPA = ('namespace=~"$namespace"', 'horizontalpodautoscaler=~"(keda-hpa-)?$deployment"')
DEPLOYED = ('namespace=~"$namespace"', 'deployment="$deployment"')
# By KEDA's numbers for its triggers, and by the names of k8s/components/autoscaling-adapter.
OFFERED_TARGET = 'metric_name=~"s0-prometheus|sgl_embed_offered_qps"'
TOKENS_TARGET = 'metric_name=~"s1-prometheus|sgl_embed_tokens_in_flight"'
AVERAGE = 'metric_target_type="average"'
TRUE = 'status="true"'
EMBEDDINGS = 'task="embeddings"'


def autoscaling() -> Dashboard:
    text = "Load against the autoscaler's targets, and replicas that there are, that are wanted and that there may be."
    deployment = label_values("deployment", 'kube_deployment_spec_replicas{namespace=~"$namespace"}')
    deployment = deployment.current(VariableOption(text=DEPLOYMENT, value=DEPLOYMENT, selected=True))
    return board("autoscaling", text, [now(), load(), replicas()], [deployment])


def hpa(metric: str, *matchers: str) -> str:
    return selector(f"kube_horizontalpodautoscaler_{metric}", *HPA, *matchers)


def ready() -> str:
    return sum_by("", selector("kube_deployment_status_replicas_ready", *DEPLOYED))


def target(matcher: str) -> str:
    """Of one pod."""
    return f"max({hpa('spec_target_metric', matcher, AVERAGE)})"


def now() -> Row:
    at_max = f"max({hpa('status_desired_replicas')} >= bool {hpa('spec_max_replicas')})"
    return Row(
        "Now",
        [
            number(
                "Pods that are ready", "Of the Deployment.", "short", query(ready()), steps={None: RED, 1: YELLOW, 2: GREEN}
            ),
            number("Wanted", "Pods that the autoscaler wants.", "short", query(f"max({hpa('status_desired_replicas')})")),
            number("Allowed", "Pods that it may have.", "short", query(f"max({hpa('spec_max_replicas')})")),
            number(
                "At its maximum",
                "1: it wants all that it may have, and perhaps more. More load will be refused; the alert AutoscalerAtMax "
                "begins here.",
                "bool_yes_no",
                query(at_max),
                steps={1: RED},
            ),
            number(
                "Load by target",
                "Offered requests by what all ready pods should have. Above 1 more pods are wanted.",
                "percentunit",
                query(f"{offered()} / ({ready()} * {target(OFFERED_TARGET)})"),
                steps={1: YELLOW, 1.5: RED},
            ),
            number(
                "Refused",
                "Requests a second that got 429 because the queue was full; and connections, 503 because there were too many.",
                "reqps",
                query(refused()),
                steps={0.1: RED},
            ),
        ],
    )


def offered() -> str:
    """Of all servers, as the autoscaler's own query has it."""
    return f"sum(rate({selector('embedding_requests_offered_total', *SERVICE, EMBEDDINGS)}[1m]))"


def refused() -> str:
    return total("embedding_requests_rejected_total", 'reason=~"overloaded|too_many_connections"')


def tokens() -> str:
    return sum_by("", selector("embedding_tokens_in_flight", *SERVICE))


def load() -> Row:
    requests = lines(
        "Offered requests, by pod",
        "What the autoscaler divides by the number of pods, and its target. Of all servers of the job, whichever are chosen "
        "above.",
        "reqps",
        query(f"{offered()} / {ready()}", "offered to one pod"),
        query(target(OFFERED_TARGET), "target"),
    )
    waiting = lines(
        "Tokens in flight, by pod",
        "The other thing that it looks at: it does not lag as a rate does, and knows the size of requests.",
        "short",
        query(f"{tokens()} / {ready()}", "in flight in one pod"),
        query(target(TOKENS_TARGET), "target"),
    )
    spread = lines(
        "Offered requests, of each server",
        "Whether the load is spread evenly, and whether a new pod gets its share.",
        "reqps",
        query(total("embedding_requests_offered_total", EMBEDDINGS, by="instance"), "{{instance}}"),
        stacked=True,
    )
    whole = lines(
        "Offered requests",
        "Of all servers together, and what all ready pods should have.",
        "reqps",
        query(offered(), "offered"),
        query(f"{ready()} * {target(OFFERED_TARGET)}", "target of all ready pods"),
        width=12,
    )
    turned_away = lines(
        "Refused for load",
        "While more pods start, clients get 429 because the queue is full, or 503 because there are too many connections.",
        "reqps",
        query(refused(), "refused"),
        width=12,
    )
    return Row("Load", [requests, waiting, spread, whole, turned_away])


def replicas() -> Row:
    counts = lines(
        "Replicas",
        "Wanted above ready: pods are starting, or there is no room for them.",
        "short",
        query(f"max({hpa('status_current_replicas')})", "current"),
        query(f"max({hpa('status_desired_replicas')})", "wanted"),
        query(ready(), "ready"),
        query(f"max({hpa('spec_min_replicas')})", "least"),
        query(f"max({hpa('spec_max_replicas')})", "most"),
        width=12,
    )
    conditions = states(
        "The autoscaler's conditions",
        "AbleToScale and ScalingActive should be true: else it cannot read its metrics, or may not scale. ScalingLimited: it "
        "would go beyond its least or its most, or faster than it may.",
        {0: ("false", "text"), 1: ("true", "blue")},
        query(f"max by (condition) ({hpa('status_condition', TRUE)})", "{{condition}}"),
        width=12,
    )
    taking = lines(
        "Servers that take requests",
        "What Prometheus sees of the pods themselves. Fewer than ready pods: some are not scraped.",
        "short",
        query(sum_by("", series("embedding_ready")), "ready"),
        query(sum_by("", series("up")), "answering"),
        width=12,
    )
    missing = lines(
        "Pods that are not there yet",
        "Replicas that the Deployment should have, less those that are ready.",
        "short",
        query(f"{sum_by('', selector('kube_deployment_spec_replicas', *DEPLOYED))} - {ready()}", "missing"),
        width=12,
    )
    return Row("Replicas", [counts, conditions, taking, missing])
