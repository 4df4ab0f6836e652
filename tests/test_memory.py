"""Memory modes of neurons, alone and in a user's own model, and the mode of a model."""

import copy
import pickle

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.lif import RESETS, lif
from snntorch_smixer.layers.mlp import SpikingMLP
from snntorch_smixer.layers.spikformer import SigmoidAtThreshold
from snntorch_smixer.memory import MODES, KeepsLess, memory_mode, memory_of, set_memory
from snntorch_smixer.neurons import LIF, IntegerLIF
from snntorch_smixer.surrogates import Dspike, is_repeatable
from tests.layers.test_memory_compare import LEAN, assert_fires, assert_same, ran

LAYERS_ASIDE = (
    "holds no layer and no neuron of this package. Pass a network of this package or a model with its layers, a model "
    "that dstsp.wrap changed, or one whose neurons are snntorch_smixer.LIF."
)


class Learned(nn.Module):
    """A surrogate of a user, with a slope that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(2.0))

    def forward(self, v: Tensor) -> Tensor:
        soft = torch.sigmoid(self.slope * v)
        return soft + ((v > 0).to(v.dtype) - soft).detach()


class LearnedWithDerivative(Learned):
    def derivative(self, v: Tensor) -> Tensor:
        soft = torch.sigmoid(self.slope * v)
        return self.slope * soft * (1 - soft)


def halves(v: Tensor) -> Tensor:
    """Spikes of two sizes."""
    return 0.5 * (v > 0).to(v.dtype) + 0.5 * (v > 1).to(v.dtype)


def users_own(neuron: nn.Module, width: int = 40) -> nn.Sequential:
    """Plain torch around neurons: tokens ``(T, B, C)``."""
    return nn.Sequential(nn.Linear(9, width), neuron, nn.Linear(width, 7), copy.deepcopy(neuron))


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(0.2 + 0.4 * torch.rand(shape))


NEURONS = {
    **{how: lambda how=how: LIF(0.7, threshold=0.4, reset_mechanism=how) for how in RESETS},
    "learned": lambda: LIF(parameter(), threshold=parameter(), reset_mechanism="subtract"),
    "atan": lambda: LIF(0.7, threshold=0.4, spike_grad=snn.surrogate.atan()),
    "integers": lambda: IntegerLIF(levels=2),
}


@pytest.mark.parametrize("autocast", [None, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
@pytest.mark.parametrize("neuron", NEURONS)
def test_a_users_own_model_gives_the_same_and_keeps_less(neuron: str, steps: int, autocast: torch.dtype | None):
    net, x = users_own(NEURONS[neuron]()), 2 * torch.randn(steps, 5, 9)
    if neuron != "integers":
        assert_fires(net, x)
    if steps == 1 and neuron == "learned":
        net.requires_grad_(False)[0].requires_grad_(True)  # with one step there is nothing to learn of a decay
        for lif_ in (net[1], net[3]):
            lif_.threshold.requires_grad_(True)
    want = ran(net, "reference", x, autocast=autocast)
    assert want.out.any()
    for mode in LEAN:
        got = ran(net, mode, x, autocast=autocast)
        # Sums over everything, such as the gradient of a learned decay, are added up in another order.
        assert_same(got, want, tol=1e-2 if autocast else 2e-5)
        assert got.saved < want.saved or (steps == 1 and neuron != "integers")


def test_a_lif_keeps_its_input_and_nothing_else():
    net, x = nn.Sequential(nn.Linear(8, 64, bias=False), LIF()), torch.randn(4, 6, 8)
    element = 4 * 6 * 64 / 4  # saved_bytes takes the first axis for samples
    assert saved_bytes(net, x) == 4 * element
    set_memory(net, "reference")
    assert saved_bytes(net, x) > 4 * element


def test_an_integer_lif_keeps_bits():
    net, x = nn.Sequential(nn.Linear(8, 64, bias=False), IntegerLIF()), torch.randn(4, 6, 8)
    assert saved_bytes(net, x) == 4 * 6 * 64 / 4 / 8
    set_memory(net, "reference")
    assert saved_bytes(net, x) >= 4 * 6 * 64 / 4 * 4


@pytest.mark.parametrize("make", [LIF, IntegerLIF])
def test_without_gradients_the_same(make):
    neuron, x = make(), 2 * torch.randn(4, 3, 50, requires_grad=True)
    wanted = neuron(x)
    for context in (torch.no_grad(), torch.inference_mode()):
        with context:
            spikes = neuron(x)
        assert not spikes.requires_grad
        assert torch.equal(spikes, wanted)


@pytest.mark.parametrize("make", [LIF, IntegerLIF])
def test_second_derivatives_need_reference(make):
    neuron, x = make(), torch.randn(3, 2, 20, requires_grad=True)
    with pytest.raises(SettingError, match="create_graph=True"):
        torch.autograd.grad(neuron(x).square().sum(), x, create_graph=True)
    neuron.memory = "reference"
    (grad,) = torch.autograd.grad(neuron(x).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(grad.sum(), x)
    assert second.any()


def test_a_kept_input_that_was_changed_is_an_error_and_no_wrong_gradient():
    current = nn.Linear(3, 4)(torch.randn(2, 5, 3))
    spikes = LIF()(current)
    current.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        spikes.sum().backward()


@pytest.mark.parametrize(
    ("surrogate", "wanted"),
    [
        (Dspike(), True),
        (snn.surrogate.atan(), True),
        (SigmoidAtThreshold(), True),
        (snn.surrogate.SSO(), False),
        (snn.surrogate.custom_surrogate(lambda v, grad, spikes: grad), False),
        (Learned(), False),
        (LearnedWithDerivative(), False),
        (LearnedWithDerivative().requires_grad_(False), True),
        (halves, False),
    ],
)
def test_which_surrogates_are_asked_again(surrogate, wanted: bool):
    assert is_repeatable(LIF(spike_grad=surrogate).spike_grad) == wanted


@pytest.mark.parametrize("make", [Learned, LearnedWithDerivative])
@pytest.mark.parametrize("build", [lambda grad: users_own(LIF(spike_grad=grad)), lambda grad: mlp(grad)])
def test_what_a_surrogate_learns_gets_its_gradient(build, make):
    net, x = build(make()), torch.randn(4, 5, 3, 9)
    want = ran(net, "reference", x)
    assert sum("slope" in name and grad is not None for name, grad in want.grads.items()) == 2
    for mode in LEAN:
        assert_same(ran(net, mode, x), want, tol=0.0)


def mlp(surrogate: nn.Module) -> nn.Module:
    return SpikingMLP(9, hidden=12, neuron=lambda: LIF(threshold=0.3, spike_grad=copy.deepcopy(surrogate)))


def test_spikes_of_two_sizes_take_the_plain_path():
    neuron, x = LIF(0.8, spike_grad=halves), 2 * torch.randn(6, 3, 40)
    wanted = lif(x, neuron.beta, neuron.threshold, halves)
    assert set(wanted.unique().tolist()) == {0, 0.5, 1}
    assert torch.equal(neuron(x), wanted)


@pytest.mark.parametrize("mode", MODES)
def test_the_mode_of_a_model(mode: str):
    net = nn.Sequential(users_own(LIF()), SpikingMLP(7), IntegerLIF())
    assert memory_of(net) == "fused"
    set_memory(net, mode, chunks=2)
    assert memory_of(net) == mode
    assert {(m.memory, m.chunks) for m in net.modules() if isinstance(m, KeepsLess)} == {(mode, 2)}
    with memory_mode(net[2], "fused" if mode == "reference" else "reference"):
        assert memory_of(net) == "mixed"
    assert memory_of(net) == mode


def test_a_neuron_as_reference_makes_its_layer_plain():
    layer, x = SpikingMLP(9), 2 * torch.randn(4, 3, 2, 9)
    lean = ran(layer, "fused", x).saved

    def forward(model: nn.Module, x: Tensor) -> Tensor:
        model.expand.neuron.memory = "reference"
        return model(x)

    got = ran(layer, "fused", x, forward=forward)
    assert got.saved > 1.5 * lean
    assert_same(got, ran(layer, "reference", x))


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda neuron: pickle.loads(pickle.dumps(neuron))], ids=["copy", "pickle"]
)
def test_copies_of_a_neuron_keep_the_mode(copied):
    neuron = LIF()
    neuron.memory = "reference"
    twin = copied(neuron)
    assert twin.memory == "reference"
    twin.memory = "recompute"
    assert neuron.memory == "reference"
    assert LIF.from_leaky(snn.Leaky(0.5)).memory == "fused"


def test_step_mode_knows_no_memory_mode():
    x, spikes = torch.rand(4, 3, 9), []
    for mode in MODES:
        neuron = LIF(0.9, step_mode="s")
        neuron.memory = mode
        spikes.append(torch.stack([neuron(current) for current in x]))
    assert spikes[0].any()
    assert torch.equal(spikes[0], spikes[1])
    assert torch.equal(spikes[0], spikes[2])


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: setattr(LIF(), "memory", "lean"), "LIF: memory='lean' is unknown. Expected one of reference, fused, "),
        (lambda: setattr(SpikingMLP(8), "memory", None), "SpikingMLP: memory=None is unknown."),
        (lambda: memory_of(nn.ReLU()), f"memory_of: ReLU {LAYERS_ASIDE}"),
        (lambda: set_memory(nn.ReLU(), "fused"), f"set_memory: ReLU {LAYERS_ASIDE}"),
        (lambda: set_memory(nn.Sequential(snn.Leaky(0.5)), "fused"), f"set_memory: Sequential {LAYERS_ASIDE}"),
    ],
)
def test_words_of_the_errors(call, text: str):
    with pytest.raises(SettingError) as caught:
        call()
    assert str(caught.value).startswith(text)
