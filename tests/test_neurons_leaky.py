"""LIF in multi-step mode against a loop over snnTorch's Leaky: every reset, learnable and per neuron."""

import copy
import pickle
from collections.abc import Callable

import pytest
import snntorch as snn
import torch
from snntorch import surrogate
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.neurons import LIF, Dspike

RESETS = ["zero", "subtract", "none"]
GRADS = {"dspike": Dspike(), "atan": surrogate.atan(), "fast_sigmoid": surrogate.fast_sigmoid(slope=5)}
# How beta and threshold are given: one value, one per channel of (T, B, C), one per channel of (T, B, C, H, W).
SIZES = {"scalar": ((), (6, 50)), "channels": ((50,), (6, 50)), "maps": ((5, 1, 1), (3, 5, 4, 4))}


def fires(spikes: Tensor) -> bool:
    """True when between 5 % and 60 % of the neurons fire, so that equality says something."""
    return 0.05 < spikes.float().mean().item() < 0.6


def leaky_loop(leaky: snn.Leaky, x: Tensor) -> tuple[Tensor, Tensor]:
    """The usual loop of snnTorch: spikes and membranes of all steps."""
    mem, spikes, mems = torch.zeros_like(x[0]), [], []
    for current in x:
        spike, mem = leaky(current, mem)
        spikes.append(spike)
        mems.append(mem)
    return torch.stack(spikes), torch.stack(mems)


def by_call(lif: LIF, x: Tensor) -> Tensor:
    return lif(x)


