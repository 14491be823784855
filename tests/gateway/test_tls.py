"""TLS, in one gateway process and in several; certificates made by openssl."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic

import httpx
import pytest

from tests.support.raw import connect, read_reply, read_to_end
from tests.support.server import RunningServer, running_server

ARGUMENTS = ["--engine", "openvino", "--set", "engine.dtype=float32", "--set", "server.head_timeout_s=1"]
DEADLINE_S = 10.0


class Files:
    """A certificate for 127.0.0.1 and its key, which can be replaced."""

    def __init__(self, folder: Path) -> None:
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.replace("first")

    def replace(self, name: str) -> None:
        new_cert, new_key = self.cert.with_suffix(".new"), self.key.with_suffix(".new-key")
        subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
        made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        subprocess.run([*made, *subject, "-keyout", new_key, "-out", new_cert], check=True, capture_output=True)
        new_key.replace(self.key)
        new_cert.replace(self.cert)

    @property
    def settings(self) -> list[str]:
        return ["--set", f"server.tls.cert_file={self.cert}", "--set", f"server.tls.key_file={self.key}"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module", params=[1, 2], ids=["one-process", "two-processes"])
def server(request: pytest.FixtureRequest, tiny_checkpoint: Path, files: Files) -> Iterator[RunningServer]:
    processes = ["--processes", str(request.param)]
    files.replace("first")
    with running_server("--model", str(tiny_checkpoint), *ARGUMENTS, *processes, *files.settings) as server:
        yield server


@pytest.fixture
def client(server: RunningServer, files: Files) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.base_url, verify=ssl.create_default_context(cafile=files.cert)) as client:
        yield client


def name_seen(server: RunningServer) -> str:
    """Of the certificate that a new connection gets."""
    context = ssl._create_unverified_context()
    with context.wrap_socket(connect(server), server_hostname="127.0.0.1") as connection:
        certificate = connection.getpeercert(binary_form=True)
    assert certificate
    pem = ssl.DER_cert_to_PEM_cert(certificate)
    shown = subprocess.run(["openssl", "x509", "-noout", "-subject"], input=pem, text=True, capture_output=True, check=True)
    return shown.stdout.strip().rpartition("= ")[2].rpartition("=")[2].strip()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = monotonic() + DEADLINE_S
    while not condition():
        assert monotonic() < deadline


def test_the_address_says_https_and_answers(server: RunningServer, client: httpx.Client) -> None:
    assert server.base_url.startswith("https://127.0.0.1:")
    assert client.get("/live").status_code == client.get("/ready").status_code == 200
    reply = client.post("/v1/embeddings", json={"model": "tiny-zh", "input": ["你好"] * 2048})
    assert len(reply.json()["data"]) == 2048


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_old_versions_are_refused(server: RunningServer) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with pytest.raises((ssl.SSLError, ConnectionError)), connect(server) as plain:
        old.wrap_socket(plain)


def test_what_is_no_handshake_is_closed(server: RunningServer, client: httpx.Client) -> None:
    with connect(server) as plain, connect(server) as silent:
        plain.sendall(b"GET /live HTTP/1.1\r\n\r\n")
        assert not read_to_end(plain).startswith(b"HTTP")
        started = monotonic()
        assert read_to_end(silent) == b""
        assert monotonic() - started < 4
    assert client.get("/live").status_code == 200
    assert not re.search("Traceback|ERROR", server.output())


def test_a_new_certificate_is_used_without_a_restart(server: RunningServer, client: httpx.Client, files: Files) -> None:
    assert name_seen(server) == "first"
    assert client.get("/live").status_code == 200
    files.replace("second")
    # Each gateway process looks for itself.
    wait_until(lambda: {name_seen(server) for _ in range(4)} == {"second"})
    # What was open stays so.
    assert client.get("/live").status_code == 200

    files.cert.write_text("nonsense")
    server.wait_line(
        re.compile(r"the TLS certificate stays as it was: server\.tls\.cert_file, .* are not a certificate"), DEADLINE_S
    )
    assert name_seen(server) == "second"
    files.replace("third")
    wait_until(lambda: {name_seen(server) for _ in range(4)} == {"third"})


def test_idle_clients_do_not_hold_up_the_end(tiny_checkpoint: Path, tmp_path: Path) -> None:
    files = Files(tmp_path)
    with running_server("--model", str(tiny_checkpoint), *ARGUMENTS, *files.settings) as server:
        context = ssl.create_default_context(cafile=files.cert)
        with context.wrap_socket(connect(server), server_hostname="127.0.0.1") as idle:
            idle.sendall(b"GET /live HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert read_reply(idle).status == 200
            started = monotonic()
            assert server.stop(signal.SIGTERM) == 0
            assert monotonic() - started < 5
