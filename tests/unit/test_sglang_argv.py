"""One test per rule from a worker's facts to its command line and environment."""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from launcher.engines.sglang.argv import WorkerSpec, worker_argv
from launcher.engines.sglang.argv import worker_env as worker_env_at

CPU = WorkerSpec(model_folder=Path("/models/bge"), dtype="float32", device="cpu", pooling="cls")
NAME = "worker 0"
BATCHES = "ipc:///run/worker-0"
KEY = "sk-of-this-start"
COUNTS = Path("/run/worker 0.counts")
GPU = replace(CPU, dtype="float16", device="cuda", gpu="1")


def value(spec: WorkerSpec, flag: str) -> str:
    argv = worker_argv(spec, port=31000)
    assert argv.count(flag) == 1
    return argv[argv.index(flag) + 1]


def worker_env(spec: WorkerSpec) -> dict[str, str]:
    return worker_env_at(spec, name=NAME, batches=BATCHES, key=KEY, counts=COUNTS)


def test_it_runs_sglangs_server_with_this_python_unless_another_is_named() -> None:
    assert worker_argv(CPU, port=1)[:3] == [sys.executable, "-m", "sglang.launch_server"]
    assert worker_argv(replace(CPU, python="/opt/sglang/bin/python"), port=1)[0] == "/opt/sglang/bin/python"


def test_it_listens_on_loopback_only() -> None:
    assert (value(CPU, "--host"), value(CPU, "--port")) == ("127.0.0.1", "31000")


def test_the_model_is_the_local_folder_and_nothing_is_fetched() -> None:
    assert value(CPU, "--model-path") == "/models/bge"
    assert worker_env(CPU)["HF_HUB_OFFLINE"] == "1"


def test_the_model_answers_with_embeddings() -> None:
    assert "--is-embedding" in worker_argv(CPU, port=1)


def test_no_text_is_ever_cut_in_two() -> None:
    # SGLang's defaults here give wrong vectors without a word.
    assert "--disable-radix-cache" in worker_argv(CPU, port=1)
    assert value(CPU, "--chunked-prefill-size") == "-1"


def test_sglang_counts_only_when_asked_to() -> None:
    counting = replace(CPU, metrics=True)
    assert "--enable-metrics" in worker_argv(counting, port=1)
    assert worker_env(counting)["PROMETHEUS_MULTIPROC_DIR"] == str(COUNTS)
    assert "--enable-metrics" not in worker_argv(CPU, port=1)
    assert "PROMETHEUS_MULTIPROC_DIR" not in worker_env(CPU)


def test_ids_are_sent_so_no_tokenizer_is_loaded() -> None:
    assert "--skip-tokenizer-init" in worker_argv(CPU, port=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_precision_is_explicit(dtype: str) -> None:
    assert value(replace(CPU, dtype=dtype), "--dtype") == dtype  # type: ignore[arg-type]


def test_the_device_is_explicit() -> None:
    assert (value(CPU, "--device"), value(GPU, "--device")) == ("cpu", "cuda")


def test_a_worker_sees_its_own_gpu_and_a_cpu_worker_none() -> None:
    assert (worker_env(GPU)["CUDA_VISIBLE_DEVICES"], worker_env(CPU)["CUDA_VISIBLE_DEVICES"]) == ("1", "")


def test_the_memory_share_is_explicit() -> None:
    # With chunking off, the one SGLang derives on a CPU is negative, and it dies.
    assert value(replace(GPU, mem_fraction=0.8), "--mem-fraction-static") == "0.8"


def test_the_kv_pool_is_bounded() -> None:
    assert value(CPU, "--max-total-tokens") == "8192"


def test_the_plugin_is_told_its_name_and_where_batches_come_in() -> None:
    env = worker_env(CPU)
    assert (env["SGLEMBED_NAME"], env["SGLEMBED_BATCHES"]) == (NAME, BATCHES)


def test_the_plugin_is_told_the_key_where_other_users_cannot_see_it() -> None:
    assert worker_env(CPU)["SGLEMBED_KEY"] == KEY
    assert not [argument for argument in worker_argv(CPU, port=1) if "key" in argument and argument.startswith("--api")]


def test_torch_listens_on_loopback_only() -> None:
    assert worker_env(CPU)["GLOO_SOCKET_IFNAME"] == worker_env(GPU)["GLOO_SOCKET_IFNAME"] == "lo"


def test_threads_of_a_cpu_worker_do_not_spin_for_each_other() -> None:
    assert worker_env(CPU)["OMP_WAIT_POLICY"] == "PASSIVE"
    assert "OMP_WAIT_POLICY" not in worker_env(GPU)


def test_a_cpu_worker_keeps_memory_between_the_steps_of_a_batch() -> None:
    assert int(worker_env(CPU)["MALLOC_MMAP_THRESHOLD_"]) < int(worker_env(CPU)["MALLOC_TRIM_THRESHOLD_"])
    assert "MALLOC_TRIM_THRESHOLD_" not in worker_env(GPU)


@pytest.mark.parametrize("spec", [CPU, GPU], ids=["cpu", "cuda"])
def test_sglang_prepares_no_attention_and_captures_no_graphs(spec: WorkerSpec) -> None:
    assert value(spec, "--attention-backend") == "torch_native"
    assert value(spec, "--cuda-graph-backend-prefill") == value(spec, "--cuda-graph-backend-decode") == "disabled"


def test_sglang_sees_a_model_whose_kv_pool_is_small() -> None:
    overrides = json.loads(value(CPU, "--json-model-override-args"))
    assert (overrides["num_key_value_heads"], overrides["head_dim"]) == (1, 8)


def test_a_worker_on_a_cpu_imports_no_kernels_for_cuda() -> None:
    path = worker_env(replace(CPU, python_path="/opt/a"))["PYTHONPATH"]
    first, rest = path.split(os.pathsep)
    assert rest == "/opt/a"
    assert {entry.name for entry in Path(first).iterdir()} >= {"flashinfer", "cutlass"}
    assert "PYTHONPATH" not in worker_env(GPU)
    assert os.pathsep not in worker_env(CPU)["PYTHONPATH"]


def test_the_encoder_takes_the_place_of_every_bert_architecture() -> None:
    assert json.loads(value(CPU, "--json-model-override-args"))["architectures"] == ["BertModel"]
    assert worker_env(CPU)["SGLANG_EXTERNAL_MODEL_PACKAGE"] == "launcher.engines.sglang.plugin.models"


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_the_plugin_is_told_the_pooling(pooling: str) -> None:
    assert worker_env(replace(CPU, pooling=pooling))["SGLEMBED_POOLING"] == pooling  # type: ignore[arg-type]


def test_an_untested_sglang_is_allowed_only_where_asked_for() -> None:
    assert "SGLEMBED_ALLOW_UNTESTED" not in worker_env(CPU)
    assert worker_env(replace(CPU, allow_untested_version=True))["SGLEMBED_ALLOW_UNTESTED"] == "1"


def test_extra_arguments_come_last_so_that_they_win() -> None:
    argv = worker_argv(replace(CPU, extra_args=("--log-level", "info")), port=1)
    assert argv[-2:] == ["--log-level", "info"]


def test_compiled_modules_are_kept_for_the_next_start() -> None:
    assert worker_env(CPU)["PYTHONDONTWRITEBYTECODE"] == ""


def test_none_of_our_variables_starts_with_what_sglang_renames() -> None:
    env = worker_env(replace(CPU, allow_untested_version=True))
    assert not [name for name in env if name.startswith("SGL_")]
