"""Which images run."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, Object, at, containers, pod_of
from deploy.check.policies.report import finding
from deploy.check.servers import is_ours


def images_are_pinned(manifests: Manifests) -> Iterator[Finding]:
    for of, field, image in _images(manifests):
        tag = tag_of(image)
        if "@sha256:" not in image and tag in ("", "latest"):
            yield finding(manifests, of, field, f"{image} may be another image tomorrow; name a version or a digest")


def our_images_are_of_this_version(manifests: Manifests) -> Iterator[Finding]:
    wanted = version("sgl-embed")
    for of, field, image in _images(manifests):
        if is_ours(image) and tag_of(image) and not tag_of(image).startswith(f"{wanted}-"):
            yield finding(manifests, of, field, f"{image} is not of this version; the tag begins with {wanted}-")


def tag_of(image: str) -> str:
    """Of ``registry:5000/name:tag@sha256:…``, ``tag``."""
    return image.partition("@")[0].rpartition("/")[2].partition(":")[2]


def _images(manifests: Manifests) -> Iterator[tuple[Object, str, str]]:
    for workload in manifests.workloads():
        for container in containers(workload):
            yield workload, f"{container.path}.image", str(container.spec.get("image"))
        for index, volume in enumerate(pod_of(workload).get("volumes", ())):
            if reference := at(volume, "image.reference"):
                yield workload, f"spec.template.spec.volumes[{index}].image.reference", str(reference)
