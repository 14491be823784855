"""Who may import whom: docs/architecture.md draws the floors, and this holds them."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

PACKAGE = "launcher"
ROOT = Path(__file__).parents[2] / PACKAGE

# Each may import those after it.
FLOORS = (
    "cli",
    "serve",
    "compare",
    "compose",
    "gateway",
    "embedding",
    "plan",
    "scheduling",
    "supervisor",
    "engines",
    "models",
    "autoscaling",
    "top",
    "config",
    "cache",
    "telemetry",
    "devices",
    "errors",
)
PLUGIN = "engines/sglang/plugin"
# What the plugin, which runs inside SGLang's processes, takes from this project.
PLUGIN_MAY_USE = (f"{PACKAGE}.engines.base", f"{PACKAGE}.engines.messages")
# OpenVINO takes 40 MB, which a gateway in front of SGLang has no use for.
CHOOSES_ENGINE = {"compose.py", "plan.py"}
# The hubs take long to import, and read their environment variables then: after the configuration has been applied. redis is
# an extra that may be missing, as OpenTelemetry and matplotlib are. pynvml is of no use to a server that was told to use the
# CPU.
IMPORTED_LATE = {"huggingface_hub", "modelscope_hub", "redis", "opentelemetry", "pynvml", "matplotlib"}


@dataclass(frozen=True)
class Import:
    """``module`` is dotted and absolute; for ``from a import b`` it is ``a.b``, whether b is a module or a name in one."""

    file: str
    line: int
    module: str
    in_function: bool

    @property
    def library(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{PACKAGE}/{self.file}:{self.line} imports {self.module}"


def imports_of(source: str, file: str) -> Iterator[Import]:
    """All imports of a file, those inside functions and ``if TYPE_CHECKING`` included."""

    def visit(node: ast.AST, in_function: bool) -> Iterator[Import]:
        match node:
            case ast.Import(names=names):
                yield from (Import(file, node.lineno, name.name, in_function) for name in names)
            case ast.ImportFrom(module=module, names=names, level=level):
                source_module = ".".join(part for part in (package_above(file, level), module) if part)
                yield from (Import(file, node.lineno, f"{source_module}.{name.name}", in_function) for name in names)
        deeper = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, deeper)

    return visit(ast.parse(source), False)


def package_above(file: str, level: int) -> str:
    """What the dots of a relative import stand for; nothing without dots."""
    return ".".join((PACKAGE, *Path(file).parts)[:-level]) if level else ""


def floor_of(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def files_behind(module: str) -> list[str]:
    """The files of this project that run when ``module`` is imported: its packages' and its own."""
    parts = module.split(".")[1:]
    steps = [ROOT.joinpath(*parts[:n]) for n in range(len(parts) + 1)]
    candidates = [path for step in steps for path in (step / "__init__.py", step.with_suffix(".py"))]
    return [path.relative_to(ROOT).as_posix() for path in candidates if path.is_file()]


def read_imports(file: str) -> list[Import]:
    return list(imports_of((ROOT / file).read_text(encoding="utf-8"), file))


def reachable_files(module: str) -> set[str]:
    """The files of this project that importing ``module`` runs, directly or through others."""
    found: set[str] = set()
    waiting = files_behind(module)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += [f for i in read_imports(file) if i.library == PACKAGE for f in files_behind(i.module)]
    return found


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    files = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))
    return [found for file in files for found in read_imports(file)]


@pytest.fixture(scope="module")
def own(imports: list[Import]) -> list[Import]:
    return [i for i in imports if i.library == PACKAGE and i.file != "__main__.py"]


def test_every_module_stands_on_a_floor() -> None:
    names = {floor_of(path.name) for path in ROOT.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert names - {"__init__", "__main__"} <= set(FLOORS)


def test_imports_point_down(own: list[Import]) -> None:
    def climbs(found: Import) -> bool:
        target = found.module.split(".")[1]
        return FLOORS.index(target) < FLOORS.index(floor_of(found.file))

    assert own
    assert [str(i) for i in own if climbs(i)] == []


def test_only_a_command_and_the_chosen_engine_are_imported_late(own: list[Import]) -> None:
    def is_engine(found: Import) -> bool:
        return found.file in CHOOSES_ENGINE and found.module.split(".")[1] in ("engines", "supervisor")

    assert [str(i) for i in own if i.in_function and i.file != "cli/__init__.py" and not is_engine(i)] == []


def test_openvino_stays_out_of_a_gateway_in_front_of_sglang() -> None:
    script = "import sys, launcher.serve, launcher.engines.sglang.engine; print('openvino' in sys.modules)"
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert imported.stdout == "False\n"


def test_libraries_are_imported_at_the_top(imports: list[Import]) -> None:
    elsewhere = [i for i in imports if i.in_function and i.file != "cli/__init__.py" and not i.file.startswith(PLUGIN)]
    assert [str(i) for i in elsewhere if i.library not in IMPORTED_LATE | {PACKAGE}] == []


@pytest.mark.parametrize("library", ["sglang", "torch", "transformers", "sentence_transformers"])
def test_only_the_plugin_imports_what_the_light_install_lacks(imports: list[Import], library: str) -> None:
    assert [str(i) for i in imports if i.library == library and not i.file.startswith(PLUGIN)] == []


def test_plugin_imports_only_the_messages_of_this_project(own: list[Import]) -> None:
    plugin = f"{PACKAGE}.{PLUGIN.replace('/', '.')}"
    ours = [i for i in own if i.file.startswith(PLUGIN) and not i.module.startswith(plugin)]
    assert ours
    assert [str(i) for i in ours if not i.module.startswith(PLUGIN_MAY_USE)] == []


def test_what_the_plugin_imports_needs_nothing_but_numpy() -> None:
    libraries = {i.library for module in PLUGIN_MAY_USE for file in reachable_files(module) for i in read_imports(file)}
    assert libraries - sys.stdlib_module_names == {PACKAGE, "numpy"}


@pytest.mark.parametrize("library", ["prometheus_client", "openvino", "pynvml", "zmq", "rich"])
def test_library_appears_on_one_floor(imports: list[Import], library: str) -> None:
    assert len({floor_of(i.file) for i in imports if i.library == library}) <= 1


@pytest.mark.parametrize(("library", "file"), [("redis", "cache/redis.py"), ("opentelemetry", "telemetry/otlp.py")])
def test_library_appears_in_no_other_file(imports: list[Import], library: str, file: str) -> None:
    assert {i.file for i in imports if i.library == library} == {file}


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import torch.nn
if TYPE_CHECKING:
    from launcher.cli import main
def late():
    from ..gateway import app
class C:
    async def method(self):
        import launcher.plan
"""
    found = [(i.module, i.in_function) for i in imports_of(source, "models/download.py")]
    assert found == [
        ("torch.nn", False),
        ("launcher.cli.main", False),
        ("launcher.gateway.app", True),
        ("launcher.plan", True),
    ]
