"""yamllint, by the rules in .yamllint."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.programs import run
from deploy.check.tree import Tree

PATTERNS = (
    "k8s/**/*.yaml",
    "configs/*.yaml",
    "deploy/**/*.yaml",
    "deploy/**/*.yml",
    "monitoring/**/*.yaml",
    "monitoring/**/*.yml",
)
LINE = re.compile(r"(?P<file>.+?):(?P<line>\d+:\d+): \[\w+\] (?P<text>.*) \((?P<rule>[\w-]+)\)")


def check(tree: Tree) -> Outcome:
    files = [tree.name_of(path) for path in tree.files(*PATTERNS)]
    options = ("--strict", "--format", "parsable", "--config-file", ".yamllint")
    ended = run("yamllint", *options, *files, cwd=tree.root, beside=Path(sys.executable).parent)
    if ended.stderr:
        raise CannotCheck(f"yamllint: {ended.stderr.strip()}")
    return Outcome(f"{len(files)} files", [read_line(line) for line in ended.stdout.splitlines()])


def read_line(line: str) -> Finding:
    found = LINE.fullmatch(line)
    assert found, line
    return Finding(found["file"], f"line {found['line']}", found["text"], found["rule"])
