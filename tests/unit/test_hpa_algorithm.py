"""The autoscaler's algorithm against the examples of Kubernetes' documentation, and what must hold for any input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.autoscaling.algorithm import (
    Controller,
    Tolerance,
    combine,
    for_average,
    for_pods,
    for_value,
    lower_limit,
    upper_limit,
)
from launcher.autoscaling.rules import DEFAULT_DOWN, DEFAULT_UP, Autoscaler, Policy, Rules

USUAL = Tolerance()
DOCUMENTED = Rules((Policy("Pods", 4, 60), Policy("Percent", 10, 60)), window_s=0)
REPLICAS = st.integers(1, 200)
LOADS = st.floats(0, 1e6)


def autoscaler(least: int = 1, most: int = 100, up: Rules = DEFAULT_UP, down: Rules = DEFAULT_DOWN) -> Autoscaler:
    return Autoscaler("pods", least, most, (), up, down)


def at_once(window_s: int = 0) -> Rules:
    return Rules((Policy("Percent", 100_000, 15),), window_s)


# "if the current metric value is 200m, and the desired value is 100m, the number of replicas will be doubled"; 50m: halved.
@pytest.mark.parametrize(
    "value, wanted", [(0.2, 8), (0.05, 2), (0.1, 4), (0.109, 4), (0.091, 4), (0.111, 5), (0.089, 4), (0.07, 3)]
)
def test_replicas_follow_the_ratio_outside_the_tolerance(value: float, wanted: int) -> None:
    assert for_pods([value] * 4, 0, 0.1, 4, USUAL) == wanted
    assert for_value(value, 0.1, current=4, ready=4, tolerance=USUAL) == wanted
    assert for_average(value * 4, 0.1, 4, USUAL) == wanted


def test_sum_over_its_share_is_not_rounded_up_by_floats() -> None:
    assert for_average(0.1 + 0.2, 0.1, 1, USUAL) == 3


def test_value_counts_ready_pods_only() -> None:
    assert for_value(20, 10, current=6, ready=3, tolerance=USUAL) == 6


def test_tolerances_differ_by_direction() -> None:
    assert for_average(140, 100, 1, Tolerance(up=0.5)) == 1
    assert for_average(151, 100, 1, Tolerance(up=0.5)) == 2
    assert for_average(160, 100, 2, Tolerance(down=0.0, up=0.5)) == 2
    assert for_average(199, 100, 3, Tolerance(down=0.0, up=0.5)) == 2


def test_missing_pods_are_at_the_target_when_fewer_are_wanted() -> None:
    assert for_pods([50, 50, 50, 50], 0, 100, 4, USUAL) == 2
    assert for_pods([50, 50, None, None], 0, 100, 4, USUAL) == 3


def test_missing_pods_are_idle_when_more_are_wanted() -> None:
    assert for_pods([300, 300], 0, 100, 2, USUAL) == 6
    assert for_pods([300, 300, None], 0, 100, 3, USUAL) == 6
    assert for_pods([150, 150, None], 0, 100, 3, USUAL) == 3, "with the missing pod at 0 the ratio is 1"


def test_unready_pods_are_idle_when_more_are_wanted_and_not_counted_when_fewer_are() -> None:
    assert for_pods([300, 300], 2, 100, 4, USUAL) == 6
    assert for_pods([50, 50], 2, 100, 4, USUAL) == 1


def test_what_is_assumed_never_turns_the_direction() -> None:
    assert for_pods([150, None, None], 0, 100, 3, USUAL) == 3
    assert for_pods([130], 1, 100, 2, USUAL) == 2
    assert for_pods([150, None, None], 0, 100, 1, USUAL) == 1, "the ratio turned, though 2 pods would be more"
    assert for_pods([300, None], 0, 100, 4, USUAL) == 4, "3 pods would be fewer, though the ratio did not turn"


def test_no_pod_with_a_value_is_an_error() -> None:
    assert for_pods([None, None], 1, 100, 3, USUAL) is None


def test_of_several_metrics_the_most_counts() -> None:
    assert combine([3, 7, 5], current=4) == 7


@pytest.mark.parametrize("proposals, wanted", [([None, 2], None), ([None, 4], 4), ([None, 6], 6), ([None, None], None)])
def test_an_error_keeps_from_scaling_down_only(proposals: list[int | None], wanted: int | None) -> None:
    assert combine(proposals, current=4) == wanted


def shrinking(rules: Rules, current: int, wanted: int, loops: int, every_s: int = 60) -> list[int]:
    controller = Controller(autoscaler(down=rules))
    sizes = [current]
    for loop in range(loops):
        sizes.append(controller.decide(loop * every_s, sizes[-1], wanted))
    return sizes


def test_documented_example_of_80_replicas_going_down_to_10() -> None:
    assert shrinking(DOCUMENTED, 80, 10, 14) == [80, 72, 64, 57, 51, 45, 40, 36, 32, 28, 24, 20, 16, 12, 10]


def test_a_policy_holds_over_its_period_however_often_the_controller_looks() -> None:
    assert shrinking(DOCUMENTED, 80, 10, 9, every_s=15) == [80, 72, 72, 72, 72, 64, 64, 64, 64, 57]


def test_limit_of_10_percent_a_minute() -> None:
    assert shrinking(Rules((Policy("Percent", 10, 60),), 0), 80, 10, 3) == [80, 72, 64, 57]


def test_least_change_of_10_percent_or_5_pods() -> None:
    rules = Rules((Policy("Percent", 10, 60), Policy("Pods", 5, 60)), 0, select="Min")
    assert shrinking(rules, 80, 10, 3) == [80, 75, 70, 65]
    assert shrinking(rules, 20, 10, 2) == [20, 18, 16]


def test_disabled_direction() -> None:
    off = Rules((Policy("Percent", 100, 15),), 0, select="Disabled")
    assert shrinking(off, 80, 10, 3) == [80, 80, 80, 80]
    assert Controller(autoscaler(up=off)).decide(0, 4, 90) == 4


def test_default_way_up_is_the_larger_of_double_and_four_more() -> None:
    controller = Controller(autoscaler())
    sizes = [1]
    for loop in range(5):
        sizes.append(controller.decide(loop * 15, sizes[-1], 100))
    assert sizes == [1, 5, 10, 20, 40, 80]


def test_percentages_up_are_rounded_up() -> None:
    assert upper_limit(Rules((Policy("Percent", 10, 60),), 0), 0, 1, []) == 2


def test_policies_count_from_the_replicas_at_the_start_of_the_period() -> None:
    rules = Rules((Policy("Pods", 4, 60),), 0)
    assert upper_limit(rules, 100, 6, [(50, 4)]) == 6
    assert upper_limit(rules, 111, 6, [(50, 4)]) == 10
    assert lower_limit(rules, 100, 6, [(50, -3)]) == 5
    assert upper_limit(rules, 100, 6, [(50, 4), (60, -2)]) == 8, "what went in between may come back"


def test_down_takes_the_most_within_its_window_and_up_the_least() -> None:
    slow_down = Controller(autoscaler(up=at_once(), down=at_once(300)))
    assert [slow_down.decide(at, 10, wanted) for at, wanted in ((0, 10), (15, 4), (150, 6), (290, 4))] == [10, 10, 10, 10]
    assert slow_down.decide(305, 10, 4) == 6, "the 10 are older than the window, the 6 are not"
    slow_up = Controller(autoscaler(up=at_once(60), down=at_once()))
    assert [slow_up.decide(at, 10, wanted) for at, wanted in ((0, 10), (15, 30), (45, 20))] == [10, 10, 10]
    assert slow_up.decide(70, 10, 30) == 20


def test_no_metric_changes_nothing_but_the_bounds_hold_all_the_same() -> None:
    assert Controller(autoscaler(2, 8)).decide(0, 4, None) == 4
    assert Controller(autoscaler(2, 8)).decide(0, 12, None) == 8
    assert Controller(autoscaler(2, 8)).decide(0, 1, None) == 2


POLICIES = st.builds(Policy, st.sampled_from(["Pods", "Percent"]), st.integers(1, 300), st.integers(1, 300))
RULES = st.builds(
    Rules,
    st.lists(POLICIES, min_size=1, max_size=3).map(tuple),
    st.integers(0, 600),
    st.sampled_from(["Max", "Min", "Disabled"]),
)


@given(st.integers(1, 20), st.integers(0, 50), RULES, RULES, st.lists(st.none() | st.integers(0, 500), max_size=60), st.data())
def test_never_outside_the_bounds(
    least: int, span: int, up: Rules, down: Rules, wanted: list[int | None], data: st.DataObject
) -> None:
    controller = Controller(autoscaler(least, least + span, up, down))
    current = data.draw(REPLICAS)
    for loop, each in enumerate(wanted):
        current = controller.decide(loop * 15, current, each)
        assert least <= current <= least + span


@given(st.integers(1, 50), RULES, RULES, st.integers(1, 50))
def test_never_past_what_is_wanted(current: int, up: Rules, down: Rules, wanted: int) -> None:
    chosen = Controller(autoscaler(1, 50, up, down)).decide(0, current, wanted)
    assert min(current, wanted) <= chosen <= max(current, wanted)


@given(LOADS, LOADS, st.floats(0.1, 1000), REPLICAS)
def test_more_load_never_asks_for_fewer(one: float, other: float, target: float, current: int) -> None:
    low, high = sorted((one, other))
    assert for_average(low, target, current, USUAL) <= for_average(high, target, current, USUAL)


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=20), st.floats(0, 1000))
def test_more_load_on_each_pod_never_asks_for_fewer(values: list[float], more: float) -> None:
    asked = [for_pods([value + extra for value in values], 0, 100, len(values), USUAL) for extra in (0, more)]
    assert asked[0] is not None and asked[1] is not None
    assert asked[0] <= asked[1]


@given(st.floats(0.901, 1.099), st.floats(0.1, 1000), REPLICAS)
def test_within_the_tolerance_nothing_changes(ratio: float, target: float, current: int) -> None:
    assert for_average(ratio * target * current, target, current, USUAL) == current
    assert for_value(ratio * target, target, current, current, USUAL) == current
    assert for_pods([ratio * target] * current, 0, target, current, USUAL) == current


@given(st.lists(st.integers(0, 100), min_size=2, max_size=40), st.integers(15, 600))
def test_within_the_window_down_replicas_never_fall_below_what_was_wanted(wanted: list[int], window_s: int) -> None:
    controller = Controller(autoscaler(1, 100, at_once(), at_once(window_s)))
    sizes = [50]
    for loop, each in enumerate(wanted):
        sizes.append(controller.decide(loop * 15, sizes[-1], each))
        recent = [w for earlier, w in enumerate(wanted[: loop + 1]) if (loop - earlier) * 15 < window_s]
        assert sizes[-1] >= min(100, max(recent))
