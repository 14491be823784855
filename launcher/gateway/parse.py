"""Bodies become requests without holding up the event loop for long."""

from __future__ import annotations

import asyncio

from launcher.embedding.service import Inputs
from launcher.gateway.schemas import Body, parse_body, parse_input

# Parsed in less than two milliseconds.
SMALL_BYTES = 1 << 18
# What came in meanwhile, such as a probe, is answered then.
PAUSE_S = 0.001


class Parser:
    """Parses small bodies at once, and large ones one at a time, with a pause after each step.

    A step holds Python's lock all the while, so that a thread would hold up the event loop as much.
    """

    def __init__(self, *, max_inputs: int, max_tokens: int) -> None:
        self._max_inputs = max_inputs
        self._max_tokens = max_tokens
        self._large = asyncio.Lock()

    async def parse(self, body: bytes, schema: type[Body]) -> tuple[Body, Inputs]:
        """The request and its inputs. Raises ``InvalidRequest``."""
        if len(body) <= SMALL_BYTES:
            request = parse_body(body, schema)
            return request, parse_input(request.input, self._max_inputs, self._max_tokens)
        async with self._large:
            request = parse_body(body, schema)
            await asyncio.sleep(PAUSE_S)
            inputs = parse_input(request.input, self._max_inputs, self._max_tokens)
            await asyncio.sleep(PAUSE_S)
            return request, inputs
