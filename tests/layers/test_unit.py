"""The unit of neuron, linear map and BatchNorm."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer.layers.unit import Unit, fire
from snntorch_smixer.neurons import LIF


def normalised(y: Tensor, channel_axis: int) -> Tensor:
    """BatchNorm in training, over every axis but the channels."""
    over = [i for i in range(y.dim()) if i != channel_axis]
    return (y - y.mean(over, keepdim=True)) / (y.var(over, unbiased=False, keepdim=True) + 1e-5).sqrt()


def test_tokens_by_hand(firing):
    unit, x = Unit(nn.Linear(6, 5, bias=False), LIF()), torch.randn(4, 3, 7, 6) * 1.5
    with firing(unit) as spikes:
        out = unit(x)
    y = spikes["neuron"][0] @ unit.linear.weight.T
    torch.testing.assert_close(out, normalised(y, 3), atol=1e-5, rtol=1e-5)
    rows = y.flatten(0, 2)
    torch.testing.assert_close(unit.norm.running_mean, 0.1 * rows.mean(0))
    torch.testing.assert_close(unit.norm.running_var, 0.9 + 0.1 * rows.var(0))


def test_maps_by_hand(firing):
    unit = Unit(nn.Conv2d(3, 5, 3, stride=2, padding=1, bias=False), LIF())
    x = torch.randn(4, 2, 3, 8, 6) * 1.5
    with firing(unit) as spikes:
        out = unit(x)
    assert out.shape == (4, 2, 5, 4, 3)
    steps = [F.conv2d(step, unit.linear.weight, stride=2, padding=1) for step in spikes["neuron"][0]]
    torch.testing.assert_close(out, normalised(torch.stack(steps), 2), atol=1e-5, rtol=1e-5)


def test_without_a_neuron_the_map_sees_the_input():
    unit, x = Unit(nn.Linear(6, 5, bias=False), None), torch.randn(4, 3, 7, 6)
    torch.testing.assert_close(unit(x), normalised(x @ unit.linear.weight.T, 3), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("lead", [(6,), (2, 6), (2, 3, 6), (2, 3, 4, 6)])
def test_any_leading_axes(lead: tuple[int, ...], settle):
    unit = settle(Unit(nn.Linear(6, 5, bias=False), None), torch.randn(9, 6))
    x = torch.randn(*lead, 6)
    out = unit(x)
    assert out.shape == (*lead, 5)
    torch.testing.assert_close(out.flatten(0, -2), unit(x.flatten(0, -2)))


def test_one_step_at_a_time_equals_all_steps(settle, firing):
    x = torch.randn(4, 3, 7, 6) * 1.5
    unit = settle(Unit(nn.Linear(6, 5, bias=False), LIF()), x)
    with firing(unit):
        wanted = unit(x)
    unit.neuron.step_mode = "s"
    torch.testing.assert_close(torch.stack([unit(step) for step in x]), wanted)


def test_a_sample_does_not_see_its_batch_mates_in_evaluation(settle, firing):
    x = torch.randn(4, 3, 7, 6) * 1.5
    unit = settle(Unit(nn.Linear(6, 5, bias=False), LIF()), x)
    with firing(unit):
        out = unit(x)
    torch.testing.assert_close(unit(x[:, 1:2]), out[:, 1:2])


def test_gradients_reach_input_and_weights():
    unit, x = Unit(nn.Linear(6, 5, bias=False), LIF()), torch.randn(4, 3, 7, 6, requires_grad=True)
    (unit(x) ** 3).sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in unit.parameters())


def test_spike_cap_limits_what_the_map_receives(inputs):
    unit, x = Unit(nn.Linear(6, 5, bias=False), LIF()), torch.randn(8, 3, 7, 6) + 0.7
    with inputs(unit.linear) as seen:
        unit(x), unit(x, 2)
    free, capped = seen
    assert free.sum(0).max() > 2
    assert torch.equal(capped.sum(0), free.sum(0).clamp(max=2))


def test_fire():
    x = torch.randn(8, 3, 40) + 0.5
    spikes = LIF()(x)
    assert 0.05 < spikes.mean() < 0.6
    assert fire(None, x) is x
    assert torch.equal(fire(LIF(), x), spikes)
    assert torch.equal(fire(LIF(), x, 1), spikes * (spikes.cumsum(0) == 1))
    assert torch.equal(fire(None, spikes, 1), fire(LIF(), x, 1))


def test_the_map_can_be_applied_to_spikes_computed_before(settle, firing):
    x = torch.randn(4, 3, 7, 6) * 1.5
    unit = settle(Unit(nn.Linear(6, 5, bias=False), LIF()), x)
    with firing(unit):
        out = unit(x)
    assert torch.equal(unit.apply_linear(fire(unit.neuron, x)), out)
