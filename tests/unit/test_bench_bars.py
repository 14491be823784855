"""The benchmark's verdicts follow from the figures of its result file, and from nothing else."""

from __future__ import annotations

import msgspec
import pytest

from benchmarks.bars import BARS, Bar, judge
from benchmarks.cases import CASES
from benchmarks.records import Figures, Measurement, Run, median_of
from benchmarks.report import describe, markdown, number


def run_of(*measurements: Measurement) -> Run:
    return Run(
        date="2026-01-02T03:04:05+00:00",
        quick=False,
        machine={"cpu": "a CPU", "cores": 2},
        versions={"wrk": "4.1.0"},
        load_per_core=0.1,
        started=(),
        measurements=measurements,
    )


def measured(bar: Bar, contender: str, value: float) -> Measurement:
    return Measurement(model=bar.model, case=bar.case, contender=contender, median={bar.figure: value})


def with_ratio(bar: Bar, ratio: float) -> Run:
    """Beside them stands a contender of another case with the same names, which must not be taken for them."""
    other = [measured(bar, bar.other, 8.0)] if bar.other else []
    ours = measured(bar, bar.ours, ratio * 8.0 if bar.other else ratio)
    decoys = [msgspec.structs.replace(each, case="another", median={bar.figure: 1.0}) for each in (ours, *other)]
    return run_of(*decoys, ours, *other)


@pytest.mark.parametrize("bar", BARS, ids=describe)
def test_a_bar_is_held_from_its_limit_on_and_not_before(bar: Bar) -> None:
    better, worse = (1.01, 0.99) if bar.comparison == "≥" else (0.99, 1.01)
    for factor, passed in ((better, True), (1.0, True), (worse, False)):
        verdict = judge(with_ratio(bar, bar.limit * factor))[BARS.index(bar)]
        assert verdict.ratio == pytest.approx(bar.limit * factor)
        assert verdict.passed is passed


def test_what_was_not_measured_is_neither_held_nor_missed() -> None:
    bar = BARS[0]
    failed = Measurement(model=bar.model, case=bar.case, contender=str(bar.other), error="it did not start")
    verdict = judge(run_of(measured(bar, bar.ours, 3.0), failed))[0]
    assert verdict.ratio is None
    assert verdict.passed is None


@pytest.mark.parametrize("bar", BARS, ids=describe)
def test_every_bar_compares_what_is_measured(bar: Bar) -> None:
    cases = [case for case in CASES if case.model == bar.model and bar.case in (case.name, "memory")]
    assert any({bar.ours, bar.other or bar.ours} <= set(case.contenders) for case in cases)


def test_median_is_taken_figure_by_figure() -> None:
    repetitions: list[Figures] = [{"a": 1, "b": 9}, {"a": 3, "b": 8}, {"a": 2, "b": 7}]
    assert median_of(repetitions) == {"a": 2, "b": 8}


def test_result_file_gives_the_same_verdicts_when_read_again() -> None:
    run = with_ratio(BARS[0], 2.0)
    assert judge(msgspec.json.decode(msgspec.json.encode(run), type=Run)) == judge(run)


def test_report_shows_figures_verdicts_and_failures() -> None:
    bar = BARS[0]
    failed = Measurement(model=bar.model, case=bar.case, contender="naive", error="status 500: oops\nmore")
    text = markdown(run_of(measured(bar, bar.ours, 4000), measured(bar, str(bar.other), 1000), failed))
    assert f"| {describe(bar)} | {bar.other} | ≥ 4.5 | 4 | **no** |" in text
    assert "| ours-sglang | 4,000 |" in text
    assert "| naive | failed: status 500: oops |" in text


@pytest.mark.parametrize(("value", "shown"), [(12345.6, "12,346"), (100.4, "100"), (99.46, "99.5"), (0.08333, "0.0833")])
def test_numbers_have_three_digits(value: float, shown: str) -> None:
    assert number(value) == shown
