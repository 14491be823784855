"""From what was asked for to the folder: wheels, model, instructions, checksums."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from deploy.bundle.target import BundleError, Target
from launcher.config.schema import Model
from launcher.models.checkpoint import read_checkpoint
from launcher.models.copies import SUMS, checksums, copy_model
from launcher.models.download import FetchedModel, fetch_model

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "requirements"
# Settings that end with the copy: how it came here. All others say how it is read and called.
FETCHING = ("model.id=", "model.revision=", "model.hub", "model.allow_pickle=", "model.fallback=")


@dataclass(frozen=True)
class Bundle:
    """``sglang``: its version, None for the light set; ``model`` None: without one.

    ``settings`` are those of ``model`` that were asked for, each as ``model.KEY=VALUE``.
    """

    target: Target
    sglang: str | None
    model: Model | None
    out: Path
    settings: tuple[str, ...] = ()

    @property
    def lock(self) -> Path:
        return LOCKS / (f"sglang-{self.sglang}.txt" if self.sglang else "light.txt")

    def pinned(self) -> list[str]:
        """Of what serves and of what an image holds beside it; a package of both is of the version that serves. SGLang 0.5.17
        needs an older protobuf than what sends traces would take."""
        locks = (LOCKS / "image.txt", self.lock)
        lines = [line for lock in locks for line in self.target.pinned(lock.read_text(encoding="utf-8"))]
        return [*{line.partition("==")[0]: line for line in lines}.values()]


def build(bundle: Bundle, say: Callable[[str], None]) -> None:
    """Make ``bundle.out``, whole or not at all. Raises ``BundleError``, or ``ModelError`` for a model that cannot be served."""
    _refuse(bundle)
    model = _fetch(bundle.model) if bundle.model else None
    part = bundle.out.with_name(bundle.out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    wheels = part / "wheels"
    wheels.mkdir(parents=True)
    _download(bundle.pinned(), bundle.target, wheels, say)
    _run("pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels), str(ROOT))
    if model:
        say(f"copying the model {model.name}")
        copy_model(model, part / "models" / model.name)
    (part / "INSTALL.txt").write_text(instructions(bundle, model), encoding="utf-8")
    (part / SUMS).write_text(checksums(part), encoding="utf-8")
    if bundle.out.exists():
        bundle.out.rmdir()
    part.rename(bundle.out)


def instructions(bundle: Bundle, model: FetchedModel | None) -> str:
    template = Path(__file__).with_name("INSTALL.txt").read_text(encoding="utf-8")
    return template.format(
        version=version("sgl-embed"),
        python=bundle.target.python,
        glibc=bundle.target.glibc,
        machine=bundle.target.machine,
        contents=f"SGLang {bundle.sglang}, for NVIDIA GPUs" if bundle.sglang else "OpenVINO, for CPUs",
        requirements=f"sgl-embed sglang=={bundle.sglang}" if bundle.sglang else "sgl-embed",
        engine="sglang" if bundle.sglang else "openvino",
        model=shlex.join(_model_options(model, bundle.settings)) if model else "--model /path/to/a/model",
    )


def _model_options(model: FetchedModel, settings: Sequence[str]) -> list[str]:
    """What the other machine's commands need to read the model as it was read here; a fallback has no settings."""
    kept = [] if model.is_fallback else [setting for setting in settings if not setting.startswith(FETCHING)]
    return ["--model", f"models/{model.name}", *(word for setting in kept for word in ("--set", setting))]


def _refuse(bundle: Bundle) -> None:
    if not bundle.lock.exists():
        versions = sorted(path.stem.removeprefix("sglang-") for path in LOCKS.glob("sglang-*.txt"))
        raise BundleError(f"SGLANG={bundle.sglang}: the versions that this project is tested with are {' and '.join(versions)}")
    if bundle.out.exists() and not bundle.out.is_dir():
        raise BundleError(f"BUNDLE={bundle.out}: is a file; name a new folder")
    if bundle.out.exists() and any(bundle.out.iterdir()):
        raise BundleError(f"BUNDLE={bundle.out}: is not empty; remove it, or name a new folder")


def _fetch(model: Model) -> FetchedModel:
    fetched = fetch_model(model)
    read_checkpoint(fetched.folder, fetched.settings)
    return fetched


def _download(pinned: list[str], target: Target, wheels: Path, say: Callable[[str], None]) -> None:
    say(f"downloading {len(pinned)} wheels for CPython {target.python} on {target.machine}")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("\n".join(pinned))
        requirements.flush()
        options = ("--quiet", "--no-deps", "--require-hashes", *target.pip_options())
        _run("pip", "download", *options, "--dest", str(wheels), "-r", requirements.name)


def _run(*command: str) -> None:
    if subprocess.run([sys.executable, "-m", *command], check=False).returncode:
        raise BundleError(f"{' '.join(command[:2])} failed; its message is above")
