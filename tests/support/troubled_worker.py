"""Takes the place of a Python with SGLang in it, and is late or refuses texts once it is told so.

``Trouble`` makes the program that ``engine.sglang.python`` names, and tells it. As a device does, it computes one batch after
the other. Its vectors say nothing, but pass the self-test.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import msgspec
import zmq

from launcher.engines.messages import error_frames, read_batch, vector_frames
from launcher.errors import EngineError
from tests.support.noisy_worker import vectors_of


class Orders(msgspec.Struct, frozen=True):
    """``delay_s``: how long a batch takes. ``refused_tokens``: texts of so many tokens are refused, and none where it is 0."""

    delay_s: float = 0.0
    refused_tokens: int = 0


class Trouble:
    """``python`` is for the servers whose workers are to be in it, of which there may be several."""

    def __init__(self, folder: Path) -> None:
        self.python = folder / "python"
        self._file = folder / "orders.json"
        self.order(Orders())
        self.python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {__name__} "{self._file}"\n')
        self.python.chmod(0o755)

    @property
    def arguments(self) -> list[str]:
        """Of ``sgl-embed serve``."""
        settings = ("engine.sglang.device=cpu", f"engine.sglang.python={self.python}")
        return ["--engine", "sglang", *(part for setting in settings for part in ("--set", setting))]

    def order(self, orders: Orders) -> None:
        """Obeyed from the next batch on."""
        new = self._file.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(orders))
        new.replace(self._file)


def main(file: Path) -> None:
    socket = zmq.Context().socket(zmq.ROUTER)
    socket.bind(os.environ["SGLEMBED_BATCHES"])
    while True:
        asker, number, *frames = socket.recv_multipart()
        batch = read_batch(frames)
        orders = msgspec.json.decode(file.read_bytes(), type=Orders)
        if len(batch.lengths):
            time.sleep(orders.delay_s)
        if orders.refused_tokens in batch.lengths:
            socket.send_multipart([asker, *error_frames(number, EngineError("out of order"))])
        else:
            socket.send_multipart([asker, *vector_frames(number, vectors_of(batch))])


if __name__ == "__main__":
    # What follows is for the real one: python -m sglang.launch_server ...
    main(Path(sys.argv[1]))
