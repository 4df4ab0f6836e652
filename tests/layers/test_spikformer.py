"""Parts of Spikformer and QKFormer: the neuron to the last tie, and the one that may run over the batch."""

import copy
import importlib
import pickle

import pytest
import torch
from torch import Tensor

from snntorch_smixer.layers.spikformer import ConvSSA, InputDecayLIF
from snntorch_smixer.neurons import LIF
from tests.fakes.calibrate import calibrate
from tests.fakes.neurons import MultiStepLIF


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_neuron_equals_spikingjellys_on_ties(steps: int, threshold: float):
    x = torch.randint(-8, 25, (steps, 4000)) * 0.125
    wanted = MultiStepLIF(v_threshold=threshold)(x)
    assert torch.equal(InputDecayLIF(threshold)(x), wanted)
    assert torch.equal(InputDecayLIF(threshold).half()(x.half()), wanted.half())
    assert torch.equal(InputDecayLIF(threshold).double()(x.double()), wanted.double())
    strict = LIF(0.5, threshold=2 * threshold)(x)
    assert (strict != wanted).float().mean() > 0.01, "no ties: the test shows nothing"


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_neuron_equals_the_installed_spikingjelly(steps: int, threshold: float):
    pytest.importorskip("spikingjelly")
    neuron = importlib.import_module("spikingjelly.activation_based.neuron")
    x = (torch.randint(-8, 25, (steps, 4000)) * 0.125).requires_grad_()
    theirs = neuron.LIFNode(tau=2.0, v_threshold=threshold, detach_reset=True, step_mode="m")
    weight = torch.randn(steps, 4000)
    wanted, got = theirs(x), InputDecayLIF(threshold)(x)
    assert torch.equal(got, wanted)
    one, other = (torch.autograd.grad((out * weight).sum(), x)[0] for out in (wanted, got))
    assert one.abs().max() > 0.1
    assert torch.allclose(other, one, atol=1e-6)


def test_neuron_keeps_nothing_and_prints_itself():
    neuron = InputDecayLIF(0.5)
    assert neuron.state_dict() == {}
    assert "threshold=1, spike_grad=SigmoidAtThreshold(slope=2.0)" in repr(neuron)
    copied = pickle.loads(pickle.dumps(copy.deepcopy(neuron)))
    x = torch.tensor([[1.0, 0.9], [0.0, 0.55]])
    assert copied(x).tolist() == neuron(x).tolist() == [[1, 0], [0, 1]]
    assert copied.state_dict() == {}


def integers(batch: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 3, (2, batch, 16, 3, 3), generator=draw).float()


def test_over_the_batch_the_last_neuron_takes_samples_for_steps():
    over = calibrate(ConvSSA(16, 2, proj_over_batch=True), integers)
    apart = ConvSSA(16, 2).eval()
    apart.load_state_dict(over.state_dict())
    taken: list[Tensor] = []
    for layer in (over, apart):
        layer.proj_lif.register_forward_pre_hook(lambda module, args: taken.append(args[0]))
    x = integers(5, 7)
    with torch.no_grad():
        a, b = over(x), apart(x)
        alone = over(x[:, :1])
    assert taken[0].shape == (10, 16, 9)
    assert torch.equal(taken[0].unflatten(0, (2, 5)), taken[1])
    assert torch.equal(a.flatten(0, 1).flatten(2), MultiStepLIF()(taken[0]))
    assert 0.02 < b.mean() < 0.95
    assert not torch.equal(a, b)
    assert torch.equal(alone, b[:, :1])


@pytest.mark.parametrize("size", [(1, 11), (11, 1), (2, 3)])
def test_attention_takes_any_map(size: tuple[int, int]):
    layer = calibrate(ConvSSA(16, 2), integers)
    x = torch.randint(0, 3, (3, 2, 16, *size)).float()
    order = torch.randperm(size[0] * size[1])
    with torch.no_grad():
        out = layer(x)
        moved = layer(x.flatten(3)[..., order].view_as(x))
    assert out.shape == x.shape
    assert 0 < out.mean() < 1
    assert torch.equal(moved.flatten(3), out.flatten(3)[..., order])  # no position but the map's own
