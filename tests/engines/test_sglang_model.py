"""The packed encoder by itself, without a server, against transformers in float32."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("sglang", reason="needs the sglang extra")

import sglang
import torch
from safetensors.torch import load_file
from sglang.srt.plugins.hook_registry import HookRegistry
from torch.nn.functional import normalize
from transformers import AutoConfig, AutoModel, BertConfig

from launcher.engines.base import Batch
from launcher.engines.sglang.plugin import attention
from launcher.engines.sglang.plugin.hooks import (
    ADD_KEY_CHECK,
    EVENT_LOOP,
    LAUNCH_DETOKENIZER,
    MEET_OTHERS,
    PREPARE_ARGS,
    TESTED_SGLANG,
    register,
    untested_reason,
)
from launcher.engines.sglang.plugin.linear import ACTIVATIONS, Linear, PackedLinear, can_pack
from launcher.engines.sglang.plugin.models.bert import BertModel, checkpoint_name
from launcher.engines.sglang.plugin.segments import segments_of
from tests.support.checkpoints import write_checkpoint
from tests.unit.test_packaging import SGLANG

pytestmark = pytest.mark.sglang

CLS, SEP = 101, 102
LENGTHS = [16, 1, 512, 2, 33, 16, 3, 400, 100, 33, 511, 16]
# Wide enough to keep different texts apart, for which there is a test.
INITIALIZER = 0.2
POOLED = {"cls": lambda hidden: hidden[0], "mean": lambda hidden: hidden.mean(0), "last": lambda hidden: hidden[-1]}
BAR = {torch.float32: 0.9999, torch.float16: 0.999, torch.bfloat16: 0.999}


def texts() -> list[list[int]]:
    """From few words each: the mean over many different ones would be the same for every text."""
    rng = np.random.default_rng(7)
    made = [rng.choice(rng.integers(104, 21000, 6), length).tolist() for length in LENGTHS]
    for text in made:
        text[0] = CLS
        text[-1] = SEP
    # A boundary is where the lengths say, whatever the ids are.
    made[7][200] = CLS
    return made


class Model:
    """A checkpoint on disk, and what transformers makes of it."""

    def __init__(self, folder: Path, pooling: str) -> None:
        self.pooling = pooling
        self.config = AutoConfig.from_pretrained(folder)
        self.weights = load_file(folder / "model.safetensors")
        self._reference = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()

    def reference(self, inputs: list[list[int]]) -> torch.Tensor:
        with torch.no_grad():
            hidden = [self._reference(torch.tensor([text])).last_hidden_state[0] for text in inputs]
        return normalize(torch.stack([POOLED[self.pooling](rows) for rows in hidden]), dim=-1)

    def encoder(
        self,
        dtype: torch.dtype = torch.float32,
        weights: Mapping[str, torch.Tensor] | None = None,
        device: str = "cpu",
        pooling: str | None = None,
    ) -> BertModel:
        """Built as SGLang builds it: under a default precision and device, then loaded."""
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device):
                model = BertModel(config=self.config, quant_config=None, pooling=pooling or self.pooling)
        finally:
            torch.set_default_dtype(torch.float32)
        model.load_weights((self.weights if weights is None else weights).items())
        return model


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, Model]]:
    folder = tmp_path_factory.mktemp("models")

    @cache
    def model(pooling: str) -> Model:
        path = write_checkpoint(folder / pooling, pooling=pooling, initializer_range=INITIALIZER, seed=3)
        return Model(path, pooling)

    yield {pooling: model(pooling) for pooling in POOLED}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """An encoder takes as all threads what is set when it is built, and sets what it uses."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def batch_of(inputs: list[list[int]]) -> Batch:
    ids = np.concatenate([np.array(text, np.int32) for text in inputs])
    return Batch(ids, np.array([len(text) for text in inputs], np.int32))


def run(model: BertModel, inputs: list[list[int]]) -> torch.Tensor:
    return torch.from_numpy(model.encode(batch_of(inputs)))


