"""A BERT encoder as an OpenVINO graph, built from the numbers of ``config.json`` and the tensors of the checkpoint.

Devlin et al. 2018, https://arxiv.org/abs/1810.04805; tensors under the names that ``transformers`` gives them.

All work on single tokens runs on a flat [tokens, hidden_size], only attention sees rows. OpenVINO builds and keeps kernels
for each shape it meets: on [batch, length] every batch is a new one (0.2 MB and 5 ms each in a 2-layer model), while few
different token counts occur.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import openvino as ov
from openvino import opset15 as op

from launcher.models.checkpoint import BertShape

ACTIVATIONS: Mapping[str, Callable[[ov.Node], ov.Node]] = {
    "gelu": lambda x: op.gelu(x, "erf"),
    "gelu_new": lambda x: op.gelu(x, "tanh"),
    "gelu_pytorch_tanh": lambda x: op.gelu(x, "tanh"),
    "relu": op.relu,
}
# Added to the score of a pair of tokens that must not see each other; its exponential is 0 in every precision.
HIDDEN_PAIR = -1e9


class Weights(Protocol):
    def float32(self, name: str, *shape: int) -> ov.Node: ...

    def table(self, name: str, rows: int, width: int) -> ov.Node:
        """To take rows from; float32 or bfloat16."""
        ...

    def matrix(self, name: str, outputs: int, inputs: int) -> ov.Node:
        """Of a linear layer; float32 too, whatever it is stored as."""
        ...


def build_bert(shape: BertShape, weights: Weights, *, keep_all: bool, states: ov.Type = ov.Type.f32) -> ov.Model:
    """The last hidden state, ``states`` [rows * width, hidden_size], of inputs laid into rows of equal width.

    Parameters, all int32: ``ids`` and ``positions`` [rows * width]; ``segments`` [rows, width], where tokens see each
    other if they stand in the same row and have the same number. Unless ``keep_all``, also ``kept`` [n]: the places in the
    flattened rows whose states are wanted, ``states`` [n, hidden_size]; the last layer does without the others from its
    attention on, where three quarters of its work lie. Raises ``ModelError`` where the weights lack a tensor.

    OpenVINO keeps everything between the last matrix product and a float32 result in float32, whatever precision it is told;
    with residual connections that is every sum and every norm. Only a bfloat16 result has them in bfloat16.
    """
    return _Bert(shape, weights).build(keep_all, states)


class _Bert:
    def __init__(self, shape: BertShape, weights: Weights) -> None:
        self._shape = shape
        self._weights = weights
        self._activation = ACTIVATIONS[shape.hidden_act]

    def build(self, keep_all: bool, states: ov.Type) -> ov.Model:
        ids = op.parameter([-1], ov.Type.i32, name="ids")
        positions = op.parameter([-1], ov.Type.i32, name="positions")
        segments = op.parameter([-1, -1], ov.Type.i32, name="segments")
        bias = self._attention_bias(segments)
        heads, width = self._shape.num_attention_heads, self._shape.hidden_size
        rows_of_heads = op.concat([op.shape_of(segments, "i32"), _ints(heads, width // heads)], 0)

        kept = [] if keep_all else [op.parameter([-1], ov.Type.i32, name="kept")]
        hidden = self._embed(ids, positions)
        last = self._shape.num_hidden_layers - 1
        for i in range(last + 1):
            hidden = self._layer(f"encoder.layer.{i}", hidden, rows_of_heads, bias, kept if i == last else [])
        return ov.Model([op.convert(hidden, states)], [ids, positions, segments, *kept], "bert")

    def _attention_bias(self, segments: ov.Node) -> ov.Node:
        same = op.equal(op.unsqueeze(segments, _ints(1, 3)), op.unsqueeze(segments, _ints(1, 2)))
        return op.select(same, op.constant(np.float32(0)), op.constant(np.float32(HIDDEN_PAIR)))

    def _embed(self, ids: ov.Node, positions: ov.Node) -> ov.Node:
        shape = self._shape
        word_table = self._weights.table("embeddings.word_embeddings.weight", shape.vocab_size, shape.hidden_size)
        words = op.convert(op.gather(word_table, ids, _int(0)), "f32")
        places = op.gather(self._vectors("position", shape.max_position_embeddings), positions, _int(0))
        # Every token is of type 0: types tell two texts of a pair apart, and an input is one text.
        kind = op.gather(self._vectors("token_type", shape.type_vocab_size), _ints(0), _int(0))
        embedded = op.add(op.add(words, kind), places)
        return self._norm("embeddings", embedded)

    def _layer(self, name: str, hidden: ov.Node, rows_of_heads: ov.Node, bias: ov.Node, kept: Sequence[ov.Node]) -> ov.Node:
        size, inner = self._shape.hidden_size, self._shape.intermediate_size
        query, key, value = (
            op.transpose(
                op.reshape(self._linear(f"{name}.attention.self.{part}", hidden, size, size), rows_of_heads, False),
                _ints(0, 2, 1, 3),
            )
            for part in ("query", "key", "value")
        )
        mixed = op.transpose(op.scaled_dot_product_attention(query, key, value, bias), _ints(0, 2, 1, 3))
        mixed = op.reshape(mixed, _ints(-1, size), False)
        for places in kept:
            mixed, hidden = op.gather(mixed, places, _int(0)), op.gather(hidden, places, _int(0))
        attended = self._linear(f"{name}.attention.output.dense", mixed, size, size)
        hidden = self._norm(f"{name}.attention.output", op.add(hidden, attended))
        widened = self._activation(self._linear(f"{name}.intermediate.dense", hidden, size, inner))
        return self._norm(f"{name}.output", op.add(hidden, self._linear(f"{name}.output.dense", widened, inner, size)))

    def _vectors(self, name: str, rows: int) -> ov.Node:
        return self._weights.float32(f"embeddings.{name}_embeddings.weight", rows, self._shape.hidden_size)

    def _linear(self, name: str, x: ov.Node, inputs: int, outputs: int) -> ov.Node:
        weight = self._weights.matrix(f"{name}.weight", outputs, inputs)
        return op.add(op.matmul(x, weight, False, True), self._weights.float32(f"{name}.bias", outputs))

    def _norm(self, name: str, x: ov.Node) -> ov.Node:
        size = self._shape.hidden_size
        scale = self._weights.float32(f"{name}.LayerNorm.weight", size)
        shift = self._weights.float32(f"{name}.LayerNorm.bias", size)
        normal = op.mvn(x, _ints(-1), True, self._shape.layer_norm_eps, "inside_sqrt")
        return op.add(op.multiply(normal, scale), shift)


def _int(value: int) -> ov.Node:
    return op.constant(np.int32(value))


def _ints(*values: int) -> ov.Node:
    return op.constant(np.array(values, np.int32))
