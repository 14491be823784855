"""The files that are checked, and the overlays as kubectl renders them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from deploy.check.findings import CannotCheck
from deploy.check.manifests import Manifests, Object
from deploy.check.programs import SOURCES, run

ROOT = Path(__file__).parents[2]
OVERLAYS = "k8s/overlays"
COMPONENTS = "k8s/components"
# The first with kustomize 5: older ones refuse fields of the components here, or read them otherwise.
OLDEST_KUBECTL = (1, 27)


@dataclass(frozen=True)
class Tree:
    """A checkout. What is rendered is kept; after a change of its files make another."""

    root: Path = ROOT
    # Where `make` puts what the checks need.
    build: Path = ROOT / "build"

    @cached_property
    def overlays(self) -> Sequence[Manifests]:
        """Raises ``CannotCheck``, with kubectl's words."""
        refuse_old_kubectl()
        folders = self.overlay_folders()
        if not folders:
            raise CannotCheck(f"there is no overlay in {OVERLAYS}")
        return [self._render(folder) for folder in folders]

    def overlay_folders(self) -> list[str]:
        return sorted(self.name_of(file.parent) for file in (self.root / OVERLAYS).glob("*/kustomization.yaml"))

    def component_folders(self) -> list[str]:
        return sorted(self.name_of(file.parent) for file in (self.root / COMPONENTS).glob("*/kustomization.yaml"))

    def name_of(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()

    def files(self, *patterns: str) -> Iterator[Path]:
        return (path for pattern in patterns for path in sorted(self.root.glob(pattern)) if path.is_file())

    def _render(self, folder: str) -> Manifests:
        rendered = run("kubectl", "kustomize", self.root / folder)
        if rendered.returncode:
            raise CannotCheck(f"{folder} does not render: {' '.join(rendered.stderr.split())}")
        return Manifests(folder, list(documents(rendered.stdout)))


def documents(text: str) -> Iterator[Object]:
    return (found for found in yaml.load_all(text, Loader=yaml.CSafeLoader) if isinstance(found, dict))


def refuse_old_kubectl() -> None:
    answered = run("kubectl", "version", "--client", "--output", "json")
    said = json.loads(answered.stdout)["clientVersion"]["gitVersion"]
    if kubectl_version(said) < OLDEST_KUBECTL:
        raise CannotCheck(f"kubectl is {said}, too old for the components in {COMPONENTS}; {SOURCES['kubectl']}")


def kubectl_version(said: str) -> tuple[int, int]:
    """Of ``v1.32.4-dispatcher``, (1, 32)."""
    found = re.match(r"v(\d+)\.(\d+)", said)
    assert found, said
    return int(found[1]), int(found[2])