def run_as_sglang(model: BertModel, inputs: list[list[int]]) -> torch.Tensor:
    """One SGLang batch, a request for each text."""
    flat = torch.tensor([token for text in inputs for token in text])
    forward_batch = SimpleNamespace(extend_seq_lens_cpu=[len(text) for text in inputs])
    rows: torch.Tensor = model(flat, torch.arange(len(flat)), forward_batch, get_embedding=True).embeddings
    return rows


def cosine(left: torch.Tensor, right: torch.Tensor) -> float:
    """The least of the cosines of unit rows."""
    return float((left * right).sum(-1).min())


@pytest.mark.parametrize("pooling", POOLED)
def test_the_texts_of_the_parity_test_are_far_apart(checkpoints: Mapping[str, Model], pooling: str) -> None:
    reference = checkpoints[pooling].reference(texts())
    others = ~torch.eye(len(reference), dtype=torch.bool)
    assert (reference @ reference.T)[others].max() < 0.95


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("dtype", BAR, ids=str)
@pytest.mark.parametrize("pooling", POOLED)
def test_vectors_equal_transformers_in_float32(
    checkpoints: Mapping[str, Model], pooling: str, dtype: torch.dtype, device: str
) -> None:
    model = checkpoints[pooling]
    encoder = model.encoder(dtype, device=device)
    # On a GPU all together are too many tokens for a CUDA graph, and each alone runs in the smallest that holds it.
    for inputs in (texts(), *([text] for text in texts())):
        rows = run(encoder, inputs)
        assert rows.dtype == torch.float32
        assert cosine(rows, model.reference(inputs)) >= BAR[dtype]
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(len(inputs)))


@pytest.mark.parametrize("pooling", POOLED)
def test_a_vector_is_the_same_alone_in_a_batch_and_by_sglangs_own_path(checkpoints: Mapping[str, Model], pooling: str) -> None:
    encoder, inputs = checkpoints[pooling].encoder(), texts()
    together = run(encoder, inputs)
    assert cosine(together, torch.cat([run(encoder, [text]) for text in inputs])) > 0.99999
    assert cosine(together, run_as_sglang(encoder, inputs)) > 0.99999


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pooling", ["cls", "last"])
def test_the_last_layer_gives_kept_tokens_what_it_gives_them_among_all(
    checkpoints: Mapping[str, Model], pooling: str, dtype: torch.dtype
) -> None:
    model, inputs = checkpoints[pooling], texts()
    whole = model.encoder(dtype, pooling="mean")
    segments = segments_of(batch_of(inputs), vocab_size=21128, max_tokens=512)
    with torch.inference_mode():
        ids, positions = torch.from_numpy(segments.ids), torch.from_numpy(segments.positions)
        hidden = whole.hidden_states(ids, positions, attention.grouped_attention(segments))
    assert len(hidden) == sum(LENGTHS)
    rows = [POOLED[pooling](hidden[segments.bounds[i] : segments.bounds[i + 1]].float()) for i in segments.rows]
    assert cosine(run(model.encoder(dtype), inputs), normalize(torch.stack(rows), dim=-1)) > 0.9999


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_packed_layer_computes_what_the_plain_one_does(name: str) -> None:
    plain = Linear(torch.randn(128, 512).bfloat16(), torch.randn(512).bfloat16())
    if not can_pack(plain.weight):
        pytest.skip("this CPU has no arithmetic in bfloat16")
    packed, activation = PackedLinear(plain), ACTIVATIONS[name]
    # Of another number of rows than the weights were packed for, and of one.
    for rows in (700, 1):
        x, residual = torch.randn(rows, 128).bfloat16(), torch.randn(rows, 512).bfloat16()
        sums = x.float() @ plain.transposed.float() + plain.bias.float()
        for got, exact in (
            (packed(x), sums),
            (packed.activated(x, activation), activation.apply(sums)),
            (packed.added(x, residual), sums + residual.float()),
        ):
            torch.testing.assert_close(got.float(), exact, rtol=2**-7, atol=0.01)


