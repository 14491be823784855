"""Who is calling, by the API key, and whether it may call now. Keys are compared in constant time and never logged."""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256

from launcher.config.schema import KeyLimits
from launcher.errors import RateLimited, Unauthorized
from launcher.gateway.allowance import Allowance
from launcher.gateway.keys import ApiKey, Keys
from launcher.gateway.reply import Header
from launcher.telemetry.hooks import Hooks

UNLIMITED = float("inf")


class Usage:
    """What one key has used of its limits, in one of ``processes`` among which they are divided."""

    def __init__(self, limits: KeyLimits, processes: int) -> None:
        self.limits = limits
        self._allowances = {
            f"{per_minute} {what} a minute": Allowance((per_minute or UNLIMITED) / processes)
            for what, per_minute in (("requests", limits.requests_per_minute), ("tokens", limits.tokens_per_minute))
        }
        self._requests, self._tokens = self._allowances.values()

    def begin(self, name: str, now: float) -> None:
        """Count a request. Raises ``RateLimited`` where the key has no request or no token left."""
        if self._requests.wait_s(now) or self._tokens.wait_s(now):
            waits = {what: allowance.wait_s(now) for what, allowance in self._allowances.items()}
            spent = max(waits, key=lambda what: waits[what])
            raise RateLimited(name, spent, waits[spent])
        self._requests.use(1, now)

    def spend(self, tokens: int, now: float) -> None:
        self._tokens.use(tokens, now)


class Caller:
    """Whoever holds one key."""

    def __init__(self, name: str, key: str, usage: Usage, hooks: Hooks, clock: Callable[[], float]) -> None:
        self.name = name
        self.digest = sha256(key.encode()).digest()
        self.usage = usage
        self._hooks = hooks
        self._clock = clock

    def begin(self) -> None:
        """Count a request. Raises ``RateLimited`` where it is one too many."""
        self._hooks.called(self.name)
        try:
            self.usage.begin(self.name, self._clock())
        except RateLimited:
            self._hooks.limited(self.name)
            raise

    def spend(self, tokens: int) -> None:
        """Count the tokens of an answer, which are known only now; where they were too many, later requests wait for it."""
        self._hooks.spent(self.name, tokens)
        self.usage.spend(tokens, self._clock())


class KeyCheck:
    """Finds who holds the key that a request carries.

    What the keys have of their limits is divided among ``processes``.
    """

    def __init__(self, keys: Keys, hooks: Hooks, processes: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys = keys
        self._hooks = hooks
        self._processes = processes
        self._clock = clock
        self._callers: dict[str, Caller] = {}
        self._use(keys.known)

    def reload(self) -> None:
        """Know the keys that there are now, and no others. Whose limits are as before has still used what it had."""
        self._keys.reload()
        self._use(self._keys.known)

    def caller_of(self, headers: Iterable[Header]) -> Caller:
        """By a request's ``Authorization``. Raises ``Unauthorized``."""
        authorization = next((value for name, value in headers if name == b"authorization"), b"")
        scheme, _, key = authorization.partition(b" ")
        if scheme.lower() != b"bearer" or not key.strip():
            raise Unauthorized("an API key is needed here: send the header 'Authorization: Bearer <key>'")
        digest = sha256(key.strip()).digest()
        # Each digest is compared, so that the time says nothing about which one matched.
        matches = [caller for caller in self._callers.values() if hmac.compare_digest(caller.digest, digest)]
        if not matches:
            raise Unauthorized("this API key is not known here")
        return matches[0]

    def _use(self, keys: Mapping[str, ApiKey]) -> None:
        self._hooks.callers(keys)
        self._callers = {
            name: Caller(name, key.key, self._usage(name, key.limits), self._hooks, self._clock) for name, key in keys.items()
        }

    def _usage(self, name: str, limits: KeyLimits) -> Usage:
        before = self._callers.get(name)
        return before.usage if before and before.usage.limits == limits else Usage(limits, self._processes)
