"""Rendered manifests, and the ways through them that several policies take."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Object = Mapping[str, Any]

WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")
CONTAINER_LISTS = ("initContainers", "containers")


@dataclass(frozen=True, slots=True)
class Manifests:
    """All objects of one overlay; ``name`` is its folder."""

    name: str
    objects: Sequence[Object]

    def of(self, *kinds: str) -> Iterator[Object]:
        return (each for each in self.objects if each.get("kind") in kinds)

    def find(self, kind: str, name: str) -> Object | None:
        return next((each for each in self.of(kind) if name_of(each) == name), None)

    def workloads(self) -> Iterator[Object]:
        return self.of(*WORKLOADS)

    def containers(self) -> Iterator[Container]:
        return (container for workload in self.workloads() for container in containers(workload))


@dataclass(frozen=True, slots=True)
class Container:
    """``path`` is where it stands in its object."""

    of: Object
    path: str
    spec: Object

    @property
    def name(self) -> str:
        return str(self.spec.get("name"))

    @property
    def ports(self) -> Mapping[str, int]:
        return {str(port.get("name")): int(port["containerPort"]) for port in self.spec.get("ports", ())}


def name_of(found: Object) -> str:
    return str(at(found, "metadata.name"))


def label(found: Object) -> str:
    return f"{found.get('kind')}/{name_of(found)}"


def at(found: Any, path: str, default: Any = None) -> Any:
    """What stands at a dotted path, or ``default`` where a step of it is missing or null."""
    for step in path.split("."):
        found = found.get(step) if isinstance(found, Mapping) else None
        if found is None:
            return default
    return found


def pod_of(workload: Object) -> Object:
    """The specification of its pods."""
    found: Object = at(workload, "spec.template.spec", {})
    return found


def pod_labels(workload: Object) -> Mapping[str, str]:
    found: Mapping[str, str] = at(workload, "spec.template.metadata.labels", {})
    return found


def containers(workload: Object) -> Iterator[Container]:
    """Those that initialise the pod included."""
    for group in CONTAINER_LISTS:
        for index, spec in enumerate(pod_of(workload).get(group, ())):
            yield Container(workload, f"spec.template.spec.{group}[{index}]", spec)


def serving(workload: Object) -> Iterator[Container]:
    """Those that run as long as the pod does."""
    return (each for each in containers(workload) if ".containers[" in each.path)


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector takes these labels; an empty one takes all."""
    wanted: Mapping[str, str] = selector.get("matchLabels", {})
    return all(labels.get(key) == value for key, value in wanted.items()) and all(
        _meets(expression, labels) for expression in selector.get("matchExpressions", ())
    )


def _meets(expression: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values", ())
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
    return value is None


def ports_named(workloads: Iterable[Object]) -> set[str]:
    return {name for workload in workloads for container in serving(workload) for name in container.ports}


def replicas_of(manifests: Manifests, workload: Object) -> int:
    """The fewest that an autoscaler leaves, or what the workload asks for."""
    for scaler in manifests.of("ScaledObject", "HorizontalPodAutoscaler"):
        if target_of(scaler) == (workload["kind"], name_of(workload)):
            return least_of(scaler)
    return int(at(workload, "spec.replicas", 1))


def target_of(scaler: Object) -> tuple[str, str]:
    # KEDA takes a Deployment where no kind is named.
    reference = at(scaler, "spec.scaleTargetRef", {})
    return str(reference.get("kind", "Deployment")), str(reference.get("name"))


def least_of(scaler: Object) -> int:
    """As the controllers default it: an HPA to 1, KEDA to 0."""
    if scaler["kind"] == "ScaledObject":
        return int(at(scaler, "spec.minReplicaCount", 0))
    return int(at(scaler, "spec.minReplicas", 1))


def most_of(scaler: Object) -> int:
    if scaler["kind"] == "ScaledObject":
        return int(at(scaler, "spec.maxReplicaCount", 100))
    return int(at(scaler, "spec.maxReplicas", 1))
