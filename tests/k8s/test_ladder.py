"""The whole of ``make k8s-check`` on this checkout, and on copies that one file of is broken in."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from deploy.check import dockerfiles, monitoring, proxies, render, scan, yamlfiles
from deploy.check.__main__ import main
from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.ladder import RUNGS, Rung, step
from deploy.check.manifests import Manifests
from deploy.check.tree import ROOT, Tree, kubectl_version, refuse_old_kubectl
from tests.k8s.edits import edited, put

CHECKED = ("k8s", "configs", "deploy", "monitoring")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of what is checked."""
    for name in CHECKED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".yamllint", tmp_path)
    return tmp_path


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def findings(check: Callable[[Tree], Outcome], checkout: Path) -> list[str]:
    return [str(finding) for finding in check(Tree(checkout)).findings]


# The metrics' rung is test_metrics.py's, which shares its server, and checkov's is the last test here, which runs it once.
@pytest.mark.parametrize("rung", [rung for rung in RUNGS if rung.name not in ("metrics", "scan")], ids=lambda rung: rung.name)
def test_tree_passes(tree: Tree, rung: Rung) -> None:
    result = step(rung, tree)
    assert result.passed, (result.trouble, result.outcome)
    assert result.outcome is not None
    assert not re.search(r"(^| )0 ", result.outcome.subject), result.outcome.subject


@pytest.mark.parametrize(
    "old, new, rule",
    [
        ("  name: sgl-embed\n", "  name: sgl-embed \n", "trailing-spaces"),
        ("  name: sgl-embed\n", "  name: sgl-embed\n  name: b\n", "key-duplicates"),
        ("  name: sgl-embed\n", "    name: sgl-embed\n", "indentation"),
        ("  type: ClusterIP\n", "  type: on\n", "truthy"),
        ("  type: ClusterIP\n", "  type: [ClusterIP\n", "syntax"),
    ],
)
def test_form_of_yaml(checkout: Path, old: str, new: str, rule: str) -> None:
    change(checkout / "k8s" / "base" / "service.yaml", old, new)
    assert any(
        found.startswith("k8s/base/service.yaml: line ") and f"[{rule}]" in found
        for found in findings(yamlfiles.check, checkout)
    )


def test_overlay_that_does_not_render(checkout: Path) -> None:
    change(checkout / "k8s" / "overlays" / "gpu" / "kustomization.yaml", "../../base", "../../bases")
    with pytest.raises(CannotCheck, match=r"^k8s/overlays/gpu does not render: .*bases"):
        render.check(Tree(checkout))


def test_component_that_no_overlay_uses(checkout: Path) -> None:
    for overlay in (checkout / "k8s" / "overlays").iterdir():
        listing = overlay / "kustomization.yaml"
        listing.write_text(
            listing.read_text(encoding="utf-8").replace("  - ../../components/redis-cache\n", ""), encoding="utf-8"
        )
    (found,) = findings(render.check, checkout)
    assert found.startswith("k8s/components/redis-cache: no overlay uses it")


def test_no_overlays_at_all(tmp_path: Path) -> None:
    with pytest.raises(CannotCheck, match="there is no overlay in k8s/overlays"):
        render.check(Tree(tmp_path))


def test_dockerfile(checkout: Path) -> None:
    with (checkout / "deploy" / "Dockerfile.cpu").open("a", encoding="utf-8") as file:
        file.write("\nRUN cd /tmp && sudo true\n")
    found = findings(dockerfiles.check, checkout)
    assert [line for line in found if "deploy/Dockerfile.cpu: line " in line and "[DL3004]" in line], found


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("nginx/nginx.conf", "least_conn;", "least_con;", "deploy/compose/nginx: plain: .*least_con"),
        ("nginx/tls/server.conf", "ssl_protocols", "ssl_protocol", "deploy/compose/nginx: tls: .*ssl_protocol"),
        ("nginx/replicas.conf", "max_fails", "max_fail", "deploy/compose/nginx: plain: .*max_fail"),
    ],
)
def test_proxies(checkout: Path, file: str, old: str, new: str, said: str) -> None:
    change(checkout / "deploy" / "compose" / file, old, new)
    found = findings(proxies.check, checkout)
    assert any(re.search(said, line, flags=re.DOTALL) for line in found), found


