"""Throughput, with a clock that the models themselves move."""

import pytest
import torch
from torch import nn

from snntorch_smixer.bench import throughput as module
from snntorch_smixer.bench.throughput import throughput


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def perf_counter(self) -> float:
        return self.now


class Takes(nn.Module):
    """Takes the given seconds, one number a call, and notes who was called, in which mode, with gradients or not."""

    def __init__(self, name: str, clock: Clock, seconds: list[float], calls: list[tuple[str, bool, bool]]) -> None:
        super().__init__()
        self.name, self.clock, self.seconds, self.calls = name, clock, list(seconds), calls

    def forward(self, x):
        self.calls.append((self.name, self.training, torch.is_grad_enabled()))
        self.clock.now += self.seconds.pop(0)
        return x


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_by_hand_the_median_without_the_first_pass(clock):
    models = {
        "slow": Takes("slow", clock, [99, 4, 2, 8], []),
        "fast": Takes("fast", clock, [77, 0.5, 0.5, 70], []),
    }
    assert throughput(models, torch.zeros(6, 1), rounds=3) == {"slow": 6 / 4, "fast": 6 / 0.5}


def test_models_take_turns_in_order_without_gradients_and_keep_their_mode(clock):
    calls: list[tuple[str, bool, bool]] = []
    models = {name: Takes(name, clock, [1] * 3, calls) for name in ("b", "a", "c")}
    models["a"].eval()
    found = throughput(models, torch.zeros(2, 1), rounds=2)
    assert [*found] == ["b", "a", "c"]
    assert calls == [("b", True, False), ("a", False, False), ("c", True, False)] * 3
    assert [model.training for model in models.values()] == [True, False, True]
    assert torch.is_grad_enabled()


def test_no_models():
    assert throughput({}, torch.zeros(2, 1)) == {}


def test_a_real_clock_runs():
    assert throughput({"net": nn.Linear(3, 5)}, torch.randn(4, 3), rounds=1)["net"] > 0
