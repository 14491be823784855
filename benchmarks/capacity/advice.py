"""From what one pod can do to the numbers of an autoscaler."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

TARGET = 0.65
MANIFEST = "k8s/components/autoscaling-keda/scaledobject.yaml"


@dataclass(frozen=True)
class Pod:
    """What one was measured to do. ``service_s`` is a request's time with nothing waiting.

    ``target`` is the share of ``qps`` that it is to do: the rest is for what comes before the next pod is ready.
    """

    qps: float
    tokens_per_request: float
    service_s: float
    target: float = TARGET

    @property
    def target_qps(self) -> float:
        return self.target * self.qps

    @property
    def tokens_per_s(self) -> float:
        return self.qps * self.tokens_per_request


def pods_for(peak_qps: float, pod: Pod) -> int:
    """The fewest, two at least, of which none has more than its target, and of which one may be lost at the peak."""
    return max(2, math.ceil(peak_qps / pod.target_qps), math.ceil(peak_qps / pod.qps) + 1)


def load_without_one(peak_qps: float, pod: Pod) -> float:
    """Of what the others can do, the share that the peak is while one of ``pods_for`` is lost."""
    return peak_qps / ((pods_for(peak_qps, pod) - 1) * pod.qps)


def hpa_sim(pod: Pod, usual_qps: float, peak_qps: float, cold_start_s: float) -> Sequence[str]:
    options = {
        "--from-qps": usual_qps,
        "--to-qps": peak_qps,
        "--pod-qps": pod.qps,
        "--tokens-per-request": pod.tokens_per_request,
        "--service-s": pod.service_s,
        "--cold-start-s": cold_start_s,
    }
    return ["sgl-embed", "hpa-sim", MANIFEST, *(part for name, value in options.items() for part in (name, figure(value)))]


def figure(value: float) -> str:
    """Three digits, and never an exponent, which no Kubernetes quantity has here."""
    digits = max(0, 2 - math.floor(math.log10(value)))
    return f"{round(value, 2 - math.floor(math.log10(value))):.{digits}f}"
