"""What both model hubs have in common: when to connect, for how long, and which files are needed."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from launcher.config.schema import Model
from launcher.errors import HubUnreachable, ModelError
from launcher.models.weights import PICKLE, SAFETENSORS, weights_problem

log = logging.getLogger(__name__)

T = TypeVar("T")
COMMIT = re.compile(r"[0-9a-f]{40}")
# Where a copy on disk can serve, asking for a newer one may not hold up a start for long.
ASK_WITH_COPY_S = 2.0


@dataclass(frozen=True, slots=True)
class CachedModel:
    """A copy in the hub library's cache. ``is_whole``: every needed file is known to be there; False: cannot be told."""

    folder: Path
    is_whole: bool


class Hub(Protocol):
    """One repository on one hub; each method raises ``ModelError``, or ``HubUnreachable`` where trying later may help."""

    endpoint: str

    def cached(self) -> CachedModel | None:
        """What is on disk, without a connection."""
        ...

    def list_files(self) -> Collection[str]:
        """Paths of the repository's files at the wanted revision."""
        ...

    def download(self, names: Collection[str]) -> Path:
        """Bring these files into the cache, with a progress bar on a terminal; the folder that holds them."""
        ...


def fetch_from_hub(hub: Hub, model: Model, progress: Callable[[str], None]) -> Path:
    """The folder of ``model``, downloaded where needed.

    A pinned commit that is on disk opens no connection. Otherwise the hub gets ``timeout_s`` to answer (2 s at most where
    there is a copy on disk). If it does not, the copy serves, with a warning; without one this raises ``HubUnreachable``.
    """
    cached = hub.cached()
    if is_offline(model):
        if cached is None:
            raise HubUnreachable(
                f"{model.id} is not on disk, and model.hub.offline or HF_HUB_OFFLINE forbids a connection; "
                "download it where a hub can be reached, or give a folder as model.id"
            )
        return cached.folder
    if cached is not None and cached.is_whole and COMMIT.fullmatch(model.revision or ""):
        return cached.folder
    try:
        names = _ask(hub, model.hub.timeout_s if cached is None else min(model.hub.timeout_s, ASK_WITH_COPY_S))
    except HubUnreachable as error:
        if cached is None:
            raise
        log.warning("%s; serving the copy of %s that is on disk: %s", error, model.id, cached.folder)
        return cached.folder
    problem = weights_problem(set(names), model.allow_pickle)
    if problem is not None:
        raise ModelError(f"{model.id} on {hub.endpoint}: {problem}")
    if cached is None or not cached.is_whole:
        progress(f"downloading {model.id} from {hub.endpoint}")
    return hub.download(needed_files(names))


def _ask(hub: Hub, timeout_s: float) -> Collection[str]:
    try:
        return within(timeout_s, hub.list_files)
    except TimeoutError:
        raise unreachable(hub.endpoint, f"no answer within {timeout_s:g} s") from None


def prepare_library(**environment: str) -> None:
    """Settings that a hub's library reads when it is first imported; variables that are set already win.

    Progress bars are for terminals: in a log file they would be thousands of lines.
    """
    if not sys.stderr.isatty():
        environment["TQDM_DISABLE"] = "1"
    for name, value in environment.items():
        os.environ.setdefault(name, value)


def unreachable(endpoint: str, reason: str) -> HubUnreachable:
    return HubUnreachable(
        f"the model hub {endpoint} cannot be reached: {reason}; set model.hub.endpoint to a mirror, "
        "try the other model.hub.source, or give a folder as model.id"
    )


def not_a_hub(endpoint: str, status: int | None) -> HubUnreachable:
    """For a proxy's block page or login page: hubs answer in JSON, and a refusal by anything else says nothing of a model."""
    return unreachable(endpoint, f"what answers there (status {status}) is not a model hub")


def is_offline(model: Model) -> bool:
    return model.hub.offline or os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def needed_files(names: Collection[str]) -> list[str]:
    """Of a repository's files those that serving reads: one weights file, and the small texts that hold facts.

    Other frameworks' weights, ONNX exports and documentation stay on the hub.
    """
    weights = SAFETENSORS if SAFETENSORS in names else PICKLE
    return sorted(name for name in names if name == weights or _holds_facts(name))


def _holds_facts(name: str) -> bool:
    if "/" not in name:
        return name.endswith((".json", ".txt")) and not name.endswith(".index.json")
    # A module's folder, such as 1_Pooling.
    return name.count("/") == 1 and name.endswith("/config.json")


def within(seconds: float, call: Callable[[], T]) -> T:
    """``call()``'s outcome, or ``TimeoutError`` after ``seconds``.

    The libraries' own timeouts count each address and each read, and none covers name resolution. A call that is given up
    on ends by itself or with the process.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="model-hub", daemon=True).start()
    return outcome.result(seconds)
