"""Kubernetes' own schemas, of the oldest and the newest version that is supported; a field they do not have is refused."""

from __future__ import annotations

from collections.abc import Iterator

import kubernetes_validate

from deploy.check.findings import Finding, Outcome
from deploy.check.manifests import Manifests, Object, label
from deploy.check.tree import Tree

VERSIONS = ("1.34", "1.37")
# Those whose names have a dot; the custom ones that end like them are in crds.mjs.
DOTTED_GROUPS = {
    "admissionregistration.k8s.io",
    "coordination.k8s.io",
    "discovery.k8s.io",
    "flowcontrol.apiserver.k8s.io",
    "networking.k8s.io",
    "rbac.authorization.k8s.io",
    "resource.k8s.io",
    "scheduling.k8s.io",
    "storage.k8s.io",
}


def is_core(found: Object) -> bool:
    group = str(found.get("apiVersion")).rpartition("/")[0]
    return "." not in group or group in DOTTED_GROUPS


def check(tree: Tree) -> Outcome:
    findings = [finding for overlay in tree.overlays for finding in check_overlay(overlay)]
    count = sum(is_core(found) for overlay in tree.overlays for found in overlay.objects)
    return Outcome(f"{count} objects on {' and '.join(VERSIONS)}", findings)


def check_overlay(overlay: Manifests) -> Iterator[Finding]:
    for found in filter(is_core, overlay.objects):
        for version in VERSIONS:
            if text := refusal(found, version):
                yield Finding(overlay.name, label(found), f"refused by {version}: {text}", "kubernetes-validate")


def refusal(found: Object, version: str) -> str | None:
    """What is wrong with it on this version; None where nothing is."""
    try:
        kubernetes_validate.validate(dict(found), version, strict=True)
    except kubernetes_validate.ValidationError as error:
        path = ".".join(str(step) for step in error.path)
        return f"{path}: {error.message}" if path else str(error.message)
    except kubernetes_validate.SchemaNotFoundError:
        return f"there is no {found.get('apiVersion')} {found.get('kind')}"
    return None
