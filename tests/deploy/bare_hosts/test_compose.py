"""What the files of deploy/compose must agree on, as far as it shows without containers."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from launcher.config.load import ConfigSource
from launcher.config.schema import Config
from launcher.config.schema import Server as ServerSettings
from tests.support.compose import NAMES, SHIPPED, expand, read_variables, replica_command
from tests.support.nginx import directive

ROOT = SHIPPED.parents[1]


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((SHIPPED / "compose.yaml").read_text())["services"]
    return found


@pytest.fixture(scope="module")
def grafana() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((SHIPPED / "compose.grafana.yaml").read_text())["services"]
    return found


@pytest.fixture(scope="module")
def server() -> ServerSettings:
    """What a replica is started with."""
    settings = [part.removeprefix("--set=") for part in replica_command({}) if part.startswith("--set=")]
    config: Config = ConfigSource(ROOT / "configs/bge-small-zh-v1.5.yaml", tuple(settings)).read()
    return config.server


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_a_hung_replica_is_given_up_after_a_living_one_has_answered(server: ServerSettings) -> None:
    read, connect, send, window = (
        seconds(directive("proxy.conf", f"proxy_{name}_timeout")) for name in ("read", "connect", "send", "next_upstream")
    )
    # Else a request that is slow, or asks for more time, would be computed twice.
    assert server.max_request_timeout_s == server.request_timeout_s < read
    # Else a request that hit a hung one would not be sent to another.
    assert window > connect + max(read, send)
    assert int(directive("proxy.conf", "proxy_next_upstream_tries")) == 2
    # So that a worker that is to end still finishes it.
    longest = 2 * (connect + read)
    assert seconds(directive("nginx.conf", "worker_shutdown_timeout")) > longest


def test_requests_are_sent_twice_only_where_it_helps() -> None:
    again = directive("proxy.conf", "proxy_next_upstream").split()
    assert set(again) == {"error", "timeout", "http_502", "http_503", "non_idempotent"}


def test_who_stops_has_time_for_what_it_accepted(server: ServerSettings, services: dict[str, dict[str, Any]]) -> None:
    assert server.drain_timeout_s > server.request_timeout_s
    for name in NAMES:
        assert seconds(services[name]["stop_grace_period"]) >= 1.5 * server.drain_timeout_s
    assert seconds(services["nginx"]["stop_grace_period"]) > seconds(directive("nginx.conf", "worker_shutdown_timeout"))
    assert services["nginx"]["stop_signal"] == "SIGQUIT"


def test_nginx_closes_idle_connections_before_a_replica_does(server: ServerSettings) -> None:
    assert seconds(directive("nginx.conf", "keepalive_timeout")) < server.keep_alive_s


def test_both_take_bodies_of_the_same_size(server: ServerSettings) -> None:
    assert directive("limits.conf", "client_max_body_size") == f"{server.max_body_mb}m"
    assert f"{server.max_body_mb} MiB" in (SHIPPED / "nginx/errors.conf").read_text()


def test_every_container_is_bounded_and_starts_again(
    services: dict[str, dict[str, Any]], grafana: dict[str, dict[str, Any]]
) -> None:
    assert set(services) == {"nginx", *NAMES, "redis", "prometheus", "alertmanager"}
    assert set(grafana) == {"grafana"}
    for name, service in (services | grafana).items():
        assert service["restart"] == "unless-stopped", name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert int(service["user"].partition(":")[0]) > 0, name
        assert service["cpus"], name
        assert service["mem_limit"], name
        assert service["pids_limit"], name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["logging"]["driver"] == "json-file", name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert re.search(r":\d+\.\d+\.\d+|:v\d+\.\d+\.\d+", expand(service["image"], {})), name


def test_only_nginx_can_be_reached(services: dict[str, dict[str, Any]]) -> None:
    assert [name for name, service in services.items() if "ports" in service] == ["nginx"]
    networks = yaml.safe_load((SHIPPED / "compose.yaml").read_text())["networks"]
    assert [name for name, network in networks.items() if not network.get("internal")] == ["edge", "alerts"]
    # Who may ask Redis, which asks for no password.
    assert {name for name, service in services.items() if "cache" in service["networks"]} == {*NAMES, "redis"}


def test_grafana_answers_this_host_alone_and_asks_for_a_password(
    services: dict[str, dict[str, Any]], grafana: dict[str, dict[str, Any]]
) -> None:
    service = grafana["grafana"]
    assert expand(service["ports"][0], {}).startswith("127.0.0.1:")
    assert all(volume.endswith(":ro") for volume in service["volumes"] if volume.startswith("."))
    assert "./secrets/grafana:/etc/grafana-secrets:ro" in service["volumes"]
    assert service["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"].startswith("/etc/grafana-secrets/")
    (network,) = service["networks"]
    assert network in services["prometheus"]["networks"]


def test_nginx_finds_each_replica(services: dict[str, dict[str, Any]]) -> None:
    hosts = dict(entry.split(":", 1) for entry in services["nginx"]["extra_hosts"] if "$" not in entry.split(":", 1)[0])
    assert hosts == {name: services[name]["networks"]["replicas"]["ipv4_address"] for name in NAMES}
    assert replicas_network() == [{"subnet": "172.30.57.0/24", "ip_range": "172.30.57.128/25"}]
    lines = [line for line in (SHIPPED / "nginx/replicas.conf").read_text().splitlines() if line.startswith("server ")]
    assert lines == [f"server {name}:30000 max_fails=3 fail_timeout=10s; # {name}" for name in NAMES]


def replicas_network() -> list[dict[str, str]]:
    networks = yaml.safe_load((SHIPPED / "compose.yaml").read_text())["networks"]
    return [{key: expand(text, {}) for key, text in pool.items()} for pool in networks["replicas"]["ipam"]["config"]]


def test_redis_keeps_nothing_and_less_than_it_may_take(services: dict[str, dict[str, Any]]) -> None:
    command = [expand(part, {}) for part in services["redis"]["command"]]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--save"] == ""
    assert options["--appendonly"] == "no"
    assert options["--maxmemory-policy"] == "allkeys-lru"
    assert int(options["--maxmemory"].removesuffix("mb")) < int(expand(services["redis"]["mem_limit"], {}).removesuffix("m"))


def test_the_example_names_every_variable_with_its_default() -> None:
    example = read_variables(SHIPPED / "env.example")
    # Where both have a default, the example has that of compose.yaml.
    text = "".join((SHIPPED / name).read_text() for name in ("compose.grafana.yaml", "compose.gpu.yaml", "compose.yaml"))
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", text))
    assert {name: value for name, value in example.items() if name != "COMPOSE_FILE"} == used


def test_each_gpu_replica_has_its_own(services: dict[str, dict[str, Any]]) -> None:
    gpu = yaml.safe_load((SHIPPED / "compose.gpu.yaml").read_text())["services"]
    assert set(gpu) == set(NAMES)
    devices = [gpu[name]["deploy"]["resources"]["reservations"]["devices"][0] for name in NAMES]
    assert [expand(device["device_ids"][0], {}) for device in devices] == ["0", "1", "2"]
    assert all(device["driver"] == "nvidia" and device["capabilities"] == ["gpu"] for device in devices)


def test_prometheus_asks_each_replica_and_tells_alertmanager(services: dict[str, dict[str, Any]]) -> None:
    mounted = {there: here for here, there, _ in (volume.split(":") for volume in services["prometheus"]["volumes"][:2])}
    (option,) = (part for part in services["prometheus"]["command"] if part.startswith("--config.file="))
    file = Path(option.partition("=")[2])
    config = yaml.safe_load((SHIPPED / mounted[str(file.parent)] / file.name).read_text())
    (job,) = config["scrape_configs"]
    (told,) = config["alerting"]["alertmanagers"]

    def listed(discovered: dict[str, Any]) -> list[str]:
        ((name,),) = (each["files"] for each in discovered["file_sd_configs"])
        path = Path(os.path.normpath(file.parent / name))
        ((group),) = yaml.safe_load((SHIPPED / mounted[str(path.parent)] / path.name).read_text())
        return list(group["targets"])

    assert listed(job) == [f"{name}:30000" for name in NAMES]
    assert listed(told) == ["alertmanager:9093"]


@pytest.mark.parametrize("script", ["rollout.sh", "nginx/reload.sh"])
def test_scripts_can_be_run(script: str) -> None:
    path = SHIPPED / script
    assert path.stat().st_mode & 0o111
    shell = "bash" if "bash" in path.read_text().splitlines()[0] else "sh"
    assert subprocess.run([shell, "-n", path], check=False).returncode == 0
