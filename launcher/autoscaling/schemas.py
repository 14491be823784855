"""The fields of the manifests that the algorithm looks at, and those that would change its outcome if they were misspelt.

As in https://keda.sh/docs/2.17/reference/scaledobject-spec/, its page on the prometheus scaler, the reference of autoscaling/v2
and prometheus-adapter's docs/externalmetrics.md.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta


class Part(msgspec.Struct, rename="camel", frozen=True):
    pass


class PolicyPart(Part, frozen=True, forbid_unknown_fields=True):
    type: Literal["Pods", "Percent"]
    value: Annotated[int, Meta(gt=0)]
    period_seconds: Annotated[int, Meta(gt=0, le=1800)]


class RulesPart(Part, frozen=True, forbid_unknown_fields=True):
    policies: list[PolicyPart] = []
    select_policy: Literal["Max", "Min", "Disabled"] = "Max"
    stabilization_window_seconds: Annotated[int, Meta(ge=0, le=3600)] | None = None
    tolerance: str | float | None = None


class BehaviorPart(Part, frozen=True, forbid_unknown_fields=True):
    scale_up: RulesPart = RulesPart()
    scale_down: RulesPart = RulesPart()


class ReferencePart(Part, frozen=True):
    name: str


class PrometheusPart(Part, frozen=True):
    query: str
    threshold: str
    ignore_null_values: Literal["true", "false"] = "true"


class TriggerPart(Part, frozen=True):
    type: str
    metadata: PrometheusPart
    metric_type: Literal["AverageValue", "Value"] = "AverageValue"


class AutoscalerConfigPart(Part, frozen=True):
    behavior: BehaviorPart = BehaviorPart()


class AdvancedPart(Part, frozen=True):
    horizontal_pod_autoscaler_config: AutoscalerConfigPart = AutoscalerConfigPart()


class ScaledObjectPart(Part, frozen=True):
    scale_target_ref: ReferencePart
    triggers: Annotated[list[TriggerPart], Meta(min_length=1)]
    # KEDA's default is 0, which asks for a simulation of starting from nothing.
    min_replica_count: Annotated[int, Meta(ge=1)]
    max_replica_count: Annotated[int, Meta(ge=1)] = 100
    advanced: AdvancedPart = AdvancedPart()


class ScaledObject(Part, frozen=True):
    spec: ScaledObjectPart


class TargetPart(Part, frozen=True):
    type: Literal["AverageValue", "Value"]
    average_value: str | float | None = None
    value: str | float | None = None


class SourcePart(Part, frozen=True):
    metric: ReferencePart
    target: TargetPart


class MetricPart(Part, frozen=True):
    type: Literal["External", "Pods"]
    external: SourcePart | None = None
    pods: SourcePart | None = None


class AutoscalerPart(Part, frozen=True):
    scale_target_ref: ReferencePart
    max_replicas: Annotated[int, Meta(ge=1)]
    metrics: Annotated[list[MetricPart], Meta(min_length=1)]
    min_replicas: Annotated[int, Meta(ge=1)] = 1
    behavior: BehaviorPart = BehaviorPart()


class HorizontalPodAutoscaler(Part, frozen=True):
    spec: AutoscalerPart


class NamePart(Part, frozen=True):
    alias: str = msgspec.field(name="as")


class AdapterRule(Part, frozen=True):
    metrics_query: str
    name: NamePart


class AdapterRules(Part, frozen=True):
    external_rules: list[AdapterRule] = []
    rules: list[AdapterRule] = []
