"""What a pod takes."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.check.findings import Finding
from deploy.check.manifests import Container, Manifests, at
from deploy.check.policies.report import in_container
from deploy.check.servers import configured

GPU = "nvidia.com/gpu"
CLAIMED = ("cpu", "memory")


def containers_claim_what_they_need(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        resources = container.spec.get("resources", {})
        for resource in CLAIMED:
            if resource not in resources.get("requests", {}):
                yield in_container(manifests, container, f"resources.requests.{resource}", "say how much it needs")
        if "memory" not in resources.get("limits", {}):
            yield in_container(manifests, container, "resources.limits.memory", "without it a pod may take its node's memory")


def gpu_requests_equal_limits(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        wanted, most = gpus(container, "requests"), gpus(container, "limits")
        if wanted != most:
            yield in_container(manifests, container, "resources", f"{GPU}: request {wanted}, limit {most}; they must be equal")


def gpus_are_for_the_engine_that_uses_them(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        engine = config.engine
        on_gpu = engine.name == "sglang" and engine.sglang.device != "cpu"
        wanted = (engine.workers or 1) if on_gpu else 0
        given = gpus(container, "limits")
        # 0 workers are as many as there are GPUs.
        if given != wanted and not (on_gpu and engine.workers == 0 and given > 0):
            text = f"{GPU}: {given}, while {engine.name} with engine.workers {engine.workers} uses {wanted}"
            yield in_container(manifests, container, "resources.limits", text)


def cpu_overlays_ask_for_no_gpu(manifests: Manifests) -> Iterator[Finding]:
    if manifests.name.endswith("-cpu"):
        for container in manifests.containers():
            if gpus(container, "limits") or gpus(container, "requests"):
                yield in_container(manifests, container, "resources", f"{GPU} in an overlay for machines without a GPU")


def gpus(container: Container, which: str) -> int:
    return int(at(container.spec, "resources", {}).get(which, {}).get(GPU, 0))
