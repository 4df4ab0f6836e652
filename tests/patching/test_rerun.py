"""Neurons that keep their input alone: same spikes, gradients and state; what cannot repeat is told."""

import copy
import warnings

import pytest
import snntorch
import torch
from torch import Tensor, nn

from snntorch_smixer.bench.peak import held_bytes
from snntorch_smixer.neurons import LIF
from snntorch_smixer.patching.rerun import drop, keep_input, may_be_neuron, records, why_not
from tests.fakes.neurons import MemUpdate, MultiSpike, MultiStepLIF, Soma, StepNode, StoredTLIF

STEPS = 4


class Leaky(nn.Module):
    """snnTorch's neuron in a loop, with learned decay."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = snntorch.Leaky(beta=0.7, threshold=0.8, init_hidden=True, learn_beta=True, learn_threshold=True)

    def forward(self, x: Tensor) -> Tensor:
        self.cell.mem = self.cell.reset_mem()
        return torch.stack([self.cell(step) for step in x])


class Noisy(MultiStepLIF):
    """Draws its threshold anew in each call."""

    def forward(self, x_seq: Tensor) -> Tensor:
        return super().forward(x_seq + 0.1 * torch.randn_like(x_seq))


class Counts(MultiStepLIF):
    """Adds up its spikes in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("fired", torch.zeros(()))

    def forward(self, x_seq: Tensor) -> Tensor:
        out = super().forward(x_seq)
        self.fired += out.detach().sum()
        return out


class Forgetful(MultiStepLIF):
    """Gives something else in every call, by a number outside of it."""

    calls = [0]  # noqa: RUF012

    def forward(self, x_seq: Tensor) -> Tensor:
        self.calls[0] += 1
        return super().forward(x_seq * (1 + self.calls[0] % 2))


class ChangesInput(MultiStepLIF):
    def forward(self, x_seq: Tensor) -> Tensor:
        return super().forward(x_seq.mul_(1.0))


