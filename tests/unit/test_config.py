from pathlib import Path

import pytest

from launcher.config.changes import changed_keys
from launcher.config.load import load_config
from launcher.config.schema import Config
from launcher.errors import ConfigError


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_need_no_file():
    assert load_config() == Config()
    assert load_config().server.port == 30000


def test_file_overrides_defaults_and_set_overrides_the_file(tmp_path):
    path = write(tmp_path, "server: {port: 1, host: 0.0.0.0}\nmodel: {id: a/b}\n")
    config = load_config(path, ["server.port=2", "engine.dtype=bfloat16", "model.aliases=[x, y]"])
    assert (config.server.port, config.server.host, config.engine.dtype) == (2, "0.0.0.0", "bfloat16")
    assert config.model.aliases == ("x", "y")


def test_empty_file_and_empty_section(tmp_path):
    assert load_config(write(tmp_path, "")) == Config()
    assert load_config(write(tmp_path, "# nothing\n")) == Config()


def test_an_empty_section_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"server: expected a section"):
        load_config(write(tmp_path, "server:\n"))
    with pytest.raises(ConfigError, match=r"^server: expected a section"):
        load_config(None, ["server=null"])


def test_the_place_of_a_mistake_is_named(tmp_path):
    path = write(tmp_path, "server: {port: 1}")
    with pytest.raises(ConfigError, match=r"^server\.prot: unknown key"):
        load_config(path, ["server.prot=2"])
    path = write(tmp_path, "server: {prot: 1}")
    with pytest.raises(ConfigError, match=r"config\.yaml: server\.prot: unknown key"):
        load_config(path, ["server.port=2"])


def test_configuration_is_immutable():
    with pytest.raises(AttributeError):
        load_config().server.port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gateway: {}", r"config\.yaml: gateway: unknown key, known keys: model, engine"),
        ("server: {prot: 1}", r"config\.yaml: server\.prot: unknown key, did you mean port\?"),
        ("engine: {openvino: {treads: 1}}", r"engine\.openvino\.treads: unknown key, did you mean threads\?"),
        ("server: {processes: 0}", r"config\.yaml: server\.processes: expected `int` >= 1"),
        ("server: {processes: -2}", r"config\.yaml: server\.processes: expected `int` >= 1"),
        ("server: {processes: many}", r"config\.yaml: server\.processes: expected `int`, got `str`"),
        ("server: {port: high}", r"config\.yaml: server\.port: expected `int`, got `str`"),
        ("server: {port: 70000}", r"server\.port: expected `int` <= 65535"),
        ("engine: {dtype: float8}", r"engine\.dtype: invalid enum value 'float8', expected auto or float32 or"),
        ("model: bge", r"model: expected a section"),
        ("- 1", r"expected sections"),
        ("a: \x07\n", r"not valid YAML"),
        ("? [1, 2]\n: 3\n", r"not valid YAML: found unhashable key"),
        ("model: {id: a\n", r"not valid YAML.*line 2"),
        ("server: {port: 1}\nserver: {port: 2}\n", r"the key 'server' stands twice \(line 2\)"),
    ],
)
def test_mistakes_name_the_key(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_yaml_merge_keys_are_no_repeated_keys(tmp_path):
    text = "server: &one {port: 1}\nengine:\n  <<: {dtype: float32}\n  dtype: bfloat16\n"
    assert load_config(write(tmp_path, text)).engine.dtype == "bfloat16"


def test_a_missing_file_and_a_binary_file(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: No such file"):
        load_config(tmp_path / "nowhere.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a UTF-8 text file"):
        load_config(binary)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("server.port", "expected key=value"),
        ("=1", "expected key=value"),
        ("server.port.deep=1", "unknown key|single value|expected"),
        ("server.prot=1", r"server\.prot: unknown key, did you mean port\?"),
        ("model.id={", "is not a YAML value"),
    ],
)
def test_mistakes_in_set(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, [override])


def test_changed_keys_are_named():
    before = load_config(None, ["log.level=debug"])
    after = load_config(None, ["server.cors.allow_origins=[https://a.example]", "model.aliases=[x]", "log.level=info"])
    assert list(changed_keys(before, after)) == ["model.aliases", "server.cors.allow_origins", "log.level"]
    assert list(changed_keys(before, before)) == []