def test_few_tokens_are_computed_by_one_thread_and_many_by_all(checkpoints: Mapping[str, Model]) -> None:
    torch.set_num_threads(2)
    encoder = checkpoints["cls"].encoder()
    for inputs, threads in (([[CLS, SEP]], 1), ([[CLS] * 512] * 2, 2), ([[CLS, SEP]] * 2, 1)):
        run(encoder, inputs)
        assert torch.get_num_threads() == threads


BAD = pytest.mark.parametrize("bad", [[CLS, 21128, SEP], [CLS, -1], [CLS] * 513], ids=["too-large", "negative", "too-long"])


@BAD
def test_a_batch_with_a_bad_text_is_refused(checkpoints: Mapping[str, Model], bad: list[int]) -> None:
    with pytest.raises(ValueError, match=r"vocabulary of 21128|longer than the 512"):
        run(checkpoints["cls"].encoder(), [texts()[0], bad])


@BAD
def test_a_bad_request_on_sglangs_own_path_gets_no_vector_and_harms_no_other(
    checkpoints: Mapping[str, Model], bad: list[int]
) -> None:
    encoder, (first, second, *_) = checkpoints["cls"].encoder(), texts()
    before, nothing, after = run_as_sglang(encoder, [first, bad, second])
    assert nothing.isnan().all()
    assert cosine(torch.stack([before, after]), run(encoder, [first, second])) > 0.99999


