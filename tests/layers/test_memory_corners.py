"""Corners in which the default mode must still be plain torch: flushed numbers, empty batches, patched forwards."""

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from snntorch_smixer.kernels import compiled
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting
from snntorch_smixer.memory import MODES, memory_mode
from snntorch_smixer.neurons import LIF

LEAN = pytest.mark.parametrize("mode", MODES[1:])


def test_a_membrane_at_the_threshold_where_small_numbers_are_flushed():
    x = torch.tensor([1.0, 0.6, 0.0]).view(3, 1, 1)
    neuron = LIF(0.5)
    assert torch.set_flush_denormal(True)
    try:
        assert neuron(x).flatten().tolist() == [0, 1, 0]
    finally:
        torch.set_flush_denormal(False)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("layer", "shape"), [(SpikingPatchSplitting(3, 16), (4, 0, 3, 16, 16)), (SpikingMLP(16), (4, 0, 7, 16))]
)
def test_an_empty_batch_in_evaluation(layer, shape, mode):
    layer, x = copy.deepcopy(layer).eval(), torch.randn(shape, requires_grad=True)
    with memory_mode(layer, mode):
        layer(x).sum().backward()
    assert x.grad.shape == shape
    assert all((p.grad == 0).all() for p in layer.parameters())


@LEAN
def test_another_forward_on_a_part_is_taken(mode):
    layer, x = SpikingMLP(16).eval(), torch.randn(2, 3, 7, 16)
    plain = layer.expand.linear.forward
    layer.expand.linear.forward = lambda x: 2 * plain(x)
    with torch.no_grad():
        expected = layer(x)
    with memory_mode(layer, mode):
        assert torch.equal(layer(x), expected)


def test_recompute_sees_the_statistics_of_the_forward_pass():
    """Also where a training pass moves them before the backward pass comes."""
    layer, x = SpikingMLP(16), torch.randn(4, 3, 7, 16)
    layer(3 * x)
    still, moved = copy.deepcopy(layer).eval(), layer.eval()
    with memory_mode(still, "reference"), memory_mode(moved, "recompute"):
        outs = still(x), moved(x)
    with torch.no_grad():
        moved.train()(5 * x + 1)
    for out in outs:
        out.backward(torch.ones_like(out))
    wanted, got = (own.expand.norm.bias.grad for own in (still, moved))
    assert wanted.abs().sum() > 0
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


@LEAN
def test_the_meta_device(mode):
    layer = SpikingMLP(8).to("meta")
    with memory_mode(layer, mode):
        assert layer(torch.empty(2, 2, 3, 8, device="meta")).shape == (2, 2, 3, 8)


@dataclass
class Box:
    """Equal where it is alike, and so without a hash."""

    width: float = 1.0

    def __call__(self, v: Tensor) -> Tensor:
        return (v > 0).to(v.dtype)

    def derivative(self, v: Tensor) -> Tensor:
        return (v.abs() < self.width).to(v.dtype)


def test_a_surrogate_without_a_hash_runs_uncompiled(monkeypatch):
    monkeypatch.setattr(compiled, "_setting", compiled._Setting())
    neuron, x = LIF(spike_grad=Box()), torch.randn(3, 4, 5, requires_grad=True)
    with compiled.use("compile"), pytest.warns(RuntimeWarning, match="does not take this call"):
        neuron(x).sum().backward()
    grad, x.grad = x.grad, None
    neuron(x).sum().backward()
    assert torch.equal(grad, x.grad)


def test_setting_the_mode_keeps_the_pieces(firing_net):
    from snntorch_smixer import set_memory

    net = firing_net()
    set_memory(net, "recompute", chunks=4)
    net.memory = "recompute"
    assert net.stem.chunks == net.blocks[0].mlp.chunks == 4
