"""Linear layers in a row count as the one layer that they are: events against the Jacobian of the whole."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snntorch_smixer.cost import Assumptions, Geometry, estimate, fits, load_profile, measure


def spikes(*shape: int, rate: float = 0.3) -> Tensor:
    return (torch.rand(shape, generator=torch.Generator().manual_seed(0)) < rate).float()


def reached(net: nn.Module, x: Tensor) -> int:
    """Events of the whole, by its Jacobian with positive weights: nonzero inputs times the outputs that each moves."""
    net = net.double().eval()
    for parameter in net.parameters():
        parameter.data = parameter.data.abs() + 0.1
    total = 0
    for sample in x.double():
        jacobian = torch.autograd.functional.jacobian(lambda one: net(one[None])[0], sample)
        per_input = jacobian.ne(0).flatten(0, jacobian.dim() - sample.dim() - 1).sum(0)
        total += int(per_input[sample != 0].sum())
    return total


class PaddedNorm(nn.Module):
    """BatchNorm, and around its result the value that zeros have behind it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        bn, x = self.bn, F.pad(self.bn(x), [1] * 4)
        edge = bn.bias.detach() - bn.running_mean * bn.weight.detach() / torch.sqrt(bn.running_var + bn.eps)
        x[:, :, 0:1, :] = edge.view(1, -1, 1, 1)
        x[:, :, :, -1:] = edge.view(1, -1, 1, 1)
        return x


