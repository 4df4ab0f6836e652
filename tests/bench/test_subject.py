"""A model comes back from a measurement as it went in."""

import copy

import pytest
import torch
from snntorch import Leaky
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from snntorch_smixer.bench.subject import training


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh())


@pytest.mark.parametrize("fake", [True, False])
def test_weights_buffers_gradients_and_mode_come_back(fake):
    net = network().eval()
    weight, mean = net[0].weight, net[1].running_mean
    weight.grad = torch.full_like(weight, 7.0)
    before = copy.deepcopy(net.state_dict())
    with training(net, torch.randn(5, 3), fake=fake) as subject:
        assert net.training
        assert net[0].weight.grad is None
        subject.step()
        assert net[0].weight.grad is not None
        assert isinstance(net[0].weight, FakeTensor) is fake
    assert net[0].weight is weight
    assert net[1].running_mean is mean
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert (weight.grad == 7).all()
    assert net[0].bias.grad is None
    assert not any(module.training for module in net.modules())


class Broken(nn.Module):
    def forward(self, x):
        raise ValueError("broken")


@pytest.mark.parametrize("fake", [True, False])
def test_they_come_back_when_the_model_fails(fake):
    net = nn.Sequential(network(), Broken()).eval()
    weight, before = net[0][0].weight, copy.deepcopy(net.state_dict())
    with pytest.raises(ValueError, match="broken"), training(net, torch.randn(5, 3), fake=fake) as subject:
        subject.step()
    assert net[0][0].weight is weight
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not net[0].training


@pytest.mark.parametrize("fake", [True, False])
def test_a_neuron_that_puts_a_new_membrane_in_its_place(fake):
    net = nn.Sequential(nn.Linear(3, 8), Leaky(0.9, init_hidden=True))
    rest = net[1].mem
    with training(net, torch.randn(5, 3), fake=fake) as subject:
        subject.step()
        assert net[1].mem.shape == (5, 8)
    assert net[1].mem is rest


def test_a_shared_weight_stays_shared_on_shapes():
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    net[1].weight = net[0].weight
    with training(net, torch.randn(2, 4), fake=True):
        assert net[1].weight is net[0].weight
        assert isinstance(net[0].weight, nn.Parameter)


def test_autocast_holds_in_the_forward_pass_only():
    net = nn.Linear(3, 8)
    with training(net, torch.randn(5, 3), autocast=torch.bfloat16) as subject:
        assert subject.forward().dtype == torch.bfloat16
        assert not torch.is_autocast_enabled("cpu")
        subject.step()
        assert net.weight.grad.dtype == torch.float32


def test_an_autocast_of_the_caller_stays():
    with training(nn.Linear(3, 8), torch.randn(5, 3)) as subject, torch.autocast("cpu", torch.bfloat16):
        assert subject.forward().dtype == torch.bfloat16


def test_nothing_is_computed_on_shapes():
    net, x = nn.Linear(2**20, 2**10, bias=False, device="meta"), torch.empty(2**20, 2**20, device="meta")
    with training(net, x, fake=True) as subject:  # 4 TiB of input
        assert subject.forward().shape == (2**20, 2**10)
