"""The machine that a bundle is for, which need not be like the one that gathers it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from packaging.requirements import Requirement

PYTHONS = range(11, 15)
SGLANG_PYTHONS = ("3.11", "3.12")
# Names of platforms from before their glibc was in them (PEP 600).
LEGACY = {5: "manylinux1", 12: "manylinux2010", 17: "manylinux2014"}
PLATFORM = re.compile(r"manylinux_2_([1-9]\d*)_(x86_64|aarch64)")


class BundleError(Exception):
    """The message says what was asked for wrongly, or what failed."""


@dataclass(frozen=True)
class Target:
    """CPython ``python``, such as "3.11", on Linux with glibc 2.``glibc`` or newer."""

    python: str
    glibc: int
    machine: str

    def pip_options(self) -> list[str]:
        """Which wheels pip may take. It does not know that a new glibc runs what was built for an old one: each is named."""
        names = [f"manylinux_2_{minor}" for minor in range(self.glibc, min(LEGACY) - 1, -1)]
        names += [name for minor, name in LEGACY.items() if minor <= self.glibc]
        platforms = [option for name in names for option in ("--platform", f"{name}_{self.machine}")]
        return ["--only-binary", ":all:", "--implementation", "cp", "--python-version", self.python, *platforms]

    def pinned(self, lock: str) -> Iterator[str]:
        """Of a requirements file for all machines the lines for this one: name, version and hashes.

        pip would judge the conditions by the Python and machine that it runs on itself.
        """
        for block in re.split(r"\n(?=\S)", lock):
            if not block.startswith("#"):
                wanted, _, rest = block.partition(" \\\n")
                requirement = Requirement(wanted)
                if requirement.marker is None or requirement.marker.evaluate(self._environment()):
                    hashes = re.findall(r"--hash=\S+", rest)
                    yield " ".join((f"{requirement.name}{requirement.specifier}", *hashes))

    def _environment(self) -> dict[str, str]:
        """https://packaging.python.org/en/latest/specifications/dependency-specifiers/#environment-markers"""
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": self.machine,
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{self.python}.0",
            "python_version": self.python,
            "sys_platform": "linux",
        }


def read_target(python: str, platform: str, sglang: str | None) -> Target:
    """Raises ``BundleError`` for what this project cannot be installed on."""
    if python not in [f"3.{minor}" for minor in PYTHONS]:
        raise BundleError(f"PYTHON_VERSION={python}: it must be one of 3.{PYTHONS[0]} to 3.{PYTHONS[-1]}, as 3.12")
    if sglang and python not in SGLANG_PYTHONS:
        raise BundleError(f"PYTHON_VERSION={python}: SGLang runs on {' and '.join(SGLANG_PYTHONS)}")
    named = PLATFORM.fullmatch(platform)
    if not named or int(named[1]) < min(LEGACY):
        raise BundleError(
            f"PLATFORM={platform}: it must be manylinux_2_GLIBC_MACHINE, such as manylinux_2_34_x86_64 for glibc 2.34 or newer "
            "(`ldd --version` tells) on x86_64 or aarch64"
        )
    return Target(python, int(named[1]), named[2])
