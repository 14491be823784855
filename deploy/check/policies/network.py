"""What network policies let through, and for which hosts there is TLS."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, Object, at, label, pod_labels, selects
from deploy.check.policies.report import finding
from deploy.check.servers import configured

DNS = (("UDP", 53), ("TCP", 53))
ANY = "*"


def servers_can_be_reached(manifests: Manifests) -> Iterator[Finding]:
    for container, config in configured(manifests):
        port = config.server.port
        names = {name for name, number in container.ports.items() if number == port}
        policies = _policies(manifests, container.of, "Ingress")
        if policies and not _lets_through(policies, "ingress", "TCP", port, names):
            text = f"no rule lets anyone reach port {port} of {label(container.of)}"
            yield finding(manifests, policies[0], "spec.ingress", text)


def names_can_be_resolved(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        policies = _policies(manifests, workload, "Egress")
        for protocol, port in DNS:
            if policies and not _lets_through(policies, "egress", protocol, port, set()):
                text = f"no rule lets {label(workload)} reach DNS, {protocol} port {port}"
                yield finding(manifests, policies[0], "spec.egress", text)


def _policies(manifests: Manifests, workload: Object, direction: str) -> Sequence[Object]:
    """Those that restrict the pods in this direction; what any of them lets through is let through."""
    return [
        policy
        for policy in manifests.of("NetworkPolicy")
        if direction in _directions(policy) and selects(at(policy, "spec.podSelector", {}), pod_labels(workload))
    ]


def _directions(policy: Object) -> Sequence[str]:
    default = ["Ingress", "Egress"] if "egress" in policy["spec"] else ["Ingress"]
    found: Sequence[str] = at(policy, "spec.policyTypes", default)
    return found


def _lets_through(policies: Sequence[Object], key: str, protocol: str, port: int, names: set[str]) -> bool:
    rules = [rule for policy in policies for rule in at(policy, f"spec.{key}", ())]
    # A rule without ports is one for all of them.
    return any("ports" not in rule or any(_takes(each, protocol, port, names) for each in rule["ports"]) for rule in rules)


def _takes(listed: Object, protocol: str, port: int, names: set[str]) -> bool:
    if listed.get("protocol", "TCP") != protocol:
        return False
    first = listed.get("port", port)
    return first in names if isinstance(first, str) else first <= port <= listed.get("endPort", first)


def encrypted_hosts_are_the_routed_ones(manifests: Manifests) -> Iterator[Finding]:
    for ingress in manifests.of("Ingress"):
        # A rule or a block that names no host is for any.
        routed = {str(rule.get("host", ANY)) for rule in at(ingress, "spec.rules", ())}
        blocks = at(ingress, "spec.tls", ())
        encrypted = {host for block in blocks for host in block.get("hosts", (ANY,))}
        for host in sorted(routed if blocks else ()):
            if not any(_covers(name, host) for name in encrypted):
                yield finding(manifests, ingress, "spec.tls", f"{host} of the rules has no certificate")
        for name in sorted(encrypted):
            if not any(_covers(name, host) or host == ANY for host in routed):
                yield finding(manifests, ingress, "spec.tls", f"{name} is in none of the rules")
        for block in blocks:
            for certificate in manifests.of("Certificate"):
                if at(certificate, "spec.secretName") == block.get("secretName"):
                    yield from _not_in(manifests, certificate, block.get("hosts", ()), ingress)


def _not_in(manifests: Manifests, certificate: Object, hosts: Sequence[str], ingress: Object) -> Iterator[Finding]:
    names = at(certificate, "spec.dnsNames", ())
    for host in hosts:
        if not any(_covers(name, host) for name in names):
            yield finding(manifests, certificate, "spec.dnsNames", f"{host} of {label(ingress)} is not among them")


def _covers(name: str, host: str) -> bool:
    """A wildcard is for one label."""
    return name in (host, ANY) or (name.startswith("*.") and name[2:] == host.partition(".")[2])
