"""The naive twin: equal logits, and the bytes that were measured on STMixer's own code and on snnTorch's idiom."""

import functools
from dataclasses import replace

import pytest
import snntorch
import torch
from torch import nn

from snntorch_smixer.bench.kernels import kernel_launches
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.naive import NaiveLIF, naive_twin, snntorch_layers, snntorch_loop
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.neurons import LIF
from snntorch_smixer.pruning.pruner import DSTSPConfig

MB = 2**20
PRUNINGS = [
    None,
    DSTSPConfig(ps=0.3, t=1),
    DSTSPConfig(ps=0.5, t=3),  # one matrix per sample
    DSTSPConfig(ps=0.5, t=2, w_prime="crop", merge="drop"),
    DSTSPConfig(ps=(0.25, 0.5), t=2, spike_cap=1),
    DSTSPConfig(ps=0.3, t=None, merge="fuse"),
]


@pytest.mark.parametrize("twin", [naive_twin, snntorch_layers])
@pytest.mark.parametrize("prune", PRUNINGS)
def test_equal_logits(firing_net, prune, twin):
    net, x = firing_net(prune=prune), torch.randn(6, 2, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(twin(net)(x), net(x), rtol=1e-5, atol=1e-5)
        frames = torch.randn(4, 6, 2, 16, 16)
        torch.testing.assert_close(twin(net)(frames), net(frames), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [naive_twin, snntorch_layers])
def test_equal_logits_in_training(firing_net, make):
    net, x = firing_net(prune=DSTSPConfig(ps=0.3, t=2)).train(), torch.randn(6, 2, 16, 16)
    torch.testing.assert_close(make(net)(x), net(x), rtol=1e-4, atol=1e-4)


def test_the_snntorch_loop_gives_equal_logits_call_after_call(firing_net):
    net, x = firing_net(), torch.randn(6, 2, 16, 16)
    twin = snntorch_loop(net)
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(twin(x), net(x), rtol=1e-5, atol=1e-5)


def test_the_network_is_left_alone(firing_net):
    net = firing_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    listed = list(snntorch.SpikingNeuron.instances)
    for make in (naive_twin, snntorch_layers, snntorch_loop):
        make(net).train()(torch.randn(6, 2, 16, 16)).sum().backward()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert snntorch.SpikingNeuron.instances == listed


def test_another_mixer_is_refused(firing_net):
    net = firing_net(mixer="ssa")
    with pytest.raises(SettingError, match="got SpikingSelfAttention, expected SMixer, and LIF"):
        naive_twin(net)


@pytest.mark.parametrize("make", [naive_twin, snntorch_layers, snntorch_loop])
@pytest.mark.parametrize(
    "neuron", [LIF(reset_mechanism="subtract"), LIF(nn.Parameter(torch.tensor(0.5))), snntorch.Leaky(0.5)]
)
def test_another_neuron_is_refused(firing_net, make, neuron):
    net = firing_net()
    net.blocks[1].mixer.neuron = neuron
    with pytest.raises(SettingError, match=f"got {type(neuron).__name__}.*resets to zero and learns nothing"):
        make(net)


def test_the_loop_refuses_to_prune(firing_net):
    with pytest.raises(SettingError, match="prunes, which needs all steps at once"):
        snntorch_loop(firing_net(prune=DSTSPConfig()))


class Currents(nn.Module):
    """A neuron on learnable currents, so that only the neuron keeps anything."""

    def __init__(self, neuron: nn.Module, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.currents, self.neuron, self.steps = nn.Parameter(torch.zeros(shape)), neuron, shape[0]

    def forward(self, x):
        return self.neuron((self.currents + x).flatten(0, 1), self.steps)


@pytest.mark.parametrize(("steps", "expected"), [(4, 4 * 4 + 3 * 8), (2, 2 * 4 + 8), (1, 4)])
def test_bytes_of_a_neuron_by_hand(steps, expected):
    # u - threshold in each step; u and 1 - s in each but the last
    net = Currents(NaiveLIF(LIF()), (steps, 3, 7))
    assert saved_bytes(net, torch.randn(steps, 3, 7), batch_axis=1) == 7 * expected


def test_the_gradient_flows_through_the_reset():
    x = torch.tensor([[1.5], [0.8]], requires_grad=True)  # fires, is reset, stays below the threshold
    spikes = NaiveLIF(LIF(0.5))(x, 2)
    assert spikes.tolist() == [[1.0], [0.0]]
    slope = torch.autograd.grad(spikes.sum(), x)[0]
    y = torch.tensor([0.5, -0.2], requires_grad=True)  # u - threshold
    first, second = torch.autograd.grad(LIF().spike_grad(y).sum(), y)[0].tolist()
    # d s2 / d x1 = second * 0.5 * d(u1 (1 - s1)) / d u1 = second * 0.5 * ((1 - 1) - 1.5 * first)
    assert slope.flatten().tolist() == pytest.approx([first + second * 0.5 * -1.5 * first, second])


@functools.cache
def big(name: str, prune: DSTSPConfig | None = None) -> tuple[SMixerNet, torch.Tensor, int]:
    config: SMixerConfig = replace(CONFIGS[name], prune=prune)
    if config.T == 16:
        return SMixerNet(config), torch.empty(16, 2, config.in_channels, *config.img_size), 1
    return SMixerNet(config), torch.empty(16, config.in_channels, *config.img_size), 0


MEASURED = [
    ("smixer-4-384", None, 83.31),
    ("smixer-4-384", DSTSPConfig(ps=0.4, t=None), 3991 / 64),
    ("smixer-4-384", DSTSPConfig(ps=0.0, t=2), 3484 / 64),
    ("smixer-4-384", DSTSPConfig(ps=0.3, t=1), 2390 / 64),
    pytest.param("smixer-4-384", DSTSPConfig(ps=0.3, t=1, w_prime="crop"), 2390 / 64, marks=pytest.mark.slow),
    ("smixer-8-768", None, 210.2),
    ("smixer-8-768", DSTSPConfig(ps=0.3, t=1), 179.0),
    ("smixer-2-256", None, 369.5),
]
"""MB per image that STMixer's own code keeps in float32, measured by weakly referenced saved tensors."""


@pytest.mark.parametrize(("name", "prune", "expected"), MEASURED)
def test_saved_bytes_as_measured_on_the_authors_code(name, prune, expected):
    net, x, axis = big(name, prune)
    assert saved_bytes(naive_twin(net), x, batch_axis=axis, fake=True) / MB == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("prune", "expected"), [(None, 3930), (DSTSPConfig(ps=0.3, t=1), 1699)])
def test_saved_bytes_under_autocast(prune, expected):
    net, x, _ = big("smixer-4-384", prune)
    found = saved_bytes(naive_twin(net), x, fake=True, autocast=torch.bfloat16)
    assert 64 * found / MB == pytest.approx(expected, rel=0.02)


def test_peak_as_measured_on_the_authors_code():
    net, x, _ = big("smixer-4-384")
    assert peak_bytes(naive_twin(net), x, fake=True) / MB == pytest.approx(85.2, rel=0.02)


def test_snntorch_layers_as_measured():
    net, x, _ = big("smixer-4-384")
    layers = snntorch_layers(net)
    assert saved_bytes(layers, x, fake=True) / MB == pytest.approx(69.3, rel=0.02)
    assert peak_bytes(layers, x, fake=True) / MB == pytest.approx(82.8, rel=0.02)
    assert kernel_launches(layers, x, fake=True).total() == pytest.approx(3346, rel=0.1)


def test_kernels_as_measured_on_the_authors_code():
    net, x, _ = big("smixer-4-384")
    assert kernel_launches(naive_twin(net), x, fake=True).total() == pytest.approx(3898, rel=0.1)
    pruned, x, _ = big("smixer-4-384", DSTSPConfig(ps=0.3, t=1))
    assert kernel_launches(naive_twin(pruned), x, fake=True).total() == pytest.approx(1841, rel=0.1)


@pytest.mark.parametrize("make", [lambda net: net, naive_twin])
def test_shapes_alone_give_the_same_numbers(firing_net, make):
    net, x = make(firing_net(prune=DSTSPConfig(ps=0.5, t=2), depth=1)), torch.randn(6, 2, 16, 16)
    assert saved_bytes(net, x, fake=True) == saved_bytes(net, x) > 0
    assert peak_bytes(net, x, fake=True) == peak_bytes(net, x) > 0
    assert kernel_launches(net, x, fake=True) == kernel_launches(net, x)


@pytest.mark.slow
def test_snntorch_loop_as_measured():
    net, x, _ = big("smixer-4-384")
    assert saved_bytes(snntorch_loop(net), x, fake=True) / MB == pytest.approx(69.3, rel=0.02)
    assert peak_bytes(snntorch_loop(net), x, fake=True) / MB == pytest.approx(79.3, rel=0.02)
    assert kernel_launches(snntorch_loop(net), x, fake=True).total() == pytest.approx(6261, rel=0.1)
