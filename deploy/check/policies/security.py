"""What a pod may do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from deploy.check.findings import Finding
from deploy.check.manifests import Container, Manifests, at, pod_of
from deploy.check.policies.report import finding, in_container
from deploy.check.servers import launched, mount_at

# Where the image's programs write; deploy/Dockerfile.cpu.
WRITABLE = ("/tmp", "/var/cache/sgl-embed")


def containers_run_as_a_user(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        if _security(container, "runAsNonRoot") is not True or _security(container, "runAsUser") in (None, 0):
            text = "set runAsNonRoot: true and a runAsUser above 0, on the pod or here"
            yield in_container(manifests, container, "securityContext", text)


def containers_have_no_capabilities(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        capabilities = at(container.spec, "securityContext.capabilities", {})
        if "ALL" not in capabilities.get("drop", ()) or capabilities.get("add"):
            yield in_container(manifests, container, "securityContext.capabilities", "set drop: [ALL], and add none")


def containers_gain_no_privileges(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        context = container.spec.get("securityContext", {})
        if context.get("allowPrivilegeEscalation") is not False or context.get("privileged"):
            yield in_container(manifests, container, "securityContext.allowPrivilegeEscalation", "set false")


def containers_have_a_read_only_root(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        if at(container.spec, "securityContext.readOnlyRootFilesystem") is not True:
            yield in_container(manifests, container, "securityContext.readOnlyRootFilesystem", "set true")


def containers_have_a_system_call_filter(manifests: Manifests) -> Iterator[Finding]:
    for container in manifests.containers():
        if at(_security(container, "seccompProfile"), "type") not in ("RuntimeDefault", "Localhost"):
            yield in_container(
                manifests, container, "securityContext.seccompProfile.type", "set RuntimeDefault, on the pod or here"
            )


def pods_have_no_token(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        if pod_of(workload).get("automountServiceAccountToken") is not False:
            text = "set false: nothing in the pod asks the Kubernetes API"
            yield finding(manifests, workload, "spec.template.spec.automountServiceAccountToken", text)


def pods_have_no_service_links(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        if pod_of(workload).get("enableServiceLinks") is not False:
            text = "set false: each Service of the namespace would become variables in the pod, SGL_EMBED_* among them"
            yield finding(manifests, workload, "spec.template.spec.enableServiceLinks", text)


def pods_share_nothing_of_the_host(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        pod = pod_of(workload)
        for key in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(key):
                yield finding(manifests, workload, f"spec.template.spec.{key}", "remove it")
        for index, volume in enumerate(pod.get("volumes", ())):
            if "hostPath" in volume:
                yield finding(
                    manifests, workload, f"spec.template.spec.volumes[{index}].hostPath", "use another kind of volume"
                )


def writable_folders_are_mounted(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        for container, _ in launched(workload):
            for folder in WRITABLE:
                mount = mount_at(container, PurePosixPath(folder))
                if mount is None or "emptyDir" not in mount.volume:
                    yield in_container(manifests, container, "volumeMounts", f"{folder} is read-only; mount an emptyDir there")


def _security(container: Container, key: str) -> object:
    """The container's own word, or its pod's."""
    own = at(container.spec, f"securityContext.{key}")
    return own if own is not None else at(pod_of(container.of), f"securityContext.{key}")
