"""A pod as the autoscaler's metrics see it: it starts, answers what it can, keeps a queue, and refuses the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class PodShape:
    """What one pod can do.

    ``cold_start_s`` is from the moment it is asked for until it is ready, node and image included. ``queue_s`` is how much work
    may wait before requests are refused, in seconds. ``service_s`` is a request's time where nothing waits. A pod that is to go
    finishes its queue and holds its GPU for ``drain_s``.
    """

    qps: float
    cold_start_s: float
    queue_s: float
    service_s: float
    tokens_per_request: float
    drain_s: float

    def latency_s(self, queued: float, qps: float) -> float:
        """A request's time at this load: what waits before it, and an M/M/1 queue's for load that is no even stream."""
        load = qps / self.qps
        congested = self.service_s / (1 - load) if load < 1 else math.inf
        return min(queued / self.qps + congested, self.queue_s + self.service_s)


@dataclass(slots=True)
class Pod:
    """Counters begin at 0 when it is ready, as its metrics do. Requests are no whole numbers here.

    ``queued`` is what it could not answer in the past seconds; ``latency_s`` and ``in_flight`` are those of the last one.
    """

    ready_at: float
    number: int
    ends_at: float = math.inf
    offered: float = 0.0
    completed: float = 0.0
    queued: float = 0.0
    in_flight: float = 0.0
    latency_s: float = 0.0

    def is_ready(self, now: float) -> bool:
        return self.ready_at <= now < self.ends_at

    def serve(self, shape: PodShape, arrived: float, seconds: float) -> float:
        """Answers what it can of ``arrived`` and of the queue in ``seconds``, and returns how many it refused."""
        done = min(self.queued + arrived, shape.qps * seconds)
        waiting = self.queued + arrived - done
        refused = max(0.0, waiting - shape.queue_s * shape.qps)
        self.queued = waiting - refused
        self.latency_s = shape.latency_s(self.queued, arrived / seconds)
        # Little's law.
        self.in_flight = done / seconds * self.latency_s
        self.offered += arrived
        self.completed += done
        return refused


@dataclass(slots=True)
class Fleet:
    """All pods of the Deployment: ``pods`` are those it wants, ``leaving`` those that finish what they have."""

    shape: PodShape
    pods: list[Pod] = field(default_factory=list)
    leaving: list[Pod] = field(default_factory=list)
    _made: int = field(default=0, init=False)

    def resize(self, replicas: int, now: float, cold_start_s: float) -> None:
        """As a ReplicaSet does: pods that are not ready go first, then the youngest."""
        while len(self.pods) < replicas:
            self.pods.append(Pod(now + cold_start_s, self._made))
            self._made += 1
        while len(self.pods) > replicas:
            gone = max(self.pods, key=lambda pod: (not pod.is_ready(now), pod.ready_at, pod.number))
            self.pods.remove(gone)
            if gone.is_ready(now):
                self.leaving.append(gone)
            gone.ends_at = now + self.shape.drain_s

    def ready(self, now: float) -> list[Pod]:
        return [pod for pod in self.pods if pod.is_ready(now)]

    def serve(self, now: float, qps: float, seconds: float) -> Iterator[tuple[float, float]]:
        """Spreads the load evenly over the pods that are ready; yields (requests accepted, their latency in seconds) of each.

        What no pod takes is refused, and nothing counts it.
        """
        ready = self.ready(now)
        for pod in ready:
            arrived = qps * seconds / len(ready)
            refused = pod.serve(self.shape, arrived, seconds)
            yield arrived - refused, pod.latency_s
        for pod in self.leaving:
            pod.serve(self.shape, 0.0, seconds)
        self.leaving = [pod for pod in self.leaving if pod.ends_at > now + seconds]

    def gpus(self) -> int:
        return len(self.pods) + len(self.leaving)
