"""Neurons that are written out: in the code that runs a model, and with spikes that are truth values."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import measure
from tests.cost.replay import values

T, B, IN, HIDDEN, OUT = 4, 3, 8, 5, 2


def layers() -> nn.ModuleList:
    net = nn.ModuleList([nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, OUT)])
    for layer in net:
        nn.init.constant_(layer.weight, 0.6)
    return net


@pytest.mark.parametrize(
    "spell", [lambda mem: (mem > 1).float(), lambda mem: torch.heaviside(mem - 1, mem.new_zeros(()))]
)
def test_neurons_in_run_are_updates_and_no_comparisons(spell):
    net, x, sent = layers(), values("spikes", T, B, IN), []

    def run(batch: Tensor) -> None:
        mem = torch.zeros(B, HIDDEN)
        for step in batch:
            mem = 0.9 * mem + net[0](step)
            sent.append(spell(mem))
            mem = mem * (1 - sent[-1])
            net[1](sent[-1])

    records = measure(net, x, run=run, axes="t b")
    (neuron,) = [record for record in records.layers if record.op == "neuron"]
    assert (neuron.layer, neuron["updates"], neuron.steps) == ("", T * B * HIDDEN, T)
    assert neuron["spikes"] == sum(int(one.count_nonzero()) for one in sent) > 0
    assert neuron.events == tuple(tuple(row) for row in torch.stack(sent).sum(2).int().tolist())
    assert (records.total("compares"), records.steps, records.coverage) == (0, T, 1.0)


def test_a_comparison_in_run_that_stays_a_mask_is_one():
    records = measure(layers(), values("analog", B, IN), run=lambda x: x > 0.3)
    assert (records.total("updates"), records.total("compares")) == (0, B * IN)


def test_two_neurons_in_run_do_not_double_the_steps():
    net, x = layers(), values("spikes", B, IN)

    def run(batch: Tensor) -> None:
        for _ in range(T):
            net[1]((net[0](batch) > 1).float()).gt(1).float()

    records = measure(net, x, run=run)
    assert (records.steps, records.total("updates")) == (T, T * B * (HIDDEN + OUT))


def test_neurons_that_only_run_repeats_tell_the_steps():
    net, x = layers(), values("spikes", B, IN)

    def run(batch: Tensor) -> None:
        current = net[0](batch)
        for step in range(T):
            (current * (step + 1) > 1).float()

    assert measure(net, x, run=run).steps == T


class Truth(nn.Module):
    """A neuron whose spikes are truth values."""

    def forward(self, x: Tensor) -> Tensor:
        return x > 0.7


class Between(nn.Module):
    def __init__(self, dtype: torch.dtype = torch.float32, *, number: bool = True) -> None:
        super().__init__()
        self.one, self.neuron, self.two = nn.Linear(IN, HIDDEN), Truth(), nn.Linear(HIDDEN, OUT)
        nn.init.constant_(self.one.weight, 0.6)
        self.number = number
        self.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        spikes = self.neuron(self.one(x))
        return self.two(spikes.to(x.dtype)) if self.number else spikes


def test_truth_values_that_a_later_layer_reads_are_spikes():
    x = values("spikes", B, IN)
    records = measure(Between(), x)
    neuron = records.layer("neuron")
    assert (neuron.op, neuron["updates"]) == ("neuron", B * HIDDEN)
    assert neuron["spikes"] == records.layer("two")["packets"]
    assert records.total("compares") == 0
    mask = measure(Between(number=False), x)
    assert (mask.total("updates"), mask.total("compares")) == (0, B * HIDDEN)


@pytest.mark.parametrize(("dtype", "width"), [(torch.float32, 4), (torch.float64, 8)])
def test_state_is_as_wide_as_the_membrane_not_as_its_truth_values(dtype: torch.dtype, width: int):
    assert measure(Between(dtype), values("spikes", B, IN).to(dtype)).layer("neuron").state_bytes == HIDDEN * width

    def run(x: Tensor) -> Tensor:
        return (x > 0.5).float()

    records = measure(nn.Identity(), values("analog", B, IN).to(dtype), run=run)
    assert records.layer("").state_bytes == IN * width