class Tokens(nn.Module):
    """Linear, BatchNorm over the channels of tokens, Linear: ``(B, N, C)``."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.bn, self.down = nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.bn(self.up(x).transpose(1, 2)).transpose(1, 2))


def conv(*sizes: int, **how: object) -> nn.Conv2d:
    return nn.Conv2d(*sizes, **how)


CHAINS = {
    "1x1, BatchNorm, depthwise, 1x1": (
        lambda: [conv(4, 4, 1, bias=False), nn.BatchNorm2d(4), conv(4, 4, 3, padding=1, groups=4), conv(4, 6, 1)],
        (2, 4, 6, 5),
    ),
    "strides and dilation": (
        lambda: [conv(3, 4, 3, stride=2, padding=1), conv(4, 5, 3, dilation=2, padding=2), conv(5, 2, 2)],
        (2, 3, 11, 9),
    ),
    "both padded": (lambda: [conv(2, 3, 3, padding=2), conv(3, 2, 3, padding=1)], (1, 2, 5, 6)),
    "nested groups": (lambda: [conv(8, 8, 3, groups=4), conv(8, 4, 1, groups=2)], (2, 8, 4, 4)),
    "border of the norm's value": (
        lambda: [conv(3, 3, 1), PaddedNorm(3), conv(3, 3, 3, groups=3), conv(3, 4, 1), nn.BatchNorm2d(4)],
        (2, 3, 5, 5),
    ),
    "transposed": (lambda: [conv(3, 4, 3, padding=1), nn.ConvTranspose2d(4, 2, 2, stride=2)], (1, 3, 4, 4)),
    "one axis": (lambda: [nn.Conv1d(3, 4, 3, padding=1), nn.Conv1d(4, 4, 3, padding=1, groups=4)], (2, 3, 8)),
    "linear": (lambda: [nn.Linear(7, 5), nn.Linear(5, 6, bias=False), nn.Linear(6, 3)], (3, 7)),
    "tokens": (lambda: [Tokens()], (2, 5, 6)),
}


@pytest.mark.parametrize("name", CHAINS)
def test_events_are_those_of_the_whole(name: str):
    torch.manual_seed(0)
    layers, shape = CHAINS[name]
    net, x = nn.Sequential(*layers()).eval(), spikes(*shape)
    records = measure(net, x)
    whole = records.folded()
    assert len([record for record in whole.layers if record.geometry is not None]) == 1, name
    assert whole.total("mac") == 0
    assert whole.total("ac") == reached(net, x)
    assert whole.total("outputs") == net(x.double()).numel()
    assert records.total("mac") > 0  # as it ran


def separable(channels: int = 16) -> nn.Module:
    return nn.Sequential(
        conv(channels, channels, 1, bias=False),
        conv(channels, channels, 3, padding=1, groups=channels),
        nn.Conv2d(channels, 16, 1),
    ).eval()


def test_report_folds_says_so_and_can_be_kept_from_it():
    net, x = separable(), spikes(1, 16, 8, 8)
    shown, apart = estimate(net, x), estimate(measure(net, x), assume=Assumptions(fold=False))
    assert shown.folded == {"0+1+2": ("0", "1", "2")}
    assert "0+1+2: 3 linear layers without a neuron in between" in str(shown)
    assert shown.energy_mj < apart.energy_mj
    assert (apart.folded, [row.record.layer for row in apart.rows]) == ({}, ["0", "1", "2"])
    assert shown.records.layers[0].geometry == Geometry(144, 16, 64, 1, (3, 3), (8, 8), (16, 16))
    one = measure(conv(16, 16, 3, padding=1), x).layers[0]
    assert shown.records.layers[0].counts == one.counts
    assert estimate(net, x, chip="papers45").folded == {}
    assert estimate(measure(net, x), assume=Assumptions(batch_norm="count")).folded == {}


def test_folding_is_never_dearer():
    """Through a bottleneck the whole has far more weights than its parts."""
    net, x = nn.Sequential(nn.Linear(64, 2), nn.Linear(2, 64)), torch.ones(1, 64).index_fill(1, torch.tensor([0]), 0)
    apart = estimate(measure(net, x), assume=Assumptions(fold=False))
    assert estimate(net, x).energy_mj == apart.energy_mj
    three = nn.Sequential(nn.Linear(40, 60), nn.Linear(60, 2), nn.Linear(2, 400))
    shown = estimate(three, spikes(1, 40, rate=0.9))
    assert shown.folded == {"0+1": ("0", "1")}  # the best of all rows of layers that begin there


def test_a_chip_without_multipliers_is_not_taken_for_cheap():
    """Apart, the later layers have no price at all on such a chip; that is no saving."""
    shown = estimate(separable(), spikes(1, 16, 8, 8, rate=0.9), chip="loihi1")
    assert shown.folded
    assert "multiply-accumulates" not in {entry.term for entry in shown.unpriced}


class Uses(nn.Module):
    """Two linear layers, and something else that uses the result of the first."""

    def __init__(self, use: Callable[[Tensor, Tensor], object]) -> None:
        super().__init__()
        self.a, self.b, self.use = nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False), use

    def forward(self, x: Tensor) -> object:
        hidden = self.a(x)
        return self.use(hidden, self.b(hidden))


@pytest.mark.parametrize(
    ("use", "folds"),
    [
        (lambda hidden, out: out, True),
        (lambda hidden, out: out + 1, True),
        (lambda hidden, out: out + hidden, False),
        (lambda hidden, out: (out, hidden), False),
        (lambda hidden, out: {"all": [out, hidden]}, False),
        (lambda hidden, out: (out, (hidden > 0).float()), False),
        (lambda hidden, out: out + hidden[:, :1], False),
        (lambda hidden, out: out + hidden.view(-1).sum(), False),
    ],
)
def test_only_a_result_that_nothing_else_uses_folds(use: Callable[[Tensor, Tensor], object], folds: bool):
    assert bool(measure(Uses(use), spikes(4, 6)).foldings) is folds


class Overwrites(Uses):
    def forward(self, x: Tensor) -> Tensor:
        hidden = self.a(x)
        hidden[:, :2] = x[:, :2]
        return self.b(hidden)


class Between(Uses):
    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.use(self.a(x), x))


@pytest.mark.parametrize(
    "between", [torch.relu, lambda h: h * h, lambda h: h.flip(1), lambda h: h.reshape(-1, 6, 1)[:, :, 0] ** 2]
)
def test_what_is_not_linear_ends_the_row(between: Callable[[Tensor], Tensor]):
    assert not measure(Between(lambda h, _: between(h)), spikes(4, 6)).foldings
    assert not measure(Overwrites(lambda hidden, out: out), spikes(4, 6)).foldings


def test_every_step_of_a_loop_counts():
    net, x = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3)), spikes(3, 2, 5)
    looped = measure(net, x, run=lambda steps: [net(step) for step in steps], axes="t b").folded()
    at_once = measure(net, x, axes="t b").folded()
    assert looped.total("ac") == at_once.total("ac") == int(x.sum()) * 3
    assert looped.layers[0].events == at_once.layers[0].events
    assert looped.layers[0].calls == 3


def test_a_layer_that_is_also_used_alone_stays():
    net, x = nn.Sequential(nn.Linear(5, 5), nn.Linear(5, 5)), spikes(2, 5)
    assert not measure(net, x, run=lambda x: (net(x), net[1](x))).foldings
    assert not measure(net, x, run=lambda x: (net(x), net[0](x))).foldings


def test_chips_hold_the_folded_layer():
    records = measure(separable(), spikes(1, 16, 8, 8))
    fit = fits(estimate(records).records, load_profile("loihi1"))
    assert [entry.layer for entry in fit.layers] == ["0+1+2"]
    assert [record.layer for record in records.folded().layers] == ["0+1+2"]
    assert records.folded().layers[0].parameters == 16 * 16 * 9 + 16


def test_graded_events_keep_their_values_where_layers_fold():
    net = nn.Sequential(conv(2, 3, 1), nn.BatchNorm2d(3), conv(3, 4, 3, padding=1)).eval()
    x = spikes(2, 2, 5, 6) * torch.arange(1, 7)
    taps = F.conv2d(torch.ones(1, 1, 5, 6), torch.ones(1, 1, 3, 3), padding=1).long() * 4  # outputs that see a pixel
    (folding,) = measure(net, x).foldings
    assert folding.record.levels == {k: int(((x == k) * taps).sum()) for k in range(1, 7) if (x == k).any()}
    assert estimate(net, x, chip="horowitz45-fp32").rows[-1].record.levels == folding.record.levels
