"""nginx, Prometheus and Alertmanager each read their configuration of deploy/compose."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.programs import run
from deploy.check.tree import Tree

COMPOSE = "deploy/compose"
# What stands as front/ beside nginx's folder, by the overlay of compose.yaml.
FRONTS = ("plain", "tls")


def check(tree: Tree) -> Outcome:
    folder = tree.root / COMPOSE
    if not folder.is_dir():
        raise CannotCheck(f"there is no {COMPOSE}")
    findings = [*_nginx(folder), *_prometheus(folder), *_alertmanager(folder)]
    return Outcome("nginx in the clear and with TLS, Prometheus and its rules, Alertmanager", findings)


def _nginx(folder: Path) -> Iterator[Finding]:
    for front in FRONTS:
        with TemporaryDirectory() as place:
            conf = lay_out(folder / "nginx", front, Path(place))
            tested = run("nginx", "-t", "-q", "-p", place, "-c", conf)
            if tested.returncode:
                yield Finding(f"{COMPOSE}/nginx", front, tested.stderr.strip().replace(f"{place}/", ""), "nginx -t")


def lay_out(nginx: Path, front: str, place: Path) -> Path:
    """The folders as the container has them; the names of the replicas, which no one knows here, are addresses."""
    shutil.copytree(nginx, place / "nginx")
    shutil.copytree(nginx / front, place / "front")
    replicas = place / "nginx" / "replicas.conf"
    replicas.write_text(re.sub(r"\breplica-\d+", "127.0.0.1", replicas.read_text(encoding="utf-8")), encoding="utf-8")
    if front == "tls":
        (place / "tls").mkdir()
        certificate = ("-keyout", place / "tls" / "server.key", "-out", place / "tls" / "server.crt", "-subj", "/CN=localhost")
        run("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *certificate)
    return place / "nginx" / "nginx.conf"


def _prometheus(folder: Path) -> Iterator[Finding]:
    # Reads the rule files that it names, too.
    checked = run("promtool", "check", "config", "prometheus.yml", cwd=folder / "prometheus")
    if checked.returncode:
        yield Finding(f"{COMPOSE}/prometheus/prometheus.yml", "", " ".join(checked.stderr.split()), "promtool")


def _alertmanager(folder: Path) -> Iterator[Finding]:
    checked = run("amtool", "check-config", "alertmanager.yml", cwd=folder / "alertmanager")
    if checked.returncode:
        # The reason is in its output, its errors have only the sum.
        yield Finding(f"{COMPOSE}/alertmanager/alertmanager.yml", "", " ".join(checked.stdout.split()), "amtool")
