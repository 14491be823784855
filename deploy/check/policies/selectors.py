"""What points at pods, services and ports by labels or by name points at some."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from deploy.check.findings import Finding
from deploy.check.manifests import (
    Container,
    Manifests,
    Object,
    at,
    label,
    name_of,
    pod_labels,
    pod_of,
    ports_named,
    selects,
    serving,
)
from deploy.check.policies.report import finding

METRICS_PATH = "/metrics"


def services_select_pods(manifests: Manifests) -> Iterator[Finding]:
    for service in manifests.of("Service"):
        selector = at(service, "spec.selector")
        if not selector:
            continue
        chosen = [each for each in manifests.workloads() if selects({"matchLabels": selector}, pod_labels(each))]
        if not chosen:
            yield finding(manifests, service, "spec.selector", f"no pod here has the labels {selector}")
        for index, port in enumerate(at(service, "spec.ports", ())):
            for workload in chosen:
                target = port.get("targetPort", port["port"])
                if not any(listens(container, target) for container in serving(workload)):
                    text = f"{label(workload)}, which the selector takes, has no port {target}"
                    yield finding(manifests, service, f"spec.ports[{index}].targetPort", text)


def listens(container: Container, port: str | int) -> bool:
    return port in container.ports or port in container.ports.values()


def budgets_select_pods(manifests: Manifests) -> Iterator[Finding]:
    for budget in manifests.of("PodDisruptionBudget"):
        if not any(selects(at(budget, "spec.selector", {}), pod_labels(each)) for each in manifests.workloads()):
            yield finding(manifests, budget, "spec.selector", "no pod here has these labels")


def network_policies_select_pods(manifests: Manifests) -> Iterator[Finding]:
    for policy in manifests.of("NetworkPolicy"):
        chosen = [each for each in manifests.workloads() if selects(at(policy, "spec.podSelector", {}), pod_labels(each))]
        if not chosen:
            yield finding(manifests, policy, "spec.podSelector", "no pod here has these labels")
            continue
        for index, rule in enumerate(at(policy, "spec.ingress", ())):
            for port in rule.get("ports", ()):
                named = port.get("port")
                if isinstance(named, str) and named not in ports_named(chosen):
                    yield finding(manifests, policy, f"spec.ingress[{index}].ports", f"the pods have no port {named!r}")


def monitors_select_ports(manifests: Manifests) -> Iterator[Finding]:
    for monitor in manifests.of("ServiceMonitor"):
        services = [each for each in manifests.of("Service") if _monitored(monitor, at(each, "metadata.labels", {}))]
        names = {port.get("name") for service in services for port in at(service, "spec.ports", ())}
        yield from _endpoints(manifests, monitor, "endpoints", "Service", names if services else None)
    for monitor in manifests.of("PodMonitor"):
        pods = [each for each in manifests.workloads() if _monitored(monitor, pod_labels(each))]
        yield from _endpoints(manifests, monitor, "podMetricsEndpoints", "pod", ports_named(pods) if pods else None)


def _monitored(monitor: Object, labels: Mapping[str, str]) -> bool:
    return selects(at(monitor, "spec.selector", {}), labels)


def _endpoints(manifests: Manifests, monitor: Object, key: str, what: str, names: set[str] | None) -> Iterator[Finding]:
    if names is None:
        yield finding(manifests, monitor, "spec.selector", f"no {what} here has these labels")
        return
    for index, endpoint in enumerate(at(monitor, f"spec.{key}", ())):
        if endpoint.get("port") not in names:
            text = f"the {what} has no port named {endpoint.get('port')!r}; it has {', '.join(sorted(filter(None, names)))}"
            yield finding(manifests, monitor, f"spec.{key}[{index}].port", text)
        if endpoint.get("path", METRICS_PATH) != METRICS_PATH:
            yield finding(manifests, monitor, f"spec.{key}[{index}].path", f"the server shows its metrics at {METRICS_PATH}")


def workloads_select_their_own_pods(manifests: Manifests) -> Iterator[Finding]:
    deployments = list(manifests.of("Deployment", "StatefulSet", "DaemonSet"))
    for workload in deployments:
        selector = at(workload, "spec.selector", {})
        if not selects(selector, pod_labels(workload)):
            yield finding(manifests, workload, "spec.selector", "its own pods do not have these labels")
        for other in manifests.workloads():
            if other is not workload and selects(selector, pod_labels(other)):
                yield finding(manifests, workload, "spec.selector", f"it takes the pods of {label(other)} too; add a label")


def pods_spread_from_their_own(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        for field, selector in _spreading(pod_of(workload)):
            if not selects(selector, pod_labels(workload)):
                text = "the pods it counts are not this workload's own, so that these are not spread"
                yield finding(manifests, workload, f"spec.template.spec.{field}", text)


def _spreading(pod: Object) -> Iterator[tuple[str, Object]]:
    for index, constraint in enumerate(pod.get("topologySpreadConstraints", ())):
        yield f"topologySpreadConstraints[{index}].labelSelector", constraint.get("labelSelector", {})
    for kind in ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution"):
        for index, term in enumerate(at(pod, f"affinity.podAntiAffinity.{kind}", ())):
            yield f"affinity.podAntiAffinity.{kind}[{index}]", term.get("podAffinityTerm", term).get("labelSelector", {})


def routes_lead_to_services(manifests: Manifests) -> Iterator[Finding]:
    for route, field, name, port in _backends(manifests):
        service = manifests.find("Service", name)
        if service is None:
            yield finding(manifests, route, field, f"there is no Service {name} here")
            continue
        ports = {value for each in at(service, "spec.ports", ()) for value in (each.get("name"), each["port"])}
        if port not in ports:
            yield finding(manifests, route, field, f"{label(service)} has no port {port}")


def _backends(manifests: Manifests) -> Iterator[tuple[Object, str, str, str | int | None]]:
    for ingress in manifests.of("Ingress"):
        listed = [path["backend"] for rule in at(ingress, "spec.rules", ()) for path in at(rule, "http.paths", ())]
        for backend in filter(None, [at(ingress, "spec.defaultBackend"), *listed]):
            port = at(backend, "service.port", {})
            yield ingress, "spec.rules", str(at(backend, "service.name")), port.get("name", port.get("number"))
    for route in manifests.of("HTTPRoute"):
        for index, rule in enumerate(at(route, "spec.rules", ())):
            for backend in rule.get("backendRefs", ()):
                yield route, f"spec.rules[{index}].backendRefs", str(backend.get("name")), backend.get("port")


def gateways_are_there(manifests: Manifests) -> Iterator[Finding]:
    for route in manifests.of("HTTPRoute"):
        for index, parent in enumerate(at(route, "spec.parentRefs", ())):
            gateway = manifests.find("Gateway", str(parent.get("name")))
            # One in another namespace is the cluster's, and nothing here can know it.
            if gateway is None and "namespace" not in parent:
                yield finding(manifests, route, f"spec.parentRefs[{index}]", f"there is no Gateway {parent.get('name')} here")
            elif gateway and "sectionName" in parent:
                listeners = {each["name"] for each in at(gateway, "spec.listeners", ())}
                if parent["sectionName"] not in listeners:
                    text = f"Gateway/{name_of(gateway)} has no listener {parent['sectionName']!r}"
                    yield finding(manifests, route, f"spec.parentRefs[{index}].sectionName", text)
