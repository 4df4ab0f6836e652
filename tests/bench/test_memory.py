"""Bytes kept for backward, on networks whose saved tensors can be listed by hand."""

import copy
import weakref

import pytest
import torch
from snntorch import Leaky
from torch import nn

from snntorch_smixer.bench.memory import saved_bytes


def test_a_chain_by_hand():
    # Of (5, 3) float32: tanh keeps its output (5, 8), which the second layer keeps too; once.
    # The second tanh keeps (5, 2). Weights and the input are not counted.
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh())
    assert saved_bytes(net, torch.randn(5, 3)) == 4 * 8 + 4 * 2


def test_half_precision_is_half():
    net = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2), nn.Tanh()).bfloat16()
    assert saved_bytes(net, torch.randn(5, 3).bfloat16()) == 2 * 8 + 2 * 2


def test_samples_may_lie_on_another_axis():
    net, x = nn.Sequential(nn.Linear(3, 8), nn.Tanh()), torch.randn(7, 5, 3)
    assert saved_bytes(net, x, batch_axis=1) == 7 * 8 * 4
    assert saved_bytes(net, x) == 5 * 8 * 4


def test_nothing_is_kept_without_anything_to_learn():
    assert saved_bytes(nn.Tanh(), torch.randn(5, 3)) == 0


class Branches(nn.Module):
    """One branch is computed, and thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)

    def forward(self, x):
        y = self.linear(x)
        y.exp().tanh()
        return y.tanh()


def test_what_did_not_survive_the_forward_pass_is_left_out():
    assert saved_bytes(Branches(), torch.randn(5, 3)) == 4 * 8


class Watched(nn.Module):
    """Notes its output without keeping it alive."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 8)
        self.noted: list[weakref.ref[torch.Tensor]] = []

    def forward(self, x):
        y = self.linear(x).tanh()
        self.noted.append(weakref.ref(y))
        return y.sum()


def test_nothing_is_held_afterwards():
    net = Watched()
    assert saved_bytes(net, torch.randn(5, 3)) == 4 * 8
    assert [ref() for ref in net.noted] == [None]


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh())


@pytest.mark.parametrize("training", [True, False])
def test_it_measures_training_and_restores_statistics_and_mode(training):
    net = network().train(training)
    net[1].running_mean.fill_(0.5)
    before = copy.deepcopy(net.state_dict())
    x = torch.randn(5, 3)
    # BatchNorm keeps its input (5, 8) and, for the batch, mean and inverse deviation of 8 channels; tanh its output.
    assert saved_bytes(net, x) * 5 == 4 * (5 * 8 + 8 + 8 + 5 * 8)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training is training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())
    net.train()(x)
    assert not torch.equal(net[1].running_mean, before["1.running_mean"]), "statistics would not have moved anyway"


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("broken")


@pytest.mark.parametrize("training", [True, False])
def test_all_is_restored_when_the_model_fails(training):
    net = nn.Sequential(network(), Broken()).train(training)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="broken"):
        saved_bytes(net, torch.randn(5, 3))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(module.training is training for module in net.modules())


def test_buffers_of_a_stateful_neuron_are_restored():
    net = nn.Sequential(nn.Linear(3, 8), Leaky(0.9, init_hidden=True))
    net(torch.randn(5, 3))
    before = net[1].mem.detach().clone()
    assert saved_bytes(net, torch.randn(5, 3)) > 0
    assert torch.equal(net[1].mem, before)


def test_the_network_trains_as_before():
    torch.manual_seed(1)
    net = network().train()
    twin, x = copy.deepcopy(net), torch.randn(5, 3)
    saved_bytes(net, torch.randn(6, 3))
    for model in (net, twin):
        model(x).square().sum().backward()
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    assert torch.equal(net[1].running_mean, twin[1].running_mean)


def test_pruning_keeps_fewer_bytes(firing_net):
    from snntorch_smixer.patching.wrap import wrap

    net, x = firing_net(depth=3), torch.randn(6, 2, 16, 16)
    whole = saved_bytes(net, x)
    pruned = saved_bytes(wrap(net, ps=0.5, t=1), x)
    assert 0 < pruned < 0.8 * whole
