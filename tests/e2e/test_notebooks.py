"""The notebooks run to their end against a live server, and are committed without outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.support.server import RunningServer

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = ["01-validate-service.ipynb", "02-search-demo.ipynb"]


def read_notebook(name: str) -> nbformat.NotebookNode:
    notebook: nbformat.NotebookNode = nbformat.read(FOLDER / name, as_version=4)  # type: ignore[no-untyped-call]
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_every_notebook_is_tested() -> None:
    assert sorted(path.name for path in FOLDER.glob("*.ipynb")) == NOTEBOOKS


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_runs(name: str, minilm_server: RunningServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SGL_EMBED_BASE_URL", f"{minilm_server.base_url}/v1")
    monkeypatch.delenv("SGL_EMBED_API_KEY", raising=False)
    # The user's own IPython settings and start-up files stay out.
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    notebook = read_notebook(name)

    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()

    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no plot was drawn"
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_notebook_is_committed_bare(name: str) -> None:
    notebook = read_notebook(name)
    nbformat.validate(notebook)
    assert [cell.id for cell in code_cells(notebook) if cell.outputs or cell.execution_count is not None] == []
