"""What a bundle holds follows from the machine that it is for; what cannot be bundled is refused before anything is fetched."""

from __future__ import annotations

import itertools
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import parse_wheel_filename

from deploy.bundle.build import Bundle, instructions
from deploy.bundle.target import Target, read_target
from launcher.config.schema import Model
from launcher.models.download import FetchedModel

ROOT = Path(__file__).parents[2]
NEWEST = "manylinux_2_34_x86_64"
LOCK = """# made by a tool
everywhere==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via sgl-embed
numpy==2.3.5 ; python_full_version < '3.13' \\
    --hash=sha256:cc
numpy==2.4.6 ; python_full_version >= '3.13' \\
    --hash=sha256:dd
only-elsewhere==1.0 ; sys_platform == 'win32' \\
    --hash=sha256:ee
on-arm==1.0 ; platform_machine == 'aarch64' \\
    --hash=sha256:ff
"""


def test_conditions_are_judged_by_the_machine_that_it_is_for() -> None:
    everywhere = "everywhere==1.0 --hash=sha256:aa --hash=sha256:bb"
    assert [*Target("3.12", 34, "x86_64").pinned(LOCK)] == [everywhere, "numpy==2.3.5 --hash=sha256:cc"]
    assert [*Target("3.13", 34, "aarch64").pinned(LOCK)] == [
        everywhere,
        "numpy==2.4.6 --hash=sha256:dd",
        "on-arm==1.0 --hash=sha256:ff",
    ]


@pytest.mark.parametrize("lock", sorted(path.name for path in (ROOT / "requirements").glob("*.txt")))
@pytest.mark.parametrize("python", ["3.11", "3.12"])
def test_each_package_is_pinned_once(lock: str, python: str) -> None:
    lines = [*Target(python, 34, "x86_64").pinned((ROOT / "requirements" / lock).read_text(encoding="utf-8"))]
    names = [Requirement(line.partition(" --hash")[0]).name for line in lines]
    assert len(set(names)) == len(names) > 0
    assert all("--hash=sha256:" in line for line in lines)


