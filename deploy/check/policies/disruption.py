"""How many pods may be missing at a time."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, Object, at, label, pod_labels, replicas_of, selects
from deploy.check.policies.report import finding


def budgets_let_some_pods_go(manifests: Manifests) -> Iterator[Finding]:
    for budget, workload in _budgeted(manifests):
        replicas = replicas_of(manifests, workload)
        gone = may_go(at(budget, "spec", {}), replicas)
        if gone < 1:
            text = f"of {replicas} pods of {label(workload)} none may go: no node could be drained"
            yield finding(manifests, budget, "spec", text)
        elif replicas > 1 and gone >= replicas:
            yield finding(manifests, budget, "spec", f"all {replicas} pods of {label(workload)} may go at once")


def replicated_servers_have_a_budget(manifests: Manifests) -> Iterator[Finding]:
    budgeted = [workload for _, workload in _budgeted(manifests)]
    for workload in manifests.of("Deployment"):
        if replicas_of(manifests, workload) > 1 and workload not in budgeted:
            yield finding(manifests, workload, "spec", "a drain may take all pods at once; add a PodDisruptionBudget")


def rollouts_get_on(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.of("Deployment"):
        rolling = at(workload, "spec.strategy.rollingUpdate", {})
        # 25% is Kubernetes' default of both.
        if all(str(rolling.get(key, "25%")).rstrip("%") == "0" for key in ("maxSurge", "maxUnavailable")):
            text = "maxSurge and maxUnavailable are both 0: no pod may come and none may go; make one of them 1"
            yield finding(manifests, workload, "spec.strategy.rollingUpdate", text)


def may_go(budget: Object, replicas: int) -> int:
    """How many of so many pods the specification lets go."""
    if "maxUnavailable" in budget:
        return _count(budget["maxUnavailable"], replicas)
    return replicas - _count(budget.get("minAvailable", 1), replicas)


def _count(value: int | str, replicas: int) -> int:
    # Percentages are rounded up, in either field.
    return ceil(int(value.rstrip("%")) * replicas / 100) if isinstance(value, str) else value


def _budgeted(manifests: Manifests) -> Iterator[tuple[Object, Object]]:
    for budget in manifests.of("PodDisruptionBudget"):
        for workload in manifests.of("Deployment", "StatefulSet"):
            if selects(at(budget, "spec.selector", {}), pod_labels(workload)):
                yield budget, workload
