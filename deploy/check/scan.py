"""checkov on the manifests as they are rendered and on the Dockerfiles; checkov.yaml says what is left out, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.programs import run
from deploy.check.tree import Tree

CONFIG = Path(__file__).with_name("checkov.yaml")
DOCKERFILES = "deploy/Dockerfile*"


def check(tree: Tree) -> Outcome:
    with TemporaryDirectory() as folder:
        names = dict(_files(tree, Path(folder)))
        ended = run("checkov", "--config-file", CONFIG, "--directory", folder, beside=tree.build / "manifests" / "bin")
    try:
        reports = json.loads(ended.stdout)
    except ValueError:
        raise CannotCheck(f"checkov ended with status {ended.returncode}: {(ended.stderr or ended.stdout).strip()}") from None
    listed = reports if isinstance(reports, list) else [reports]
    findings = [_finding(failed, names) for report in listed for failed in report["results"]["failed_checks"]]
    passed = sum(report["summary"]["passed"] for report in listed)
    return Outcome(f"{passed} checks passed in {len(names)} files", findings)


def _files(tree: Tree, folder: Path) -> Iterator[tuple[str, str]]:
    """Puts what is scanned into the folder; the name of each there, and what it is in the tree."""
    for overlay in tree.overlays:
        name = f"/{Path(overlay.name).name}.yaml"
        (folder / name[1:]).write_text(yaml.safe_dump_all(list(overlay.objects), sort_keys=False), encoding="utf-8")
        yield name, overlay.name
    for file in tree.files(DOCKERFILES):
        (folder / file.name).write_bytes(file.read_bytes())
        yield f"/{file.name}", tree.name_of(file)


def _finding(failed: Mapping[str, Any], names: Mapping[str, str]) -> Finding:
    return Finding(names[failed["file_path"]], failed["resource"].strip("/."), failed["check_name"], failed["check_id"])
