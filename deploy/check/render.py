"""Every overlay renders, and every component is in one that does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml

from deploy.check.findings import Finding, Outcome
from deploy.check.tree import Tree


def check(tree: Tree) -> Outcome:
    objects = sum(len(overlay.objects) for overlay in tree.overlays)
    return Outcome(f"{len(tree.overlays)} overlays with {objects} objects", list(unused_components(tree)))


def unused_components(tree: Tree) -> Iterator[Finding]:
    used = {part for overlay in tree.overlay_folders() for part in _parts(tree.root, tree.root / overlay)}
    for component in tree.component_folders():
        if component not in used:
            text = "no overlay uses it, so that nothing here checks it; add it to one"
            yield Finding(component, "", text, "components-are-used")


def _parts(root: Path, folder: Path) -> Iterator[str]:
    """The components that a kustomization names, and those that these name."""
    content = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    for name in content.get("components", ()):
        part = (folder / name).resolve()
        yield part.relative_to(root.resolve()).as_posix()
        yield from _parts(root, part)
