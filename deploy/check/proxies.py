"""nginx reads its configuration of deploy/compose."""

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
    return Outcome("nginx in the clear and with TLS", list(_nginx(folder)))


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
