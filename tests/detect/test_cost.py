"""Costs of detector layers against counts by hand: whole spikes are priced by their value."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import cost
from snntorch_smixer.detect.layers import Join, SpikingConv, SpikingSPPF, Upsample


def reached(values: Tensor, conv: nn.Conv2d) -> float:
    """Sum over all spikes of value times synapses, by a convolution with ones; (T, B, C, H, W)."""
    ones = nn.Conv2d(conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, bias=False)
    nn.init.ones_(ones.weight)
    with torch.no_grad():
        return float(ones(values.flatten(0, 1)).sum())


def test_whole_spikes_count_by_their_value():
    net, x = SpikingConv(3, 4, 3, 2).eval(), 3 * torch.randn(2, 2, 3, 8, 8)
    spikes = net.neuron(x)
    assert {1.0, 2.0, 3.0} <= set(spikes.unique().tolist())
    records = cost.measure(net, x)
    assert records.coverage == 1.0
    layer = records.layer("linear")
    assert layer["graded_ac"] == reached(spikes, net.linear)
    assert layer["graded"] == reached((spikes > 0).float(), net.linear)


def test_the_papers_price_them_by_value_too():
    """0.9 pJ x dense multiply-accumulates x mean value of a spike, whatever it is."""
    net, x = SpikingConv(3, 4).eval(), 3 * torch.randn(2, 2, 3, 8, 8)
    rate = net.neuron(x).mean().item()
    report = cost.estimate(net, x, chip="papers45")
    assert report.energy_mj * 1e9 == pytest.approx(0.9 * rate * 2 * 3 * 4 * 64, rel=1e-3)


@pytest.mark.parametrize("make", [lambda: SpikingSPPF(4, 4), Upsample, lambda: nn.Sequential(Two(), Join())])
def test_everything_is_counted(make: object):
    records = cost.measure(make(), 3 * torch.randn(2, 2, 4, 6, 6))
    assert records.coverage == 1.0
    assert not records.uncounted


class Two(nn.Module):
    """A map twice."""

    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x]


def test_means_of_spikes_are_additions_and_the_convolution_behind_them_multiplies():
    net = SpikingSPPF(4, 4).eval()
    nn.init.constant_(net.reduce.norm.bias, 2.0)
    records = cost.measure(net, 3 * torch.randn(2, 2, 4, 6, 6))
    pooled = [record for record in records.layers if record.layer == "pool"]
    assert sum(record["adds"] + record["ac"] + record["graded"] + record["mac"] for record in pooled) > 0
    assert records.layer("fuse.linear")["mac"] > 0
