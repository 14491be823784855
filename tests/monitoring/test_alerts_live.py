"""Whether someone hears of it: the rules and Alertmanager's routes that are deployed, on three live servers, up to a webhook.

Their time goes ``FACTOR`` times as fast as deployed: ranges, how long an alert waits, how Alertmanager groups, and the scrapes.
Thresholds are as deployed, and so is all else. ``make alerts-check`` does the same without a factor, in half an hour.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.monitoring.proof.deployed import Deployed
from tests.monitoring.proof.outcomes import Outcome, table
from tests.monitoring.proof.run import TROUBLES, Trouble, prove

MONITORING = Path(__file__).parents[2] / "monitoring"
# With one that is much larger, the workers' 2.5 s would be so long that they seem to be stuck.
FACTOR = 40.0


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> list[Outcome]:
    found = prove(Deployed.of(MONITORING, FACTOR), tmp_path_factory.mktemp("proof"), tiny_checkpoint, note=print)
    print(table(found))
    return found


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.name)
def test_it_is_heard_and_its_end_too(found: list[Outcome], trouble: Trouble) -> None:
    heard = {each.alert for each in found if each.phase == trouble.name and each.verdict == "heard"}
    assert heard == trouble.expected.alerts


def test_nothing_else_is_heard(found: list[Outcome]) -> None:
    """Neither while nothing is wrong nor besides what is."""
    assert [each for each in found if each.verdict == "false"] == []
