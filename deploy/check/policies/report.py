"""How a policy says what it found."""

from __future__ import annotations

from deploy.check.findings import Finding
from deploy.check.manifests import Container, Manifests, Object, label


def finding(manifests: Manifests, of: Object, field: str, text: str) -> Finding:
    """``field`` is a dotted path in the object; the policy's name is added by whoever runs it."""
    return Finding(manifests.name, f"{label(of)} {field}", text, "")


def in_container(manifests: Manifests, container: Container, field: str, text: str) -> Finding:
    path = f"{container.path}.{field}" if field else container.path
    return Finding(manifests.name, f"{label(container.of)} {path}", f"{container.name}: {text}", "")
