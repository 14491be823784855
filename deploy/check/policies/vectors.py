"""That all pods behind one Service give vectors of one space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from deploy.check.findings import Finding
from deploy.check.manifests import Container, Manifests, at, containers, label, pod_labels, selects
from deploy.check.policies.report import in_container
from deploy.check.servers import configured, mount_at
from launcher.config.schema import Config

# The init container of k8s/components/weights-pvc, and the folder that its FOLDER is in.
CHECKING, CHECKED = "check-weights", PurePosixPath("/models")


def one_vector_space_behind_a_service(manifests: Manifests) -> Iterator[Finding]:
    for service in manifests.of("Service"):
        selector = {"matchLabels": at(service, "spec.selector", {})}
        behind = [each for each in configured(manifests) if selects(selector, pod_labels(each[0].of))]
        for container, config in behind[1:]:
            first, other = vector_space(*behind[0]), vector_space(container, config)
            for key in (key for key in first if first[key] != other[key]):
                same = f"{label(behind[0][0].of)}, behind the same {label(service)}"
                text = f"{key} is {other[key]!r}, but {first[key]!r} in {same}: their vectors may not be mixed"
                yield in_container(manifests, container, "args", text)


def vector_space(container: Container, config: Config) -> Mapping[str, object]:
    """All in the manifests that the fingerprint depends on, by the key that sets it."""
    model = config.model
    return {
        "model.id": model.id,
        "model.revision": model.revision,
        "model.pooling": model.pooling,
        "model.max_tokens": model.max_tokens,
        "model.prompts": model.prompts,
        "engine.dtype": config.engine.dtype,
        "engine.openvino.weights": config.engine.openvino.weights,
        # Both engines are held to one reference, but their last digits differ.
        "engine.name": config.engine.name,
        "the volume of the weights": _weights(container, model.id),
    }


def _weights(container: Container, model_id: str) -> object:
    mount = mount_at(container, PurePosixPath(model_id)) if model_id.startswith("/") else None
    return mount and ({key: value for key, value in mount.volume.items() if key != "name"}, str(mount.inside))


def precision_is_pinned(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        for key, value in (("engine.dtype", config.engine.dtype), ("engine.name", config.engine.name)):
            if value == "auto":
                text = f"{key} is auto, so that nodes of two kinds would give vectors of two spaces; name one"
                yield in_container(manifests, container, "args", text)


def models_are_mounted(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        path = PurePosixPath(config.model.id)
        if not path.is_absolute():
            text = f"{config.model.id} would be fetched from a hub at each start; mount it, and name its folder"
            yield in_container(manifests, container, "args", text)
        elif (mount := mount_at(container, path)) is None or not mount.volume:
            yield in_container(manifests, container, "volumeMounts", f"nothing is mounted at {path}, the model's folder")


def checked_weights_are_the_served_ones(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        for checking in (each for each in containers(container.of) if each.name == CHECKING):
            folders = [str(each.get("value")) for each in checking.spec.get("env", ()) if each["name"] == "FOLDER"]
            checked = CHECKED / folders[0] if folders else None
            served = PurePosixPath(config.model.id)
            if checked != served or _weights(checking, str(served)) != _weights(container, str(served)):
                text = f"checks {checked} of its volume, while {container.name} serves {served} of its own"
                yield in_container(manifests, checking, "env", text)