@pytest.mark.parametrize(
    ("wheel", "taken"),
    [
        ("a-1-py3-none-manylinux_2_34_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux2014_x86_64.manylinux_2_17_x86_64.whl", True),
        ("a-1-cp311-cp311-manylinux1_x86_64.whl", True),
        ("a-1-py3-none-manylinux_2_35_x86_64.whl", False),
        ("a-1-py3-none-manylinux2014_aarch64.whl", False),
    ],
)
def test_wheels_for_the_same_or_an_older_glibc_are_taken(wheel: str, taken: bool) -> None:
    options = read_target("3.11", NEWEST, None).pip_options()
    platforms = {value for option, value in itertools.pairwise(options) if option == "--platform"}
    assert any(tag.platform in platforms for tag in parse_wheel_filename(wheel)[3]) is taken


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sglang", "0.5.99"], "SGLANG=0.5.99: the versions that this project is tested with are 0.5.17 and 0.5.23"),
        (["--python-version", "3.10"], "PYTHON_VERSION=3.10: it must be one of 3.11 to 3.14"),
        (["--python-version", "python3"], "PYTHON_VERSION=python3: it must be one of 3.11 to 3.14"),
        (["--python-version", "3.011"], "PYTHON_VERSION=3.011: it must be one of 3.11 to 3.14"),
        (["--python-version", "3.99"], "PYTHON_VERSION=3.99: it must be one of 3.11 to 3.14"),
        (["--python-version", "3.13", "--sglang", "0.5.23"], "PYTHON_VERSION=3.13: SGLang runs on 3.11 and 3.12"),
        (["--platform", "linux_x86_64"], "PLATFORM=linux_x86_64: it must be manylinux_2_GLIBC_MACHINE"),
        (["--platform", "manylinux_2_3_x86_64"], "PLATFORM=manylinux_2_3_x86_64: it must be manylinux_2_GLIBC_MACHINE"),
        (["--set", "model.pooling=mean"], "--set model.pooling=mean: there is no model that it could be for"),
        (["--model", "a/b", "--set", "engine.dtype=float32"], "--set engine.dtype=float32: only model.KEY=VALUE has a place"),
        (["--model", "./nothing"], "model.id ./nothing: no such folder"),
        (["--model", "{tmp}/pickled"], "there is no model.safetensors, only pytorch_model.bin"),
        (["--out", "{tmp}/full"], "full: is not empty; remove it, or name a new folder"),
        (["--out", "{tmp}/full/file"], "file: is a file; name a new folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_bundled_is_refused(tmp_path: Path, tiny_checkpoint: Path, arguments: list[str], message: str) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    (tmp_path / "pickled").mkdir()
    for file in tiny_checkpoint.glob("*.json"):
        (tmp_path / "pickled" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "pickled/pytorch_model.bin").touch()
    usual = ["--python-version", "3.11", "--platform", NEWEST, "--out", str(tmp_path / "out")]
    wanted = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    command = [sys.executable, "-m", "deploy.bundle", *usual, *wanted]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("sglang", [None, "0.5.17", "0.5.23"])
def test_it_holds_what_an_image_needs_and_each_package_once(tmp_path: Path, sglang: str | None) -> None:
    pinned = Bundle(read_target("3.11", NEWEST, sglang), sglang, None, tmp_path).pinned()
    names = [Requirement(line.partition(" --hash")[0]).name for line in pinned]
    assert {"dumb-init", "redis", "openvino"} <= set(names)
    assert len(set(names)) == len(names)


def test_instructions_name_what_is_inside(tmp_path: Path) -> None:
    target = read_target("3.12", NEWEST, "0.5.17")
    model = FetchedModel(tmp_path, "bge-large-zh-v1.5", None, is_fallback=False, settings=Model())
    text = instructions(Bundle(target, "0.5.17", None, tmp_path), model)
    assert "--find-links wheels sgl-embed sglang==0.5.17\n" in text
    assert "python3.12 -m venv" in text
    assert "serve --engine sglang --model models/bge-large-zh-v1.5\n" in text


@pytest.mark.parametrize("is_fallback", [False, True])
def test_the_model_is_served_as_it_was_read_here(tmp_path: Path, is_fallback: bool) -> None:
    read = ("model.pooling=mean", "model.max_tokens=128", "model.name=a b", "model.prompts.query=为这个句子: ")
    fetched = ("model.revision=main", "model.hub.offline=true", "model.allow_pickle=true", "model.fallback=minilm")
    bundle = Bundle(read_target("3.12", NEWEST, None), None, None, tmp_path, (*fetched, *read))
    model = FetchedModel(tmp_path, "a b", None, is_fallback=is_fallback, settings=Model())
    commands = [
        shlex.split(line) for line in instructions(bundle, model).splitlines() if "sgl-embed " in line and "--model" in line
    ]
    assert len(commands) == 2
    for command in commands:
        options = [*itertools.pairwise(command)]
        assert ("--model", "models/a b") in options
        assert tuple(value for option, value in options if option == "--set") == (() if is_fallback else read)


def test_make_passes_its_variables_on() -> None:
    variables = ("SGLANG=0.5.17", "PYTHON_VERSION=3.12", "PLATFORM=manylinux_2_35_aarch64", "MODEL=/a model", "BUNDLE=/b")
    done = subprocess.run(
        ["make", "--dry-run", "bundle", *variables, "ARGS=--set model.allow_pickle=true"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (command,) = (line for line in done.stdout.replace("\\\n", "").splitlines() if "deploy.bundle" in line)
    options = {"--sglang": "0.5.17", "--python-version": "3.12", "--platform": "manylinux_2_35_aarch64", "--out": "/b"}
    words = shlex.split(command)
    assert options.items() <= dict(itertools.pairwise(words)).items()
    assert words[words.index("--model") + 1] == "/a model"
    assert words[-2:] == ["--set", "model.allow_pickle=true"]
