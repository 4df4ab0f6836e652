"""One layer at a time: odd sizes, every neuron, double use, frozen parts, parts that the kernels do not know."""

import copy

import pytest
import snntorch.surrogate
import torch
import torch.utils.checkpoint
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.block import EncodingBlock
from snntorch_smixer.layers.memory import MODES, memory_mode, set_memory
from snntorch_smixer.layers.mixer import SpikingTokenMixer
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.stem import SpikingPatchSplitting
from snntorch_smixer.neurons import LIF, IntegerLIF
from tests.layers.test_memory_compare import LEAN, assert_fires, assert_same, check, ran

FEW = {"fused": 0.7, "recompute": 0.5}  # a layer of its own keeps its input too


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.2 + 0.4 * torch.rand(shape))


NEURONS = {
    "zero": lambda: LIF(0.5, threshold=0.4),
    "subtract": lambda: LIF(0.7, threshold=0.4, reset_mechanism="subtract"),
    "none": lambda: LIF(0.7, threshold=0.6, reset_mechanism="none"),
    "learned": lambda: LIF(parameter(), threshold=parameter()),
    "learned subtract": lambda: LIF(parameter(), threshold=parameter(), reset_mechanism="subtract"),
    "fast_sigmoid": lambda: LIF(0.7, threshold=0.4, spike_grad=snntorch.surrogate.fast_sigmoid()),
    "atan": lambda: LIF(0.7, threshold=0.4, spike_grad=snntorch.surrogate.atan(), reset_mechanism="subtract"),
}
LAYERS = {
    "mixer": (lambda neuron: SpikingTokenMixer(9, num_tokens=7, heads=3, neuron=neuron), (3, 4, 7, 9)),
    "mlp": (lambda neuron: SpikingMLP(5, hidden=11, neuron=neuron), (3, 4, 7, 5)),
    "stem": (lambda neuron: SpikingPatchSplitting(3, 8, strides=(1, 1, 1, 1, 1), neuron=neuron), (3, 2, 3, 5, 7)),
}


