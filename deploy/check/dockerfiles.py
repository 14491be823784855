"""hadolint, with all its rules; a line in a Dockerfile that breaks one says so above it, and why."""

from __future__ import annotations

import json

from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.programs import run
from deploy.check.scan import DOCKERFILES
from deploy.check.tree import Tree


def check(tree: Tree) -> Outcome:
    files = [tree.name_of(path) for path in tree.files(DOCKERFILES)]
    if not files:
        raise CannotCheck(f"there is no {DOCKERFILES}")
    ended = run("hadolint", "--format", "json", *files, cwd=tree.root, beside=tree.build / "manifests" / "bin")
    try:
        found = json.loads(ended.stdout)
    except ValueError:
        raise CannotCheck(f"hadolint ended with status {ended.returncode}: {ended.stderr.strip()}") from None
    findings = [Finding(each["file"], f"line {each['line']}", each["message"], each["code"]) for each in found]
    return Outcome(f"{len(files)} files", findings)
