"""What docs/operations/kubernetes.md has its readers put into an overlay."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from deploy.check.manifests import Manifests
from deploy.check.policies import autoscaling
from deploy.check.programs import run
from deploy.check.queries import queries_in
from deploy.check.tree import ROOT, documents

PAGE = ROOT / "docs" / "operations" / "kubernetes.md"
PATCH = re.compile(r"### Several namespaces in one Prometheus\n.*?```yaml\n(.*?)```", re.DOTALL)
KUSTOMIZATION = """
kind: Kustomization
apiVersion: kustomize.config.k8s.io/v1beta1
namespace: {namespace}
resources: ["{gpu}"]
"""


@pytest.mark.parametrize("namespace, found", [("sgl-embed", 0), ("sgl-embed-next", 2)])
def test_the_patch_makes_the_autoscaler_count_its_own_namespace(tmp_path: Path, namespace: str, found: int) -> None:
    patch = PATCH.search(PAGE.read_text(encoding="utf-8"))
    assert patch
    gpu = os.path.relpath(ROOT / "k8s/overlays/gpu", tmp_path.resolve())
    content = KUSTOMIZATION.format(namespace=namespace, gpu=gpu) + patch[1]
    (tmp_path / "kustomization.yaml").write_text(content, encoding="utf-8")
    rendered = run("kubectl", "kustomize", tmp_path)
    assert rendered.returncode == 0, rendered.stderr
    manifests = Manifests("next", list(documents(rendered.stdout)))
    queries = [query.text for query in queries_in(manifests) if query.place.startswith("ScaledObject")]
    assert len(queries) == 2 and all('namespace="sgl-embed"' in query for query in queries)
    # Copied as it stands into the second overlay, it would be refused there.
    assert len(list(autoscaling.autoscalers_count_their_own_namespace(manifests))) == found
