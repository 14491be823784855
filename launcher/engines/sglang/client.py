"""The client of one SGLang worker."""

from __future__ import annotations

import base64
import binascii
import logging

import aiohttp
import numpy as np
import orjson

from launcher.engines.base import Batch, Vectors
from launcher.engines.sglang.packing import pack
from launcher.errors import EngineError, NotReady

log = logging.getLogger(__name__)

# Far above any batch; it only ends the wait for a worker that hangs.
BATCH_TIMEOUT_S = 300.0
PROBE_TIMEOUT_S = 5.0
# Below the worker's own (argv.KEEP_ALIVE_S).
IDLE_CONNECTION_S = 600.0
# As much of a worker's error as is worth a log line.
REASON_CHARACTERS = 500


class WorkerClient:
    """Speaks to the worker at ``url`` (such as http://127.0.0.1:31000); to be made inside a running event loop."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(keepalive_timeout=IDLE_CONNECTION_S),
            timeout=aiohttp.ClientTimeout(total=BATCH_TIMEOUT_S),
        )

    async def encode(self, batch: Batch) -> Vectors:
        """float32 [n_inputs, dimensions], as ``Engine.run`` does.

        Raises ``NotReady`` where nothing answers at the address, ``EngineError`` where the worker failed on the batch, hung,
        or sent something else than one finite vector per input.
        """
        body = orjson.dumps({"input_ids": pack(batch)})
        try:
            async with self._session.post(
                f"{self.url}/encode", data=body, headers={"Content-Type": "application/json"}
            ) as response:
                reply = await response.read()
        except TimeoutError as error:
            raise EngineError(f"the worker at {self.url} did not answer within {BATCH_TIMEOUT_S:g} s") from error
        except aiohttp.ClientError as error:
            log.error("the worker at %s is gone: %s", self.url, error)
            raise NotReady("the worker is gone") from error
        if response.status != 200:
            raise EngineError(f"the worker at {self.url} answered {response.status}: {_excerpt(reply)}")
        return decode_reply(reply, len(batch.lengths))

    async def ready(self) -> bool:
        """Whether the worker has loaded its model and accepts requests."""
        timeout = aiohttp.ClientTimeout(total=PROBE_TIMEOUT_S)
        try:
            async with self._session.get(f"{self.url}/model_info", timeout=timeout) as response:
                return response.status == 200
        except (aiohttp.ClientError, TimeoutError):
            return False

    async def close(self) -> None:
        await self._session.close()


def decode_reply(reply: bytes, inputs: int) -> Vectors:
    """The vectors in ``{"embedding": "<base64 of little-endian float32>"}``. Raises ``EngineError``."""
    try:
        numbers = np.frombuffer(base64.b64decode(orjson.loads(reply)["embedding"], validate=True), "<f4")
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise EngineError(f"the worker's answer is not packed vectors: {_excerpt(reply)}") from error
    if not len(numbers):
        raise EngineError("the worker refused the batch: an id outside the vocabulary, or an input longer than the model takes")
    if len(numbers) % inputs:
        raise EngineError(f"the worker sent {len(numbers)} numbers for {inputs} inputs")
    if not np.isfinite(numbers).all():
        raise EngineError("the worker sent a vector that is not finite")
    return numbers.reshape(inputs, -1)


def _excerpt(reply: bytes) -> str:
    return reply[:REASON_CHARACTERS].decode("utf-8", "replace")
