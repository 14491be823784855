"""This project's own rules: each a function from an overlay's manifests to what is wrong there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from deploy.check import core
from deploy.check.findings import CannotCheck, Finding, Outcome
from deploy.check.manifests import Manifests
from deploy.check.policies import (
    autoscaling,
    disruption,
    images,
    lifetime,
    network,
    references,
    resources,
    scraping,
    security,
    selectors,
    vectors,
)
from deploy.check.tree import Tree

Policy = Callable[[Manifests], Iterator[Finding]]

POLICIES: tuple[Policy, ...] = (
    selectors.services_select_pods,
    selectors.budgets_select_pods,
    selectors.network_policies_select_pods,
    selectors.monitors_select_ports,
    scraping.monitors_give_the_job_of_the_rules,
    selectors.workloads_select_their_own_pods,
    selectors.pods_spread_from_their_own,
    selectors.routes_lead_to_services,
    selectors.gateways_are_there,
    references.references_are_made,
    references.referred_keys_exist,
    references.mounts_have_volumes,
    lifetime.arguments_are_the_launchers,
    lifetime.servers_are_recognised,
    lifetime.servers_are_configured,
    lifetime.servers_listen_on_their_port,
    lifetime.servers_pause_before_they_stop,
    lifetime.grace_covers_the_drain,
    lifetime.grace_covers_the_longest_request,
    lifetime.startup_outlasts_the_engine,
    lifetime.servers_have_all_probes,
    lifetime.probes_ask_by_http,
    lifetime.probes_ask_routes,
    lifetime.probes_speak_the_servers_protocol,
    lifetime.liveness_is_not_readiness,
    lifetime.liveness_is_patient,
    network.servers_can_be_reached,
    network.names_can_be_resolved,
    network.encrypted_hosts_are_the_routed_ones,
    autoscaling.autoscalers_have_a_target,
    autoscaling.one_autoscaler_for_each,
    autoscaling.no_replicas_under_an_autoscaler,
    autoscaling.autoscalers_have_bounds,
    autoscaling.external_metrics_are_made,
    autoscaling.autoscalers_have_their_metrics_scraped,
    autoscaling.autoscalers_count_what_is_offered,
    autoscaling.autoscalers_count_their_own_namespace,
    autoscaling.no_answer_is_an_error,
    autoscaling.scrapes_end_before_the_next,
    autoscaling.queries_are_promql,
    autoscaling.windows_span_four_scrapes,
    disruption.budgets_let_some_pods_go,
    disruption.replicated_servers_have_a_budget,
    disruption.rollouts_get_on,
    images.images_are_pinned,
    images.our_images_are_of_this_version,
    security.containers_run_as_a_user,
    security.containers_have_no_capabilities,
    security.containers_gain_no_privileges,
    security.containers_have_a_read_only_root,
    security.containers_have_a_system_call_filter,
    security.writable_folders_are_mounted,
    security.pods_have_no_token,
    security.pods_have_no_service_links,
    security.pods_share_nothing_of_the_host,
    resources.containers_claim_what_they_need,
    resources.gpu_requests_equal_limits,
    resources.gpus_are_for_the_engine_that_uses_them,
    resources.cpu_overlays_ask_for_no_gpu,
    vectors.one_vector_space_behind_a_service,
    vectors.precision_is_pinned,
    vectors.models_are_mounted,
    vectors.checked_weights_are_the_served_ones,
)


def check(tree: Tree) -> Outcome:
    # A policy reads what it expects to be there.
    if any(finding for overlay in tree.overlays for finding in core.check_overlay(overlay)):
        raise CannotCheck("not before Kubernetes' own schemas take all objects: --only core")
    findings = [finding for overlay in tree.overlays for finding in judge(overlay)]
    return Outcome(f"{len(POLICIES)} policies on {len(tree.overlays)} overlays", findings)


def judge(manifests: Manifests) -> Iterator[Finding]:
    for policy in POLICIES:
        for finding in policy(manifests):
            yield replace(finding, rule=name_of(policy))


def name_of(policy: Policy) -> str:
    return policy.__name__.replace("_", "-")
