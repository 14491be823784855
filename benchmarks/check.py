"""Whether a contender's replies are right, before its speed is of interest."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.bodies import Bodies
from benchmarks.server import Server, vectors_in
from benchmarks.target import ContenderFailed

# bfloat16 and float16 cost some; another text's vector is far below.
MIN_COSINE = 0.99
CHECKED_BODIES = 4

Vector = NDArray[np.float64]


def check_replies(server: Server, bodies: Bodies, reference: Mapping[str, Vector]) -> float:
    """The worst cosine of a few replies' vectors with ``reference``. Raises ``ContenderFailed`` below ``MIN_COSINE``."""
    worst = 1.0
    for index in checked_indices(bodies):
        texts = bodies.texts[index]
        vectors = np.array(vectors_in(server.post(bodies.body(index))), np.float64)
        if len(vectors) != len(texts):
            raise ContenderFailed(f"{len(vectors)} vectors for {len(texts)} texts")
        for text, vector in zip(texts, vectors, strict=True):
            worst = min(worst, float(vector @ reference[text] / np.linalg.norm(vector) / np.linalg.norm(reference[text])))
    if not worst >= MIN_COSINE:
        raise ContenderFailed(f"its vectors are wrong: cosine {worst:.3f} with the reference")
    return worst


def checked_indices(bodies: Bodies) -> list[int]:
    return list(range(0, len(bodies.texts), max(len(bodies.texts) // CHECKED_BODIES, 1)))[:CHECKED_BODIES]


def reference_vectors(folder: Path, several: Sequence[Bodies]) -> dict[str, Vector]:
    """Vectors of all texts that ``check_replies`` will ask for, from our OpenVINO encoder in float32.

    The tests hold that one to sentence-transformers. It runs in a process of its own, which gives its memory back.
    """
    texts = sorted({text for bodies in several for index in checked_indices(bodies) for text in bodies.texts[index]})
    if not texts:
        return {}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.without_http", str(folder), "float32", "vectors"],
        input=json.dumps(texts).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(zip(texts, np.load(io.BytesIO(done.stdout)).astype(np.float64), strict=True))
