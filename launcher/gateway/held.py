"""Memory that clients have this process hold: bodies on their way in, replies on their way out."""

from __future__ import annotations

from launcher.errors import Overloaded

# By then some request or other has been answered.
RETRY_AFTER_S = 1.0


class HeldBytes:
    """How much all requests together hold."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0


class Share:
    """What one request holds, until it is released."""

    __slots__ = ("_all", "_own")

    def __init__(self, held: HeldBytes) -> None:
        self._all = held
        self._own = 0

    def expect(self, size: int) -> None:
        """Raises ``Overloaded`` where ``size`` more bytes are too many and others hold some."""
        held = self._all
        if held.total + size > held.limit and held.total > self._own:
            raise Overloaded(RETRY_AFTER_S, "other requests take all the memory for bodies and replies (server.max_held_mb)")

    def add(self, size: int) -> None:
        """Raises as ``expect`` does."""
        held = self._all
        if held.total + size > held.limit:
            self.expect(size)
        held.total += size
        self._own += size

    def become(self, size: int) -> None:
        """Hold ``size`` bytes instead, however many there are: what has been computed is sent."""
        self._all.total += size - self._own
        self._own = size

    def release(self) -> None:
        self._all.total -= self._own
        self._own = 0
