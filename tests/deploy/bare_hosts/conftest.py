"""Three real servers, as compose.yaml starts them, and nginx before them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.checkpoints import write_checkpoint
from tests.support.compose import NAMES, Replicas, running_replicas
from tests.support.nginx import RunningNginx, running_nginx
from tests.support.wrk import write_bodies

VARIABLES = {"SGL_EMBED_MODEL": "tiny-zh"}


@pytest.fixture(scope="session")
def models(tiny_checkpoint: Path) -> Path:
    """Beside ``tiny-zh``, one of the same shape and name with other weights."""
    write_checkpoint(tiny_checkpoint.parent / "other" / "tiny-zh", seed=1)
    return tiny_checkpoint.parent


@pytest.fixture(scope="session")
def variables() -> Mapping[str, str]:
    """What .env says."""
    return VARIABLES


@pytest.fixture(scope="session")
def bodies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bodies(tmp_path_factory.mktemp("wrk") / "bodies")


@pytest.fixture(scope="module")
def some_replicas(tmp_path_factory: pytest.TempPathFactory, models: Path) -> Iterator[Replicas]:
    with running_replicas(tmp_path_factory.mktemp("replicas"), models, VARIABLES) as replicas:
        yield replicas


@pytest.fixture
def replicas(some_replicas: Replicas) -> Replicas:
    """All three run, whatever the test before did."""
    ended = [name for name in NAMES if not some_replicas.running(name)]
    for server in [some_replicas.start(name, VARIABLES) for name in ended]:
        server.wait_ready()
    return some_replicas


@pytest.fixture
def nginx(replicas: Replicas) -> Iterator[RunningNginx]:
    with running_nginx(list(replicas.ports.values())) as nginx:
        yield nginx