@pytest.mark.parametrize(
    "file, old, new, said",
    [
        ("monitoring/prometheus/prometheus.yml", "scrape_configs:", "scrape_config:", "prometheus.yml: .*scrape_config"),
        ("monitoring/prometheus/prometheus.yml", "servers.yml", "server.yml", "prometheus.yml: with .*server.yml"),
        ("monitoring/prometheus/rules/service.yml", "expr: up", "expr: up)", "prometheus.yml: .*service.yml"),
        ("monitoring/targets/servers.yml", "targets:", "target:", "with monitoring/targets: .*servers.yml"),
        ("deploy/compose/targets/alertmanagers.yml", "targets:", "target:", "with deploy/compose/targets: .*alertmanagers.yml"),
        ("monitoring/alertmanager/alertmanager.yml", "receiver: pages", "receiver: nobody", "alertmanager.yml: .*nobody"),
    ],
)
def test_monitoring(checkout: Path, file: str, old: str, new: str, said: str) -> None:
    change(checkout / file, old, new)
    found = findings(monitoring.check, checkout)
    assert any(re.search(said, line, flags=re.DOTALL) for line in found), found


def test_missing_program_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    tree = Tree(build=tmp_path)
    said = {rung.name: step(rung, tree).trouble for rung in RUNGS if rung.name not in ("yaml", "proxies", "monitoring")}
    for name in ("render", "core", "crds", "policies", "metrics"):
        assert said[name].startswith("kubectl is not installed; https://"), said[name]
    assert said["dockerfiles"] == "hadolint is not installed; make build/manifests/.installed"


@pytest.mark.parametrize(
    "program, package", [("promtool", "prometheus"), ("amtool", "prometheus-alertmanager"), ("nginx", "nginx-light")]
)
def test_missing_daemon_says_how_to_get_it(program: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr("shutil.which", lambda name, **options: None if name == program else found(name, **options))
    rung = proxies if program == "nginx" else monitoring
    with pytest.raises(CannotCheck, match=f"^{program} is not installed; on Debian and Ubuntu: apt install {package}$"):
        rung.check(Tree())


def test_old_kubectl_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "kubectl"
    old.write_text('#!/bin/sh\necho \'{"clientVersion": {"gitVersion": "v1.20.2"}}\'\n', encoding="utf-8")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CannotCheck, match=r"^kubectl is v1\.20\.2, too old for the components .*1\.27 or later"):
        refuse_old_kubectl()


@pytest.mark.parametrize("said, version", [("v1.32.4-dispatcher", (1, 32)), ("v1.27.0", (1, 27)), ("v1.9.11", (1, 9))])
def test_versions_of_kubectl(said: str, version: tuple[int, int]) -> None:
    assert kubectl_version(said) == version


def test_command_prints_a_line_for_each_rung() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "deploy.check", "--only", "policies", "render"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stdout
    assert [line.split()[:2] for line in ended.stdout.splitlines()] == [["render", "ok"], ["policies", "ok"]]


def test_command_ends_with_status_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = Finding("k8s/base/service.yaml", "line 1:1", "not so", "a-rule")

    def nothing_there(tree: Tree) -> Outcome:
        raise CannotCheck("no program; get it")

    rungs = (Rung("one", lambda tree: Outcome("2 files", [wrong]), ""), Rung("two", nothing_there, ""))
    monkeypatch.setattr("deploy.check.ladder.RUNGS", rungs)
    monkeypatch.setattr("deploy.check.__main__.RUNGS", rungs)
    assert main([]) == 1
    said = re.sub(r"\(\d+\.\d s\)", "(time)", capsys.readouterr().out)
    assert said == (
        "one          FAILED  2 files (time)\n"
        "  k8s/base/service.yaml: line 1:1: not so [a-rule]\n"
        "two          FAILED  no program; get it (time)\n"
    )


def test_unknown_rung_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "policy"])
    assert "invalid choice: 'policy'" in capsys.readouterr().err


def test_checkov_finds_what_is_wrong_and_each_skip_is_needed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tree: Tree, overlays: dict[str, Manifests]
) -> None:
    """Once without the skips and with a broken overlay, since each run takes many seconds."""
    config = yaml.safe_load(scan.CONFIG.read_text(encoding="utf-8"))
    skipped = set(config.pop("skip-check"))
    without_skips = tmp_path / "checkov.yaml"
    without_skips.write_text(yaml.safe_dump(config), encoding="utf-8")
    monkeypatch.setattr("deploy.check.scan.CONFIG", without_skips)
    broken = edited(overlays["dev-cpu"], put("Deployment", "spec template spec hostPID", True))
    everything = Tree()
    vars(everything)["overlays"] = [broken, *(overlay for overlay in tree.overlays if overlay.name != broken.name)]
    found = scan.check(everything).findings
    (finding,) = (finding for finding in found if finding.rule not in skipped)
    assert str(finding).startswith("k8s/overlays/dev-cpu: Deployment.sgl-embed.sgl-embed: Containers should not share the host")
    assert {finding.rule for finding in found} - {"CKV_K8S_17"} == skipped
