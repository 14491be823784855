"""Writes the PrometheusRule of k8s/components: ``python -m monitoring.prometheus_rule``; ``make rules`` runs it."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = ROOT / "monitoring/prometheus/rules"
MANIFEST = ROOT / "k8s/components/monitoring-rules/prometheusrule.yaml"
HEAD = """# Written by `make rules` from monitoring/prometheus/rules, where changes go; a test holds the two together.
# Where your Prometheus looks for such objects by a label (ruleSelector), add that label in the overlay.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: sgl-embed
  labels:
    app.kubernetes.io/name: sgl-embed
spec:
  groups:
"""
GROUPS = "\ngroups:\n"


def manifest() -> str:
    """The files' own text, comments included, two levels further in."""
    return HEAD + "".join(map(groups_of, sorted(RULES.glob("*.yml"))))


def groups_of(file: Path) -> str:
    head, found, groups = file.read_text(encoding="utf-8").partition(GROUPS)
    assert found, f"{file} has no line that says groups:"
    lines = [*head.splitlines(), *groups.splitlines()]
    return "".join(f"  {line}\n" if line else "\n" for line in lines)


if __name__ == "__main__":
    MANIFEST.write_text(manifest(), encoding="utf-8")
    sys.stdout.write(f"{MANIFEST} is written\n")
