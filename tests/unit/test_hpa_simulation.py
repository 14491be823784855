"""What the deployed manifests do under load, and the parts that the answer rests on."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from launcher.autoscaling.manifest import read_autoscaler
from launcher.autoscaling.pods import Fleet, Pod, PodShape
from launcher.autoscaling.report import Report, percentile, report
from launcher.autoscaling.rules import Autoscaler, Metric, Policy, Rules, Signal
from launcher.autoscaling.scrapes import Prometheus, Sample, rate
from launcher.autoscaling.simulate import Cluster, Moment, simulate
from launcher.autoscaling.sweep import Candidate, Limits, recommend, sweep
from launcher.autoscaling.traces import TRACES, Trace, step
from launcher.cli import main

ROOT = Path(__file__).parents[2]
KEDA = ROOT / "k8s" / "components" / "autoscaling-keda" / "scaledobject.yaml"
SHAPE = PodShape(qps=100, cold_start_s=60, queue_s=4, service_s=0.05, tokens_per_request=50, drain_s=20)
STEP = step(100, 800, hold_s=1200, rest_s=3600)
# Every second at which the controller may look first after the load has come.
PHASES = range(15)


def run(autoscaler: Autoscaler, trace: Trace = STEP, phase_s: int = 0, scrape_s: int = 15) -> Report:
    moments = simulate(autoscaler, Cluster(SHAPE, scrape_s=scrape_s, phase_s=phase_s), trace)
    return report(moments, trace, SHAPE.qps)


def rates_only(autoscaler: Autoscaler) -> Autoscaler:
    return replace(autoscaler, metrics=tuple(each for each in autoscaler.metrics if each.signal.window_s))


@pytest.fixture(scope="module")
def deployed() -> Autoscaler:
    return read_autoscaler(KEDA)


@pytest.mark.parametrize("phase_s", PHASES)
def test_at_most_5_percent_of_an_eightfold_step_is_refused(deployed: Autoscaler, phase_s: int) -> None:
    found = run(deployed, phase_s=phase_s)
    assert found.shed <= 0.05
    assert found.capacity_s is not None and found.capacity_s <= 90


@pytest.mark.parametrize("phase_s", PHASES)
def test_back_to_the_minimum_without_rising_again(deployed: Autoscaler, phase_s: int) -> None:
    moments = simulate(deployed, Cluster(SHAPE, phase_s=phase_s), STEP)
    after = [moment.replicas for moment in moments if moment.at >= STEP.busy_s]
    assert after[0] > deployed.least
    assert after[-1] == deployed.least
    assert all(later <= earlier for earlier, later in pairwise(after))


def test_load_in_waves_does_not_make_pods_come_and_go(deployed: Autoscaler) -> None:
    """Waves of five minutes after the step, between four pods' load and six pods'; without the window down they flap."""

    def qps(t: float) -> float:
        return STEP.qps(t) if t < STEP.busy_s else 325 + 65 * math.sin(2 * math.pi * t / 300)

    waves = replace(STEP, qps=qps)
    assert run(deployed, waves).rises_after == 0
    assert run(replace(deployed, down=Rules((Policy("Pods", 1, 15),), window_s=0)), waves).rises_after > 5


def test_completed_requests_are_the_worse_metric(deployed: Autoscaler, tmp_path: Path) -> None:
    """Each by itself: the tokens in flight would make up for either."""
    text = KEDA.read_text(encoding="utf-8")
    offered_query, completed_query = "embedding_requests_offered_total{", 'embedding_requests_total{status="200",'
    assert text.count(offered_query) == 1
    path = tmp_path / "scaledobject.yaml"
    path.write_text(text.replace(offered_query, completed_query), encoding="utf-8")
    offered, completed = run(rates_only(deployed)), run(rates_only(read_autoscaler(path)))
    assert completed.shed > 2 * offered.shed
    assert completed.shed > 0.1
    assert completed.capacity_s is None or completed.capacity_s > 2 * (offered.capacity_s or 0)


def test_tokens_in_flight_see_the_step_before_the_rate_does(deployed: Autoscaler) -> None:
    assert run(deployed).shed < run(rates_only(deployed)).shed


@pytest.mark.parametrize("name", sorted(TRACES))
def test_every_trace_ends_at_the_minimum_within_the_bounds(deployed: Autoscaler, name: str) -> None:
    trace = TRACES[name](100.0, 800.0, 1200, 3600)
    moments = simulate(deployed, Cluster(SHAPE), trace)
    assert len(moments) == trace.length_s
    assert {moment.offered for moment in moments[-1000:]} == {100.0}
    assert max(moment.offered for moment in moments) == pytest.approx(800, rel=0.01)
    assert all(deployed.least <= moment.replicas <= deployed.most for moment in moments)
    assert moments[-1].replicas == deployed.least


def test_steady_load_changes_nothing(deployed: Autoscaler) -> None:
    found = run(deployed, step(400, 400, 1200, 60))
    assert (found.ups, found.downs, found.shed, found.capacity_s) == (0, 0, 0.0, 0)


def test_metric_that_pods_lack_asks_for_nothing(deployed: Autoscaler) -> None:
    """Scrapes further apart than the window leave no rate: an error, not a 0."""
    found = run(replace(rates_only(deployed), least=1), step(400, 100, 600, 1200), scrape_s=120)
    assert (found.ups, found.downs) == (0, 0)


def test_metric_of_each_pod_leads_to_as_many_pods() -> None:
    each_pod = Metric("spec.metrics[0]", Signal("offered", 60.0), 65.0, "pods")
    of_all = replace(each_pod, compared="average")
    settled = [run(Autoscaler("pods", 2, 16, (metric,)), step(100, 800, 1200, 60)).last for metric in (each_pod, of_all)]
    assert settled == [12, 12], "800 of 780 are within the tolerance"


def test_every_request_is_accepted_or_refused() -> None:
    pod = Pod(ready_at=0, number=0)
    refused = [pod.serve(SHAPE, 250.0, 1.0) for _ in range(10)]
    assert pod.offered == 2500
    assert pod.completed + pod.queued + sum(refused) == pytest.approx(2500)
    assert pod.queued == SHAPE.queue_s * SHAPE.qps
    assert pod.latency_s == SHAPE.queue_s + SHAPE.service_s


def test_latency_grows_towards_a_pods_limit() -> None:
    assert [round(SHAPE.latency_s(0, qps), 3) for qps in (0, 50, 90)] == [0.05, 0.1, 0.5]
    assert SHAPE.latency_s(200, 0) == 2.05


def test_pods_that_are_not_ready_go_first_and_the_others_finish() -> None:
    fleet = Fleet(SHAPE)
    fleet.resize(2, 0, cold_start_s=0)
    fleet.resize(3, 100, cold_start_s=60)
    fleet.resize(2, 110, cold_start_s=60)
    assert [pod.number for pod in fleet.pods] == [0, 1]
    assert fleet.gpus() == 2
    list(fleet.serve(111, 300.0, 1))
    fleet.resize(1, 112, cold_start_s=60)
    (leaving,) = fleet.leaving
    assert leaving.number == 1
    waiting = leaving.queued
    assert waiting > 0
    list(fleet.serve(112, 50.0, 1))
    assert leaving.queued == 0
    assert fleet.gpus() == 2
    for now in range(113, 133):
        list(fleet.serve(now, 50.0, 1))
    assert fleet.gpus() == 1


def test_nothing_counts_what_no_pod_takes() -> None:
    fleet = Fleet(SHAPE)
    fleet.resize(1, 0, cold_start_s=60)
    assert list(fleet.serve(0, 100.0, 1)) == []


def samples(*pairs: tuple[float, float]) -> list[Sample]:
    return [Sample(at, value, 0.0, 0.0) for at, value in pairs]


def test_rate_is_that_of_prometheus() -> None:
    """Worked by hand from extrapolatedRate: to the edges where they are near, half an interval where not, never below 0."""
    even = samples((0, 100), (15, 250), (30, 400), (45, 550))
    assert rate(even, "offered", 60, 60) == pytest.approx(10.0 * 60 / 60)
    assert rate(even, "offered", 45, 60) == pytest.approx(10.0 * (45 + 10) / 60), "the counter began 10 s before"
    assert rate(samples((30, 400), (45, 550)), "offered", 60, 60) == pytest.approx(10.0 * (15 + 7.5 + 15) / 60)
    assert rate(samples((45, 550)), "offered", 60, 60) is None


def test_sum_loses_a_pod_that_ended_from_gauges_at_once_and_from_rates_later() -> None:
    prometheus = Prometheus(scrape_s=5, keep_s=60, tokens_per_request=1)
    pods = [Pod(ready_at=0, number=0), Pod(ready_at=0, number=1)]
    for now in range(60):
        for pod in pods:
            pod.offered += 10
            pod.in_flight = 7
        prometheus.scrape(now, pods)
    rates, gauge = Signal("offered", 60.0), Signal("tokens_in_flight", None)
    assert prometheus.total(rates, 59) == pytest.approx(20, rel=0.05)
    assert prometheus.total(gauge, 59) == 14
    for now in range(60, 90):
        pods[0].offered += 10
        prometheus.scrape(now, pods[:1])
    assert prometheus.total(gauge, 89) == 7
    assert prometheus.total(rates, 89) == pytest.approx(15, rel=0.05)


def test_percentile_is_weighted() -> None:
    assert percentile([(94, 1.0), (6, 9.0)], 0.95) == 9.0
    assert percentile([(96, 1.0), (4, 9.0)], 0.95) == 1.0
    assert percentile([], 0.95) == 0.0


def test_report_counts_what_happened() -> None:
    trace = step(1, 10, hold_s=4, rest_s=2)

    def moment(at: int, refused: float, replicas: int, ready: int) -> Moment:
        return Moment(at, trace.qps(at), refused, replicas, ready, replicas, ((trace.qps(at) - refused, 0.1),))

    moments = [
        moment(0, 5, 1, 1),
        moment(1, 5, 2, 1),
        moment(2, 0, 2, 2),
        moment(3, 0, 2, 2),
        moment(4, 0, 1, 1),
        moment(5, 0, 2, 1),
    ]
    found = report(moments, trace, pod_qps=5)
    assert found == Report(0.25, 0.1, 10 / 3600, capacity_s=2, most=2, last=2, ups=2, downs=1, rises_after=1)
    assert report(moments[:2], trace, pod_qps=5).capacity == "never"


def candidate(shed: float, gpu_hours: float, rises_after: int = 0, p95_latency_s: float = 0.1) -> Candidate:
    return Candidate(65.0, "way", Report(shed, p95_latency_s, gpu_hours, 60, 10, 2, 1, 1, rises_after))


def test_cheapest_within_the_limits_is_recommended() -> None:
    good = candidate(0.04, 8)
    too_much, too_slow, flaps, dear = candidate(0.06, 1), candidate(0, 1, p95_latency_s=2), candidate(0, 1, 1), candidate(0, 9)
    assert recommend([too_much, too_slow, flaps, dear, good], Limits(0.05, 0.3)) is good
    assert recommend([too_much, too_slow, flaps], Limits(0.05, 0.3)) is None


def test_sweep_tries_each_target_with_each_way_up(deployed: Autoscaler) -> None:
    short = step(100, 400, 300, 60)
    found = list(sweep(replace(deployed, up=Rules((Policy("Pods", 1, 60),), 0)), Cluster(SHAPE), short))
    ways = {each.way_up for each in found}
    assert len(found) == 6 * len(ways) and len(ways) == 5
    slow, fast = (min(each.found.shed for each in found if (each.way_up == "as it is") is own) for own in (True, False))
    assert fast < slow
    assert len({each.found.gpu_hours for each in found if each.way_up == "as it is"}) > 1


ARGUMENTS = ("--trace", "step", "--from-qps", "100", "--to-qps", "800", "--pod-qps", "100", "--cold-start-s", "60")


@pytest.mark.parametrize("manifest", [KEDA, ROOT / "k8s" / "components" / "autoscaling-adapter"])
def test_command_prints_what_came_of_it(manifest: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hpa-sim", str(manifest), *ARGUMENTS]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("sgl-embed, 2 to 16 pods, step\n")
    assert re.search(r"^refused +4\.\d% of what was offered in the 1200 s of load$", printed, re.MULTILINE)
    assert re.search(r"^changes +\d+ up, 11 down; 0 up after the load had ended$", printed, re.MULTILINE)


def test_command_sweeps(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hpa-sim", str(KEDA), "--hold-s", "120", "--rest-s", "30", "--to-qps", "101", "--sweep"]) == 0
    assert "Recommended, the cheapest with at most 5% refused and a p95 of 0.3 s: as it is, target" in capsys.readouterr().out


def test_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["hpa-sim", str(tmp_path / "none.yaml")]) == 2
    assert f"sgl-embed: {tmp_path / 'none.yaml'}: cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("option, value", [("--pod-qps", "0"), ("--hold-s", "-1"), ("--sync-s", "0.5"), ("--to-qps", "nan")])
def test_command_refuses_numbers_without_sense(option: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["hpa-sim", str(KEDA), option, value])
    assert option in capsys.readouterr().err


def test_command_offers_every_trace(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["hpa-sim", "--help"])
    assert "{" + ",".join(TRACES) + "}" in capsys.readouterr().out


def without(libraries: Sequence[str], arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    hidden = f"import sys; sys.modules.update(dict.fromkeys({list(libraries)!r})); from launcher.cli import main; "
    program = f"{hidden}sys.exit(main({list(arguments)!r}))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)


def test_simulation_needs_no_engine() -> None:
    short = ["hpa-sim", str(KEDA), "--hold-s", "60", "--rest-s", "30"]
    done = without(["torch", "sglang", "openvino", "numpy", "matplotlib"], short)
    assert done.returncode == 0, done.stderr


def test_picture_without_matplotlib(tmp_path: Path) -> None:
    short = ["hpa-sim", str(KEDA), "--hold-s", "60", "--rest-s", "30", "--plot", str(tmp_path / "run.png")]
    done = without(["matplotlib"], short)
    assert done.returncode == 2
    assert "--plot: needs matplotlib, which is not installed; pip install matplotlib" in done.stderr


def test_picture_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "run.svg"
    assert main(["hpa-sim", str(KEDA), "--hold-s", "60", "--rest-s", "30", "--plot", str(path)]) == 0
    assert "<svg" in path.read_text(encoding="utf-8")
