"""The expressions that boards are made of. ``$...`` are the board's variables, or Grafana's own."""

from __future__ import annotations

# Where a server has no namespace, as outside Kubernetes, the pattern for all namespaces fits its absence too.
SERVICE = ('namespace=~"$namespace"', 'job="$job"')
INSTANCES = (*SERVICE, 'instance=~"$instance"')
# A single one. Where it is a pod, its name says more than its address.
SERVER = "instance, pod"
SERVER_NAME = "{{instance}} {{pod}}"


def series(metric: str, *matchers: str) -> str:
    """Of the servers that the board is set to."""
    return selector(metric, *INSTANCES, *matchers)


def recorded(metric: str) -> str:
    """A rule's result, which is of a whole service."""
    return selector(metric, *SERVICE)


def selector(metric: str, *matchers: str) -> str:
    return f"{metric}{{{','.join(matchers)}}}"


def rate(metric: str, *matchers: str) -> str:
    return f"rate({series(metric, *matchers)}[$__rate_interval])"


def sum_by(labels: str, expression: str) -> str:
    return f"sum by ({labels}) ({expression})" if labels else f"sum({expression})"


def total(metric: str, *matchers: str, by: str = "") -> str:
    """Per second."""
    return sum_by(by, rate(metric, *matchers))


def ready_servers(by: str = "") -> str:
    """Servers that take requests. One that is down says nothing of that, so where all are it is 0 by what Prometheus says."""
    return f"{sum_by(by, series('embedding_ready'))} or 0 * {sum_by(by, series('up'))}"


def mean(histogram: str, *matchers: str, by: str = "") -> str:
    return f"{total(f'{histogram}_sum', *matchers, by=by)} / {total(f'{histogram}_count', *matchers, by=by)}"


def quantile(q: float, histogram: str, *matchers: str, by: str = "") -> str:
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q:g}, {total(f'{histogram}_bucket', *matchers, by=labels)})"


def buckets(histogram: str, *matchers: str) -> str:
    """For a heat map."""
    return added(f"{histogram}_bucket", *matchers, by="le")


def added(metric: str, *matchers: str, by: str) -> str:
    """In the time from one point of a panel to the next, so that each count is in one of them.

    ``increase`` over longer times has it in several, and over that very time misses what comes between its last sample and the
    next time's first. A counter that began anew has 0 where it did.
    """
    counted = series(metric, *matchers)
    return sum_by(by, f"clamp_min({counted} - {counted} offset $__interval, 0)")
