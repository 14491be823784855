"""Fixtures of the cache's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.log import Said, listening_to


@pytest.fixture
async def said() -> AsyncIterator[Said]:
    """What the level in Redis logs."""
    with listening_to("launcher.cache.redis") as said:
        yield said
