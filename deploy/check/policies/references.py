"""What is referred to is made here, or is one of the few things that a user makes."""

from __future__ import annotations

from collections.abc import Iterator

from deploy.check.findings import Finding
from deploy.check.manifests import Manifests, Object, at, containers, pod_of
from deploy.check.policies.report import finding, in_container

# What whoever installs this makes, as docs/operations/kubernetes.md says.
MADE_BY_THE_USER = {("Secret", "sgl-embed-api-keys"), ("Secret", "sgl-embed-redis")}


def references_are_made(manifests: Manifests) -> Iterator[Finding]:
    made = {(str(each["kind"]), str(at(each, "metadata.name"))) for each in manifests.objects} | MADE_BY_THE_USER
    # cert-manager writes them.
    made |= {("Secret", str(at(each, "spec.secretName"))) for each in manifests.of("Certificate")}
    for of, field, kind, name in references(manifests):
        if (kind, name) not in made:
            yield finding(manifests, of, field, f"there is no {kind} {name} here, and it is not one that the user makes")


def referred_keys_exist(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        for index, volume in enumerate(pod_of(workload).get("volumes", ())):
            for item in at(volume, "configMap.items", ()):
                if not _has_key(manifests, volume["configMap"]["name"], item["key"]):
                    text = f"ConfigMap {volume['configMap']['name']} has no {item['key']}"
                    yield finding(manifests, workload, f"spec.template.spec.volumes[{index}].configMap.items", text)
        for container in containers(workload):
            for variable in container.spec.get("env", ()):
                chosen = at(variable, "valueFrom.configMapKeyRef")
                if chosen and not _has_key(manifests, chosen["name"], chosen["key"]):
                    text = f"{variable['name']}: ConfigMap {chosen['name']} has no {chosen['key']}"
                    yield in_container(manifests, container, "env", text)


def mounts_have_volumes(manifests: Manifests) -> Iterator[Finding]:
    for workload in manifests.workloads():
        volumes = {volume["name"] for volume in pod_of(workload).get("volumes", ())}
        for container in containers(workload):
            for mount in container.spec.get("volumeMounts", ()):
                if mount["name"] not in volumes:
                    yield in_container(manifests, container, "volumeMounts", f"there is no volume {mount['name']!r}")
        mounted = {mount["name"] for container in containers(workload) for mount in container.spec.get("volumeMounts", ())}
        for name in sorted(volumes - mounted):
            yield finding(manifests, workload, "spec.template.spec.volumes", f"{name!r} is mounted nowhere")


def references(manifests: Manifests) -> Iterator[tuple[Object, str, str, str]]:
    """Each as the object, its field, and what is meant: a kind and a name. Optional ones are left out."""
    for workload in manifests.workloads():
        pod = pod_of(workload)
        if "serviceAccountName" in pod:
            yield workload, "spec.template.spec.serviceAccountName", "ServiceAccount", pod["serviceAccountName"]
        for index, secret in enumerate(pod.get("imagePullSecrets", ())):
            yield workload, f"spec.template.spec.imagePullSecrets[{index}]", "Secret", secret["name"]
        for index, volume in enumerate(pod.get("volumes", ())):
            for kind, name in _in_volume(volume):
                yield workload, f"spec.template.spec.volumes[{index}]", kind, name
        for container in containers(workload):
            for kind, name in _in_environment(container.spec):
                yield workload, f"{container.path}.env", kind, name
    for ingress in manifests.of("Ingress"):
        for index, tls in enumerate(at(ingress, "spec.tls", ())):
            yield ingress, f"spec.tls[{index}].secretName", "Secret", str(tls.get("secretName"))
    for gateway in manifests.of("Gateway"):
        for index, listener in enumerate(at(gateway, "spec.listeners", ())):
            for certificate in at(listener, "tls.certificateRefs", ()):
                yield gateway, f"spec.listeners[{index}].tls.certificateRefs", "Secret", certificate["name"]
    for certificate in manifests.of("Certificate"):
        issuer = at(certificate, "spec.issuerRef", {})
        # A ClusterIssuer is the cluster's.
        if issuer.get("kind", "Issuer") == "Issuer":
            yield certificate, "spec.issuerRef", "Issuer", str(issuer.get("name"))
    for scaled in manifests.of("ScaledObject"):
        for index, trigger in enumerate(at(scaled, "spec.triggers", ())):
            if name := at(trigger, "authenticationRef.name"):
                yield scaled, f"spec.triggers[{index}].authenticationRef", "TriggerAuthentication", name


def _in_volume(volume: Object) -> Iterator[tuple[str, str]]:
    for part in (volume, *at(volume, "projected.sources", ())):
        for key, kind, name in (("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName")):
            source = part.get(key)
            if source and not source.get("optional"):
                yield kind, str(source.get(name, source.get("name")))
    if claim := at(volume, "persistentVolumeClaim.claimName"):
        yield "PersistentVolumeClaim", claim


def _in_environment(container: Object) -> Iterator[tuple[str, str]]:
    sources = [variable.get("valueFrom", {}) for variable in container.get("env", ())]
    for source in (*sources, *container.get("envFrom", ())):
        for keys, kind in ((("configMapKeyRef", "configMapRef"), "ConfigMap"), (("secretKeyRef", "secretRef"), "Secret")):
            for key in keys:
                if key in source and not source[key].get("optional"):
                    yield kind, str(source[key]["name"])


def _has_key(manifests: Manifests, name: str, key: str) -> bool:
    """Of a ConfigMap that is not made here another policy speaks."""
    found = manifests.find("ConfigMap", name)
    return found is None or key in at(found, "data", {})
