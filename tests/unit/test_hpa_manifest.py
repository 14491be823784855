"""The manifests as they are deployed, and what is said of those that are wrong."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from launcher.autoscaling.manifest import read_autoscaler
from launcher.autoscaling.rules import DEFAULT_DOWN, DEFAULT_UP, Metric, Policy, Rules, Signal
from launcher.errors import ConfigError
from launcher.telemetry.metrics import Metrics
from launcher.telemetry.registry import Registry

COMPONENTS = Path(__file__).parents[2] / "k8s" / "components"
KEDA = COMPONENTS / "autoscaling-keda" / "scaledobject.yaml"
ADAPTER = COMPONENTS / "autoscaling-adapter"
FIELD = r"spec\.advanced\.horizontalPodAutoscalerConfig\.behavior"


def changed(folder: Path, source: Path, *changes: tuple[str, str]) -> Path:
    text = source.read_text(encoding="utf-8")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = folder / source.name
    path.write_text(text, encoding="utf-8")
    return path


def test_scaled_object_is_read_whole() -> None:
    found = read_autoscaler(KEDA)
    assert (found.deployment, found.least, found.most) == ("sgl-embed", 2, 16)
    assert found.metrics == (
        Metric("spec.triggers[0]", Signal("offered", 60.0), 65.0, "average"),
        Metric("spec.triggers[1]", Signal("tokens_in_flight", None), 5000.0, "average"),
    )
    assert found.up == Rules((Policy("Percent", 100, 60), Policy("Pods", 8, 60)), 0)
    assert found.down == Rules((Policy("Pods", 1, 120),), 600)


def test_both_components_say_the_same() -> None:
    keda, adapter = read_autoscaler(KEDA.parent), read_autoscaler(ADAPTER)
    assert replace(keda, metrics=()) == replace(adapter, metrics=())
    assert [replace(each, key="") for each in keda.metrics] == [replace(each, key="") for each in adapter.metrics]


def triggers() -> list[dict[str, str]]:
    return [trigger["metadata"] for trigger in yaml.safe_load(KEDA.read_text(encoding="utf-8"))["spec"]["triggers"]]


def queries() -> list[str]:
    """Those of both components, which must be the same."""
    rules = yaml.safe_load((ADAPTER / "adapter-rules.yaml").read_text(encoding="utf-8"))
    listed = yaml.safe_load(rules["data"]["config.yaml"])["externalRules"]
    assert [rule["metricsQuery"] for rule in listed] == [trigger["query"] for trigger in triggers()]
    assert [rule["seriesQuery"] in rule["metricsQuery"] for rule in listed] == [True, True]
    assert [re.sub(rule["name"]["matches"], rule["name"]["as"], rule["seriesQuery"]) for rule in listed] == [
        "sgl_embed_offered_qps",
        "sgl_embed_tokens_in_flight",
    ]
    return [rule["metricsQuery"] for rule in listed]


def test_every_series_that_is_queried_is_exported() -> None:
    shown = Metrics(Registry(), {"model": "m"}, lambda: True).render().decode()
    for query in queries():
        (series,) = re.findall(r"embedding_\w+(?:\{[^}]*\})?", query)
        assert f"\n{series} 0.0\n" in shown


def test_error_of_keda_is_no_zero() -> None:
    assert [trigger["ignoreNullValues"] for trigger in triggers()] == ["false", "false"]


def test_defaults_are_those_of_kubernetes(tmp_path: Path) -> None:
    path = tmp_path / "scaledobject.yaml"
    text = KEDA.read_text(encoding="utf-8")
    path.write_text(text[: text.index("  advanced:")] + text[text.index("  triggers:") :], encoding="utf-8")
    found = read_autoscaler(path)
    assert (found.up, found.down) == (DEFAULT_UP, DEFAULT_DOWN)


def test_null_values_and_plain_values(tmp_path: Path) -> None:
    path = changed(tmp_path, KEDA, ('ignoreNullValues: "false"', 'ignoreNullValues: "true"'), ("AverageValue", "Value"))
    first, second = read_autoscaler(path).metrics
    assert (first.null_is_zero, first.compared) == (True, "value")
    assert (second.null_is_zero, second.compared) == (False, "average")


def test_pods_metric_of_the_adapter(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(
        """
