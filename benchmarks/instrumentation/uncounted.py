"""``sgl-embed`` whose hooks do nothing, to compare with: ``python -m benchmarks.instrumentation.uncounted serve ...``.

Of one process. It shows no metrics; everything else is as in the real one.
"""

from __future__ import annotations

import sys

from launcher import compose
from launcher.cli import main


class UncountedMetrics:
    """Whatever it is told, also by hooks that are yet to come."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def __getattr__(self, name: str) -> object:
        # Kept, so that a call costs no more than an empty method does.
        setattr(self, name, nothing)
        return nothing

    def render(self, *_: object) -> bytes:
        return b""


def nothing(*_: object, **__: object) -> None:
    pass


if __name__ == "__main__":
    # In the one place where it is decided who listens.
    for listener in ("Metrics", "ProcessMetrics", "PythonMetrics", "GpuMetrics"):
        assert hasattr(compose, listener), listener
        setattr(compose, listener, UncountedMetrics)
    sys.exit(main())
