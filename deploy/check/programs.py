"""Programs from outside this project, each with how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from deploy.check.findings import CannotCheck

TIMEOUT_S = 120
SOURCES = {
    "kubectl": "https://kubernetes.io/docs/tasks/tools/ says how; it has to be 1.27 or later, which some distributions' is not",
    "node": "on Debian and Ubuntu: apt install nodejs npm",
    "nginx": "on Debian and Ubuntu: apt install nginx-light",
    "openssl": "on Debian and Ubuntu: apt install openssl",
    "promtool": "on Debian and Ubuntu: apt install prometheus",
    "amtool": "on Debian and Ubuntu: apt install prometheus-alertmanager",
    "yamllint": "make setup-dev",
    "checkov": "make build/manifests/.installed",
    "hadolint": "make build/manifests/.installed",
}


def run(
    program: str, *arguments: str | Path, stdin: str = "", cwd: Path | None = None, beside: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """``beside`` is a folder to look for it in before PATH. Raises ``CannotCheck`` where there is none, or it does not end."""
    # Debian keeps daemons such as nginx out of other users' PATH.
    folders = (str(beside or ""), os.environ.get("PATH", ""), "/usr/sbin")
    found = shutil.which(program, path=os.pathsep.join(filter(None, folders)))
    if found is None:
        raise CannotCheck(f"{program} is not installed; {SOURCES[program]}")
    try:
        return subprocess.run(
            [found, *arguments], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise CannotCheck(f"{program} did not end within {TIMEOUT_S} s") from None