kind: HorizontalPodAutoscaler
spec:
  scaleTargetRef: {name: x}
  maxReplicas: 4
  behavior: {scaleDown: {tolerance: 50m}}
  metrics:
    - {type: Pods, pods: {metric: {name: qps}, target: {type: AverageValue, averageValue: 1k}}}
---
kind: ConfigMap
data:
  config.yaml: |
    rules:
      - metricsQuery: sum(rate(embedding_requests_total{status="200",<<.LabelMatchers>>}[2m])) by (<<.GroupBy>>)
        name: {as: qps}
""",
        encoding="utf-8",
    )
    found = read_autoscaler(tmp_path / "all.yaml")
    assert found.metrics == (Metric("spec.metrics[0]", Signal("completed", 120.0), 1000.0, "pods"),)
    assert (found.least, found.down.tolerance, found.up.tolerance) == (1, 0.05, 0.1)


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("minReplicaCount: 2", "minReplicaCount: 0", r"spec\.minReplicaCount: expected `int` >= 1"),
        ("minReplicaCount: 2", "", r"spec\.minReplicaCount: this field is required"),
        ("minReplicaCount: 2", "minReplicaCount: 20", r"spec\.minReplicaCount: 20 is more than spec\.maxReplicaCount, 16"),
        ("minReplicaCount: 2", "minReplicaCount: 2\n  minReplicaCount: 3", r"not valid YAML: .*stands twice"),
        ('threshold: "65"', 'threshold: "a lot"', r"spec\.triggers\[0\]: metadata\.threshold: expected a quantity"),
        ('threshold: "65"', 'treshold: "65"', r"spec\.triggers\[0\]\.metadata\.threshold: this field is required"),
        (
            "requests_offered_total",
            "requests_tried_total",
            r"spec\.triggers\[0\]: metadata\.query: the simulator has no embedding_r",
        ),
        ("sum(rate(", "avg(rate(", r"spec\.triggers\[0\]: metadata\.query: the simulator reads sum\(rate"),
        (
            "sum(embedding_tokens",
            "sum(embedding_requests_offered_total)#",
            r"spec\.triggers\[1\]: metadata\.query: the simulator reads",
        ),
        ("type: prometheus", "type: cpu", r"spec\.triggers\[0\]: the simulator knows triggers of type prometheus, not 'cpu'"),
        (
            "stabilizationWindowSeconds: 600",
            "stabilizationWindow: 600",
            FIELD + r"\.scaleDown: .*unknown field `stabilizationWindow`",
        ),
        ("selectPolicy: Max", "selectPolicy: Most", FIELD + r"\.scaleUp\.selectPolicy: .*, expected Max or Min or Disabled"),
        ("type: Percent", "type: Part", FIELD + r"\.scaleUp\.policies\[0\]\.type: .*, expected Pods or Percent"),
        ("periodSeconds: 60", "periodSeconds: 0", FIELD + r"\.scaleUp\.policies\[0\]\.periodSeconds: expected `int` >= 1"),
        ("kind: ScaledObject", "kind: ScaledJob", r"expected a ScaledObject or a HorizontalPodAutoscaler, found ScaledJob"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = changed(tmp_path, KEDA, (old, new))
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}: {message}"):
        read_autoscaler(path)


def test_external_metric_without_its_rule() -> None:
    with pytest.raises(ConfigError, match=r"hpa\.yaml: spec\.metrics\[0\]: external\.metric\.name: no prometheus-adapter rule"):
        read_autoscaler(ADAPTER / "hpa.yaml")


def test_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.yaml: cannot be read: No such file"):
        read_autoscaler(tmp_path / "nothing.yaml")


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("component", ["autoscaling-keda", "autoscaling-adapter"])
def test_component_builds(component: str) -> None:
    built = subprocess.run(["kubectl", "kustomize", COMPONENTS / component], capture_output=True, text=True, timeout=60)
    assert built.returncode == 0, built.stderr
    scaled = [document for document in yaml.safe_load_all(built.stdout) if document["kind"] != "ConfigMap"]
    assert [document["spec"]["scaleTargetRef"]["name"] for document in scaled] == ["sgl-embed"]
