"""`fire` against the plain `lif` and a loop over snntorch.Leaky: spikes, gradients, and what it keeps."""

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.kernels.fire import fire
from snntorch_smixer.kernels.lif import RESETS, lif
from snntorch_smixer.kernels.spikes import unpack
from snntorch_smixer.surrogates import Dspike, picklable

SHAPE = (2, 5, 11)  # B, N, C: nothing a multiple of 8


class Opaque:
    """A surrogate that does not state its derivative."""

    def __init__(self, inner):
        self.inner = inner

    def __call__(self, v: Tensor) -> Tensor:
        return self.inner(v)


def make(steps: int, dtype: torch.dtype = torch.float32, per_channel: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    """Currents, beta and threshold that make a fair share of the neurons fire, all with gradients."""
    size = (SHAPE[-1],) if per_channel else ()
    x = (torch.randn(steps, *SHAPE) * 1.2 + 0.3).to(dtype)
    wide = torch.promote_types(dtype, torch.float32)
    beta, threshold = torch.rand(size, dtype=wide) * 0.6 + 0.3, torch.rand(size, dtype=wide) * 0.5 + 0.7
    return x.requires_grad_(), beta.requires_grad_(), threshold.requires_grad_()


def gradients(out: Tensor, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    torch.manual_seed(7)
    return torch.autograd.grad((out * torch.randn(out.shape).to(out.dtype)).sum(), inputs)


def error(got: Tensor, wanted: Tensor) -> float:
    """Largest difference relative to the largest wanted entry."""
    scale = wanted.abs().max().item()
    return (got - wanted).abs().max().item() / scale if scale else got.abs().max().item()


def fires(spikes: Tensor) -> bool:
    return 0.05 < spikes.float().mean().item() < 0.7


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("grad", [Dspike(), Opaque(Dspike(4.0)), picklable(surrogate.atan())])
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_fire_is_lif(steps: int, grad, reset: str, per_channel: bool):
    inputs = make(steps, per_channel=per_channel)
    spikes, wanted = fire(*inputs, grad, reset=reset), lif(*inputs, grad, reset=reset)
    assert fires(wanted)
    assert torch.equal(spikes.values, wanted)
    assert torch.equal(unpack(spikes.bits, spikes.channels), wanted)
    for got, plain in zip(gradients(spikes.values, inputs), gradients(wanted, inputs), strict=True):
        assert got.shape == plain.shape
        assert steps == 1 or plain.abs().max() > 1e-3
        assert error(got, plain) <= 1e-5


@pytest.mark.parametrize("reset", RESETS)
def test_float64_is_exact(reset: str):
    inputs = make(4, torch.float64, per_channel=True)
    spikes, wanted = fire(*inputs, Dspike(), reset=reset).values, lif(*inputs, Dspike(), reset=reset)
    assert torch.equal(spikes, wanted)
    for got, plain in zip(gradients(spikes, inputs), gradients(wanted, inputs), strict=True):
        assert error(got, plain) <= 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_has_a_float32_membrane(dtype: torch.dtype):
    inputs = make(8, dtype)
    spikes, wanted = fire(*inputs, Dspike()).values, lif(*inputs, Dspike())
    assert spikes.dtype == dtype
    assert torch.equal(spikes, wanted)
    for got, plain in zip(gradients(spikes, inputs), gradients(wanted, inputs), strict=True):
        assert got.dtype == plain.dtype
        assert error(got.float(), plain.float()) <= 1e-5


@pytest.mark.parametrize("threshold", [0.8, -0.2])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("steps", [1, 5])
def test_fire_is_a_loop_over_snntorch_leaky(steps: int, reset: str, threshold: float):
    x = (torch.randn(steps, *SHAPE) - float(threshold < 0)).requires_grad_()
    neuron = snn.Leaky(
        0.7,
        threshold=threshold,
        spike_grad=surrogate.fast_sigmoid(5),
        reset_mechanism=reset,
        learn_beta=True,
        learn_threshold=True,
    )
    mem, plain = torch.zeros_like(x[0]), []
    for current in x:
        spike, mem = neuron(current, mem)
        plain.append(spike)
    inputs = (x, neuron.beta, neuron.threshold)
    spikes, wanted = fire(*inputs, neuron.spike_grad, reset=reset).values, torch.stack(plain)
    assert fires(wanted)
    assert torch.equal(spikes, wanted)
    for got, grad in zip(gradients(spikes, inputs), gradients(wanted, inputs), strict=True):
        assert error(got, grad) <= 1e-5


@pytest.mark.parametrize("reset", RESETS)
def test_infinite_currents_fire_and_reset_as_in_lif(reset: str):
    x, beta, threshold = make(4)
    with torch.no_grad():
        x[0, 0], x[1, 1], x[0, 1, 0], x[2, 0, 1] = torch.inf, -torch.inf, torch.nan, 3e38
    spikes, wanted = (
        fire(x, beta, threshold, Dspike(), reset=reset).values,
        lif(x, beta, threshold, Dspike(), reset=reset),
    )
    assert wanted[0, 0].all()
    assert 0 < wanted[1:, 0].mean() < 1 or reset != "zero"
    assert torch.equal(spikes, wanted)
    got, plain = (gradients(s, (x,))[0] for s in (spikes, wanted))
    torch.testing.assert_close(got, plain, equal_nan=True)


@pytest.mark.parametrize(("beta", "passes"), [(-0.5, False), (0.0, True), (1.0, True), (1.5, False)])
def test_a_clipped_beta_gets_no_gradient(beta: float, passes: bool):
    x, _, threshold = make(4)
    inputs = (x, torch.tensor(beta, requires_grad=True), threshold)
    got = gradients(fire(*inputs, Dspike()).values, inputs)
    wanted = gradients(lif(*inputs, Dspike()), inputs)
    assert (got[1] != 0) == passes
    assert all(error(a, b) <= 1e-5 for a, b in zip(got, wanted, strict=True))


def test_only_what_needs_a_gradient_gets_one():
    x, beta, threshold = make(4)
    wanted = gradients(fire(x, beta, threshold, Dspike()).values, (x, beta, threshold))
    for kept in range(3):
        parts = [t if i == kept else t.detach() for i, t in enumerate((x, beta, threshold))]
        (got,) = gradients(fire(*parts, Dspike()).values, (parts[kept],))
        assert torch.equal(got, wanted[kept])


def test_strided_and_expanded_input():
    x, beta, threshold = make(3)
    for view in (x.transpose(1, 2), x[:1].expand(4, *x.shape[1:]), x[:, :, ::2]):
        spikes, wanted = fire(view, beta, threshold, Dspike()).values, lif(view, beta, threshold, Dspike())
        assert fires(wanted)
        assert torch.equal(spikes, wanted)
        assert error(gradients(spikes, (x,))[0], gradients(wanted, (x,))[0]) <= 1e-5


def test_a_surrogate_without_gradient_gives_zeros():
    x, beta, threshold = make(2)
    (got,) = gradients(fire(x, beta, threshold, lambda v: (v > 0).float()).values, (x,))
    assert not got.any()


def test_random_surrogates_draw_the_same_numbers():
    inputs = make(4)
    got, wanted = (gradients(f(*inputs, surrogate.SSO()), inputs) for f in (lambda *a: fire(*a).values, lif))
    assert all(error(a, b) <= 1e-5 for a, b in zip(got, wanted, strict=True))


@pytest.mark.parametrize("grad", [Dspike(), Opaque(Dspike())])
@pytest.mark.parametrize("steps", [1, 4])
def test_it_keeps_its_input_and_nothing_else(saved_storages, steps: int, grad):
    x, beta, threshold = make(steps)
    held = saved_storages(lambda: fire(x, beta, threshold, grad))
    assert held == {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in (x, beta, threshold)}
    assert len(saved_storages(lambda: lif(x, beta, threshold, grad))) > 3 or steps == 1


def test_evaluation_keeps_no_graph():
    x, beta, threshold = make(4)
    with torch.no_grad():
        spikes = fire(x, beta, threshold, Dspike())
    assert not spikes.values.requires_grad
    assert torch.equal(spikes.values, lif(x, beta, threshold, Dspike()))


def test_a_second_derivative_is_refused():
    x, beta, threshold = make(2)
    loss = (fire(x, beta, threshold, Dspike()).values * torch.randn(2, *SHAPE)).sum()
    with pytest.raises(SettingError) as caught:
        torch.autograd.grad(loss, x, create_graph=True)
    assert str(caught.value) == (
        "backward: got create_graph=True, but the fused and recomputing kernels have a first derivative only; "
        'use the plain path for second derivatives, set_memory(net, "reference")'
    )


def test_graded_spikes_are_refused():
    x, beta, threshold = make(2)
    with pytest.raises(LayoutError, match="expected binary spikes, got the value 2"):
        fire(x, beta, threshold, lambda v: 2 * (v > 0).float())


def test_wrong_settings_are_refused():
    x, beta, threshold = make(2)
    with pytest.raises(SettingError, match="reset='hard' is unknown"):
        fire(x, beta, threshold, Dspike(), reset="hard")
    with pytest.raises(LayoutError, match="at least one step"):
        fire(x[:0], beta, threshold, Dspike())
    with pytest.raises(LayoutError) as caught:
        fire(x, torch.full((5,), 0.5), threshold, Dspike())
    assert str(caught.value) == (
        "fire: beta of shape (5,) does not spread over one step (2, 5, 11); pass one number, or one per channel: "
        "(C,) for tokens, (C, 1, 1) for maps"
    )


def test_a_module_trains_through_it():
    lin = nn.Linear(6, 4)
    x, weights = torch.randn(3, 5, 6), torch.randn(3, 5, 4)
    beta, threshold = torch.tensor(0.5), torch.tensor(0.2)
    grads = []
    for neuron in (lambda *a: fire(*a).values, lif):
        lin.zero_grad()
        for _ in range(2):
            (neuron(lin(x), beta, threshold, Dspike()) * weights).sum().backward()
        grads.append(lin.weight.grad.clone())
    assert grads[1].abs().max() > 0.1
    assert error(*grads) <= 1e-5
