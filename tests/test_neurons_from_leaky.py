"""`LIF.from_leaky`, and state dicts that travel between LIF and snnTorch's Leaky."""

import copy
import gc
import pickle

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from snntorch.functional import quant
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.neurons import LIF, Dspike

RESETS = ["zero", "subtract", "none"]
SETTINGS = {
    "defaults": {},
    "surrogate": {"spike_grad": surrogate.sigmoid(slope=4), "threshold": 0.8},
    "dspike": {"spike_grad": Dspike(2.0)},
    "no surrogate": {"surrogate_disable": True},
    "learned": {"learn_beta": True, "learn_threshold": True},
    "beta learned": {"learn_beta": True},
    "per neuron": {"beta": torch.linspace(0.5, 0.95, 50), "threshold": torch.linspace(0.7, 1.3, 50)},
    "learned per neuron": {"beta": torch.linspace(0.5, 0.95, 50), "learn_beta": True},
    "beta out of range": {"beta": 1.25, "threshold": 1.5},
}


def make(name: str, how: str) -> snn.Leaky:
    settings = {"beta": 0.9, **SETTINGS[name]}
    return snn.Leaky(**{k: v.clone() if isinstance(v, Tensor) else v for k, v in settings.items()}, reset_mechanism=how)


def run(neuron: snn.Leaky, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Spikes of a multi-step LIF or of a loop over Leaky, and every gradient of a weighted sum of them."""
    x = x.clone().requires_grad_()
    if isinstance(neuron, LIF) and neuron.step_mode == "m":
        spikes = neuron(x)
    else:
        mem, found = torch.zeros_like(x[0]), []
        for current in x:
            spike, mem = neuron(current, mem)
            found.append(spike)
        spikes = torch.stack(found)
    if not spikes.requires_grad:
        return spikes, []
    weights = torch.linspace(0.5, 1.5, spikes.numel()).view_as(spikes)
    return spikes.detach(), list(torch.autograd.grad((spikes * weights).sum(), [x, *neuron.parameters()]))


def assert_same(neuron: snn.Leaky, leaky: snn.Leaky, x: Tensor) -> None:
    spikes, grads = run(neuron, x)
    wanted, wanted_grads = run(leaky, x)
    assert 0.05 < wanted.mean() < 0.6
    assert torch.equal(spikes, wanted)
    torch.testing.assert_close(grads, wanted_grads, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["m", "s"])
@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("name", SETTINGS)
def test_every_setting_is_taken_over(name: str, how: str, mode: str):
    leaky = make(name, how)
    lif = LIF.from_leaky(leaky, step_mode=mode)
    assert type(lif) is LIF
    assert (lif.step_mode, lif.reset_mechanism) == (mode, how)
    assert_same(lif, leaky, torch.randn(5, 6, 50))


def test_the_comparison_can_fail():
    x = torch.randn(5, 6, 50)
    for other in ("surrogate", "beta out of range"):
        with pytest.raises(AssertionError):
            assert_same(LIF.from_leaky(make("defaults", "subtract")), make(other, "subtract"), x)
    with pytest.raises(AssertionError):
        assert_same(LIF.from_leaky(make("defaults", "subtract")), make("dspike", "subtract"), x)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_and_buffers_are_shared(name: str):
    leaky = make(name, "subtract")
    lif = LIF.from_leaky(leaky)
    assert lif.beta is leaky.beta
    assert lif.threshold is leaky.threshold
    wanted = list(dict(leaky.named_parameters()))
    assert list(dict(lif.named_parameters())) == wanted, "an optimiser's state dict goes by their order"
    assert lif.state_dict().keys() == leaky.state_dict().keys()


def test_flags_are_taken_over():
    for init_hidden, output in ((True, False), (True, True), (False, False)):
        leaky = snn.Leaky(0.9, init_hidden=init_hidden, output=output).eval()
        lif = LIF.from_leaky(leaky, step_mode="s")
        assert (lif.init_hidden, lif.output, lif.training) == (init_hidden, output, False)
        assert type(lif(torch.ones(2, 3))) is type(leaky(torch.ones(2, 3)))
    assert LIF.from_leaky(make("no surrogate", "zero")).surrogate_disable


def test_it_starts_at_rest_and_lets_the_old_neuron_go():
    leaky = snn.Leaky(0.9, init_hidden=True)
    leaky(torch.full((2, 3), 0.7))
    lif = LIF.from_leaky(leaky, step_mode="s")
    assert lif.mem.numel() == 0
    assert leaky.mem.any()
    x = torch.full((2, 3), 0.7)
    lif(x)
    assert torch.equal(lif.mem, x)
    assert [entry == lif for entry in snn.SpikingNeuron.instances] == [False, True]
    del lif
    gc.collect()
    assert snn.SpikingNeuron.instances[1:] == [None]


def test_a_parameter_that_snntorch_holds_as_a_buffer_stays_one():
    leaky = snn.Leaky(nn.Parameter(torch.tensor(0.9)))
    assert list(leaky.parameters()) == []
    assert list(LIF.from_leaky(leaky).parameters()) == []


@pytest.mark.parametrize("make_twin", [copy.deepcopy, lambda lif: pickle.loads(pickle.dumps(lif))])
@pytest.mark.parametrize("name", SETTINGS)
def test_copies(name: str, make_twin):
    leaky = make(name, "subtract")
    assert_same(make_twin(LIF.from_leaky(leaky)), leaky, torch.randn(5, 6, 50))


@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("name", ["defaults", "learned", "learned per neuron"])
def test_state_dicts_travel_both_ways(name: str, how: str):
    x, old = torch.randn(5, 6, 50), make(name, how)
    with torch.no_grad():
        old.beta.mul_(0.7), old.threshold.mul_(0.8)
    lif, leaky = LIF.from_leaky(make(name, how)), make(name, how)
    assert not torch.equal(run(lif, x)[0], run(old, x)[0])
    lif.load_state_dict(old.state_dict())
    assert_same(lif, old, x)
    leaky.load_state_dict(lif.state_dict())
    assert_same(lif, leaky, x)


def test_a_state_dict_of_another_reset_is_refused():
    net = nn.Sequential(nn.Identity(), LIF(0.5))
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict({f"1.{k}": v for k, v in snn.Leaky(0.9).state_dict().items()})
    assert (
        "LIF: 1.reset_mechanism_val is 0, expected 1. Another reset needs a LIF with that reset_mechanism, of "
        "{'subtract': 0, 'zero': 1, 'none': 2}; spikes of another size need a snntorch.Leaky."
    ) in str(caught.value)
    assert "graded_spikes_factor" not in str(caught.value)
    LIF(reset_mechanism="subtract").load_state_dict(snn.Leaky(0.9).state_dict())


def test_a_state_dict_with_graded_spikes_is_refused():
    saved = snn.Leaky(0.9, graded_spikes_factor=2.0, reset_mechanism="zero").state_dict()
    with pytest.raises(RuntimeError, match=r"LIF: graded_spikes_factor is 2\.0, expected 1\."):
        LIF().load_state_dict(saved)


@pytest.mark.filterwarnings("ignore:Inhibition is an unstable feature")
@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"inhibition": True}, "inhibition"),
        ({"state_quant": quant.state_quant(8)}, "state_quant"),
        ({"reset_delay": False}, "reset_delay=False"),
        ({"graded_spikes_factor": 2.0}, "graded_spikes_factor"),
        ({"learn_graded_spikes_factor": True}, "graded_spikes_factor"),
        ({"inhibition": True, "reset_delay": False}, "inhibition, reset_delay=False"),
    ],
)
def test_what_a_lif_cannot_do_is_refused(settings: dict, named: str):
    with pytest.raises(SettingError) as caught:
        LIF.from_leaky(snn.Leaky(0.9, **settings))
    assert str(caught.value) == (
        f"LIF.from_leaky: a LIF has no {named}. Make the snntorch.Leaky without, or keep it in a loop over steps."
    )


def test_hooks_are_refused():
    for register in ("register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"):
        leaky = snn.Leaky(0.9)
        handle = getattr(leaky, register)(lambda *args: None)
        with pytest.raises(SettingError, match="a LIF has no hooks of the old neuron"):
            LIF.from_leaky(leaky)
        handle.remove()
        assert LIF.from_leaky(leaky).reset_mechanism == "subtract"


def test_a_reset_that_leaky_does_not_follow_is_refused():
    leaky = snn.Leaky(0.9)
    leaky.reset_mechanism = "zero"  # snnTorch 1.0.0 goes on subtracting
    with pytest.raises(SettingError, match=r"a LIF has no reset_mechanism that was set too late for snntorch\.Leaky"):
        LIF.from_leaky(leaky)


@pytest.mark.parametrize("neuron", [LIF(), snn.Lapicque(0.9), nn.ReLU()], ids=lambda neuron: type(neuron).__name__)
def test_other_modules_are_refused(neuron: nn.Module):
    with pytest.raises(SettingError) as caught:
        LIF.from_leaky(neuron)
    assert str(caught.value) == (
        f"LIF.from_leaky: got {type(neuron).__name__}, expected a snntorch.Leaky itself. Keep other neurons in a loop "
        "over steps; of a LIF set the step_mode."
    )
