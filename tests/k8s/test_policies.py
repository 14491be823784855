"""The project's own rules: the overlays keep them, and a copy in which one thing is wrong does not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from deploy.check.manifests import Manifests
from deploy.check.policies import (
    POLICIES,
    Policy,
    autoscaling,
    disruption,
    images,
    judge,
    lifetime,
    name_of,
    network,
    references,
    resources,
    scraping,
    security,
    selectors,
    vectors,
)
from tests.k8s.edits import Edit, add, argument, drop, duplicate, edited, more_arguments, put, remove, replace

DEPLOYMENT = "Deployment/sgl-embed"
JOB = "Job/sgl-embed-fetch"
SCALED = "ScaledObject/sgl-embed"
HPA = "HorizontalPodAutoscaler/sgl-embed"
RULES = "ConfigMap/sgl-embed-adapter-rules"
NAME = "app.kubernetes.io/name"
POD = "spec template spec"
SERVER = f"{POD} containers 0"
GPU = "nvidia.com/gpu"


@dataclass(frozen=True)
class Case:
    """What ``policy`` finds in ``overlay`` after the edits: at ``place``, a part of the finding's object and field."""

    policy: Policy
    place: str
    overlay: str
    edits: tuple[Edit, ...]


def case(policy: Policy, place: str, *edits: Edit, overlay: str = "gpu") -> Case:
    return Case(policy, place, overlay, edits)


def canary(*edits: Edit) -> Edit:
    """A second Deployment behind the same Service."""
    track = [
        put("Deployment", f"{where} track", "canary")
        for where in ("spec selector matchLabels", "spec template metadata labels")
    ]
    return duplicate(DEPLOYMENT, "sgl-embed-canary", *track, *edits)


def scaled_to(replicas: int) -> Edit:
    return put(SCALED, "spec minReplicaCount", replicas)