def gradients(neuron: snn.Leaky, run: Callable, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Spikes, and the gradients of x and of what the neuron learns, of a weighted sum of the spikes."""
    x = x.clone().requires_grad_()
    spikes = run(neuron, x)
    weights = torch.linspace(0.5, 1.5, spikes.numel()).view_as(spikes)
    learned = [value for name in ("beta", "threshold") if (value := getattr(neuron, name)).requires_grad]
    return spikes.detach(), list(torch.autograd.grad((spikes * weights).sum(), [x, *learned]))


def is_equal(lif: LIF, leaky: snn.Leaky, x: Tensor, run: Callable = by_call) -> bool:
    """True when spikes agree bit for bit, and gradients within 1e-6."""
    spikes, grads = gradients(lif, run, x)
    wanted, wanted_grads = gradients(leaky, lambda neuron, current: leaky_loop(neuron, current)[0], x)
    assert fires(wanted)
    assert wanted_grads[0].abs().max() > 0
    same = torch.equal(spikes, wanted) and len(grads) == len(wanted_grads)
    return same and all(map(is_close, grads, wanted_grads))


def is_close(grad: Tensor, wanted: Tensor) -> bool:
    return (grad - wanted).abs().max().item() <= 1e-6 * max(1.0, wanted.abs().max().item())


def pair(how: str, *, size: tuple[int, ...] = (), grad: str = "dspike", learn: bool = True) -> tuple[LIF, snn.Leaky]:
    """A LIF and a Leaky of the same random settings, with parameters of their own."""
    beta, threshold = torch.rand(size) * 0.3 + 0.6, torch.rand(size) * 0.5 + 0.9
    leaky = snn.Leaky(
        beta.clone(),
        threshold.clone(),
        GRADS[grad],
        learn_beta=learn,
        learn_threshold=learn,
        reset_mechanism=how,
    )
    held = nn.Parameter if learn else torch.as_tensor
    lif = LIF(held(beta), threshold=held(threshold), spike_grad=GRADS[grad], reset_mechanism=how)
    return lif, leaky


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("steps", [1, 2, 4, 16])
def test_spikes_and_gradients_of_a_learning_neuron(steps: int, how: str, size: str):
    own, step = SIZES[size]
    lif, leaky = pair(how, size=own)
    assert len(list(lif.parameters())) == 2
    assert is_equal(lif, leaky, torch.randn(steps, *step))


@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("learn", [False, True])
@pytest.mark.parametrize("how", RESETS)
def test_every_surrogate(how: str, learn: bool, grad: str):
    assert is_equal(*pair(how, grad=grad, learn=learn), torch.randn(5, 6, 50))


def test_equality_can_fail():
    x = torch.randn(4, 3, 200)
    for how in RESETS:
        _, leaky = pair(how)
        for changes in ({"beta": 0.5}, {"threshold": 0.8}, {"spike_grad": Dspike(2.0)}, {"reset_mechanism": "other"}):
            settings = {"beta": leaky.beta.detach(), "threshold": leaky.threshold.detach(), "reset_mechanism": how}
            settings.update(changes)
            if settings["reset_mechanism"] == "other":
                settings["reset_mechanism"] = RESETS[RESETS.index(how) - 1]
            settings = {
                k: nn.Parameter(torch.as_tensor(v)) if k in ("beta", "threshold") else v for k, v in settings.items()
            }
            assert not is_equal(LIF(**settings), leaky, x), (how, changes)
    grad = torch.ones(3)
    assert is_close(grad, grad + 5e-7)
    assert not is_close(grad, grad + torch.tensor([0, 0, 1e-5]))


@pytest.mark.parametrize("how", RESETS)
def test_parameters_that_have_drifted_out_of_range(how: str):
    lif, leaky = pair(how, size=(50,))
    with torch.no_grad():
        for neuron in (lif, leaky):
            neuron.beta[::3], neuron.beta[1::3], neuron.threshold[::7] = 1.25, -0.5, -0.25
    x = torch.randn(6, 4, 50) - 0.3
    assert is_equal(lif, leaky, x)
    (grad,) = torch.autograd.grad(lif(x).sum(), lif.beta)
    assert not grad[::3].any(), "beta is clipped here"
    assert grad[2::3].any()


@pytest.mark.parametrize("how", RESETS)
def test_membranes(how: str):
    lif, leaky = pair(how)
    x = torch.randn(5, 4, 30)
    spikes, mems = lif.spikes_and_membranes(x)
    wanted, wanted_mems = leaky_loop(leaky, x)
    assert fires(wanted)
    assert torch.equal(spikes, wanted)
    assert torch.equal(mems, wanted_mems)
    grads = torch.autograd.grad((mems.square() + spikes).sum(), [lif.beta, lif.threshold])
    wanted_grads = torch.autograd.grad((wanted_mems.square() + wanted).sum(), [leaky.beta, leaky.threshold])
    assert all(map(is_close, grads, wanted_grads))
    assert lif.mem.numel() == 0
    half, narrow = lif.spikes_and_membranes(x.bfloat16())
    assert (half.dtype, narrow.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("how", RESETS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_input(dtype: torch.dtype, how: str):
    lif, leaky = pair(how)
    x = torch.randn(6, 2, 500).to(dtype)
    spikes, grads = gradients(lif, by_call, x)
    wanted, wanted_grads = gradients(leaky, lambda neuron, current: leaky_loop(neuron, current)[0], x.float())
    assert spikes.dtype == dtype
    assert grads[0].dtype == dtype
    assert fires(wanted)
    assert torch.equal(spikes.float(), wanted)
    torch.testing.assert_close(grads[0].float(), wanted_grads[0], rtol=0.02, atol=0.02)


@pytest.mark.parametrize("how", RESETS)
def test_step_mode(how: str):
    x = torch.randn(6, 3, 200)
    lif, leaky = pair(how)
    lif.init_hidden, lif.step_mode = False, "s"
    spikes, mems = leaky_loop(lif, x)
    wanted, wanted_mems = leaky_loop(leaky, x)
    assert torch.equal(spikes, wanted)
    assert torch.equal(mems, wanted_mems)
    assert is_equal(lif, leaky, x, run=lambda neuron, current: leaky_loop(neuron, current)[0])
    half = leaky_loop(lif, x.bfloat16())
    assert half[0].dtype == torch.bfloat16
    assert torch.equal(half[0].float(), leaky_loop(leaky, x.bfloat16().float())[0])


@pytest.mark.parametrize("mode", ["m", "s"])
def test_the_reset_can_be_changed(mode: str):
    x = torch.randn(6, 3, 200)
    lif = LIF(0.9, reset_mechanism="none")
    for how in RESETS:
        lif.reset_mechanism, lif.step_mode = how, mode
        spikes = lif(x) if mode == "m" else torch.stack([lif(current) for current in x])
        assert torch.equal(spikes, leaky_loop(snn.Leaky(0.9, reset_mechanism=how), x)[0])
        assert lif.reset_mechanism == how
        assert lif.state_dict()["reset_mechanism_val"] == snn.SpikingNeuron.reset_dict[how]


@pytest.mark.parametrize("how", RESETS)
def test_copies(how: str):
    lif, leaky = pair(how)
    x = torch.randn(5, 6, 50)
    for twin in (copy.deepcopy(lif), pickle.loads(pickle.dumps(lif))):
        assert is_equal(twin, leaky, x)
        assert twin.beta is not lif.beta
        twin.step_mode = "s"
        assert torch.equal(torch.stack([twin(current) for current in x]), lif(x))


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize("grad", GRADS)
@pytest.mark.parametrize("how", RESETS)
def test_compiles_into_one_graph(how: str, grad: str):
    lif, leaky = pair(how, grad=grad)
    torch.compiler.reset()  # it counts the recompilations of LIF.forward over all neurons of the process
    compiled = torch.compile(lif, fullgraph=True, backend="eager")
    assert is_equal(lif, leaky, torch.randn(4, 6, 50), run=lambda _, x: compiled(x))


def test_a_parameter_is_held_itself_and_trains():
    beta = nn.Parameter(torch.tensor(0.5))
    first, second = LIF(beta), LIF(beta, threshold=nn.Parameter(torch.ones(7)))
    assert first.beta is beta
    assert second.beta is beta
    assert [name for name, _ in first.named_parameters()] == ["beta"]
    assert [name for name, _ in second.named_parameters()] == ["threshold", "beta"]
    assert list(LIF(torch.rand(3)).parameters()) == []
    optimizer = torch.optim.SGD(second.parameters(), 0.1)
    (-second(torch.rand(6, 4, 7)).sum()).backward()
    optimizer.step()
    assert beta.item() > 0.5
    assert (second.threshold < 1).all()


def test_repr_names_another_reset():
    wanted = "LIF(beta=0.9, threshold=1, spike_grad=Dspike(gamma=2.5), reset_mechanism='subtract', step_mode='m')"
    assert repr(LIF(0.9, reset_mechanism="subtract")) == wanted


def test_unknown_reset_error():
    wanted = r"^LIF: reset_mechanism='soft' is unknown\. Expected one of zero, subtract, none\. Pass one of these\.$"
    with pytest.raises(SettingError, match=wanted):
        LIF(reset_mechanism="soft")
    lif = LIF()
    with pytest.raises(SettingError, match=wanted):
        lif.reset_mechanism = "soft"
    assert lif.reset_mechanism == "zero"


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan")])
def test_a_parameter_out_of_range_is_refused(value: float):
    with pytest.raises(SettingError, match=r"^LIF: beta=.* must be inside \[0, 1\]\."):
        LIF(nn.Parameter(torch.tensor(value)))


@pytest.mark.parametrize("name", ["beta", "threshold"])
@pytest.mark.parametrize(("own", "step"), [((3,), (2, 4)), ((3,), (2, 1)), ((1, 1, 1), (2, 4))])
def test_settings_that_do_not_fit_a_step_are_refused(name: str, own: tuple[int, ...], step: tuple[int, ...]):
    lif = LIF(**{name: torch.full(own, 0.5)})
    for call in (lif, lif.spikes_and_membranes):
        with pytest.raises(LayoutError) as caught:
            call(torch.rand(3, *step))
        assert str(caught.value) == (
            f"LIF: {name} of shape {own} does not fit steps of shape {step}. "
            "Give it the trailing axes of a step: (C,) for (T, B, C), (C, 1, 1) for (T, B, C, H, W)."
        )
