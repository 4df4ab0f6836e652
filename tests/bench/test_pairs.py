"""Paired timing, with a clock that the calls themselves move."""

import pytest

from snntorch_smixer.bench.pairs import Timing, paired
from snntorch_smixer.errors import SettingError


class Clock:
    def __init__(self) -> None:
        self.now = 100.0
        self.calls: list[str] = []

    def __call__(self) -> float:
        return self.now

    def taking(self, name: str, seconds: list[float]):
        left = list(seconds)

        def call() -> None:
            self.calls.append(name)
            self.now += left.pop(0)

        return call


def test_by_hand_the_median_of_ratios_and_its_quartiles():
    clock = Clock()
    calls = {
        "base": clock.taking("base", [99, 4, 2, 8, 10, 1]),
        "ours": clock.taking("ours", [77, 2, 2, 2, 4, 3]),  # ratios 0.5, 1, 0.25, 0.4, 3
    }
    found = paired(calls, rounds=5, clock=clock)
    assert list(found) == ["base", "ours"]
    assert found["base"] == Timing(seconds=4, ratio=1, low=1, high=1)
    assert found["ours"].seconds == 2
    assert (found["ours"].low, found["ours"].ratio, found["ours"].high) == pytest.approx((0.4, 0.5, 1))


def test_a_ratio_of_medians_would_be_fooled_by_a_slow_spell():
    clock = Clock()
    # The machine is ten times slower in three of five rounds, for both; one of these hits the faster call hardest.
    calls = {
        "base": clock.taking("base", [1, 1, 10, 10, 10]),
        "ours": clock.taking("ours", [0.5, 0.5, 5, 5, 5]),
    }
    assert paired(calls, rounds=5, warmup=0, clock=clock)["ours"] == Timing(5, 0.5, 0.5, 0.5)


def test_calls_take_turns_forwards_and_backwards():
    clock = Clock()
    paired({name: clock.taking(name, [1] * 3) for name in "cab"}, rounds=2, warmup=1, clock=clock)
    assert "".join(clock.calls) == "cab" + "bac" + "cab"


def test_no_calls():
    assert paired({}) == {}


@pytest.mark.parametrize("changes", [{"rounds": 1}, {"warmup": -1}])
def test_too_few_rounds(changes):
    with pytest.raises(SettingError, match=r"must be at least 2 and warmup=.* at least 0"):
        paired({"a": lambda: None}, **changes)


def test_a_real_clock_runs():
    found = paired({"a": lambda: sum(range(20000)), "b": lambda: sum(range(60000))}, rounds=3)
    assert found["b"].seconds > 0
    assert found["b"].ratio > 1
