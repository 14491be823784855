"""The overlays as they are rendered, and what a live server exports: both are made once."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from deploy.check.live import Exported, exported_metrics
from deploy.check.manifests import Manifests
from deploy.check.tree import Tree


@pytest.fixture(scope="session")
def tree() -> Tree:
    return Tree()


@pytest.fixture(scope="session")
def overlays(tree: Tree) -> Mapping[str, Manifests]:
    """By the last part of their names."""
    return {overlay.name.rpartition("/")[2]: overlay for overlay in tree.overlays}


@pytest.fixture(scope="session")
def exported() -> Exported:
    return exported_metrics()
