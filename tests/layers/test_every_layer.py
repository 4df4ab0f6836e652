"""What holds for every layer: number formats, copies, batches, empty hands after a call."""

import copy
import pickle
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting
from snntorch_smixer.layers.unit import Unit
from snntorch_smixer.neurons import LIF

T, B, N, C = 3, 4, 6, 16
NEURON = partial(LIF, threshold=0.5)
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "attention": lambda: SpikingSelfAttention(C, heads=2, scale=1.0, neuron=NEURON),
    "block": lambda: EncodingBlock(LAYERS["mixer"](), LAYERS["mlp"]()),
    "mixer": lambda: SpikingTokenMixer(C, num_tokens=N, heads=2, neuron=NEURON),
    "mlp": lambda: SpikingMLP(C, neuron=NEURON),
    "stem": lambda: SpikingPatchSplitting(3, C, neuron=NEURON),
    "unit": lambda: Unit(nn.Linear(C, C, bias=False), NEURON()),
}

pytestmark = pytest.mark.parametrize("name", LAYERS)


def make(name: str) -> tuple[nn.Module, Tensor]:
    x = torch.randn(T, B, 3, 8, 12) if name == "stem" else torch.randn(T, B, N, C)
    return LAYERS[name](), x


def test_double_precision_agrees_with_single(name: str, settle, firing):
    layer, x = make(name)
    settle(layer, x)
    with firing(layer):
        single = layer(x)
    double = layer.double()(x.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), single, atol=1e-4, rtol=1e-4)


def test_autocast(name: str, firing):
    layer, x = make(name)
    x.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16), firing(layer) as spikes:
        out = layer(x)
    assert out.isfinite().all()
    narrow = {n for n, seen in spikes.items() if seen[0].dtype == torch.bfloat16}
    wide = {n for n, seen in spikes.items() if seen[0].dtype == torch.float32}
    assert narrow | wide == set(spikes)
    assert narrow or name in ("unit", "block")  # the first neuron sees the float32 stream
    (out.float() ** 2).sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in layer.parameters())


def test_bfloat16_module(name: str, firing):
    layer, x = make(name)
    layer = layer.bfloat16()
    with firing(layer) as spikes:
        out = layer(x.bfloat16())
    assert out.dtype == torch.bfloat16
    assert out.isfinite().all()
    assert {seen[0].dtype for seen in spikes.values()} == {torch.bfloat16}


def test_copies_agree(name: str, settle, firing):
    layer, x = make(name)
    settle(layer, x)
    with firing(layer):
        wanted = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), wanted)


def test_a_state_dict_brings_another_layer_to_the_same_result(name: str, settle, firing):
    layer, x = make(name)
    other, _ = make(name)
    settle(layer, x)
    with firing(layer):
        wanted = layer(x)
    assert not torch.equal(other.eval()(x), wanted)
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), wanted)


def test_a_sample_alone_equals_the_sample_in_a_batch(name: str, settle, firing):
    layer, x = make(name)
    settle(layer, x)
    with firing(layer):
        out = layer(x)
    for b in range(B):
        torch.testing.assert_close(layer(x[:, b : b + 1]), out[:, b : b + 1], atol=1e-5, rtol=1e-5)


def test_nothing_is_left_behind(name: str, settle, firing):
    layer, x = make(name)
    settle(layer, x)
    x.requires_grad_()
    with firing(layer):
        first = layer(x)
    first.sum().backward()
    second = layer(x)
    second.sum().backward()
    assert torch.equal(first, second)
    assert all(module.mem.numel() == 0 for module in layer.modules() if isinstance(module, LIF))
