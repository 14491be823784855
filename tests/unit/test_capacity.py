"""From measured levels to the knee, and from that to the numbers of an autoscaler."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.capacity.advice import MANIFEST, TARGET, Pod, figure, hpa_sim, load_without_one, pods_for
from benchmarks.capacity.knee import Level, knee, next_clients
from benchmarks.capacity.mix import SHORTEST, Inputs, made_up, parse_tokens, real
from benchmarks.capacity.report import describe, summary, table
from benchmarks.capacity.run import climb, level_of, most_under_way
from benchmarks.target import ContenderFailed, Target
from launcher.autoscaling.manifest import QUANTITY
from launcher.cli import main

ROOT = Path(__file__).parents[2]
POD = Pod(qps=100.0, tokens_per_request=50.0, service_s=0.01)
LIMIT_MS = 200.0


def level(clients: int, requests_per_s: float, p95_ms: float, refused: float = 0.0) -> Level:
    return Level(clients, requests_per_s, p95_ms / 2, p95_ms, p95_ms * 2, refused)


LEVELS = st.lists(
    st.builds(level, st.integers(1, 1024), st.floats(0.1, 1e5), st.floats(0.1, 1e4), st.sampled_from([0.0, 0.0, 0.1])),
    max_size=8,
)
LIMITS = st.floats(0.1, 1e4)
QPS = st.floats(0.5, 1e5)


def test_the_knee_is_the_most_that_keeps_the_limit() -> None:
    levels = [level(1, 50, 20), level(2, 90, 40), level(4, 100, 150), level(8, 104, 201), level(16, 110, 100, refused=0.01)]
    assert knee(levels, LIMIT_MS) == levels[2]
    assert knee(levels, 10) is None
    assert knee([level(8, 90, 20), level(4, 90, 10)], LIMIT_MS) == level(4, 90, 10)


@given(LEVELS, LIMITS)
def test_no_level_that_keeps_the_limit_is_better_than_the_knee(levels: list[Level], limit: float) -> None:
    found = knee(levels, limit)
    held = [each for each in levels if each.p95_ms <= limit and not each.refused]
    assert (found is None) == (not held)
    if found:
        assert found in held
        assert found.requests_per_s == max(each.requests_per_s for each in held)


@given(LEVELS, LIMITS, LIMITS)
def test_more_patience_never_finds_less(levels: list[Level], one: float, other: float) -> None:
    less, more = (knee(levels, limit) for limit in sorted((one, other)))
    assert less is None or (more is not None and more.requests_per_s >= less.requests_per_s)


@given(LEVELS, LIMITS)
def test_the_order_of_measuring_does_not_matter(levels: list[Level], limit: float) -> None:
    one, other = knee(levels, limit), knee(levels[::-1], limit)
    assert (one and (one.requests_per_s, one.clients)) == (other and (other.requests_per_s, other.clients))


def test_it_goes_on_until_two_levels_in_a_row_are_over_the_limit() -> None:
    p95 = {1: 10, 2: 300, 4: 10, 8: 20, 16: 300, 32: 400}
    measured = [each.clients for each in climb(lambda clients: level(clients, clients, p95[clients]), LIMIT_MS, 1024)]
    assert measured == [1, 2, 4, 8, 16, 32]


@given(LIMITS, st.integers(1, 5000))
def test_it_always_ends(limit: float, most: int) -> None:
    measured = [each.clients for each in climb(lambda clients: level(clients, clients, 5.0), limit, most)]
    assert measured == [2**i for i in range(len(measured))]
    assert max(measured) <= most
    assert next_clients([], limit, most) == 1


@given(QPS, QPS)
def test_pods_carry_the_peak_also_when_one_is_lost_and_none_is_too_many(peak: float, qps: float) -> None:
    pod = Pod(qps, 50.0, 0.01)
    pods = pods_for(peak, pod)

    def enough(number: int, slack: float) -> bool:
        most = qps * (1 + slack)
        return number >= 2 and peak / number <= TARGET * most and peak / (number - 1) <= most

    # Where a number is just enough, rounding decides.
    assert enough(pods, 1e-9)
    assert not enough(pods - 1, -1e-9)
    assert load_without_one(peak, pod) <= 1 + 1e-9


@given(QPS, QPS, QPS)
def test_a_higher_peak_never_needs_fewer_pods(one: float, other: float, qps: float) -> None:
    lower, higher = sorted((one, other))
    assert pods_for(lower, Pod(qps, 50.0, 0.01)) <= pods_for(higher, Pod(qps, 50.0, 0.01))


@given(st.floats(1e-4, 1e8))
def test_a_figure_is_a_quantity_that_kubernetes_reads(value: float) -> None:
    assert QUANTITY.fullmatch(figure(value))
    assert float(figure(value)) == pytest.approx(value, rel=0.0051)


def test_the_deployed_thresholds_are_the_advice_for_the_pod_that_they_name() -> None:
    triggers = yaml.safe_load((ROOT / MANIFEST).read_text(encoding="utf-8"))["spec"]["triggers"]
    deployed = {trigger["name"]: float(trigger["metadata"]["threshold"]) for trigger in triggers}
    assert deployed == {"offered-qps": POD.target_qps, "tokens-in-flight": POD.tokens_per_s}
    told = describe(POD, 100, 800, 60)
    assert all(f"threshold of {name}" in told for name in deployed)


def test_the_simulator_takes_the_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    assert main([*hpa_sim(POD, 100, 800, 60)[1:], "--rest-s", "60"]) == 0
    assert "GPU-hours" in capsys.readouterr().out


def test_the_report_marks_the_knee_and_says_where_the_target_is_too_high() -> None:
    levels = [level(1, 50, 20), level(2, 90, 40)]
    assert [line for line in table(levels, levels[1]).splitlines() if "knee" in line] == [
        "| 2 **knee** | 90.0 | 20.0 | 40.0 | 80.0 | 0.0% |"
    ]
    assert "TOO MUCH" not in summary(POD, levels[1], level(5, 65, 100), LIMIT_MS)
    assert "TOO MUCH" in summary(POD, levels[1], level(5, 65, 300), LIMIT_MS)
    assert "TOO MUCH" in summary(POD, levels[1], level(5, 65, 100, refused=0.01), LIMIT_MS)


def test_a_level_leaves_out_its_beginning_and_tells_refusals_from_failures() -> None:
    answered = [(i * 0.1, 0.5 if i < 20 else 0.05, 200) for i in range(100)]
    found = level_of([*answered, (9.0, 0.001, 429)], 4, 10.0)
    assert found.p99_ms == pytest.approx(50)
    assert found.requests_per_s == pytest.approx(10, rel=0.2)
    assert found.refused == pytest.approx(1 / 81)
    with pytest.raises(ContenderFailed, match=r"of 101 requests some failed: 1 of no reply"):
        level_of([*answered, (9.0, 0.001, 0)], 4, 10.0)
    with pytest.raises(ContenderFailed, match="only 10 requests were answered in 1 s; more --seconds"):
        level_of([(i * 0.08, 0.05, 200) for i in range(13)], 4, 1.0)


def test_most_under_way() -> None:
    assert most_under_way([(0, 2, 200), (1, 2, 200), (2, 2, 200), (2.5, 0.1, 429)]) == 3


def test_inputs_of_a_request_come_as_often_as_they_should() -> None:
    inputs = Inputs.parse("1:0.9,32:0.1")
    drawn = Counter(islice(inputs.drawn(seed=1), 20_000))
    assert drawn[32] == pytest.approx(2000, rel=0.1)
    assert inputs.mean == pytest.approx(4.1)
    assert Inputs.parse("1,3").mean == 2
    assert Inputs.parse("8").mean == 8


@pytest.mark.parametrize("text", ["", "0", "1:0", "x", "1;2", "1:-1", "-1"])
def test_wrong_inputs_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as 1:0\.9,32:0\.1"):
        Inputs.parse(text)


@pytest.mark.parametrize("text", ["", "16-", f"{SHORTEST - 1}", "64-16", "a-b"])
def test_wrong_tokens_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="such as 16-128"):
        parse_tokens(text)


def test_made_up_texts_have_the_tokens_asked_for_and_never_come_twice() -> None:
    texts = list(islice(made_up(parse_tokens("16-128"), seed=1), 10_000))
    tokens = [len(text) + 2 for text in texts]
    assert (min(tokens), max(tokens)) == (16, 128)
    assert len(set(texts)) == len(texts)
    assert {len(text) + 2 for text in islice(made_up(parse_tokens("64"), seed=1), 10)} == {64}


def test_all_real_texts_come_before_one_comes_again(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("一\n\n二\n三\n", encoding="utf-8")
    drawn = list(islice(real(file, seed=1), 6))
    assert sorted(drawn[:3]) == sorted(drawn[3:]) == sorted("一二三")
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(ValueError, match="a text in each line"):
        next(real(file, seed=1))


def test_addresses() -> None:
    assert Target.of("http://127.0.0.1:30000") == Target("127.0.0.1", 30000)
    assert Target.of("https://pod.example/v1/", "sk") == Target("pod.example", 443, tls=True, key="sk")
    for wrong in ("127.0.0.1:30000", "ftp://x", "http://x/embed", "http://"):
        with pytest.raises(ValueError, match="expected an address"):
            Target.of(wrong)