class ReadsTwice(nn.Module):
    """A surrogate whose backward asks for what it saved twice, which a checkpoint does not give."""

    class Function(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return (x > 1).to(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * (ctx.saved_tensors[0] > 0) * (ctx.saved_tensors[0] < 2)

    def forward(self, x):
        return self.Function.apply(x * 1.0)


def inputs(seed: int = 0) -> Tensor:
    return 1.5 * torch.randn(STEPS, 3, 50, generator=torch.Generator().manual_seed(seed))


def run(neuron: nn.Module, x: Tensor, forward) -> list[Tensor]:
    """Spikes, gradients and what the neuron remembers afterwards."""
    torch.manual_seed(0)
    x = x.clone().requires_grad_()
    out = forward(neuron, x)
    (out * torch.randn(out.shape)).sum().backward()
    state = [value for m in neuron.modules() for value in vars(m).values() if isinstance(value, Tensor)]
    return [out, x.grad, *(p.grad for p in neuron.parameters()), *state]


def plain(neuron: nn.Module, x: Tensor) -> Tensor:
    return neuron(x)


def again(neuron: nn.Module, x: Tensor) -> Tensor:
    return keep_input(neuron, neuron.forward, x)


MAKE = {
    "spikingjelly 0.12": MultiStepLIF,
    "stmixer": lambda: StoredTLIF(STEPS),
    "integer": MultiSpike,
    "spikeyolo": MemUpdate,
    "braincog": lambda: StepNode(STEPS),
    "nobody's": Soma,
    "snntorch": Leaky,
    "random": Noisy,
}
NEURONS = pytest.mark.parametrize("make", MAKE.values(), ids=MAKE)


@NEURONS
def test_neurons_run_again_bit_for_bit(make):
    neuron, x = make(), inputs().flatten(0, 1) if make in (MAKE["stmixer"], MAKE["braincog"]) else inputs()
    assert may_be_neuron(neuron)
    assert why_not(neuron, neuron.forward, x.requires_grad_()) == ""
    one, other = run(copy.deepcopy(neuron), x.detach(), plain), run(neuron, x.detach(), again)
    assert len(one) == len(other)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert 0 < one[0].count_nonzero() < one[0].numel()


def test_neurons_of_spikingjelly():
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron")
    for make in (neuron.LIFNode, neuron.IFNode, neuron.ParametricLIFNode):
        node = make(step_mode="m")
        assert why_not(node, node.forward, inputs().requires_grad_()) == ""
        one, other = run(copy.deepcopy(node), inputs(), plain), run(node, inputs(), again)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert torch.is_tensor(node.v)


def test_trying_out_leaves_no_trace():
    neuron = MultiStepLIF()
    neuron(inputs())
    v, rng = neuron.v, torch.get_rng_state()
    assert why_not(neuron, neuron.forward, inputs().requires_grad_()) == ""
    assert neuron.v is v
    assert torch.equal(torch.get_rng_state(), rng)


@pytest.mark.parametrize(
    ("neuron", "reason"),
    [
        (Counts(), "it writes into its state in place"),
        (Forgetful(), "it gives something else when it runs again"),
        (ChangesInput(), "it cannot be tried out: RuntimeError: it writes into its input"),
    ],
)
def test_neurons_that_are_left(neuron, reason):
    assert why_not(neuron, neuron.forward, inputs().requires_grad_()) == reason


class Adapts(nn.Module):
    """No neuron; follows its input in a buffer, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.mul_(0.9).add_(x.detach().abs().max())
        return x / (1 + self.seen)


@pytest.mark.parametrize(("module", "name"), [(Counts(), "fired"), (Adapts(), "seen")])
def test_what_is_written_in_place_is_put_back(module, name):
    getattr(module, name).fill_(3)
    assert why_not(module, module.forward, inputs().requires_grad_()) != ""
    assert getattr(module, name) == 3


def test_a_surrogate_that_a_checkpoint_does_not_serve_is_left():
    neuron = ReadsTwice()
    assert why_not(neuron, neuron.forward, inputs().requires_grad_()).startswith("it cannot be tried out: Checkpoint")


def test_hooks_inside_are_left_alone():
    neuron, seen = MemUpdate(), []
    neuron.qtrick.register_forward_hook(lambda *_: seen.append(1))
    assert why_not(neuron, neuron.forward, inputs().requires_grad_()) == "something hooks into a part of it"
    assert seen == []


@pytest.mark.parametrize("module", [nn.Dropout(), nn.Linear(3, 3), nn.Sequential(MultiStepLIF()), LIF(step_mode="m")])
def test_what_is_not_looked_at(module):
    assert not may_be_neuron(module)


@pytest.mark.parametrize("forward", [torch.sigmoid, lambda x: x, lambda x: x.sum(), lambda x: (x, x)])
def test_what_is_no_neuron(forward):
    assert why_not(nn.Identity(), forward, inputs().requires_grad_()) is None


def test_state_goes_on_over_calls():
    def twice(neuron: nn.Module, x: Tensor, forward) -> list[Tensor]:
        return run(neuron, x, lambda n, y: forward(n, y) + forward(n, 0.5 * y))

    one, other = twice(MultiStepLIF(), inputs(), plain), twice(MultiStepLIF(), inputs(), again)
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_a_reset_and_other_settings_before_the_backward_pass_change_nothing():
    expected = run(MultiStepLIF(), inputs(), plain)
    neuron, x = MultiStepLIF(), inputs().requires_grad_()
    torch.manual_seed(0)
    out = again(neuron, x)
    loss = (out * torch.randn(out.shape)).sum()
    neuron.reset()
    neuron.tau = 50.0
    loss.backward()
    assert torch.equal(x.grad, expected[1])
    assert (neuron.v, neuron.tau) == (0.0, 50.0)


def test_a_parameter_that_was_stepped_before_the_backward_pass_is_refused():
    neuron, x = Leaky(), inputs().requires_grad_()
    out = again(neuron, x)
    with torch.no_grad():
        neuron.cell.beta.add_(0.1)
    with pytest.raises(RuntimeError) as caught:
        out.sum().backward()
    assert str(caught.value) == (
        "wrapped model: a parameter or state of Leaky was changed by an inplace operation before the backward pass ran "
        "it again. Call backward() before optimizer.step() and resets."
    )


def test_only_the_input_is_kept():
    class Again(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = Soma()

        def forward(self, x: Tensor) -> Tensor:
            return again(self.neuron, x)

    x = torch.randn(1, 8, 20_000, requires_grad=True)  # one step is one sample here
    rng = torch.get_rng_state().nbytes
    assert held_bytes(Soma(), x) >= 4 * x.numel()
    assert held_bytes(Again(), x) <= rng


class KeepsAllSteps(MultiStepLIF):
    """SpikingJelly 0.12: the membranes of all steps stay in ``v_seq``; resets by a scripted function, as 0.14 does."""

    def forward(self, x_seq: Tensor) -> Tensor:
        spikes, membranes = [], []
        for x in x_seq:
            spikes.append(super().forward(x[None])[0])
            self.v = _scripted(self.v)
            membranes.append(self.v)
        self.v_seq = torch.stack(membranes)
        return torch.stack(spikes)


def _decay(v: Tensor):
    return v * 0.9


with warnings.catch_warnings(action="ignore"):  # torch has left scripts behind, SpikingJelly 0.14 has not
    _scripted = torch.jit.script(_decay)


def test_records_of_all_steps_are_found_and_dropped_and_the_state_is_not() -> None:
    neuron, x = KeepsAllSteps(), torch.randn(STEPS, 2, 3, requires_grad=True)
    assert why_not(neuron, neuron.forward, x) == ""
    held = records(neuron, neuron.forward, x)
    neuron(x)
    drop(neuron, held)
    assert held == (("", "v_seq"),)
    assert neuron.v_seq is None
    assert isinstance(neuron.v, Tensor)
