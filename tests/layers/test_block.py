"""The encoding block."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.neurons import LIF
from snntorch_smixer.selection import take_tokens

T, B, N, C = 3, 2, 6, 12
KINDS = ["smixer", "ssa"]


def block_of(kind: str) -> EncodingBlock:
    neuron = partial(LIF, threshold=0.5)
    mixer = (
        SpikingTokenMixer(C, num_tokens=N, heads=3, neuron=neuron)
        if kind == "smixer"
        else SpikingSelfAttention(C, heads=3, scale=1.0, neuron=neuron)
    )
    return EncodingBlock(mixer, SpikingMLP(C, hidden=2 * C, neuron=neuron))


def tokens(steps: int = T) -> Tensor:
    """Real-valued tokens that make LIF fire."""
    return torch.randn(steps, B, N, C)


@pytest.mark.parametrize("kind", KINDS)
def test_two_residual_branches(kind: str, settle, firing):
    x = tokens()
    block = settle(block_of(kind), x)
    with firing(block):
        out = block(x)
    middle = x + block.mixer(x)
    assert torch.equal(out, middle + block.mlp(middle))
    assert not torch.allclose(out, x + block.mlp(x))


@pytest.mark.parametrize("kind", KINDS)
def test_silent_branches_leave_the_stream_as_it_is(kind: str):
    block, x = block_of(kind), tokens()
    for unit in (block.mixer.proj, block.mlp.contract):
        nn.init.zeros_(unit.norm.weight)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize("kind", KINDS)
def test_first_spikes_are_those_of_the_first_neuron(kind: str, settle, firing):
    x = tokens()
    block = settle(block_of(kind), x)
    first = "mixer.value.neuron" if kind == "smixer" else "mixer.neuron"
    with firing(block) as spikes:
        block(x)
    assert next(name for name, seen in spikes.items() if torch.equal(seen[0], LIF(threshold=0.5)(x))) == first
    assert torch.equal(block.first_spikes(x), spikes[first][0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_selection_reaches_both_branches(kind: str, choose, settle, firing):
    x = tokens()
    block = settle(block_of(kind), x)
    kept = choose(x, 4, spike_cap=1)
    pruned = take_tokens(x, kept.tokens)
    with firing(block):
        out = block(pruned, kept)
    middle = pruned + block.mixer(pruned, kept)
    assert out.shape == (T, B, 4, C)
    assert torch.equal(out, middle + block.mlp(middle, kept))
    assert not torch.equal(out, middle + block.mlp(middle))


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_every_weight(kind: str, firing):
    block, x = block_of(kind), tokens().requires_grad_()
    with firing(block):
        (block(x) ** 3).sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in block.parameters())