CASES = (
    case(selectors.services_select_pods, "Service/sgl-embed spec.selector", put("Service", f"spec selector {NAME}", "other")),
    case(selectors.services_select_pods, "spec.ports[0].targetPort", put("Service", "spec ports 0 targetPort", "grpc")),
    case(
        selectors.services_select_pods, "spec.ports[0].targetPort", drop("Service", "spec selector app.kubernetes.io/component")
    ),
    case(
        selectors.budgets_select_pods, "spec.selector", put("PodDisruptionBudget", f"spec selector matchLabels {NAME}", "other")
    ),
    case(
        selectors.network_policies_select_pods,
        "NetworkPolicy/sgl-embed spec.podSelector",
        put("NetworkPolicy/sgl-embed", f"spec podSelector matchLabels {NAME}", "other"),
    ),
    case(
        selectors.network_policies_select_pods,
        "spec.ingress[0].ports",
        put("NetworkPolicy/sgl-embed", "spec ingress 0 ports 0 port", "web"),
    ),
    case(
        selectors.monitors_select_ports,
        "ServiceMonitor/sgl-embed spec.selector",
        put("ServiceMonitor", f"spec selector matchLabels {NAME}", "other"),
    ),
    case(selectors.monitors_select_ports, "spec.endpoints[0].port", put("ServiceMonitor", "spec endpoints 0 port", "metrics")),
    case(selectors.monitors_select_ports, "spec.endpoints[0].path", put("ServiceMonitor", "spec endpoints 0 path", "/metric")),
    case(
        selectors.monitors_select_ports,
        "PodMonitor/sgl-embed spec.selector",
        put("PodMonitor", f"spec selector matchLabels {NAME}", "other"),
        overlay="gpu-gateway-api",
    ),
    case(
        selectors.monitors_select_ports,
        "spec.podMetricsEndpoints[0].port",
        put("PodMonitor", "spec podMetricsEndpoints 0 port", "metrics"),
        overlay="gpu-gateway-api",
    ),
    case(
        scraping.monitors_give_the_job_of_the_rules,
        "ServiceMonitor/sgl-embed spec.jobLabel",
        put("Service", "metadata labels team", "search"),
        put("ServiceMonitor", "spec jobLabel", "team"),
    ),
    case(
        scraping.monitors_give_the_job_of_the_rules,
        "PodMonitor/sgl-embed spec.jobLabel",
        drop("PodMonitor", "spec jobLabel"),
        overlay="gpu-gateway-api",
    ),
    case(
        selectors.workloads_select_their_own_pods,
        "Deployment/sgl-embed spec.selector",
        put(DEPLOYMENT, f"spec selector matchLabels {NAME}", "other"),
    ),
    case(
        selectors.workloads_select_their_own_pods,
        "Deployment/sgl-embed spec.selector",
        drop(DEPLOYMENT, "spec selector matchLabels app.kubernetes.io/component"),
    ),
    case(
        selectors.pods_spread_from_their_own,
        "topologySpreadConstraints[0]",
        put(DEPLOYMENT, f"{POD} topologySpreadConstraints 0 labelSelector matchLabels {NAME}", "other"),
    ),
    case(
        selectors.pods_spread_from_their_own,
        "podAntiAffinity",
        put(
            DEPLOYMENT,
            f"{POD} affinity podAntiAffinity requiredDuringSchedulingIgnoredDuringExecution",
            [{"labelSelector": {"matchExpressions": [{"key": NAME, "operator": "In", "values": ["other"]}]}}],
        ),
    ),
    case(
        selectors.routes_lead_to_services,
        "Ingress/sgl-embed",
        put("Ingress", "spec rules 0 http paths 0 backend service name", "other"),
    ),
    case(
        selectors.routes_lead_to_services,
        "Ingress/sgl-embed",
        put("Ingress", "spec rules 0 http paths 1 backend service port name", "web"),
    ),
    case(
        selectors.routes_lead_to_services,
        "HTTPRoute/sgl-embed spec.rules[0].backendRefs",
        put("HTTPRoute", "spec rules 0 backendRefs 0 port", 8080),
        overlay="gpu-gateway-api",
    ),
    case(
        selectors.gateways_are_there,
        "spec.parentRefs[0]",
        drop("HTTPRoute", "spec parentRefs 0 namespace"),
        overlay="gpu-gateway-api",
    ),
    case(
        selectors.gateways_are_there,
        "spec.parentRefs[0].sectionName",
        add({"kind": "Gateway", "metadata": {"name": "public"}, "spec": {"listeners": [{"name": "http"}]}}),
        overlay="gpu-gateway-api",
    ),
    case(references.references_are_made, f"{DEPLOYMENT} spec.template.spec.volumes", remove("ConfigMap/sgl-embed-configs")),
    case(references.references_are_made, f"{DEPLOYMENT} spec.template.spec.volumes", remove("PersistentVolumeClaim")),
    case(references.references_are_made, "spec.template.spec.serviceAccountName", remove("ServiceAccount")),
    case(references.references_are_made, "Ingress/sgl-embed spec.tls[0].secretName", remove("Certificate")),
    case(
        references.references_are_made,
        f"{DEPLOYMENT} spec.template.spec.volumes[0]",
        put(DEPLOYMENT, f"{POD} volumes 0 secret secretName", "other"),
    ),
    case(
        references.references_are_made,
        f"{DEPLOYMENT} spec.template.spec.containers[0].env",
        put(DEPLOYMENT, f"{SERVER} env 0 valueFrom secretKeyRef name", "other"),
        overlay="gpu-gateway-api",
    ),
    case(
        references.referred_keys_exist,
        "configMap.items",
        put(DEPLOYMENT, f"{POD} volumes 3 configMap items", [{"key": "other.yaml", "path": "other.yaml"}]),
    ),
    case(
        references.mounts_have_volumes,
        "spec.template.spec.containers[0].volumeMounts",
        put(DEPLOYMENT, f"{SERVER} volumeMounts 0 name", "other"),
    ),
    case(references.mounts_have_volumes, "spec.template.spec.volumes", drop(DEPLOYMENT, f"{SERVER} volumeMounts 0")),
    case(lifetime.arguments_are_the_launchers, "containers[0].args", more_arguments("--cofig=x")),
    case(lifetime.arguments_are_the_launchers, "containers[0].args", argument("serve", "server")),
    case(lifetime.arguments_are_the_launchers, JOB, argument("/models", "--into=/models", JOB)),
    case(
        lifetime.servers_are_configured,
        "containers[0].args",
        argument("--config", "--config=/etc/sgl-embed/configs/bge-larg-zh-v1.5.yaml"),
    ),
    case(
        lifetime.servers_are_configured,
        "containers[0].args",
        argument("--config", "--config=/etc/other/bge-large-zh-v1.5.yaml"),
    ),
    case(lifetime.servers_are_configured, "containers[0].args", more_arguments("--set=server.prot=1")),
    case(
        lifetime.servers_are_configured,
        "containers[0].args",
        replace("ConfigMap/sgl-embed-configs", "data bge-large-zh-v1.5.yaml", "engine:", "engin:"),
    ),
    case(lifetime.servers_are_configured, "containers[0].args", argument("--config", "--config=/models/x.yaml")),
    case(
        lifetime.servers_are_recognised,
        f"{DEPLOYMENT} spec.template.spec.containers[0].command",
        put(DEPLOYMENT, f"{SERVER} command", ["sh", "-c", "exec sgl-embed serve"]),
    ),
    case(
        lifetime.servers_are_recognised,
        "containers[0].command",
        put(DEPLOYMENT, f"{SERVER} image", f"registry:5000/sgl-embed@sha256:{64 * '0'}"),
        put(DEPLOYMENT, f"{SERVER} command", ["python"]),
    ),
    case(
        lifetime.servers_are_recognised,
        "containers[0].command",
        put(DEPLOYMENT, f"{SERVER} image", "registry:5000/embeddings:0.1.0-gpu"),
    ),
    # An image that is named by its digest is ours, too.
    case(
        lifetime.servers_listen_on_their_port,
        "containers[0].ports",
        put(DEPLOYMENT, f"{SERVER} image", f"registry:5000/sgl-embed@sha256:{64 * '0'}"),
        more_arguments("--port=8080"),
    ),
    case(lifetime.servers_listen_on_their_port, "containers[0].ports", more_arguments("--port=8080")),
    case(lifetime.servers_listen_on_their_port, "containers[0].args", more_arguments("--host=127.0.0.1")),
    case(lifetime.servers_pause_before_they_stop, "lifecycle.preStop", drop(DEPLOYMENT, f"{SERVER} lifecycle")),
    case(
        lifetime.grace_covers_the_drain,
        "terminationGracePeriodSeconds",
        argument("--set=server.drain_timeout_s", "--set=server.drain_timeout_s=105"),
    ),
    case(
        lifetime.grace_covers_the_drain,
        "terminationGracePeriodSeconds",
        put(DEPLOYMENT, f"{POD} terminationGracePeriodSeconds", 75),
    ),
    case(
        lifetime.grace_covers_the_longest_request,
        "terminationGracePeriodSeconds",
        put(DEPLOYMENT, f"{POD} terminationGracePeriodSeconds", 112),
    ),
    case(
        lifetime.grace_covers_the_longest_request,
        "terminationGracePeriodSeconds",
        # The default is 600 s.
        argument("--set=server.max_request_timeout_s", "--set=log.level=info"),
    ),
    case(
        lifetime.grace_covers_the_longest_request,
        "GracePeriod",
        put(DEPLOYMENT, f"{SERVER} lifecycle preStop sleep seconds", 30),
    ),
    case(lifetime.startup_outlasts_the_engine, "startupProbe", put(DEPLOYMENT, f"{SERVER} startupProbe failureThreshold", 59)),
    case(lifetime.startup_outlasts_the_engine, "startupProbe", more_arguments("--set=engine.sglang.start_timeout_s=500")),
    case(lifetime.servers_have_all_probes, "containers[0].startupProbe", drop(DEPLOYMENT, f"{SERVER} startupProbe")),
    case(
        lifetime.probes_ask_by_http,
        "containers[0].readinessProbe",
        put(DEPLOYMENT, f"{SERVER} readinessProbe", {"tcpSocket": {"port": "http"}}),
    ),
    case(
        lifetime.probes_ask_by_http,
        "containers[0].livenessProbe",
        put(DEPLOYMENT, f"{SERVER} livenessProbe", {"exec": {"command": ["true"]}, "failureThreshold": 6}),
    ),
    case(
        lifetime.probes_ask_routes,
        "readinessProbe.httpGet.path",
        put(DEPLOYMENT, f"{SERVER} readinessProbe httpGet path", "/readyz"),
    ),
    case(
        lifetime.probes_ask_routes, "livenessProbe.httpGet.port", put(DEPLOYMENT, f"{SERVER} livenessProbe httpGet port", "web")
    ),
    case(
        lifetime.probes_speak_the_servers_protocol,
        "livenessProbe.httpGet.scheme",
        more_arguments("--set=server.tls.cert_file=/tls/tls.crt", "--set=server.tls.key_file=/tls/tls.key"),
    ),
    case(
        lifetime.liveness_is_not_readiness, "livenessProbe", put(DEPLOYMENT, f"{SERVER} livenessProbe httpGet path", "/ready")
    ),
    case(
        lifetime.liveness_is_not_readiness, "livenessProbe", put(DEPLOYMENT, f"{SERVER} livenessProbe httpGet path", "/health")
    ),
    case(lifetime.liveness_is_patient, "livenessProbe", put(DEPLOYMENT, f"{SERVER} livenessProbe periodSeconds", 4)),
    case(lifetime.liveness_is_patient, "livenessProbe", put(DEPLOYMENT, f"{SERVER} livenessProbe failureThreshold", 2)),
    case(
        lifetime.liveness_is_patient,
        "livenessProbe.timeoutSeconds",
        drop(DEPLOYMENT, f"{SERVER} livenessProbe timeoutSeconds"),
    ),
    case(
        network.servers_can_be_reached,
        "NetworkPolicy/sgl-embed spec.ingress",
        put("NetworkPolicy/sgl-embed", "spec ingress 0 ports 0 port", 8080),
    ),
    case(
        network.servers_can_be_reached,
        "NetworkPolicy/sgl-embed spec.ingress",
        put("NetworkPolicy/sgl-embed", "spec ingress", []),
    ),
    case(
        network.names_can_be_resolved,
        "NetworkPolicy/sgl-embed spec.egress",
        put("NetworkPolicy/sgl-embed", "spec egress", []),
    ),
    case(
        network.names_can_be_resolved,
        "NetworkPolicy/sgl-embed-fetch spec.egress",
        drop("NetworkPolicy/sgl-embed-fetch", "spec egress 0 ports 0"),
    ),
    case(
        network.encrypted_hosts_are_the_routed_ones,
        "Ingress/sgl-embed spec.tls",
        put("Ingress", "spec tls 0 hosts", ["other.example.com"]),
    ),
    case(
        network.encrypted_hosts_are_the_routed_ones,
        "Ingress/sgl-embed spec.tls",
        put("Ingress", "spec tls 0 hosts -", "other.example.com"),
    ),
    case(
        network.encrypted_hosts_are_the_routed_ones,
        "Certificate/sgl-embed spec.dnsNames",
        put("Certificate", "spec dnsNames", ["*.other.example.com"]),
    ),
    case(autoscaling.autoscalers_have_a_target, SCALED, put(SCALED, "spec scaleTargetRef name", "other")),
    case(autoscaling.autoscalers_have_a_target, HPA, put(HPA, "spec scaleTargetRef name", "other"), overlay="gpu-gateway-api"),
    case(
        autoscaling.one_autoscaler_for_each,
        SCALED,
        add({"kind": "HorizontalPodAutoscaler", "metadata": {"name": "b"}, "spec": {"scaleTargetRef": {"name": "sgl-embed"}}}),
    ),
    case(autoscaling.no_replicas_under_an_autoscaler, f"{DEPLOYMENT} spec.replicas", put(DEPLOYMENT, "spec replicas", 2)),
    case(autoscaling.autoscalers_have_bounds, SCALED, scaled_to(0)),
    case(autoscaling.autoscalers_have_bounds, SCALED, drop(SCALED, "spec minReplicaCount")),
    case(autoscaling.autoscalers_have_bounds, SCALED, scaled_to(17)),
    case(autoscaling.autoscalers_have_bounds, HPA, put(HPA, "spec maxReplicas", 1), overlay="gpu-gateway-api"),
    case(
        autoscaling.external_metrics_are_made,
        "spec.metrics[0].external.metric.name",
        put(HPA, "spec metrics 0 external metric name", "sgl_embed_qps"),
        overlay="gpu-gateway-api",
    ),
    case(autoscaling.autoscalers_have_their_metrics_scraped, SCALED, remove("ServiceMonitor")),
    case(
        autoscaling.autoscalers_count_what_is_offered,
        "spec.triggers[0].metadata.query",
        put(SCALED, "spec triggers 0 metadata query", 'sum(rate(embedding_requests_total{status="200"}[1m]))'),
    ),
    case(autoscaling.autoscalers_count_what_is_offered, f"{SCALED} spec", drop(SCALED, "spec triggers 0")),
    case(
        autoscaling.autoscalers_count_what_is_offered,
        "spec.metrics[0].external.metric.name",
        replace(
            RULES,
            "data config.yaml",
            'sum(rate(embedding_requests_offered_total{task="embeddings"}',
            'sum(rate(embedding_requests_total{status!="429"}',
        ),
        overlay="gpu-gateway-api",
    ),
    case(autoscaling.autoscalers_count_what_is_offered, f"{HPA} spec", drop(HPA, "spec metrics 0"), overlay="gpu-gateway-api"),
    case(
        autoscaling.autoscalers_count_their_own_namespace,
        "spec.triggers[1].metadata.query",
        put(SCALED, "spec triggers 1 metadata query", 'sum(embedding_tokens_in_flight{namespace="sgl-embed-next"})'),
    ),
    case(
        autoscaling.no_answer_is_an_error,
        "spec.triggers[0].metadata.ignoreNullValues",
        put(SCALED, "spec triggers 0 metadata ignoreNullValues", "true"),
    ),
    case(
        autoscaling.no_answer_is_an_error,
        "spec.triggers[1].metadata.ignoreNullValues",
        drop(SCALED, "spec triggers 1 metadata ignoreNullValues"),
    ),
    case(
        autoscaling.scrapes_end_before_the_next,
        "spec.endpoints[0].scrapeTimeout",
        put("ServiceMonitor", "spec endpoints 0 scrapeTimeout", "20s"),
    ),
    case(
        autoscaling.scrapes_end_before_the_next,
        "spec.podMetricsEndpoints[0].scrapeTimeout",
        put("PodMonitor", "spec podMetricsEndpoints 0 interval", "5s"),
        overlay="gpu-gateway-api",
    ),
    case(
        autoscaling.queries_are_promql,
        "spec.triggers[0].metadata.query",
        replace(SCALED, "spec triggers 0 metadata query", "))", ")"),
    ),
    case(
        autoscaling.queries_are_promql,
        f"{RULES} sgl_embed_offered_qps metricsQuery",
        replace(RULES, "data config.yaml", "[1m]))", "[1m])"),
        overlay="gpu-gateway-api",
    ),
    case(autoscaling.windows_span_four_scrapes, "spec.triggers[0]", put("ServiceMonitor", "spec endpoints 0 interval", "30s")),
    # Prometheus's own default is a minute.
    case(autoscaling.windows_span_four_scrapes, "spec.triggers[0]", drop("ServiceMonitor", "spec endpoints 0 interval")),
    case(
        autoscaling.windows_span_four_scrapes,
        "sgl_embed_offered_qps metricsQuery",
        replace(RULES, "data config.yaml", "[1m]", "[30s]"),
        overlay="gpu-gateway-api",
    ),
    case(
        disruption.budgets_let_some_pods_go,
        "PodDisruptionBudget/sgl-embed",
        put("PodDisruptionBudget", "spec maxUnavailable", 0),
    ),
    case(
        disruption.budgets_let_some_pods_go,
        "PodDisruptionBudget/sgl-embed",
        put("PodDisruptionBudget", "spec maxUnavailable", 2),
    ),
    case(
        disruption.budgets_let_some_pods_go,
        "PodDisruptionBudget/sgl-embed",
        drop("PodDisruptionBudget", "spec maxUnavailable"),
        put("PodDisruptionBudget", "spec minAvailable", 2),
    ),
    case(
        disruption.budgets_let_some_pods_go,
        "PodDisruptionBudget/sgl-embed",
        put("PodDisruptionBudget", "spec maxUnavailable", "100%"),
    ),
    case(disruption.replicated_servers_have_a_budget, DEPLOYMENT, remove("PodDisruptionBudget")),
    case(
        disruption.rollouts_get_on,
        f"{DEPLOYMENT} spec.strategy.rollingUpdate",
        put(DEPLOYMENT, "spec strategy rollingUpdate", {"maxSurge": 0, "maxUnavailable": "0%"}),
    ),
    case(images.images_are_pinned, "containers[0].image", put(DEPLOYMENT, f"{SERVER} image", "registry:5000/sgl-embed")),
    case(images.images_are_pinned, "containers[0].image", put(DEPLOYMENT, f"{SERVER} image", "sgl-embed:latest")),
    case(
        images.images_are_pinned,
        "spec.template.spec.volumes[3].image.reference",
        put(DEPLOYMENT, f"{POD} volumes 3 image reference", "registry.example.com/weights"),
        overlay="gpu-gateway-api",
    ),
    case(
        images.our_images_are_of_this_version,
        "initContainers[0]",
        put(DEPLOYMENT, f"{POD} initContainers 0 image", "sgl-embed:0.0.9-gpu"),
    ),
    case(security.containers_run_as_a_user, "containers[0]", drop(DEPLOYMENT, f"{POD} securityContext runAsNonRoot")),
    case(security.containers_run_as_a_user, "containers[0]", put(DEPLOYMENT, f"{SERVER} securityContext runAsUser", 0)),
    case(security.containers_have_no_capabilities, "containers[0]", drop(DEPLOYMENT, f"{SERVER} securityContext capabilities")),
    case(
        security.containers_have_no_capabilities,
        "containers[0]",
        put(DEPLOYMENT, f"{SERVER} securityContext capabilities add", ["SYS_PTRACE"]),
    ),
    case(
        security.containers_gain_no_privileges,
        "initContainers[0]",
        drop(DEPLOYMENT, f"{POD} initContainers 0 securityContext allowPrivilegeEscalation"),
    ),
    case(
        security.containers_gain_no_privileges, "containers[0]", put(DEPLOYMENT, f"{SERVER} securityContext privileged", True)
    ),
    case(
        security.containers_have_a_read_only_root,
        "containers[0]",
        put(DEPLOYMENT, f"{SERVER} securityContext readOnlyRootFilesystem", False),
    ),
    case(security.containers_have_a_system_call_filter, JOB, drop(JOB, f"{POD} securityContext seccompProfile")),
    case(security.writable_folders_are_mounted, "containers[0].volumeMounts", drop(DEPLOYMENT, f"{SERVER} volumeMounts 4")),
    case(security.pods_have_no_token, JOB, drop(JOB, f"{POD} automountServiceAccountToken")),
    case(security.pods_have_no_service_links, DEPLOYMENT, put(DEPLOYMENT, f"{POD} enableServiceLinks", True)),
    case(security.pods_share_nothing_of_the_host, "hostNetwork", put(DEPLOYMENT, f"{POD} hostNetwork", True)),
    case(
        security.pods_share_nothing_of_the_host,
        "volumes[1].hostPath",
        put(DEPLOYMENT, f"{POD} volumes 1", {"name": "models", "hostPath": {"path": "/models"}}),
    ),
    case(
        resources.containers_claim_what_they_need,
        "resources.requests.cpu",
        drop(DEPLOYMENT, f"{SERVER} resources requests cpu"),
    ),
    case(resources.containers_claim_what_they_need, "resources.limits.memory", drop(JOB, f"{SERVER} resources limits memory")),
    case(resources.gpu_requests_equal_limits, "resources", drop(DEPLOYMENT, f"{SERVER} resources requests {GPU}")),
    case(
        resources.gpus_are_for_the_engine_that_uses_them,
        "resources.limits",
        drop(DEPLOYMENT, f"{SERVER} resources requests {GPU}"),
        drop(DEPLOYMENT, f"{SERVER} resources limits {GPU}"),
    ),
    case(resources.gpus_are_for_the_engine_that_uses_them, "resources.limits", more_arguments("--num-gpus=2")),
    case(resources.gpus_are_for_the_engine_that_uses_them, "resources.limits", more_arguments("--engine=openvino")),
    case(
        resources.cpu_overlays_ask_for_no_gpu,
        "containers[0].resources",
        put(DEPLOYMENT, f"{SERVER} resources limits {GPU}", 1),
        overlay="dev-cpu",
    ),
    *(
        case(vectors.one_vector_space_behind_a_service, "Deployment/sgl-embed-canary", canary(edit))
        for edit in (
            argument("--set=model.id", "--set=model.id=/models/bge-large-zh-v1.5-new", "Deployment"),
            argument("--config", "--config=/etc/sgl-embed/configs/gte-large-zh.yaml", "Deployment"),
            argument("--set=model.name", "--set=engine.dtype=bfloat16", "Deployment"),
            argument("--set=model.name", "--set=model.pooling=mean", "Deployment"),
            argument("--set=model.name", "--set=model.prompts.passage=x", "Deployment"),
            argument("--set=model.name", "--engine=openvino", "Deployment"),
            put("Deployment", f"{POD} volumes 1 persistentVolumeClaim claimName", "other"),
        )
    ),
    case(vectors.precision_is_pinned, "containers[0].args", more_arguments("--set=engine.dtype=auto")),
    case(vectors.precision_is_pinned, "containers[0].args", more_arguments("--engine=auto")),
    case(vectors.models_are_mounted, "containers[0].args", argument("--set=model.id", "--set=model.id=BAAI/bge-large-zh-v1.5")),
    case(vectors.models_are_mounted, "containers[0].volumeMounts", drop(DEPLOYMENT, f"{SERVER} volumeMounts 1")),
    case(
        vectors.checked_weights_are_the_served_ones,
        "initContainers[0].env",
        put(DEPLOYMENT, f"{POD} initContainers 0 env 0 value", "other"),
    ),
    case(
        vectors.checked_weights_are_the_served_ones,
        "initContainers[0].env",
        put(DEPLOYMENT, f"{SERVER} volumeMounts 1 subPath", "other"),
    ),
)


