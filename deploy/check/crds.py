"""The schemas of custom resources, which crds.mjs takes from npm packages; a kind without one is refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from deploy.check.core import is_core
from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.manifests import label
from deploy.check.programs import run
from deploy.check.tree import Tree

SCRIPT = Path(__file__).with_name("crds.mjs")


def check(tree: Tree) -> Outcome:
    custom = [(overlay.name, found) for overlay in tree.overlays for found in overlay.objects if not is_core(found)]
    refusals = refuse([found for _, found in custom], tree.build / "crds")
    findings = [
        Finding(custom[index][0], f"{label(custom[index][1])} {path}".rstrip(), text, "crd-schemas")
        for index, path, text in refusals
    ]
    return Outcome(f"{len(custom)} custom resources", findings)


def refuse(objects: list[object], folder: Path) -> Iterator[tuple[int, str, str]]:
    """For each field at fault: the object's index, the field's path, the reason."""
    if not (folder / "node_modules").is_dir():
        raise CannotCheck(f"the schemas are not in {folder}; make build/crds/.installed")
    ended = run("node", SCRIPT, folder, stdin=json.dumps(objects))
    if ended.returncode:
        raise CannotCheck(f"{SCRIPT.name}: {ended.stderr.strip()}")
    return ((index, path, text) for index, path, text in json.loads(ended.stdout))
