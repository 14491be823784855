"""Small batches as CUDA graphs: launching the kernels of 24 layers one by one costs more than what they compute."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from launcher.engines.sglang.plugin.attention import Attend, varlen_attention
from launcher.engines.sglang.plugin.segments import Segments

# A batch runs in the smallest graph that holds it. Above the largest the GPU is busy enough to hide the launches.
TOKENS = (16, 32, 64, 128, 256, 512)
# A graph has room for one text per so many tokens, and for the padding as a text of its own.
TOKENS_PER_TEXT = 4
WARM_UPS = 2

# (ids [n_tokens], positions [n_tokens], attend) -> hidden states [n_tokens, dim]
Forward = Callable[[torch.Tensor, torch.Tensor, Attend], torch.Tensor]


class Graphs:
    """Captures ``forward`` once per size; what a graph reads and writes stays at its place in memory."""

    def __init__(self, forward: Forward, device: torch.device) -> None:
        pool = torch.cuda.graph_pool_handle()
        # The largest first: the smaller ones then find room in its memory.
        self._graphs = sorted((_Graph(forward, tokens, device, pool) for tokens in reversed(TOKENS)), key=lambda g: g.tokens)

    def run(self, segments: Segments) -> torch.Tensor | None:
        """Hidden states [n_tokens, dim], good until the next call; None where no graph is large enough."""
        tokens, texts = len(segments.ids), len(segments.lengths)
        graph = next((graph for graph in self._graphs if graph.tokens >= tokens and graph.texts > texts), None)
        return graph.run(segments) if graph else None


class _Graph:
    def __init__(self, forward: Forward, tokens: int, device: torch.device, pool: tuple[int, int]) -> None:
        self.tokens = tokens
        self.texts = tokens // TOKENS_PER_TEXT + 1
        # Ids, positions and bounds in one tensor, so that one copy brings them in.
        self._input = torch.from_numpy(self._laid_out(None)).to(device)
        ids, positions, bounds = self._input.split((tokens, tokens, self.texts + 1))
        attend = varlen_attention(bounds, tokens)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                forward(ids, positions, attend)
        torch.cuda.current_stream(device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
            self._hidden = forward(ids, positions, attend)

    def run(self, segments: Segments) -> torch.Tensor:
        self._input.copy_(torch.from_numpy(self._laid_out(segments)))
        self._graph.replay()
        return self._hidden[: len(segments.ids)]

    def _laid_out(self, segments: Segments | None) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        """The padding is one more text, and the texts after it are empty."""
        numbers = np.zeros(2 * self.tokens + self.texts + 1, np.int32)
        bounds = numbers[2 * self.tokens :]
        bounds[1:] = self.tokens
        if segments:
            count = len(segments.ids)
            numbers[:count] = segments.ids
            numbers[self.tokens : self.tokens + count] = segments.positions
            bounds[: len(segments.bounds)] = segments.bounds
        return numbers
