"""What the parent of several gateway processes decides by itself."""

from __future__ import annotations

import asyncio

import pytest

from launcher.serve.parent import answer, gateway_slots


@pytest.mark.parametrize(
    ("engine_slots", "processes", "each"),
    [(2, 2, 2), (2, 8, 2), (16, 4, 4), (16, 3, 6)],
    ids=["one-worker", "many-gateways", "eight-workers", "rounded-up"],
)
def test_the_gateways_can_keep_the_engine_busy_together(engine_slots: int, processes: int, each: int) -> None:
    assert gateway_slots(engine_slots, processes) == each


async def test_nothing_is_answered_before_the_engine_passed_its_self_test() -> None:
    class Shared:
        running = False

        async def run(self) -> None:
            self.running = True

    shared, loaded = Shared(), asyncio.Event()
    answering = asyncio.create_task(answer(shared, loaded))  # type: ignore[arg-type]
    assert not (await asyncio.wait({answering}, timeout=0.01))[0]
    assert not shared.running
    loaded.set()
    await answering
    assert shared.running
