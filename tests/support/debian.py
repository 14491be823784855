"""A base for images that is made here, of Debian's packages: there is no image registry to get one from in tests.

It stands for ``python:3.11-slim-bookworm``: the same Debian without documentation, and Python 3.11 with its ``venv``. Not the
same: Python is Debian's, in /usr instead of /usr/local, and its standard library is compiled already.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path

SUITE = "bookworm"
PACKAGES = "python3,python3-venv"
UNUSED = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)
TIMEOUT_S = 300
MISSING = "these tests make a base image, which needs debootstrap: apt install debootstrap (Debian, Ubuntu)"


def base_archive(folder: Path) -> Path:
    """The base's files as a tar in ``folder``; made once, in half a minute."""
    recipe = hashlib.sha256("\n".join((SUITE, PACKAGES, *UNUSED)).encode()).hexdigest()[:12]
    archive = folder / f"{SUITE}-{recipe}.tar"
    if not archive.exists():
        assert shutil.which("debootstrap"), MISSING
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as made:
            root, part = Path(made, "root"), Path(made, "part.tar")
            _run("debootstrap", "--variant=minbase", f"--include={PACKAGES}", SUITE, str(root), mirror())
            for name in UNUSED:
                shutil.rmtree(root / name)
            _run("tar", "--numeric-owner", "-C", str(root), "-cf", str(part), ".")
            part.rename(archive)
    return archive


def mirror() -> str:
    """The one that this machine's apt is configured with."""
    command = ("apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
    listed = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    sources = [line.split() for line in listed.splitlines()]
    fitting = [uri for uri, release, component in sources if (release, component) == (SUITE, "main")]
    assert fitting, (
        f"apt has no source for Debian {SUITE}, of which the base image is made: name one in /etc/apt/sources.list.d"
    )
    return fitting[0]


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
