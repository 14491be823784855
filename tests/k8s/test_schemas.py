"""What Kubernetes and the custom resources' makers refuse is refused here."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from deploy.check import core, crds, policies
from deploy.check.findings import CannotCheck
from deploy.check.manifests import Manifests
from deploy.check.tree import ROOT, Tree
from tests.k8s.edits import Edit, drop, edited, put


def rendered(manifests: Manifests) -> Tree:
    """A tree that has been rendered to this."""
    tree = Tree()
    vars(tree)["overlays"] = [manifests]
    return tree


@pytest.mark.parametrize(
    "edit, text",
    [
        (put("Deployment", "spec replica", 2), "Additional properties are not allowed ('replica' was unexpected)"),
        (put("Deployment", "spec template spec containers 0 ports 0 containerPort", "http"), "is not of type"),
        (drop("Deployment", "spec selector"), "'selector' is a required property"),
        (put("PodDisruptionBudget", "apiVersion", "policy/v1beta1"), "there is no policy/v1beta1 PodDisruptionBudget"),
        (put("Service", "kind", "Servise"), "there is no v1 Servise"),
    ],
)
def test_core_object_is_refused_on_both_versions(overlays: Mapping[str, Manifests], edit: Edit, text: str) -> None:
    outcome = core.check(rendered(edited(overlays["gpu"], edit)))
    assert [f"refused by {version}" in str(found) for found, version in zip(outcome.findings, core.VERSIONS, strict=True)] == [
        True,
        True,
    ]
    assert all(text in str(found) for found in outcome.findings), outcome.findings


def test_field_of_a_newer_version_is_refused_by_the_oldest_alone(overlays: Mapping[str, Manifests]) -> None:
    newer = edited(overlays["gpu"], put("Deployment", "spec template spec schedulingGroup", {"podGroupName": "x"}))
    (finding,) = core.check(rendered(newer)).findings
    assert "refused by 1.34" in finding.text


@pytest.mark.parametrize(
    "overlay, edit, text",
    [
        ("gpu", put("ScaledObject", "spec minReplicaCount", "2"), "spec.minReplicaCount: must be integer"),
        ("gpu", put("ScaledObject", "spec triggers 0 treshold", "65"), "spec.triggers[0]: unknown field treshold"),
        ("gpu", drop("ScaledObject", "spec scaleTargetRef"), "spec: must have required property scaleTargetRef"),
        ("gpu", put("ServiceMonitor", "spec endpoints 0 interwal", "15s"), "spec.endpoints[0]: unknown field interwal"),
        ("gpu", put("Certificate", "spec dnsName", "x"), "spec: unknown field dnsName"),
        ("gpu-gateway-api", put("HTTPRoute", "spec rules 0 timeout", "65s"), "spec.rules[0]: unknown field timeout"),
        (
            "gpu-gateway-api",
            put("PodMonitor", "kind", "PodMonitr"),
            "no schema is known for monitoring.coreos.com/v1 PodMonitr",
        ),
        ("gpu", put("ScaledObject", "apiVersion", "keda.sh/v2"), "no schema is known for keda.sh/v2 ScaledObject"),
        ("gpu", put("ScaledObject", "apiVersion", "other.example/v1"), "no schema is known for other.example/v1 ScaledObject"),
    ],
)
def test_custom_resource_is_refused(overlays: Mapping[str, Manifests], overlay: str, edit: Edit, text: str) -> None:
    (finding,) = crds.check(rendered(edited(overlays[overlay], edit))).findings
    assert text in str(finding)


def test_what_kubernetes_refuses_is_not_judged_further(overlays: Mapping[str, Manifests]) -> None:
    with pytest.raises(CannotCheck, match="--only core"):
        policies.check(rendered(edited(overlays["gpu"], drop("Deployment", "spec template spec containers"))))


def test_missing_schemas_say_how_to_get_them(tree: Tree, overlays: Mapping[str, Manifests]) -> None:
    elsewhere = Tree(build=ROOT / "nowhere")
    vars(elsewhere)["overlays"] = tree.overlays
    with pytest.raises(CannotCheck, match=r"make build/crds/\.installed"):
        crds.check(elsewhere)


def test_lock_names_no_registry() -> None:
    lock = (ROOT / "deploy" / "check" / "package-lock.json").read_text(encoding="utf-8")
    assert '"integrity": "sha512-' in lock
    assert '"resolved"' not in lock
