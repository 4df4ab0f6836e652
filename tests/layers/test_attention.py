"""Spiking self-attention, the baseline."""

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.neurons import LIF

T, B, N, C = 3, 2, 5, 12
QKV = ("query", "key", "value")


def tokens(steps: int = T, count: int = N) -> Tensor:
    """Real-valued tokens that make LIF fire."""
    return torch.randn(steps, B, count, C) * 1.5


def ssa_of(heads: int = 3, scale: float = 1.0) -> SpikingSelfAttention:
    """Attention over so few tokens fires only with a larger scale or a lower threshold than usual."""
    return SpikingSelfAttention(C, heads=heads, scale=scale, neuron=partial(LIF, threshold=0.5))


def attend(q: Tensor, k: Tensor, v: Tensor, heads: int, scale: float) -> Tensor:
    """``Q K^T V s`` of each group of channels, by sums over tokens and channels."""
    out = torch.zeros_like(v)
    for h in range(heads):
        part = slice(h * C // heads, (h + 1) * C // heads)
        scores = torch.einsum("tbnc,tbmc->tbnm", q[..., part], k[..., part])
        out[..., part] = torch.einsum("tbnm,tbmc->tbnc", scores, v[..., part]) * scale
    return out


@pytest.mark.parametrize(("heads", "scale"), [(1, 0.25), (3, 0.5), (3, 1.0)])
def test_by_hand(heads: int, scale: float, settle, firing, inputs):
    x = tokens()
    ssa = settle(ssa_of(heads, scale), x)
    with firing(ssa) as spikes, inputs(ssa.proj.neuron) as products:
        out = ssa(x)
    assert torch.equal(spikes["neuron"][0], ssa.neuron(x))
    for name in QKV:
        current = getattr(ssa, name).apply_linear(spikes["neuron"][0])
        assert torch.equal(spikes[f"{name}_neuron"][0], ssa.query_neuron(current))
    q, k, v = (spikes[f"{name}_neuron"][0] for name in QKV)
    wanted = attend(q, k, v, heads, scale)
    assert torch.equal(products[0], wanted)  # sums of a few ones: exact
    assert torch.equal(spikes["proj.neuron"][0], ssa.proj.neuron(wanted))
    torch.testing.assert_close(ssa.proj.apply_linear(spikes["proj.neuron"][0]), out)


def test_thresholds():
    ssa = SpikingSelfAttention(C)
    assert ssa.proj.neuron.threshold == 0.5
    assert [n.threshold for n in (ssa.neuron, ssa.query_neuron, ssa.key_neuron, ssa.value_neuron)] == [1, 1, 1, 1]


@pytest.mark.parametrize("heads", [1, 3])
def test_parameters_and_multiplications(heads: int):
    ssa = SpikingSelfAttention(C, heads=heads)
    assert sum(p.numel() for p in ssa.parameters()) == 4 * (C**2 + 2 * C)
    with FlopCounterMode(display=False) as counter:
        ssa(tokens())
    assert counter.get_total_flops() == 2 * T * B * (4 * N * C**2 + 2 * N**2 * C)


def test_any_number_of_tokens(settle, firing):
    x = tokens(count=9)
    ssa = settle(ssa_of(), x)
    with firing(ssa):
        assert ssa(x).shape == (T, B, 9, C)
    assert ssa(x[:, :, :4]).shape == (T, B, 4, C)


def test_the_order_of_tokens_does_not_matter(settle, firing):
    x, order = tokens(), torch.tensor([3, 0, 4, 2, 1])
    ssa = settle(ssa_of(), x)
    with firing(ssa):
        out = ssa(x)
    torch.testing.assert_close(ssa(x[:, :, order]), out[:, :, order])


def test_a_selection_only_supplies_the_spike_cap(choose, settle, firing, inputs):
    x = tokens(8) + 0.5
    ssa = settle(ssa_of(), x)
    with firing(ssa):
        wanted = ssa(x)
    assert torch.equal(ssa(x, choose(x, 3)), wanted)
    with inputs(ssa.query.linear, ssa.proj.linear) as seen:
        ssa(x), ssa(x, choose(x, 3, spike_cap=2))
    assert min(spikes.sum(0).max() for spikes in seen[:2]) > 2
    assert [spikes.sum(0).max() for spikes in seen[2:]] == [2, 2]


def test_spike_cap_reaches_queries_keys_and_values(choose, settle, firing, inputs):
    x = tokens(8) + 0.5
    ssa = settle(ssa_of(), x)
    with firing(ssa) as spikes, inputs(ssa.proj.neuron) as products:
        ssa(x, choose(x, 3, spike_cap=1))
    free = [spikes[f"{name}_neuron"][0] for name in QKV]
    assert min(s.sum(0).max() for s in free) > 1
    q, k, v = (s * (s.cumsum(0) <= 1) for s in free)
    assert torch.equal(products[0], attend(q, k, v, 3, 1.0))
    assert not torch.equal(products[0], attend(*free, 3, 1.0))


def test_gradients_reach_every_weight(firing):
    ssa, x = ssa_of(), tokens().requires_grad_()
    with firing(ssa):
        (ssa(x) ** 3).sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in ssa.parameters())


def test_repr():
    assert "dim=12, heads=3, scale=0.125" in repr(SpikingSelfAttention(C, heads=3))


@pytest.mark.parametrize("heads", [0, 5])
def test_heads_error(heads: int):
    with pytest.raises(SettingError) as caught:
        SpikingSelfAttention(C, heads=heads)
    assert str(caught.value) == (
        f"SpikingSelfAttention: heads={heads} does not divide dim=12. Pass a divisor, each head takes dim / heads."
    )


SHAPE_ERRORS = {
    (2, 5, 12): "expected tokens (T, B, N, C), got shape (2, 5, 12); did you forget the time axis?",
    (3, 2, 5, 8): "expected 12 channels on the last axis, got 8 in shape (3, 2, 5, 8); "
    "tokens are (T, B, N, C), channels last",
}


@pytest.mark.parametrize(("shape", "wanted"), SHAPE_ERRORS.items())
def test_shape_errors(shape: tuple[int, ...], wanted: str):
    with pytest.raises(LayoutError) as caught:
        SpikingSelfAttention(C)(torch.ones(shape))
    assert str(caught.value) == f"SpikingSelfAttention: {wanted}"
