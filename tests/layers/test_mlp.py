"""The spiking MLP."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.layers.mlp import SpikingMLP

T, B, N, C = 3, 2, 5, 8


def test_two_units_by_hand(settle, firing):
    x = torch.randn(T, B, N, C) * 1.5
    mlp = settle(SpikingMLP(C), x)
    with firing(mlp) as spikes:
        out = mlp(x)
    hidden = mlp.expand.norm((spikes["expand.neuron"][0] @ mlp.expand.linear.weight.T).flatten(0, 2))
    assert torch.equal(mlp.contract.neuron(hidden.view(T, B, N, 4 * C)), spikes["contract.neuron"][0])
    y = mlp.contract.norm((spikes["contract.neuron"][0] @ mlp.contract.linear.weight.T).flatten(0, 2))
    torch.testing.assert_close(out, y.view(T, B, N, C))


@pytest.mark.parametrize(("hidden", "ratio"), [(None, 4), (2 * C, 2)])
def test_parameters_and_multiplications(hidden: int | None, ratio: int):
    mlp = SpikingMLP(C, hidden=hidden)
    assert sum(p.numel() for p in mlp.parameters()) == 2 * ratio * C**2 + 2 * (ratio * C + C)
    with FlopCounterMode(display=False) as counter:
        mlp(torch.randn(T, B, N, C))
    assert counter.get_total_flops() == 2 * T * B * (2 * ratio * N * C**2)


def test_a_token_does_not_see_other_tokens(settle, firing):
    x = torch.randn(T, B, N, C) * 1.5
    mlp = settle(SpikingMLP(C), x)
    with firing(mlp):
        out = mlp(x)
    torch.testing.assert_close(mlp(x[:, :, 1:3]), out[:, :, 1:3])


def test_a_selection_only_supplies_the_spike_cap(choose, settle, firing, inputs):
    x = torch.randn(8, B, N, C) * 1.5 + 0.5
    mlp = settle(SpikingMLP(C), x)
    with firing(mlp):
        wanted = mlp(x)
    assert torch.equal(mlp(x, choose(x, 3)), wanted)
    with inputs(mlp.expand.linear, mlp.contract.linear) as seen:
        mlp(x), mlp(x, choose(x, 3, spike_cap=2))
    assert min(spikes.sum(0).max() for spikes in seen[:2]) > 2
    assert [spikes.sum(0).max() for spikes in seen[2:]] == [2, 2]


def test_channels_error():
    with pytest.raises(LayoutError) as caught:
        SpikingMLP(C)(torch.ones(T, B, N, 6))
    assert str(caught.value) == (
        "SpikingMLP: expected 8 channels on the last axis, got 6 in shape (3, 2, 5, 6); "
        "tokens are (T, B, N, C), channels last"
    )


def test_rank_error():
    with pytest.raises(LayoutError) as caught:
        SpikingMLP(C)(torch.ones(N, C))
    assert str(caught.value) == ("SpikingMLP: expected (T, B, N, C) or (B, N, C), got shape (5, 8); add the batch axis")
