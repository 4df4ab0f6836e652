"""Surrogate gradients: Dspike against its formula, and everything that snnTorch offers."""

import copy
import inspect
import math
import pickle
from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.neurons import LIF, Dspike
from snntorch_smixer.surrogates import DERIVATIVES, picklable


def box(x: Tensor, grad: Tensor, spikes: Tensor) -> Tensor:
    """A user's own surrogate gradient, for ``surrogate.custom_surrogate``."""
    return grad * (x.abs() < 0.5)


SETTINGS = {
    "SFS": {"slope": 5, "B": -0.5},
    "SSO": {"mean": 0.1, "variance": 0.5},
    "atan": {"alpha": 3.0},
    "custom_surrogate": {"custom_surrogate_function": box},
    "fast_sigmoid": {"slope": 10},
    "sigmoid": {"slope": 5},
    "spike_rate_escape": {"beta": 2, "slope": 3},
    "triangular": {"threshold": 2},
}
# LSO calls the function of another surrogate in snnTorch 1.0.0 and raises for every neuron.
FACTORIES = [
    name
    for name, value in vars(surrogate).items()
    if inspect.isfunction(value) and value.__module__ == surrogate.__name__ and name != "LSO"
]


def make(name: str) -> Callable[[Tensor], Tensor]:
    return getattr(surrogate, name)(**SETTINGS.get(name, {}))


