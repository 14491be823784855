import shutil
from pathlib import Path

import pytest

from launcher.config.load import load_config
from launcher.devices import visible_gpus
from launcher.engines.sglang.argv import worker_argv
from launcher.errors import ConfigError, EngineError, ModelError
from launcher.plan import choose_device, choose_dtype, choose_engine, describe, fingerprint, make_plan
from tests.support.evil import add_code


def plan_for(folder, *overrides):
    return make_plan(load_config(None, [f"model.id={folder}", "engine.name=openvino", "engine.dtype=float32", *overrides]))


@pytest.mark.parametrize(
    ("wanted", "gpus", "installed", "chosen"),
    [
        ("auto", ["0"], True, "sglang"),
        ("auto", ["0"], False, "openvino"),
        ("auto", [], True, "openvino"),
        ("sglang", [], True, "sglang"),
        ("openvino", ["0"], True, "openvino"),
    ],
)
def test_engine(wanted, gpus, installed, chosen):
    assert choose_engine(wanted, gpus, sglang_installed=installed) == chosen


def test_sglang_that_is_not_installed_says_how_to_get_it():
    with pytest.raises(EngineError, match="make setup-dev"):
        choose_engine("sglang", [], sglang_installed=False)


def test_device():
    assert choose_device("openvino", "auto", ["0"]) == "cpu"
    assert choose_device("sglang", "auto", ["0"]) == "cuda"
    assert choose_device("sglang", "auto", []) == "cpu"
    assert choose_device("sglang", "cpu", ["0"]) == "cpu"
    with pytest.raises(EngineError, match="no NVIDIA GPU is visible"):
        choose_device("sglang", "cuda", [])


def test_dtype_on_cuda():
    assert choose_dtype("auto", "cuda") == "float16"
    assert choose_dtype("bfloat16", "cuda") == "bfloat16"


@pytest.mark.parametrize(
    ("variable", "gpus"),
    [
        (None, ("0", "1", "2")),
        ("", ()),
        ("-1", ()),
        ("2, 0", ("2", "0")),
        ("1,7,0", ("1",)),
        ("GPU-aa", ("GPU-aa",)),
    ],
)
def test_visible_gpus_follow_cudas_rules(monkeypatch, variable, gpus):
    monkeypatch.setattr("launcher.devices._count_gpus", lambda: 3)
    assert visible_gpus({} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}) == gpus


def test_no_driver_means_no_gpu(monkeypatch):
    monkeypatch.setattr("launcher.devices._count_gpus", lambda: 0)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "0"}) == ()


def test_one_worker_per_gpu(monkeypatch, tiny_checkpoint):
    monkeypatch.setattr("launcher.plan.visible_gpus", lambda environment: ("0", "3"))
    config = [f"model.id={tiny_checkpoint}", "engine.name=sglang", "engine.dtype=float16"]
    assert [spec.gpu for spec in make_plan(load_config(None, config)).workers] == ["0", "3"]
    assert len(make_plan(load_config(None, [*config, "engine.workers=1"])).workers) == 1
    with pytest.raises(ConfigError, match=r"engine\.workers: 3 workers need 3 GPUs, but 2 are visible"):
        make_plan(load_config(None, [*config, "engine.workers=3"]))


def test_names(tiny_checkpoint):
    plan = plan_for(tiny_checkpoint, "model.aliases=[a/b]")
    assert (plan.name, plan.aliases) == ("tiny-zh", ("a/b",))
    assert plan_for(tiny_checkpoint, "model.name=mine").name == "mine"


def test_a_batch_must_hold_one_full_input(tiny_checkpoint):
    with pytest.raises(ConfigError, match=r"engine\.max_batch_tokens: 100 is less than one full input"):
        plan_for(tiny_checkpoint, "engine.max_batch_tokens=100")


def test_fingerprint_differs_where_vectors_may_not_be_compared(tiny_checkpoint, tiny_mean_checkpoint):
    fingerprints = {
        fingerprint(plan)
        for plan in (
            plan_for(tiny_checkpoint),
            plan_for(tiny_mean_checkpoint),
            plan_for(tiny_checkpoint, "model.prompts.query=查询："),
            plan_for(tiny_checkpoint, "model.pooling=mean"),
            plan_for(tiny_checkpoint, "model.max_tokens=64"),
            plan_for(tiny_checkpoint, "engine.openvino.weights=int8"),
        )
    }
    assert len(fingerprints) == 6
    assert fingerprint(plan_for(tiny_checkpoint)) == fingerprint(plan_for(tiny_checkpoint, "server.port=1", "model.name=other"))


def test_description_names_the_limits(tiny_checkpoint):
    described = describe(plan_for(tiny_checkpoint))
    assert described["model"]["dimensions"] == 128
    assert described["engine"]["workers"] == []
    assert described["limits"]["queue_tokens"] == 500_000
    assert described["gateway"] == {"processes": 1, "queue_tokens_each": 500_000}


def test_processes_share_the_queue_evenly(tiny_checkpoint):
    plan = plan_for(tiny_checkpoint, "server.processes=4", "queue.max_tokens=1000")
    assert describe(plan)["gateway"] == {"processes": 4, "queue_tokens_each": 250}
    assert plan_for(tiny_checkpoint, "server.processes=4", "queue.max_tokens=3").queue_tokens == 1


def test_int8_weights_are_shown(tiny_checkpoint):
    assert describe(plan_for(tiny_checkpoint))["engine"]["weights"] == "dtype"
    assert describe(plan_for(tiny_checkpoint, "engine.openvino.weights=int8"))["engine"]["weights"] == "int8"


@pytest.mark.parametrize("engine", ["openvino", "sglang"])
@pytest.mark.parametrize("extra_args", ["[]", "[--trust-remote-code]"])
def test_a_checkpoint_with_code_of_its_own_is_refused_and_the_code_not_run(tiny_checkpoint, tmp_path, engine, extra_args):
    folder = add_code(Path(shutil.copytree(tiny_checkpoint, tmp_path / "tiny-zh")), tmp_path / "code-ran")
    with pytest.raises(ModelError, match=r"config\.json: auto_map is .*custom\.Model"):
        plan_for(folder, f"engine.name={engine}", "engine.sglang.device=cpu", f"engine.sglang.extra_args={extra_args}")
    assert not (tmp_path / "code-ran").exists()


def test_sglang_is_told_to_run_such_code_only_by_the_operator(tiny_checkpoint):
    for extra_args in ([], ["--trust-remote-code"]):
        overrides = ["engine.name=sglang", "engine.sglang.device=cpu", f"engine.sglang.extra_args={extra_args}"]
        (worker,) = plan_for(tiny_checkpoint, *overrides).workers
        assert [argument for argument in worker_argv(worker, port=1) if "trust" in argument] == extra_args
