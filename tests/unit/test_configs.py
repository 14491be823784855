"""Each shipped configuration loads, and states only what it means to state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from launcher.config.load import load_config
from launcher.config.schema import Config

FOLDER = Path(__file__).parents[2] / "configs"
KUSTOMIZATION = FOLDER / "kustomization.yaml"
FILES = sorted(set(FOLDER.glob("*.yaml")) - {KUSTOMIZATION})
PRODUCTION = [file for file in FILES if file.name != "local.yaml"]
BGE = [file for file in FILES if "BAAI/bge" in file.read_text(encoding="utf-8")]
# From the model card of BAAI/bge-large-zh-v1.5.
BGE_QUERY_PROMPT = "为这个句子生成表示以用于检索相关文章："


def by_name(file: Path) -> str:
    return file.stem


def leaves(settings: dict[str, Any], *above: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in settings.items():
        if isinstance(value, dict):
            yield from leaves(value, *above, key)
        else:
            yield (*above, key), value


def value_at(config: msgspec.Struct, path: tuple[str, ...]) -> Any:
    value: Any = config
    for name in path:
        value = getattr(value, name)
    return value


def comment_above(text: str, key: str) -> str:
    """The comment lines directly above the only line that sets ``key``."""
    lines = text.splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.strip().startswith(f"{key}:")]
    comment: list[str] = []
    while at > 0 and lines[at - 1].strip().startswith("#"):
        at -= 1
        comment.insert(0, lines[at].strip("# "))
    return " ".join(comment)


def test_all_promised_files_are_there() -> None:
    assert {file.name for file in FILES} == {
        "local.yaml",
        "bge-large-zh-v1.5.yaml",
        "bge-large-zh-v1.5-multi-gpu.yaml",
        "bge-large-zh-v1.5-cpu.yaml",
        "bge-base-zh-v1.5.yaml",
        "bge-small-zh-v1.5.yaml",
        "gte-base-zh.yaml",
        "gte-large-zh.yaml",
    }


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_it_loads_and_names_its_model(file: Path) -> None:
    config = load_config(file)
    text = file.read_text(encoding="utf-8")
    assert f"id: {config.model.id}" in text
    if file in PRODUCTION:
        assert file.name.startswith(config.model.id.rpartition("/")[2])


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_each_key_is_explained_and_a_stated_default_says_so(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    config, default = load_config(file), Config()
    for path, _ in leaves(yaml.safe_load(text)):
        comment = comment_above(text, path[-1])
        assert comment or path == ("model", "id"), f"{'.'.join(path)} has no comment"
        is_default = value_at(config, path) == value_at(default, path)
        assert is_default == comment.startswith("The default"), f"{'.'.join(path)}: {comment}"


@pytest.mark.parametrize("file", PRODUCTION, ids=by_name)
def test_production_has_no_fallback_and_serves_other_machines(file: Path) -> None:
    config = load_config(file)
    assert config.model.fallback is None
    assert config.server.host == "0.0.0.0"
    assert "keys" in comment_above(file.read_text(encoding="utf-8"), "host")
    assert config.engine.name != "auto"


def test_local_stays_on_this_machine_and_falls_back() -> None:
    config = load_config(FOLDER / "local.yaml")
    assert (config.model.id, config.model.fallback) == ("BAAI/bge-small-zh-v1.5", "minilm")
    assert (config.engine.name, config.server.host, config.server.port) == ("openvino", "127.0.0.1", 30000)
    assert config.model.allow_pickle is False


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_the_query_prompt_is_the_model_cards(file: Path) -> None:
    prompts = load_config(file).model.prompts
    assert prompts.query == (BGE_QUERY_PROMPT if file in BGE else None)
    assert prompts.passage is None
    # A half-width colon looks the same and gives other vectors.
    assert BGE_QUERY_PROMPT.endswith("\uff1a")


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_pooling_and_sizes_are_left_to_the_checkpoint(file: Path) -> None:
    model = load_config(file).model
    assert (model.pooling, model.max_tokens, model.matryoshka_dimensions) == (None, None, None)
    assert model.aliases == ()


def test_engines_and_workers() -> None:
    engines = {file.stem: load_config(file).engine for file in FILES}
    on_cpu = {name for name, engine in engines.items() if engine.name == "openvino"}
    assert on_cpu == {"local", "bge-large-zh-v1.5-cpu", "bge-small-zh-v1.5"}
    for name, engine in engines.items():
        if name not in on_cpu:
            # "auto" would serve from the CPU where the GPU is missing.
            assert (engine.name, engine.sglang.device, engine.dtype) == ("sglang", "cuda", "float16")
            assert engine.workers == (0 if name.endswith("multi-gpu") else 1)


def test_a_cluster_gets_those_for_production() -> None:
    (generator,) = yaml.safe_load(KUSTOMIZATION.read_text(encoding="utf-8"))["configMapGenerator"]
    assert generator["files"] == [file.name for file in PRODUCTION]


@pytest.mark.parametrize("file", FILES, ids=by_name)
def test_lines_fit(file: Path) -> None:
    assert max(map(len, file.read_text(encoding="utf-8").splitlines())) <= 128
