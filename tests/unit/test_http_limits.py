"""What the limits of an HTTP server decide by themselves."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from launcher.config.schema import Tls
from launcher.errors import ConfigError, Overloaded
from launcher.gateway.held import HeldBytes, Share
from launcher.serve.descriptors import connections_within, descriptor_limit
from launcher.serve.tls import read_certificate

ENDLESS = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("soft", "hard", "limit"),
    [
        (1024, 1 << 30, 10_128),
        (1024, 4096, 4096),
        (20_000, 30_000, 20_000),
        (1024, ENDLESS, 10_128),
        (ENDLESS, ENDLESS, ENDLESS),
    ],
    ids=["as-needed", "as-allowed", "never-lowered", "no-hard-limit", "no-limit"],
)
def test_the_limit_of_open_files_is_raised_to_what_connections_need(soft: int, hard: int, limit: int) -> None:
    assert descriptor_limit(10_000, soft, hard) == limit


@pytest.mark.parametrize(
    ("descriptors", "connections"),
    [(20_000, 10_000), (10_128, 10_000), (1024, 896), (160, 40), (3, 1), (ENDLESS, 10_000)],
)
def test_connections_leave_descriptors_for_the_rest(descriptors: int, connections: int) -> None:
    assert connections_within(10_000, descriptors) == connections


def test_bytes_are_held_up_to_the_limit_and_given_back() -> None:
    held = HeldBytes(10)
    one, other = Share(held), Share(held)
    one.add(6)
    other.add(4)
    with pytest.raises(Overloaded, match=r"server\.max_held_mb.*try again in 1 s"):
        other.add(1)
    with pytest.raises(Overloaded):
        one.expect(1)
    assert held.total == 10
    one.release()
    other.add(6)
    other.release()
    assert held.total == 0


def test_who_is_alone_may_hold_more_than_the_limit() -> None:
    held = HeldBytes(10)
    one = Share(held)
    one.add(9)
    one.add(9)
    with pytest.raises(Overloaded):
        Share(held).add(1)
    one.release()
    assert held.total == 0


def test_a_reply_takes_the_place_of_its_body_whatever_its_size() -> None:
    held = HeldBytes(10)
    one, other = Share(held), Share(held)
    one.add(5)
    other.add(5)
    one.become(1000)
    assert held.total == 1005
    one.release()
    assert held.total == 5


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (Tls(cert_file="a"), r"^server\.tls\.key_file: missing"),
        (Tls(key_file="a"), r"^server\.tls\.cert_file: missing"),
        (
            Tls(cert_file="nowhere.crt", key_file="nowhere.key"),
            r"^server\.tls\.cert_file: nowhere\.crt: cannot be read: No such",
        ),
    ],
)
def test_a_certificate_needs_both_files(tls: Tls, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_certificate(tls)


def test_a_certificate_must_be_one(tmp_path: Path) -> None:
    file = tmp_path / "tls.pem"
    file.write_text("nonsense")
    with pytest.raises(ConfigError, match=r"server\.tls\.cert_file, .* are not a certificate and its key"):
        read_certificate(Tls(cert_file=str(file), key_file=str(file)))


def test_without_files_there_is_no_tls() -> None:
    assert read_certificate(Tls()) is None
