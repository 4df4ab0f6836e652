"""LIF spike for spike against snnTorch's Leaky and SpikingJelly's LIFNode."""

from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from torch import Tensor

from snntorch_smixer.neurons import LIF, Dspike

NEURONS = [(0.5, 1.0), (0.0, 0.5), (1.0, 1.5), (0.9, 0.8)]
STYLES = {
    "hidden": {"init_hidden": True},
    "hidden with output": {"init_hidden": True, "output": True},
    "membrane passed": {"init_hidden": False},
    "membrane kept": {"init_hidden": False},
}


def fires(spikes: Tensor) -> bool:
    """True when between 5 % and 60 % of the neurons fire, so that equality says something."""
    return 0.05 < spikes.mean().item() < 0.6


def leaky_loop(lif: snn.Leaky, x: Tensor) -> Tensor:
    """The usual loop of snnTorch: the membrane is passed from step to step."""
    mem, spikes = torch.zeros_like(x[0]), []
    for current in x:
        spike, mem = lif(current, mem)
        spikes.append(spike)
    return torch.stack(spikes)


def gradient(neuron: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Spikes, and the input gradient of a weighted sum of them."""
    x = x.clone().requires_grad_()
    spikes = neuron(x)
    weights = torch.linspace(0.5, 1.5, spikes.numel()).view_as(spikes)
    (grad,) = torch.autograd.grad((spikes * weights).sum(), x)
    return spikes.detach(), grad


def is_equal(lif: LIF, leaky: snn.Leaky, x: Tensor) -> bool:
    """True when spikes agree bit for bit, and gradients within 1e-6."""
    spikes, grad = gradient(lif, x)
    wanted, wanted_grad = gradient(lambda current: leaky_loop(leaky, current), x)
    assert fires(wanted)
    assert wanted_grad.abs().max() > 0
    return torch.equal(spikes, wanted) and bool((grad - wanted_grad).abs().max() <= 1e-6 * wanted_grad.abs().max())


def run_style(lif: snn.Leaky, x: Tensor, style: str) -> tuple[Tensor, Tensor]:
    """Spikes and membranes of all steps, ``(T, ...)`` each, in one of the ways to call ``snn.Leaky``."""
    mem, spikes, mems = torch.zeros_like(x[0]), [], []
    for current in x:
        out = lif(current, mem) if style == "membrane passed" else lif(current)
        spike, mem = (out, lif.mem) if style == "hidden" else out
        spikes.append(spike)
        mems.append(mem)
    return torch.stack(spikes), torch.stack(mems)


def step_neuron(style: str) -> LIF:
    """A LIF in step mode that is called as in one of the styles."""
    lif = LIF(0.9, step_mode="s", init_hidden=STYLES[style]["init_hidden"])
    lif.output = STYLES[style].get("output", False)
    return lif


def test_lif_is_a_leaky():
    assert isinstance(LIF(), snn.Leaky)
    assert isinstance(LIF(), snn.SpikingNeuron)


@pytest.mark.parametrize("spike_grad", [Dspike(), snn.surrogate.fast_sigmoid(slope=5)], ids=["dspike", "fast_sigmoid"])
@pytest.mark.parametrize(("beta", "threshold"), NEURONS)
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_multi_step_equals_leaky(steps: int, beta: float, threshold: float, spike_grad):
    lif = LIF(beta, threshold=threshold, spike_grad=spike_grad)
    leaky = snn.Leaky(beta, threshold, spike_grad, reset_mechanism="zero")
    assert is_equal(lif, leaky, torch.randn(steps, 3, 200))


def test_equality_can_fail():
    leaky = snn.Leaky(0.5, 1.0, Dspike(), reset_mechanism="zero")
    x = torch.randn(4, 3, 200)
    assert not is_equal(LIF(0.5, threshold=0.9), leaky, x)
    assert not is_equal(LIF(0.6), leaky, x)
    assert not is_equal(LIF(0.5, spike_grad=Dspike(2.0)), leaky, x)
    assert not is_equal(LIF(0.5), snn.Leaky(0.5, 1.0, Dspike(), reset_mechanism="subtract"), x)


def test_multi_step_equals_leaky_with_settings_per_neuron():
    beta, threshold = torch.rand(200), torch.rand(200) + 0.5
    leaky = snn.Leaky(beta, threshold, Dspike(), reset_mechanism="zero")
    assert is_equal(LIF(beta, threshold=threshold), leaky, torch.randn(6, 3, 200))


def test_multi_step_equals_leaky_on_maps():
    leaky = snn.Leaky(0.5, 1.0, Dspike(), reset_mechanism="zero")
    assert is_equal(LIF(0.5), leaky, torch.randn(4, 2, 3, 8, 8))


@pytest.mark.parametrize("style", STYLES)
def test_step_mode_equals_leaky(style: str):
    x = torch.randn(5, 3, 200)
    lif = step_neuron(style)
    leaky = snn.Leaky(0.9, 1.0, Dspike(), reset_mechanism="zero", **STYLES[style])
    spikes, mem = run_style(lif, x, style)
    wanted, wanted_mem = run_style(leaky, x, style)
    assert fires(wanted)
    assert torch.equal(spikes, wanted)
    assert torch.equal(mem, wanted_mem)
    assert torch.equal(spikes, LIF(0.9)(x))


@pytest.mark.parametrize("style", STYLES)
def test_step_mode_gradient_equals_multi_step(style: str):
    x = torch.randn(5, 3, 200)
    lif = step_neuron(style)
    spikes, grad = gradient(lambda current: run_style(lif, current, style)[0], x)
    wanted, wanted_grad = gradient(LIF(0.9), x)
    assert fires(wanted)
    assert torch.equal(spikes, wanted)
    assert torch.equal(grad, wanted_grad)


def test_what_a_step_returns():
    x = torch.full((2, 3), 0.7)
    assert isinstance(LIF(step_mode="s")(x), Tensor)
    for style in ("hidden with output", "membrane passed"):
        spike, mem = step_neuron(style)(x)
        assert not spike.any()
        assert torch.equal(mem, x)


def test_step_mode_refuses_a_membrane_as_leaky_does():
    x = torch.ones(2, 3)
    for neuron in (LIF(step_mode="s"), snn.Leaky(0.5, init_hidden=True)):
        with pytest.raises(TypeError, match="`mem` should not be passed"):
            neuron(x, torch.zeros(2, 3))


def test_step_mode_starts_again_when_the_batch_changes():
    lif = LIF(0.9, step_mode="s")
    lif(torch.full((2, 3), 0.7))
    lif(torch.full((1, 3), 0.7))
    assert torch.equal(lif.mem, torch.full((1, 3), 0.7))


@pytest.mark.filterwarnings("ignore")  # SpikingJelly's own
@pytest.mark.parametrize("steps", [1, 4, 12])
def test_equals_spikingjelly_where_installed(steps: int):
    neuron = pytest.importorskip("spikingjelly.activation_based.neuron", exc_type=ImportError)
    # Odd multiples of 1/64: all sums are exact, and none meets the threshold, where one fires and the other does not.
    x = (torch.randint(-128, 256, (steps, 3, 200)) * 2 + 1) / 64
    theirs = neuron.LIFNode(tau=2.0, v_threshold=1.0, v_reset=0.0, step_mode="m")
    wanted = theirs(x)
    assert fires(wanted)
    assert torch.equal(LIF(0.5, threshold=2.0)(x), wanted)
