"""The rungs, from what is cheap and general to what is dear and this project's own."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from time import monotonic

from deploy.check import core, crds, dockerfiles, metrics, monitoring, policies, proxies, render, scan, yamlfiles
from deploy.check.findings import CannotCheck, Outcome
from deploy.check.tree import Tree


@dataclass(frozen=True, slots=True)
class Rung:
    name: str
    check: Callable[[Tree], Outcome]
    text: str


RUNGS = (
    Rung("yaml", yamlfiles.check, "the form of all YAML, by yamllint"),
    Rung("render", render.check, "every overlay renders, every component is in one"),
    Rung("core", core.check, f"Kubernetes' own schemas, of {' and '.join(core.VERSIONS)}"),
    Rung("crds", crds.check, "the schemas of custom resources"),
    Rung("policies", policies.check, "what this project holds its manifests to"),
    Rung("metrics", metrics.check, "every metric that is named is exported by a live server"),
    Rung("dockerfiles", dockerfiles.check, "hadolint"),
    Rung("proxies", proxies.check, "nginx reads its configuration"),
    Rung("monitoring", monitoring.check, "Prometheus and Alertmanager read theirs, rules included"),
    Rung("scan", scan.check, "checkov"),
)


@dataclass(frozen=True, slots=True)
class Result:
    """``trouble`` says why a rung could not be checked at all, which counts as failed."""

    rung: Rung
    seconds: float
    outcome: Outcome | None
    trouble: str = ""

    @property
    def passed(self) -> bool:
        return self.outcome is not None and not self.outcome.findings


def climb(tree: Tree, names: Collection[str]) -> Iterator[Result]:
    """The rungs of these names, each as soon as it is done."""
    for rung in RUNGS:
        if rung.name in names:
            yield step(rung, tree)


def step(rung: Rung, tree: Tree) -> Result:
    began = monotonic()
    try:
        outcome = rung.check(tree)
    except CannotCheck as reason:
        return Result(rung, monotonic() - began, None, str(reason))
    return Result(rung, monotonic() - began, outcome)