@pytest.mark.parametrize("overlay", ["dev-cpu", "gpu", "gpu-gateway-api"])
def test_overlays_keep_all_policies(overlays: Mapping[str, Manifests], overlay: str) -> None:
    assert [str(finding) for finding in judge(overlays[overlay])] == []


@pytest.mark.parametrize("broken", CASES, ids=lambda each: f"{name_of(each.policy)}-{each.place.rpartition(' ')[2]}")
def test_broken_copy_is_found(overlays: Mapping[str, Manifests], broken: Case) -> None:
    found = list(broken.policy(edited(overlays[broken.overlay], *broken.edits)))
    assert any(broken.place in finding.what for finding in found), [str(finding) for finding in found]


def test_each_policy_has_a_broken_copy() -> None:
    assert {name_of(each.policy) for each in CASES} == {name_of(policy) for policy in POLICIES}


def test_canary_of_the_same_vector_space_may_stand_beside(overlays: Mapping[str, Manifests]) -> None:
    same = edited(overlays["gpu"], canary(argument("--set=model.name", "--set=log.level=debug", "Deployment")))
    assert [str(finding) for finding in vectors.one_vector_space_behind_a_service(same)] == []


@pytest.mark.parametrize("hosts", [["*.example.com"], None], ids=["wildcard", "the controller's own certificate"])
def test_one_certificate_may_be_for_several_hosts(overlays: Mapping[str, Manifests], hosts: list[str] | None) -> None:
    change = put("Ingress", "spec tls 0 hosts", hosts) if hosts else drop("Ingress", "spec tls 0 hosts")
    several = edited(overlays["gpu"], change, remove("Certificate"))
    assert [str(finding) for finding in network.encrypted_hosts_are_the_routed_ones(several)] == []


def test_what_is_found_says_where_and_by_which_policy(overlays: Mapping[str, Manifests]) -> None:
    broken = edited(overlays["gpu"], put(DEPLOYMENT, f"{SERVER} readinessProbe httpGet path", "/readyz"))
    assert [str(finding) for finding in judge(broken)] == [
        "k8s/overlays/gpu: Deployment/sgl-embed spec.template.spec.containers[0].readinessProbe.httpGet.path: server: "
        "the server has no route /readyz; it has /health, /live, /ready [probes-ask-routes]"
    ]


def test_what_the_user_makes_is_asked_for(overlays: Mapping[str, Manifests]) -> None:
    asked = {(kind, name) for overlay in overlays.values() for _, _, kind, name in references.references(overlay)}
    assert asked >= references.MADE_BY_THE_USER
