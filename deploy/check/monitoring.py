"""Prometheus and Alertmanager read monitoring/, with the targets that it has and with those of deploy/compose."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.programs import run
from deploy.check.tree import Tree

FOLDER = "monitoring"
TARGETS = (f"{FOLDER}/targets", "deploy/compose/targets")


def check(tree: Tree) -> Outcome:
    for folder in (FOLDER, *TARGETS):
        if not (tree.root / folder).is_dir():
            raise CannotCheck(f"there is no {folder}")
    findings = [finding for targets in TARGETS for finding in _prometheus(tree.root, targets)]
    return Outcome(
        f"Prometheus and its rules, {len(TARGETS)} sets of targets, Alertmanager", [*findings, *_alertmanager(tree.root)]
    )


def _prometheus(root: Path, targets: str) -> Iterator[Finding]:
    with TemporaryDirectory() as place:
        shutil.copytree(root / FOLDER / "prometheus", Path(place) / "prometheus")
        shutil.copytree(root / targets, Path(place) / "targets")
        # Reads the rule files and the targets that it names, too.
        checked = run("promtool", "check", "config", "prometheus.yml", cwd=Path(place) / "prometheus")
    said = " ".join(checked.stderr.split())
    # Of targets that are not there it only warns.
    missing = " ".join(line.strip() for line in checked.stdout.splitlines() if "WARNING" in line)
    if checked.returncode or missing:
        yield Finding(f"{FOLDER}/prometheus/prometheus.yml", f"with {targets}", said or missing, "promtool")


def _alertmanager(root: Path) -> Iterator[Finding]:
    checked = run("amtool", "check-config", "alertmanager.yml", cwd=root / FOLDER / "alertmanager")
    if checked.returncode:
        # The reason is in its output, its errors have only the sum.
        yield Finding(f"{FOLDER}/alertmanager/alertmanager.yml", "", " ".join(checked.stdout.split()), "amtool")