def run(neuron: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the input gradient of a weighted sum of them."""
    torch.manual_seed(1)  # SSO draws its gradient
    x = x.clone().requires_grad_()
    spikes = neuron(x)
    weights = torch.linspace(0.5, 1.5, spikes.numel()).view_as(spikes)
    (spikes * weights).sum().backward()
    return spikes.detach(), x.grad


def leaky(spike_grad: Callable[[Tensor], Tensor], how: str = "zero") -> Callable[[Tensor], Tensor]:
    """The same neuron as a loop over ``snn.Leaky``."""
    lif = snn.Leaky(0.8, spike_grad=spike_grad, reset_mechanism=how, init_hidden=True)
    return lambda x: torch.stack([lif(current) for current in x])


def test_the_list_of_surrogates_is_read_from_snntorch():
    known = {"straight_through_estimator", "heaviside", *SETTINGS}
    assert known <= set(FACTORIES)


@pytest.mark.parametrize("how", ["zero", "subtract", "none"])
@pytest.mark.parametrize("name", FACTORIES)
def test_snntorch_surrogate_as_in_leaky(name: str, how: str):
    x = torch.randn(4, 3, 80)
    spikes, grad = run(LIF(0.8, spike_grad=make(name), reset_mechanism=how), x)
    wanted, wanted_grad = run(leaky(make(name), how), x)
    assert 0.05 < wanted.mean() < 0.6
    assert wanted_grad.abs().max() > 0
    assert torch.equal(spikes, wanted)
    torch.testing.assert_close(grad, wanted_grad, rtol=1e-5, atol=1e-6 * wanted_grad.abs().max().item())


@pytest.mark.parametrize("name", FACTORIES)
def test_snntorch_surrogate_survives_copies(name: str):
    lif, x = LIF(0.8, spike_grad=make(name)), torch.randn(4, 3, 80)
    spikes, grad = run(lif, x)
    assert 0.05 < spikes.mean() < 0.6
    for twin in (copy.deepcopy(lif), pickle.loads(pickle.dumps(lif)), pickle.loads(pickle.dumps(copy.deepcopy(lif)))):
        twin_spikes, twin_grad = run(twin, x)
        assert torch.equal(twin_spikes, spikes)
        assert torch.equal(twin_grad, grad)


@pytest.mark.parametrize("name", sorted(SETTINGS))
def test_settings_of_a_surrogate_are_kept(name: str):
    x = torch.randn(4, 3, 80)
    _, grad = run(pickle.loads(pickle.dumps(LIF(0.8, spike_grad=make(name)))), x)
    _, other = run(LIF(0.8, spike_grad=surrogate.straight_through_estimator()), x)
    assert not torch.equal(grad, other)
    if name != "custom_surrogate":
        _, default = run(LIF(0.8, spike_grad=getattr(surrogate, name)()), x)
        assert not torch.equal(grad, default)


def test_a_lambda_inside_custom_surrogate_works_and_copies():
    lif = LIF(0.8, spike_grad=surrogate.custom_surrogate(lambda x, grad, spikes: grad * (x.abs() < 0.5)))
    x = torch.randn(4, 3, 80)
    spikes, grad = run(lif, x)
    wanted, wanted_grad = run(LIF(0.8, spike_grad=make("custom_surrogate")), x)
    assert torch.equal(spikes, wanted)
    assert torch.equal(grad, wanted_grad)
    assert torch.equal(run(copy.deepcopy(lif), x)[1], grad)


def test_any_other_callable_is_taken_as_it_is():
    own = Dspike(4.0)
    assert LIF(spike_grad=own).spike_grad is own
    assert LIF().spike_grad.gamma == 2.5


def slope(x: float, gamma: float) -> float:
    """Dspike's formula in Python's numbers."""
    if abs(x) > 1:
        return 0.0
    return gamma * (1 - math.tanh(gamma * x) ** 2) / (2 * math.tanh(gamma))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.5, 5])
def test_dspike_gradient_is_the_formula(gamma: float):
    x = torch.tensor([-3, -1.001, -1, -0.7, -0.2, 0, 0.2, 0.7, 1, 1.001, 3], dtype=torch.float64, requires_grad=True)
    spikes = Dspike(gamma)(x)
    (spikes * 3).sum().backward()
    assert spikes.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1]
    assert x.grad.tolist() == pytest.approx([3 * slope(value, gamma) for value in x.tolist()], rel=1e-12)
    assert x.grad[[0, 1, -2, -1]].tolist() == [0, 0, 0, 0]
    assert x.grad[[2, -3]].min() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("gamma", [0.5, 2.5])
def test_the_derivative_is_what_the_backward_pass_multiplies_by(gamma: float, dtype: torch.dtype):
    x = torch.linspace(-2, 2, 41).to(dtype).requires_grad_()
    Dspike(gamma)(x).sum().backward()
    derivative = Dspike(gamma).derivative(x.detach())
    assert derivative.dtype == dtype
    tolerance = 8 * torch.finfo(dtype).eps
    torch.testing.assert_close(derivative, x.grad, rtol=4 * tolerance, atol=tolerance)
    wanted = torch.tensor([slope(value, gamma) for value in x.tolist()])
    torch.testing.assert_close(derivative.float(), wanted, atol=0.02, rtol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("settings", [True, False])
@pytest.mark.parametrize("name", sorted(DERIVATIVES))
def test_the_derivative_of_a_named_surrogate_is_that_of_snntorch(name: str, settings: bool, dtype: torch.dtype):
    grad = picklable(make(name) if settings else getattr(surrogate, name)())
    x = torch.cat([torch.linspace(-3, 3, 601), torch.tensor([0.0, -0.0, 1.0, 1e-30, 50.0])]).to(dtype).requires_grad_()
    spikes = grad(x)
    assert torch.equal(spikes, (x > 0).float())  # what having a derivative promises
    spikes.sum().backward()
    derivative = grad.derivative(x.detach())
    assert derivative.dtype == dtype
    assert derivative.isfinite().all()
    assert derivative.abs().max() > 0
    torch.testing.assert_close(derivative, x.grad, rtol=4 * torch.finfo(dtype).eps, atol=0)


@pytest.mark.parametrize("name", sorted(set(FACTORIES) - set(DERIVATIVES)))
def test_a_surrogate_that_is_no_function_of_its_input_has_no_derivative(name: str):
    assert name in ("SSO", "custom_surrogate")
    assert not hasattr(LIF(spike_grad=make(name)).spike_grad, "derivative")


def test_surrogates_are_equal_by_their_settings():
    same = [Dspike(2.0), picklable(surrogate.atan(3.0)), picklable(surrogate.SSO(0.1))]
    twins = [Dspike(2.0), picklable(surrogate.atan(3.0)), picklable(surrogate.SSO(0.1))]
    assert same == twins
    assert len(set(same) | set(twins)) == 3
    others = [Dspike(2.1), picklable(surrogate.atan(2.0)), picklable(surrogate.SSO(0.2)), picklable(surrogate.SFS(3.0))]
    assert all(a != b for a in same for b in others)


@pytest.mark.parametrize("gamma", [0.5, 2.5])
def test_the_derivative_ends_at_one_and_passes_nan(gamma: float):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
        edge = 1 + torch.finfo(dtype).eps
        x = torch.tensor([-math.inf, -edge, -1, 0, 1, edge, math.inf, math.nan], dtype=dtype)
        got = Dspike(gamma).derivative(x).tolist()
        assert got[:2] == got[5:7] == [0, 0]
        assert got[2:5] == pytest.approx([slope(v, gamma) for v in (-1, 0, 1)], rel=0.01)
        assert math.isnan(got[7])


@pytest.mark.parametrize("gamma", [0.5, 2.5])
def test_dspike_gradient_is_the_slope_of_a_step_of_height_one(gamma: float):
    x = torch.linspace(-1, 1, 20001, dtype=torch.float64, requires_grad=True)
    Dspike(gamma)(x).sum().backward()
    smooth = torch.tanh(gamma * x.detach()) / (2 * math.tanh(gamma))
    torch.testing.assert_close(x.grad[1:-1], (smooth[2:] - smooth[:-2]) / 2e-4, rtol=1e-6, atol=1e-6)
    assert torch.trapezoid(x.grad, x.detach()).item() == pytest.approx(1, abs=1e-6)


def test_dspike_gradient_stays_finite():
    for gamma in (1e-3, 1e3):
        x = torch.tensor([-math.inf, -1e30, -1.0, 0.0, 1e-30, 1.0, 1e30, math.inf], requires_grad=True)
        Dspike(gamma)(x).sum().backward()
        assert x.grad.isfinite().all()
        assert x.grad[3] > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_dspike_keeps_the_dtype(dtype: torch.dtype):
    x = torch.linspace(-2, 2, 41).to(dtype).requires_grad_()
    spikes = Dspike()(x)
    spikes.sum().backward()
    assert spikes.dtype == x.grad.dtype == dtype
    wanted = torch.tensor([slope(value, 2.5) for value in x.tolist()])
    torch.testing.assert_close(x.grad.float(), wanted, atol=0.02, rtol=0.02)


def test_dspike_works_in_every_snntorch_neuron():
    x = torch.randn(4, 3, 80)
    spikes, grad = run(leaky(Dspike()), x)
    wanted, wanted_grad = run(LIF(0.8), x)
    assert 0.05 < spikes.mean() < 0.6
    assert torch.equal(spikes, wanted)
    assert torch.equal(grad, wanted_grad)


@pytest.mark.parametrize("gamma", [0.0, -1.0, math.nan])
def test_dspike_gamma_error(gamma: float):
    with pytest.raises(SettingError) as caught:
        Dspike(gamma)
    assert str(caught.value) == (
        f"Dspike: gamma={gamma} must be positive. Pass the slope of the tanh, for example 2.5."
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", sorted(DERIVATIVES))
def test_no_derivative_of_a_named_surrogate_is_nan_far_from_the_threshold(name: str, dtype: torch.dtype):
    grad = picklable(getattr(surrogate, name)())
    values = [-math.inf, -60000.0, -100.0, -5.0, 0.0, 5.0, 100.0, 60000.0, math.inf]
    x = torch.tensor(values, dtype=dtype, requires_grad=True)
    grad(x).sum().backward()
    derivative = grad.derivative(x.detach())
    assert not derivative.isnan().any()
    torch.testing.assert_close(derivative, x.grad, rtol=0.01, atol=1e-6)


def test_the_sigmoid_surrogate_is_the_formula_and_has_a_second_derivative():
    grad = picklable(surrogate.sigmoid(slope=25))
    x = torch.tensor([-5.0, -0.3, -0.01, 0.0, 0.2, 5.0], dtype=torch.float64, requires_grad=True)
    s = torch.sigmoid(25 * x.detach())
    (first,) = torch.autograd.grad(grad(x).sum(), x, create_graph=True)
    torch.testing.assert_close(first.detach(), 25 * s * (1 - s), rtol=1e-9, atol=1e-9)
    (second,) = torch.autograd.grad(first.sum(), x)
    torch.testing.assert_close(second, 625 * s * (1 - s) * (1 - 2 * s), rtol=1e-9, atol=1e-9)
