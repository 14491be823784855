"""Every error this project raises on purpose.

SglEmbedError
├── ConfigError                 the configuration is wrong; names the key         (exit status 2)
├── ModelError                  the checkpoint or its download is unusable        (exit status 3)
│   └── HubUnreachable          no hub answered in time
├── EngineError                 an engine cannot start or cannot run              (exit status 4)
│   ├── WorkerDied              a worker process ended; carries the log's tail
│   └── WorkerLost              a worker ended or hung while it computed a batch, which may be the cause
├── NoAnswer                    a server that this command asked did not answer       (exit status 5)
├── RequestError                the caller's fault
│   ├── MalformedRequest        what was sent is no HTTP request
│   ├── HeadTooLarge            the request line and the headers are too long
│   ├── HeadTimeout             they took too long to arrive
│   ├── InvalidRequest          a field is missing, malformed or out of range
│   ├── BodyTooLarge            the body has more bytes than the server takes
│   ├── UnsupportedBody         the body is not said to be JSON
│   ├── ContextLengthExceeded   an input is longer than the model takes, and cutting was refused
│   ├── ModelNotFound           the request names a model that is not served
│   └── Unauthorized            the API key is missing or unknown
└── Unavailable                 not now; the same request may succeed later
    ├── Overloaded              the queue or the memory for bodies is full; says when to come back
    ├── RateLimited             this key has used up its limit; says when to come back
    ├── TooManyConnections      as many are open as may be
    ├── NotReady                starting, draining, or no worker left; what was asked was not begun
    └── DeadlineExceeded        the request's time ran out

What each means over HTTP is decided once, in ``launcher.gateway.errors``.
"""

from __future__ import annotations

import math

# Of what a caller sent, no more than this comes back in a message.
MAX_ECHOED_CHARACTERS = 100


class SglEmbedError(Exception):
    """Root of the tree; ``str()`` is a message for people."""


class ConfigError(SglEmbedError):
    pass


class ModelError(SglEmbedError):
    pass


class HubUnreachable(ModelError):
    pass


class EngineError(SglEmbedError):
    pass


class NoAnswer(SglEmbedError):
    pass


class WorkerDied(EngineError):
    """A worker process ended by itself.

    ``exit_code`` is negative for a signal, as in ``subprocess``; ``log_tail`` holds the last lines it printed.
    """

    def __init__(self, worker: str, exit_code: int, log_tail: str) -> None:
        how = f"killed by signal {-exit_code}" if exit_code < 0 else f"exit status {exit_code}"
        super().__init__(f"{worker} ended ({how})")
        self.worker = worker
        self.exit_code = exit_code
        self.log_tail = log_tail


class WorkerLost(EngineError):
    pass


class RequestError(SglEmbedError):
    """``param`` is the request field at fault, ``code`` a word that programs can test for."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.code = code


class MalformedRequest(RequestError):
    pass


class HeadTooLarge(RequestError):
    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the request line and the headers are longer than {max_bytes >> 10} KiB together")


class HeadTimeout(RequestError):
    def __init__(self, timeout_s: float) -> None:
        super().__init__(
            f"the request line and the headers did not arrive within {timeout_s:g} s (server.head_timeout_s)",
            code="head_timeout",
        )


class InvalidRequest(RequestError):
    pass


class BodyTooLarge(RequestError):
    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"the body is larger than {max_bytes >> 20} MiB; send the inputs in several requests")


class UnsupportedBody(RequestError):
    def __init__(self, content_type: str) -> None:
        super().__init__(f"the body is said to be {content_type}; send 'Content-Type: application/json'")


class ContextLengthExceeded(RequestError):
    def __init__(self, index: int, tokens: int, limit: int) -> None:
        super().__init__(
            f"input[{index}] has {tokens} tokens, but this model takes at most {limit}; "
            'shorten it, or send "truncate": "end" to have it cut',
            param="input",
            code="context_length_exceeded",
        )


class ModelNotFound(RequestError):
    def __init__(self, model: str, served: str) -> None:
        if len(model) > MAX_ECHOED_CHARACTERS:
            model = model[:MAX_ECHOED_CHARACTERS] + "…"
        super().__init__(
            f"the model {model!r} does not exist here; this server serves {served!r}", param="model", code="model_not_found"
        )


class Unauthorized(RequestError):
    def __init__(self, message: str) -> None:
        super().__init__(message, code="invalid_api_key")


class Unavailable(SglEmbedError):
    pass


class Overloaded(Unavailable):
    def __init__(self, retry_after_s: float, reason: str = "the queue is full") -> None:
        super().__init__(f"{reason}; try again in {math.ceil(retry_after_s)} s")
        self.retry_after_s = retry_after_s


class TooManyConnections(Unavailable):
    def __init__(self, most: int) -> None:
        super().__init__(f"{most} connections are open already (server.max_connections); use fewer, or try again later")


class RateLimited(Unavailable):
    """``limit`` is what was used up, such as "60 requests a minute"."""

    def __init__(self, key_name: str, limit: str, retry_after_s: float) -> None:
        super().__init__(f"the key {key_name!r} has used up its {limit}; try again in {math.ceil(retry_after_s)} s")
        self.retry_after_s = retry_after_s


class NotReady(Unavailable):
    pass


class DeadlineExceeded(Unavailable):
    pass
