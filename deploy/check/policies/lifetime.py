"""Arguments, probes and times of a server, held against what the launcher itself says of them."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.check.findings import Finding
from deploy.check.manifests import Container, Manifests, at, pod_labels, pod_of, serving
from deploy.check.policies.report import finding, in_container
from deploy.check.servers import Unreadable, configured, is_ours, launched, parse, read_config, servers
from launcher.gateway.readiness import Readiness
from launcher.gateway.routes.ops import OpsRoutes

PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
# So much longer than the sleep and the longest request does a pod live after it was told to go.
MARGIN = 1.5
# Kubernetes' own default: a period of 10 s, three times.
PATIENCE_S = 30
# A timeout of 1 s, the default, is known to have ended pods that were only loaded.
LEAST_TIMEOUT_S = 2
# What the pods of k8s/base are, by this label.
ROLE = "app.kubernetes.io/component"
LOOPBACK = ("127.", "::1", "localhost")


def arguments_are_the_launchers(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        for container, arguments in launched(workload):
            try:
                parse(container, arguments)
            except Unreadable as reason:
                yield in_container(manifests, container, reason.field, str(reason))


def servers_are_recognised(manifests: Manifests) -> Iterator[Finding]:
    """What is no server to the other policies, they pass over."""
    recognised = [container.of for container, _ in servers(manifests)]
    for workload in manifests.of("Deployment", "StatefulSet", "DaemonSet"):
        for container in serving(workload) if workload not in recognised else ():
            if is_ours(str(container.spec.get("image"))) or pod_labels(workload).get(ROLE) == "server":
                text = (
                    "no server is seen here: begin `args` with serve, without `command`, and let the image be called sgl-embed"
                )
                yield in_container(manifests, container, "command", text)


def servers_are_configured(manifests: Manifests) -> Iterator[Finding]:
    for container, arguments in servers(manifests):
        try:
            parse(container, arguments)
        except Unreadable:
            continue
        try:
            read_config(manifests, container, arguments)
        except Unreadable as reason:
            yield in_container(manifests, container, reason.field, str(reason))


def servers_listen_on_their_port(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        if config.server.port not in container.ports.values():
            yield in_container(manifests, container, "ports", f"the server listens on {config.server.port}, which is not here")
        if config.server.host.startswith(LOOPBACK):
            text = f"server.host is {config.server.host}: nothing outside the pod can connect; set 0.0.0.0"
            yield in_container(manifests, container, "args", text)


def grace_covers_the_drain(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        pause, grace, drain = pause_s(container), grace_s(container), config.server.drain_timeout_s
        if grace <= pause + drain:
            text = f"{grace} s is not more than preStop ({pause} s) and server.drain_timeout_s ({drain:g} s)"
            yield finding(manifests, container.of, "spec.template.spec.terminationGracePeriodSeconds", text)


def grace_covers_the_longest_request(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        longest = max(config.server.request_timeout_s, config.server.max_request_timeout_s)
        pause, grace = pause_s(container), grace_s(container)
        if grace < MARGIN * (pause + longest):
            text = (
                f"{grace} s is less than {MARGIN:g} times preStop ({pause} s) and the longest request ({longest:g} s, "
                "server.max_request_timeout_s)"
            )
            yield finding(manifests, container.of, "spec.template.spec.terminationGracePeriodSeconds", text)


def servers_pause_before_they_stop(manifests: Manifests) -> Iterator[Finding]:
    for container, _ in configured(manifests):
        if pause_s(container) <= 0:
            text = "without a sleep, requests that are still sent to the pod are refused"
            yield in_container(manifests, container, "lifecycle.preStop.sleep.seconds", text)


def startup_outlasts_the_engine(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        probe = container.spec.get("startupProbe")
        if probe is None or config.engine.name == "openvino":
            continue
        patience = probe.get("initialDelaySeconds", 0) + probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        if patience < config.engine.sglang.start_timeout_s:
            text = (
                f"ends the pod after {patience} s; engine.sglang.start_timeout_s is {config.engine.sglang.start_timeout_s:g} s"
            )
            yield in_container(manifests, container, "startupProbe", text)


def servers_have_all_probes(manifests: Manifests) -> Iterator[Finding]:
    for container, _ in servers(manifests):
        for probe in PROBES:
            if probe not in container.spec:
                yield in_container(manifests, container, probe, "this probe is missing")


def probes_ask_by_http(manifests: Manifests) -> Iterator[Finding]:
    for container, _ in servers(manifests):
        for probe in PROBES:
            if probe in container.spec and "httpGet" not in container.spec[probe]:
                text = "a port is open and a program runs whatever state the server is in; ask a route of it with httpGet"
                yield in_container(manifests, container, probe, text)


def probes_ask_routes(manifests: Manifests) -> Iterator[Finding]:
    known = probe_paths()
    for container, _ in servers(manifests):
        for probe in PROBES:
            asked = at(container.spec, f"{probe}.httpGet")
            if asked is None:
                continue
            if asked.get("path") not in known:
                text = f"the server has no route {asked.get('path')}; it has {', '.join(sorted(known))}"
                yield in_container(manifests, container, f"{probe}.httpGet.path", text)
            port = asked.get("port")
            if port not in container.ports and port not in container.ports.values():
                yield in_container(manifests, container, f"{probe}.httpGet.port", f"the container has no port {port}")


def probes_speak_the_servers_protocol(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        wanted = "HTTPS" if config.server.tls.cert_file else "HTTP"
        for probe in PROBES:
            asked = at(container.spec, f"{probe}.httpGet")
            if asked is not None and asked.get("scheme", "HTTP") != wanted:
                yield in_container(manifests, container, f"{probe}.httpGet.scheme", f"this server speaks {wanted}")


def liveness_is_not_readiness(manifests: Manifests) -> Iterator[Finding]:
    for container, _ in servers(manifests):
        ready = {at(container.spec, f"{probe}.httpGet.path") for probe in ("readinessProbe", "startupProbe")}
        live = at(container.spec, "livenessProbe.httpGet.path")
        if live in (*ready - {None}, "/ready", "/health"):
            text = f"{live} says 503 while the engine is away, and a restart would not bring it back; ask /live"
            yield in_container(manifests, container, "livenessProbe.httpGet.path", text)


def liveness_is_patient(manifests: Manifests) -> Iterator[Finding]:
    for container, _ in servers(manifests):
        probe = container.spec.get("livenessProbe")
        if probe is None:
            continue
        patience = probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3)
        if patience < PATIENCE_S:
            text = f"ends a pod that is only busy after {patience} s; period times failures at least {PATIENCE_S} s"
            yield in_container(manifests, container, "livenessProbe", text)
        if probe.get("timeoutSeconds", 1) < LEAST_TIMEOUT_S:
            text = f"a loaded server may take longer than a second to answer; at least {LEAST_TIMEOUT_S} s"
            yield in_container(manifests, container, "livenessProbe.timeoutSeconds", text)


def probe_paths() -> set[str]:
    """Those that need no API key and do not wait for the engine."""
    return {route.path for route in OpsRoutes(Readiness(), lambda encode: b"").routes()} - {"/metrics"}


def pause_s(container: Container) -> int:
    return int(at(container.spec, "lifecycle.preStop.sleep.seconds", 0))


def grace_s(container: Container) -> int:
    # Kubernetes's default.
    return int(at(pod_of(container.of), "terminationGracePeriodSeconds", 30))
