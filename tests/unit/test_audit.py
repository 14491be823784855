"""What make audit makes of pip-audit's answers; the program is a stand-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from deploy import audit

CLEAN = {"dependencies": [{"name": "uv", "version": "1.0", "vulns": []}]}
VULNERABLE = {
    "dependencies": [
        {"name": "uv", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1", "2.0"]}]},
        {"name": "torch", "version": "2.0", "vulns": [{"id": "GHSA-2", "fix_versions": []}]},
        {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1.0)"},
    ]
}
UNKNOWN = {"dependencies": [{"name": "uv", "skip_reason": "Dependency not found on PyPI and could not be audited: uv (1.0)"}]}
OFFLINE = "Traceback (most recent call last):\n  ...\nrequests.exceptions.ConnectionError: Failed to resolve 'list.example'"


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """Takes pip-audit's place: writes ``report`` if there is one, and says what is in ``stderr``."""
    path = tmp_path / "pip-audit"
    path.write_text(f"""#!{sys.executable}
import sys
from pathlib import Path
folder = Path(__file__).parent
with open(folder / "asked", "a") as asked:
    print(sys.argv[sys.argv.index("--requirement") + 1], file=asked)
if (folder / "report").exists():
    Path(sys.argv[sys.argv.index("--output") + 1]).write_text((folder / "report").read_text())
if (folder / "stderr").exists():
    sys.exit((folder / "stderr").read_text())
""")
    path.chmod(0o755)
    return path


def asked(program: Path) -> list[str]:
    return [Path(line).name for line in (program.parent / "asked").read_text().splitlines()]


def test_all_files_are_looked_up(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program.parent / "report").write_text(json.dumps(CLEAN))
    assert audit.main([str(program)]) == 0
    assert sorted(asked(program)) == sorted(path.name for path in (audit.ROOT / "requirements").glob("*.txt"))
    assert "audit: light.txt: 1 looked up, 0 listed as vulnerable\n" in capsys.readouterr().out


def test_what_is_listed_is_named_and_fails(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program.parent / "report").write_text(json.dumps(VULNERABLE))
    (program.parent / "stderr").write_text("Found 2 known vulnerabilities in 2 packages")
    assert audit.main([str(program)]) == 1
    said = capsys.readouterr().out
    assert (
        "  uv 1.0: PYSEC-1, fixed in 1.1, 2.0\n  torch 2.0: GHSA-2, fixed in no version yet\n  not in the list: ours\n" in said
    )
    assert said.endswith("audit: FAILED\n")


@pytest.mark.parametrize(("report", "stderr"), [(None, OFFLINE), (UNKNOWN, "")])
def test_where_the_list_cannot_be_asked_that_is_said_and_nothing_fails(
    program: Path, capsys: pytest.CaptureFixture[str], report: object, stderr: str
) -> None:
    if report:
        (program.parent / "report").write_text(json.dumps(report))
    (program.parent / "stderr").write_text(stderr)
    assert audit.main([str(program)]) == 0
    said = capsys.readouterr().out
    assert said.startswith("audit: SKIPPED, nothing was checked: the list of known vulnerabilities cannot be asked: ")
    assert "passed" not in said
    assert len(asked(program)) == 1


def test_any_other_end_is_a_failure(program: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program.parent / "stderr").write_text("ERROR:pip_audit._cli:requirements/light.txt: no hash for 'uv'")
    assert audit.main([str(program)]) == 2
    assert "no hash for 'uv'" in capsys.readouterr().out
