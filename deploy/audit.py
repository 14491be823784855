"""Looks the versions in ``requirements/`` up in a list of known vulnerabilities, with pip-audit.

Ends with status 1 where one is listed. Where the list cannot be asked, it says so and ends with 0: an audit that a machine
without a network cannot make says nothing about the versions.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 600
# How the last line begins that pip-audit prints where its source does not answer.
NO_ANSWER = ("requests.exceptions.", "urllib3.exceptions.", "ERROR:pip_audit._cli:Could not connect", "TimeoutError")


class Unreachable(Exception):
    """The list of vulnerabilities cannot be asked."""


class Failed(Exception):
    """pip-audit ended otherwise than by an answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """For one file: how many versions were looked up, which of them are listed, and which ones the list does not have."""

    looked_up: int
    listed: tuple[str, ...]
    unknown: tuple[str, ...]


def main(arguments: Sequence[str]) -> int:
    (program,) = arguments
    # One package that every list has: where it is not known, hundreds of others need not be tried.
    files = sorted((ROOT / "requirements").glob("*.txt"), key=lambda file: (file.name != "uv.txt", file.name))
    listed = 0
    for number, file in enumerate(files):
        try:
            answer = read_report(run(program, file))
            if number == 0 and answer.looked_up == 0:
                raise Unreachable(f"it knows none of {file.name}: {', '.join(answer.unknown)}")
        except Unreachable as reason:
            print(f"audit: SKIPPED, nothing was checked: the list of known vulnerabilities cannot be asked: {reason}")
            return 0
        except Failed as reason:
            print(f"audit: FAILED on {file.name}, without an answer:\n{reason}")
            return 2
        print(f"audit: {file.name}: {answer.looked_up} looked up, {len(answer.listed)} listed as vulnerable")
        for line in (*answer.listed, *(f"not in the list: {name}" for name in answer.unknown)):
            print(f"  {line}")
        listed += len(answer.listed)
    print(f"audit: {'FAILED' if listed else 'passed'}")
    return 1 if listed else 0


def run(program: str, file: Path) -> Mapping[str, Any]:
    """pip-audit's report on one file. Raises ``Unreachable`` and ``Failed``."""
    with TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        # What is in the file is looked up and nothing else; nothing is installed.
        options = [
            "--disable-pip",
            "--require-hashes",
            "--progress-spinner",
            "off",
            "--format",
            "json",
            "--output",
            str(report),
        ]
        ended = subprocess.run(
            [program, "--requirement", str(file), *options], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
        if report.exists() and (text := report.read_text(encoding="utf-8")):
            content: Mapping[str, Any] = json.loads(text)
            return content
    raise failure(ended.stderr)


def failure(stderr: str) -> Unreachable | Failed:
    """Why there is no report, from what pip-audit printed."""
    lines = stderr.strip().splitlines() or ["it said nothing"]
    return Unreachable(lines[-1]) if lines[-1].startswith(NO_ANSWER) else Failed(stderr)


def read_report(report: Mapping[str, Any]) -> Answer:
    packages = report["dependencies"]
    found = [package for package in packages if "skip_reason" not in package]
    listed = tuple(line for package in found for line in describe(package))
    return Answer(len(found), listed, tuple(package["name"] for package in packages if "skip_reason" in package))


def describe(package: Mapping[str, Any]) -> Iterator[str]:
    """A line for each vulnerability of a package."""
    for vulnerability in package["vulns"]:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        yield f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
