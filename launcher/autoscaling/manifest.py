"""A KEDA ScaledObject, or a HorizontalPodAutoscaler with prometheus-adapter's rules, to an ``Autoscaler``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from launcher.autoscaling.queries import read_query
from launcher.autoscaling.rules import DEFAULT_DOWN, DEFAULT_UP, TOLERANCE, Autoscaler, Compared, Metric, Policy, Rules, Signal
from launcher.autoscaling.schemas import (
    AdapterRules,
    AutoscalerPart,
    BehaviorPart,
    HorizontalPodAutoscaler,
    MetricPart,
    RulesPart,
    ScaledObject,
    ScaledObjectPart,
    TriggerPart,
)
from launcher.config.explain import explain
from launcher.config.load import StrictLoader
from launcher.errors import ConfigError

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/, as far as anyone writes it for a rate.
QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([mkMG]?)")
SUFFIXES = {"m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}

Document = dict[str, Any]
T = TypeVar("T", bound=msgspec.Struct)


def read_autoscaler(path: Path) -> Autoscaler:
    """``path`` is a file, or a folder whose kustomization.yaml lists the files.

    Raises ``ConfigError``, which names the file and the key.
    """
    documents = [(file, document) for file in _files(path) for document in _documents(file)]
    for file, document in documents:
        if document.get("kind") == "ScaledObject":
            with _naming(file):
                return _from_keda(_convert(document, ScaledObject).spec)
        if document.get("kind") == "HorizontalPodAutoscaler":
            rules = _adapter_rules(documents)
            with _naming(file):
                return _from_hpa(_convert(document, HorizontalPodAutoscaler).spec, rules)
    kinds = ", ".join(sorted({str(document.get("kind")) for _, document in documents})) or "nothing"
    raise ConfigError(f"{path}: expected a ScaledObject or a HorizontalPodAutoscaler, found {kinds}")


@contextmanager
def _naming(place: Path | str) -> Iterator[None]:
    """Puts the file or the key in front of what was wrong there."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from None


def _files(path: Path) -> Sequence[Path]:
    if not path.is_dir():
        return [path]
    listed = [name for document in _documents(path / "kustomization.yaml") for name in document.get("resources", [])]
    return [path / name for name in listed]


def _documents(file: Path) -> list[Document]:
    with _naming(file):
        try:
            return _parse(file.read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot be read: {error.strerror}") from None


def _parse(text: str) -> list[Document]:
    try:
        found = list(yaml.load_all(text, Loader=StrictLoader))
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())}") from None
    return [document for document in found if isinstance(document, dict)]


def _convert(document: Document, kind: type[T]) -> T:
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        key, reason = explain(error, kind)
        raise ConfigError(f"{key}: {reason}") from None


def _from_keda(spec: ScaledObjectPart) -> Autoscaler:
    metrics = []
    for index, trigger in enumerate(spec.triggers):
        key = f"spec.triggers[{index}]"
        with _naming(key):
            metrics.append(_from_trigger(key, trigger))
    return _autoscaler(
        spec.scale_target_ref.name,
        ("spec.minReplicaCount", spec.min_replica_count),
        ("spec.maxReplicaCount", spec.max_replica_count),
        metrics,
        spec.advanced.horizontal_pod_autoscaler_config.behavior,
        "spec.advanced.horizontalPodAutoscalerConfig.behavior",
    )


def _from_trigger(key: str, trigger: TriggerPart) -> Metric:
    if trigger.type != "prometheus":
        raise ConfigError(f"the simulator knows triggers of type prometheus, not {trigger.type!r}")
    with _naming("metadata.query"):
        signal = read_query(trigger.metadata.query)
    with _naming("metadata.threshold"):
        target = _quantity(trigger.metadata.threshold)
    compared: Compared = "average" if trigger.metric_type == "AverageValue" else "value"
    return Metric(key, signal, target, compared, null_is_zero=trigger.metadata.ignore_null_values == "true")


def _from_hpa(spec: AutoscalerPart, rules: dict[tuple[str, str], Signal]) -> Autoscaler:
    metrics = []
    for index, metric in enumerate(spec.metrics):
        key = f"spec.metrics[{index}]"
        with _naming(key):
            metrics.append(_from_metric(key, metric, rules))
    return _autoscaler(
        spec.scale_target_ref.name,
        ("spec.minReplicas", spec.min_replicas),
        ("spec.maxReplicas", spec.max_replicas),
        metrics,
        spec.behavior,
        "spec.behavior",
    )


def _from_metric(key: str, metric: MetricPart, rules: dict[tuple[str, str], Signal]) -> Metric:
    field, source = ("external", metric.external) if metric.type == "External" else ("pods", metric.pods)
    if source is None:
        raise ConfigError(f"{field}: this field is required")
    with _naming(f"{field}.metric.name"):
        signal = rules.get((metric.type, source.metric.name))
        if signal is None:
            raise ConfigError(
                f"no prometheus-adapter rule makes a metric {source.metric.name!r}; give the folder that has both"
            )
    average = source.target.type == "AverageValue"
    name, value = ("averageValue", source.target.average_value) if average else ("value", source.target.value)
    with _naming(f"{field}.target.{name}"):
        target = _quantity(value)
    compared: Compared = "pods" if metric.type == "Pods" else "average" if average else "value"
    return Metric(key, signal, target, compared)


def _adapter_rules(documents: Sequence[tuple[Path, Document]]) -> dict[tuple[str, str], Signal]:
    """What each metric reads, by the HPA's type for it and its name."""
    found: dict[tuple[str, str], Signal] = {}
    for file, document in documents:
        if document.get("kind") != "ConfigMap":
            continue
        with _naming(file), _naming("data.config.yaml"):
            for text in document.get("data", {}).values():
                for config in _parse(text):
                    rules = _convert(config, AdapterRules)
                    for kind, listed in (("External", rules.external_rules), ("Pods", rules.rules)):
                        for rule in listed:
                            with _naming(f"{rule.name.alias}.metricsQuery"):
                                found[kind, rule.name.alias] = read_query(rule.metrics_query)
    return found


def _autoscaler(
    deployment: str, least: tuple[str, int], most: tuple[str, int], metrics: Sequence[Metric], behavior: BehaviorPart, key: str
) -> Autoscaler:
    if least[1] > most[1]:
        raise ConfigError(f"{least[0]}: {least[1]} is more than {most[0]}, {most[1]}")
    with _naming(key):
        with _naming("scaleUp.tolerance"):
            up = _rules(behavior.scale_up, DEFAULT_UP)
        with _naming("scaleDown.tolerance"):
            down = _rules(behavior.scale_down, DEFAULT_DOWN)
    return Autoscaler(deployment, least[1], most[1], tuple(metrics), up, down)


def _rules(part: RulesPart, default: Rules) -> Rules:
    policies = tuple(Policy(policy.type, policy.value, policy.period_seconds) for policy in part.policies)
    window_s = part.stabilization_window_seconds
    return Rules(
        policies or default.policies,
        default.window_s if window_s is None else window_s,
        part.select_policy,
        TOLERANCE if part.tolerance is None else _quantity(part.tolerance),
    )


def _quantity(value: str | float | None) -> float:
    found = QUANTITY.fullmatch(str(value))
    number = float(found[1]) * SUFFIXES[found[2]] if found else 0.0
    if not number:
        raise ConfigError(f"expected a quantity above 0 such as 65, 0.5 or 500m, got {value!r}")
    return number