def made(kind: str, neuron: str = "zero") -> tuple[nn.Module, Tensor]:
    """A layer of odd sizes in training mode, whose BatchNorm drives its neurons in evaluation too, and its input."""
    make, shape = LAYERS[kind]
    layer, x = make(NEURONS[neuron]), 1.5 * torch.randn(shape)
    for norm in norms_of(layer):
        norm.momentum = 1.0
        nn.init.constant_(norm.weight, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    with torch.no_grad():
        layer(x)
    for norm in norms_of(layer):
        norm.momentum = 0.1
        norm.num_batches_tracked.zero_()
    return layer, x


def norms_of(layer: nn.Module) -> list[nn.Module]:
    return [module for module in layer.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("neuron", NEURONS)
@pytest.mark.parametrize("kind", LAYERS)
def test_odd_sizes_and_every_neuron(kind, neuron, training):
    layer, x = made(kind, neuron)
    check(layer.train(training), x, share=FEW)


@pytest.mark.parametrize("layer", [SpikingTokenMixer(16, num_tokens=8), SpikingMLP(16)], ids=["mixer", "mlp"])
def test_recompute_keeps_the_stream_and_bits(layer):
    x = torch.randn(4, 6, 8, 16, requires_grad=True)
    assert 1 <= ran(layer, "recompute", x).saved / x.nbytes < 1.3
    assert ran(layer, "fused", x).saved / x.nbytes > 2


@pytest.mark.parametrize("mode", LEAN)
def test_learned_numbers_of_each_channel_shared_by_the_neurons(mode):
    neuron = LIF(parameter(9), threshold=parameter(9))
    layer = SpikingTokenMixer(9, num_tokens=7, heads=3, neuron=lambda: neuron)
    x = 1.5 * torch.randn(3, 4, 7, 9)
    assert_fires(layer, x)
    want = ran(layer, "reference", x)
    assert want.grads["value.neuron.beta"].shape == (9,)
    assert_same(ran(layer, mode, x), want)


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", ["mixer", "mlp"])
def test_used_twice_in_one_forward(kind, training, mode):
    layer, x = made(kind)
    layer.train(training)

    def twice(layer: nn.Module, x: Tensor) -> Tensor:
        first = layer(x)
        return first + layer(x - 2 * first)

    want, got = ran(layer, "reference", x, forward=twice), ran(layer, mode, x, forward=twice)
    assert want.buffers["proj.norm.num_batches_tracked" if kind == "mixer" else "expand.norm.num_batches_tracked"] == (
        2 if training else 0
    )
    assert_same(got, want)
    assert got.saved < FEW[mode] * want.saved


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("names", [["linear"], ["norm"], ["w_m", "expand", "units"], ["value", "contract", "units.2"]])
@pytest.mark.parametrize("kind", LAYERS)
def test_frozen_parts(kind, names, mode):
    layer, x = made(kind)
    for name, p in layer.named_parameters():
        p.requires_grad_(not any(part in name for part in names))
    want, got = ran(layer, "reference", x), ran(layer, mode, x)
    assert any(grad is None for grad in want.grads.values())
    assert_same(got, want)


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("kind", LAYERS)
def test_momentum_and_statistics_of_batch_norm(kind, mode):
    layer, x = made(kind)
    norms = norms_of(layer)
    for norm, change in zip(norms, [{"momentum": None}, {"track_running_stats": False}], strict=False):
        vars(norm).update(change)
    norms[1].running_mean = norms[1].running_var = None
    for training in (True, False):
        layer.train(training)
        assert_same(ran(layer, mode, x), ran(layer, "reference", x))


@pytest.mark.parametrize("mode", LEAN)
def test_two_backward_passes_of_one_graph(mode):
    layer, x = made("mixer")
    set_memory(layer, mode)
    loss = layer(x).square().sum()
    loss.backward(retain_graph=True)
    once = [p.grad.clone() for p in layer.parameters()]
    loss.backward()
    assert all(torch.equal(p.grad, 2 * grad) for p, grad in zip(layer.parameters(), once, strict=True))


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("reentrant", [True, False])
def test_inside_a_checkpoint(reentrant, mode):
    block = EncodingBlock(made("mixer")[0], SpikingMLP(9, neuron=NEURONS["zero"]))
    x = torch.randn(3, 4, 7, 9, requires_grad=True)

    def checked(block: nn.Module, x: Tensor) -> Tensor:
        return torch.utils.checkpoint.checkpoint(block, x, use_reentrant=reentrant)

    want, got = ran(block, "reference", x), {}
    grads = {}
    for name in ("reference", mode):
        twin = copy.deepcopy(block)
        set_memory(twin, name)
        out = checked(twin, x)
        assert torch.equal(out, want.out)
        torch.manual_seed(2)
        (out * torch.randn_like(out)).sum().backward()
        grads[name], got[name] = {n: p.grad for n, p in twin.named_parameters()}, dict(twin.named_buffers())
    assert all(torch.equal(value, got[mode][name]) for name, value in got["reference"].items())
    for name, grad in grads["reference"].items():
        assert (grads[mode][name] - grad).norm() <= 1e-5 * grad.norm(), name


@pytest.mark.parametrize("kind", LAYERS)
def test_second_derivatives_need_the_reference(kind):
    layer, x = made(kind)
    words = (
        "backward: got create_graph=True, but the fused and recomputing kernels have a first derivative only; "
        'use the plain path for second derivatives, set_memory(net, "reference")'
    )
    for mode in MODES:
        with memory_mode(layer, mode):
            loss = layer(x).square().sum()
        if mode == "reference":
            grads = torch.autograd.grad(loss, list(layer.parameters()), create_graph=True)
            sum(grad.square().sum() for grad in grads).backward()
            assert all(p.grad is not None for p in layer.parameters())
            continue
        with pytest.raises(SettingError) as caught:
            torch.autograd.grad(loss, list(layer.parameters()), create_graph=True)
        assert str(caught.value) == words


class Doubled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


class Halved(nn.Conv1d):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * super().forward(x)


def with_integers() -> nn.Module:
    return SpikingMLP(8, neuron=IntegerLIF)


def with_own_linear() -> nn.Module:
    layer = SpikingMLP(8)
    layer.expand.linear = Doubled(8, 32, bias=False)
    return layer


def with_own_norm() -> nn.Module:
    layer = SpikingTokenMixer(8, num_tokens=4)
    layer.value.norm = nn.LayerNorm(8)
    return layer


def with_own_matrix() -> nn.Module:
    layer = SpikingTokenMixer(8, num_tokens=4)
    layer.w_m = Halved(4, 4, 1, bias=False)
    nn.init.constant_(layer.w_m.weight, 1.5)
    return layer


def with_biased_matrix() -> nn.Module:
    layer = SpikingTokenMixer(8, num_tokens=4)
    layer.w_m = nn.Conv1d(4, 4, 1)
    nn.init.constant_(layer.w_m.weight, 0.8)
    return layer


@pytest.mark.parametrize(
    "make",
    [
        with_integers,
        with_own_linear,
        with_own_norm,
        with_own_matrix,
        with_biased_matrix,
    ],
)
def test_parts_that_the_kernels_do_not_know(make):
    layer, x = make(), 3 * torch.randn(2, 3, 4, 8)
    want = ran(layer, "reference", x)
    for mode in LEAN:
        got = ran(layer, mode, x)
        assert_same(got, want, tol=1e-6)
        assert got.saved == ran(layer, "reference", x, forward=plain_but_for_its_neurons).saved


def plain_but_for_its_neurons(layer: nn.Module, x: Tensor) -> Tensor:
    for module in layer.modules():
        if isinstance(module, (LIF, IntegerLIF)):
            module.memory = "fused"
    return layer(x)


@pytest.mark.parametrize("mode", MODES)
def test_step_mode(settle, mode):
    x = torch.randn(3, 2, 4, 8)
    layer = settle(SpikingTokenMixer(8, num_tokens=4, neuron=lambda: LIF(threshold=0.3)), x)
    set_memory(layer, mode)
    want = layer(x)
    layer.step_mode = "s"
    assert want.any()
    torch.testing.assert_close(torch.stack([layer(step) for step in x]), want)
