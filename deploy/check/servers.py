"""The containers that run ``sgl-embed``, and the configuration that each comes to, as the launcher itself reads it."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from deploy.check.manifests import Container, Manifests, Object, at, containers, pod_of
from launcher.cli import COMMANDS, config_source
from launcher.cli.options import build_parser
from launcher.config.schema import Config
from launcher.errors import ConfigError

PROJECT = "sgl-embed"
# What stands before the arguments in the image's ENTRYPOINT, or in a `command` that says it again.
ENTRYPOINT = ("dumb-init", "--single-child", "--", PROJECT)


class Unreadable(Exception):
    """The arguments or the configuration are not what the launcher takes; ``field`` is the container's."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(reason)
        self.field = field


@dataclass(frozen=True, slots=True)
class Mount:
    """``inside`` is the path in the volume."""

    volume: Object
    inside: PurePosixPath


def launched(workload: Object) -> Iterator[tuple[Container, Sequence[str]]]:
    """Each container whose program is ``sgl-embed``, and its arguments."""
    for container in containers(workload):
        words = [str(word) for word in (*container.spec.get("command", ()), *container.spec.get("args", ()))]
        if PROJECT in words[:4]:
            yield container, words[words.index(PROJECT) + 1 :]
        elif "command" not in container.spec and is_ours(str(container.spec.get("image"))):
            yield container, words


def servers(manifests: Manifests) -> Iterator[tuple[Container, Sequence[str]]]:
    for workload in manifests.workloads():
        for container, arguments in launched(workload):
            if arguments[:1] == ["serve"]:
                yield container, arguments


def configured(manifests: Manifests) -> Iterator[tuple[Container, Config]]:
    """The servers whose configuration can be read; one policy says what is wrong with the others."""
    for container, arguments in servers(manifests):
        try:
            yield container, read_config(manifests, container, arguments)
        except Unreadable:
            continue


def is_ours(image: str) -> bool:
    return image.partition("@")[0].rpartition("/")[2].partition(":")[0] == PROJECT


def parse(container: Container, arguments: Sequence[str]) -> argparse.Namespace:
    """Raises ``Unreadable`` with what the launcher's own parser says."""
    said = StringIO()
    try:
        with redirect_stderr(said):
            return build_parser(COMMANDS).parse_args(expand(container, arguments))
    except SystemExit:
        reason = said.getvalue().strip().splitlines()
        raise Unreadable("args", reason[-1] if reason else "they only ask for help") from None


def read_config(manifests: Manifests, container: Container, arguments: Sequence[str]) -> Config:
    """From the file in its ConfigMap and its arguments, by the launcher's own loader. Raises ``Unreadable``."""
    parsed = parse(container, arguments)
    with TemporaryDirectory() as folder:
        if parsed.config is not None:
            file = Path(folder) / parsed.config.name
            file.write_text(config_text(manifests, container, PurePosixPath(parsed.config)), encoding="utf-8")
            parsed.config = file
        try:
            return config_source(parsed).read()
        except ConfigError as error:
            raise Unreadable("args", str(error).replace(f"{folder}/", "")) from None


def config_text(manifests: Manifests, container: Container, path: PurePosixPath) -> str:
    mount = mount_at(container, path)
    name = at(mount.volume, "configMap.name") if mount else None
    if mount is None or name is None:
        raise Unreadable("args", f"{path} is in no mounted ConfigMap")
    found = manifests.find("ConfigMap", name)
    if found is None:
        raise Unreadable("args", f"{path} would be in ConfigMap {name}, which is not made here")
    key = str(mount.inside)
    for item in at(mount.volume, "configMap.items", ()):
        if item["path"] == key:
            key = item["key"]
    texts: Mapping[str, str] = at(found, "data", {})
    if key not in texts:
        raise Unreadable("args", f"ConfigMap {name} has no {key}; it has {', '.join(sorted(texts))}")
    return texts[key]


def mount_at(container: Container, path: PurePosixPath) -> Mount | None:
    """What is mounted there or above; the deepest where there are several."""
    mounts = [each for each in container.spec.get("volumeMounts", ()) if path.is_relative_to(each["mountPath"])]
    if not mounts:
        return None
    nearest = max(mounts, key=lambda each: len(PurePosixPath(each["mountPath"]).parts))
    volumes: Sequence[Object] = pod_of(container.of).get("volumes", ())
    volume = next((each for each in volumes if each["name"] == nearest["name"]), {})
    return Mount(volume, PurePosixPath(nearest.get("subPath", "")) / path.relative_to(nearest["mountPath"]))


def expand(container: Container, arguments: Sequence[str]) -> list[str]:
    """With ``$(NAME)`` as Kubernetes replaces it; a variable that comes from elsewhere stays as it stands."""
    values = {each["name"]: each["value"] for each in container.spec.get("env", ()) if "value" in each}
    return [re.sub(r"\$\((\w+)\)", lambda found: values.get(found[1], found[0]), word) for word in arguments]