def test_attention_runs_once_per_distinct_length_and_layer(
    checkpoints: Mapping[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def counted(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        calls.append(tuple(query.shape))
        return torch.nn.functional.scaled_dot_product_attention(query, key, value)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", counted)
    run(checkpoints["cls"].encoder(), [[CLS, 7, SEP]] * 40 + [[CLS, SEP]] * 20)
    # In the last layer, only the first token of each text asks.
    assert calls == [(20, 2, 2, 64), (40, 2, 3, 64), (20, 2, 1, 64), (40, 2, 1, 64)]


def test_a_checkpoint_of_a_masked_language_model_loads(checkpoints: Mapping[str, Model]) -> None:
    model = checkpoints["cls"]
    old = {f"bert.{name}": weight for name, weight in model.weights.items()}
    for name in [name for name in old if "LayerNorm" in name]:
        old[name.replace("weight", "gamma").replace("bias", "beta")] = old.pop(name)
    old["bert.embeddings.position_ids"] = torch.arange(512)[None]
    old["cls.predictions.bias"] = torch.zeros(21128)
    old["cls.seq_relationship.weight"] = torch.zeros(2, 128)
    rows = run(model.encoder(weights=old), texts())
    assert cosine(rows, model.reference(texts())) >= 0.9999


def test_only_a_leading_bert_is_taken_off() -> None:
    assert checkpoint_name("bert.encoder.layer.0.output.LayerNorm.gamma") == "encoder.layer.0.output.LayerNorm.weight"
    assert checkpoint_name("encoder.bert.beta.weight") == "encoder.bert.beta.weight"


@pytest.mark.parametrize("name", ["encoder.layer.1.attention.self.key.bias", "embeddings.LayerNorm.weight"])
def test_a_missing_weight_is_named(checkpoints: Mapping[str, Model], name: str) -> None:
    weights = {key: weight for key, weight in checkpoints["cls"].weights.items() if key != name}
    with pytest.raises(ValueError, match=f"lacks 1 weights.*{name}"):
        checkpoints["cls"].encoder(weights=weights)


def test_an_unknown_weight_is_named(checkpoints: Mapping[str, Model]) -> None:
    weights = {**checkpoints["cls"].weights, "encoder.layer.2.output.dense.bias": torch.zeros(128)}
    with pytest.raises(ValueError, match=r"encoder\.layer\.2\.output\.dense\.bias.*2 layers"):
        checkpoints["cls"].encoder(weights=weights)


def test_a_weight_of_another_shape_is_named(checkpoints: Mapping[str, Model]) -> None:
    # One row would be spread over all of them without a word.
    weights = {**checkpoints["cls"].weights, "embeddings.position_embeddings.weight": torch.zeros(1, 128)}
    with pytest.raises(ValueError, match=r"position_embeddings.*\(1, 128\).*\(512, 128\)"):
        checkpoints["cls"].encoder(weights=weights)


@pytest.mark.parametrize(
    ("key", "value"), [("hidden_act", "swish"), ("position_embedding_type", "relative_key_query")], ids=lambda x: str(x)
)
def test_an_encoder_of_another_kind_is_refused(checkpoints: Mapping[str, Model], key: str, value: str) -> None:
    config = BertConfig(**{key: value})
    with pytest.raises(ValueError, match=f"{key}.*{value}"):
        BertModel(config, pooling="cls")


def test_an_unknown_pooling_is_refused(checkpoints: Mapping[str, Model]) -> None:
    with pytest.raises(ValueError, match="max"):
        BertModel(checkpoints["cls"].config, pooling="max")


@pytest.mark.gpu
def test_on_a_gpu_small_batches_run_as_cuda_graphs_and_large_ones_do_not(
    checkpoints: Mapping[str, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = checkpoints["cls"].encoder(torch.float16, device="cuda")
    small, large = texts()[:1], texts()
    captured = run(encoder, small)

    def launched(*_: object) -> None:
        raise AssertionError("kernel by kernel")

    monkeypatch.setattr(encoder, "hidden_states", launched)
    torch.testing.assert_close(run(encoder, small), captured)
    with pytest.raises(AssertionError, match="kernel by kernel"):
        run(encoder, large)


def test_every_tested_sglang_can_be_bundled() -> None:
    assert TESTED_SGLANG == SGLANG


def test_an_untested_sglang_is_refused_by_name_unless_allowed() -> None:
    assert untested_reason(TESTED_SGLANG[-1], allowed=False) is None
    assert untested_reason("0.4.0", allowed=True) is None
    assert "SGLang 0.4.0 was not tested" in str(untested_reason("0.4.0", allowed=False))


@pytest.mark.parametrize(
    ("version", "batches", "child", "hooked"),
    [
        (TESTED_SGLANG[-1], "ipc:///run/worker-0", False, [PREPARE_ARGS, ADD_KEY_CHECK, LAUNCH_DETOKENIZER]),
        (TESTED_SGLANG[-1], "ipc:///run/worker-0", True, [MEET_OTHERS, EVENT_LOOP]),
        (TESTED_SGLANG[-1], None, False, []),
        ("0.4.0", None, False, []),
    ],
    ids=["ours-main-process", "ours-scheduler", "a-strangers-server", "a-strangers-server-of-another-version"],
)
def test_only_our_own_servers_are_hooked(
    monkeypatch: pytest.MonkeyPatch, version: str, batches: str | None, child: bool, hooked: list[str]
) -> None:
    registered = registrations(monkeypatch, version, batches)
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object() if child else None)
    register()
    assert [target for target, *_ in registered] == hooked


def test_our_own_server_ends_on_an_untested_sglang(monkeypatch: pytest.MonkeyPatch) -> None:
    registered = registrations(monkeypatch, "0.4.0", "ipc:///run/worker-0")
    with pytest.raises(SystemExit, match=r"SGLang 0\.4\.0 was not tested"):
        register()
    assert registered == []


def registrations(monkeypatch: pytest.MonkeyPatch, version: str, batches: str | None) -> list[tuple[object, ...]]:
    """Pretend to be a server of that version; the list fills with what gets hooked."""
    registered: list[tuple[object, ...]] = []
    monkeypatch.setattr(HookRegistry, "register", lambda *hook: registered.append(hook))
    monkeypatch.setattr(sglang, "__version__", version)
    if batches is None:
        monkeypatch.delenv("SGLEMBED_BATCHES", raising=False)
    else:
        monkeypatch.setenv("SGLEMBED_BATCHES", batches)
    return registered
