"""One run: each contender in turn is started, checked, warmed up, measured and stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.bodies import Bodies
from benchmarks.cases import LOOP, Case
from benchmarks.check import Vector, check_replies, reference_vectors
from benchmarks.contenders import Place, command_of, environment_of, shown
from benchmarks.ingest import INGESTED_TEXTS, measure_wait
from benchmarks.load import measure, run_wrk
from benchmarks.machine import load_per_core, machine, versions
from benchmarks.models import MODELS
from benchmarks.records import Figures, Measurement, Run, Started, median_of
from benchmarks.server import Server, free_port, running
from benchmarks.target import ContenderFailed
from tests.support.checkpoints import BGE_LARGE, TINY, write_checkpoint

SHAPES = {"tiny": TINY, "large": BGE_LARGE}
# Wide enough that texts get different vectors; any wider, and 24 layers of bfloat16 would lose their way.
INITIALIZER_RANGES = {"tiny": 0.18, "large": 0.05}


@dataclass(frozen=True)
class Protocol:
    """How each case is measured. ``quick`` is for seeing that everything works, not for figures."""

    quick: bool = False

    @property
    def repetitions(self) -> int:
        return 1 if self.quick else 3

    def of(self, case: Case) -> Case:
        return replace(case, seconds=min(case.seconds, 8.0 if case.timed else 2.0), warmup_s=1.0) if self.quick else case


class Bench:
    """``work`` is a folder for checkpoints, request bodies and the contenders' logs."""

    def __init__(self, work: Path, infinity: Path, protocol: Protocol, say: Callable[[str], None]) -> None:
        self._work = work
        self._infinity = infinity
        self._protocol = protocol
        self._say = say
        self._started: list[Started] = []
        self._measurements: list[Measurement] = []

    def run(self, pairs: Sequence[tuple[Case, str]]) -> Run:
        load = load_per_core()
        for model in dict.fromkeys(case.model for case, _ in pairs):
            self._run_model(model, [(self._protocol.of(case), contender) for case, contender in pairs if case.model == model])
        return Run(
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            quick=self._protocol.quick,
            machine=machine(),
            versions=versions(sys.executable, self._infinity),
            load_per_core=load,
            started=tuple(self._started),
            measurements=tuple(self._measurements),
        )

    def _run_model(self, model: str, pairs: Sequence[tuple[Case, str]]) -> None:
        folder = self._checkpoint(model)
        bodies = {case.name: case.bodies() for case, _ in pairs}
        reference = reference_vectors(folder, list(bodies.values()))
        for contender in dict.fromkeys(contender for _, contender in pairs):
            cases = [case for case, chosen in pairs if chosen == contender]
            for measurement in self._run_contender(model, contender, cases, bodies, reference):
                self._measurements.append(measurement)
                self._say(one_line(measurement))

    def _run_contender(
        self, model: str, contender: str, cases: Sequence[Case], bodies: dict[str, Bodies], reference: dict[str, Vector]
    ) -> Iterator[Measurement]:
        if contender == LOOP:
            yield from (self._loop(case, bodies[case.name]) for case in cases)
            return
        place = Place(MODELS[model], self._checkpoint(model), free_port(), self._infinity)
        command, log = command_of(contender, place), self._work / "logs" / f"{model}-{contender}.log"
        environment = environment_of(os.environ)
        try:
            with running(command, environment, place.port, log, bodies[cases[0].name].body(0)) as server:
                self._started.append(
                    Started(
                        model=model,
                        contender=contender,
                        command=shown(command),
                        seconds_to_first_reply=server.seconds_to_first_reply,
                    )
                )
                for case in cases:
                    yield self._measure(server, contender, case, bodies[case.name], reference)
                yield self._memory(server, model, contender, place)
        except (ContenderFailed, OSError) as error:
            for i, case in enumerate(cases):
                reason = f"it could not be started: {error}" if i == 0 else "as above"
                yield Measurement(model=model, case=case.name, contender=contender, error=reason)

    def _measure(self, server: Server, contender: str, case: Case, bodies: Bodies, reference: dict[str, Vector]) -> Measurement:
        cosine, repetitions, error = None, [], None
        try:
            cosine = check_replies(server, bodies, reference)
            repetitions = [*self._repetitions(server, contender, case, bodies)]
        except (ContenderFailed, OSError, subprocess.TimeoutExpired) as failure:
            error = str(failure)
        return Measurement(
            model=case.model,
            case=case.name,
            contender=contender,
            repetitions=tuple(repetitions),
            median=median_of(repetitions) if repetitions else {},
            min_cosine=cosine,
            error=error,
        )

    def _repetitions(self, server: Server, contender: str, case: Case, bodies: Bodies) -> Iterator[Figures]:
        if case.kind == "ingest":
            texts = INGESTED_TEXTS // 4 if self._protocol.quick else INGESTED_TEXTS
            yield measure_wait(server, bodies, case.seconds, has_metrics=contender.startswith("ours"), texts=texts)
            return
        file = self._body_file(case, bodies)
        run_wrk(server.url, file, case.clients, case.warmup_s, timed=False)
        for _ in range(self._protocol.repetitions):
            # Behind what the last repetition left unfinished.
            server.post(bodies.body(0))
            yield measure(server, bodies, file, case.clients, case.seconds, timed=case.timed)

    def _loop(self, case: Case, bodies: Bodies) -> Measurement:
        durations = (str(case.warmup_s), str(case.seconds), str(self._protocol.repetitions))
        command = [sys.executable, "-m", "benchmarks.without_http", str(self._checkpoint(case.model)), MODELS[case.model].dtype]
        done = subprocess.run(
            [*command, "loop", str(self._body_file(case, bodies)), *durations], stdout=subprocess.PIPE, check=True
        )
        figures: list[Figures] = json.loads(done.stdout)
        return Measurement(
            model=case.model, case=case.name, contender=LOOP, repetitions=tuple(figures), median=median_of(figures)
        )

    def _memory(self, server: Server, model: str, contender: str, place: Place) -> Measurement:
        gateway_mb, all_mb = server.memory_mb()
        figures = {"gateway_mb": gateway_mb, "all_mb": all_mb}
        if contender.startswith("ours"):
            figures["gateway_above_model_mb"] = gateway_mb - weights_mb(place) * (contender != "ours-sglang")
        return Measurement(model=model, case="memory", contender=contender, repetitions=(figures,), median=figures)

    def _body_file(self, case: Case, bodies: Bodies) -> Path:
        return bodies.write(self._work / "bodies" / f"{case.model}-{case.name}.jsonl")

    def _checkpoint(self, model: str) -> Path:
        name = MODELS[model].checkpoint
        folder = self._work / "checkpoints" / name
        if not (folder / "model.safetensors").exists():
            self._say(f"writing a random checkpoint of the {name} shape")
            write_checkpoint(folder, SHAPES[name], initializer_range=INITIALIZER_RANGES[name])
        return folder


def weights_mb(place: Place) -> float:
    """Of the model in the precision it is run in; the file holds float32."""
    return (place.folder / "model.safetensors").stat().st_size / 1e6 / (1 if place.dtype == "float32" else 2)


def one_line(measurement: Measurement) -> str:
    name = f"{time.strftime('%H:%M:%S')} {measurement.model:<12} {measurement.case:<9} {measurement.contender:<20}"
    if measurement.error:
        return f"{name} FAILED: {measurement.error}"
    figures = "  ".join(f"{key} {value:.4g}" for key, value in measurement.median.items())
    return f"{name} {figures}"
