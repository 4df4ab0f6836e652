"""What LIF and IntegerLIF are as modules: dtypes, copies, memory, compilation, errors."""

import copy
import gc
import pickle
import weakref

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.neurons import LIF, IntegerLIF

HALVES = [torch.float16, torch.bfloat16]


def fires(spikes: Tensor) -> bool:
    """True when between 5 % and 60 % of the neurons fire, so that equality says something."""
    return 0.05 < (spikes > 0).float().mean().item() < 0.6


def stepped(lif: LIF, x: Tensor) -> Tensor:
    """Spikes of a step-mode neuron over all steps."""
    return torch.stack([lif(current) for current in x])


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("mode", ["m", "s"])
def test_half_precision_input(dtype: torch.dtype, mode: str):
    x = torch.randn(8, 2, 2000).to(dtype)
    lif, wide = LIF(0.9, step_mode=mode), LIF(0.9)
    spikes = lif(x) if mode == "m" else stepped(lif, x)
    assert spikes.dtype == dtype
    assert fires(spikes)
    assert torch.equal(spikes.float(), wide(x.float()))


@pytest.mark.parametrize("mode", ["m", "s"])
def test_half_precision_module(mode: str):
    x = torch.randn(6, 4, 8).bfloat16() * 2
    net = nn.Sequential(nn.Linear(8, 500), LIF(0.5, step_mode=mode), nn.Linear(500, 3)).bfloat16()
    current = net[0](x)
    spikes = net[1](current) if mode == "m" else stepped(net[1], current)
    assert spikes.dtype == torch.bfloat16
    assert fires(spikes)
    assert torch.equal(spikes.float(), LIF(0.5)(current.float()))
    snn.utils.reset(net)
    assert net(x if mode == "m" else x[0]).dtype == torch.bfloat16
    half = LIF(0.5).half()(current.half())
    assert half.dtype == torch.float16
    assert torch.equal(half.float(), LIF(0.5)(current.half().float()))


@pytest.mark.parametrize("dtype", HALVES)
def test_autocast_passes_half_precision_spikes_on(dtype: torch.dtype):
    linear, seen = nn.Linear(8, 500), []
    lif = LIF(0.9)
    lif.register_forward_hook(lambda module, args, out: seen.extend([args[0], out]))
    x = torch.randn(6, 4, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        lif(linear(x) * 2).sum().backward()
    current, spikes = seen
    assert current.dtype == spikes.dtype == dtype
    assert fires(spikes)
    assert torch.equal(spikes.float(), LIF(0.9)(current.float()))
    assert x.grad.dtype == torch.float32
    assert x.grad.abs().max() > 0


def test_multi_step_keeps_nothing():
    lif, x = LIF(0.9), torch.randn(4, 3, 50, requires_grad=True)
    first = lif(x)
    (first_grad,) = torch.autograd.grad(first.sum(), x)
    second = lif(x)
    (second_grad,) = torch.autograd.grad(second.sum(), x)
    assert fires(first)
    assert torch.equal(first, second)
    assert torch.equal(first_grad, second_grad)
    assert first_grad.abs().max() > 0
    assert lif.mem.numel() == 0
    assert "mem" not in lif.state_dict()


def test_setting_the_step_mode_forgets_the_membrane():
    lif = LIF(0.9, step_mode="s")
    lif(torch.full((2, 3), 0.7))
    assert lif.mem.tolist() == [[pytest.approx(0.7)] * 3] * 2
    lif.step_mode = "m"
    assert lif.mem.numel() == 0
    assert lif.step_mode == "m"


def test_only_step_mode_neurons_are_listed_and_all_are_freed():
    net = nn.Sequential(LIF(), LIF(step_mode="s"))
    net(torch.randn(3, 4, 5, requires_grad=True)).sum().backward()
    assert [entry == net[1] for entry in snn.SpikingNeuron.instances] == [True]
    net[1].step_mode = "m"
    assert snn.SpikingNeuron.instances == []
    net[1].step_mode = "s"
    watched = [weakref.ref(lif) for lif in net]
    del net
    gc.collect()
    assert [ref() for ref in watched] == [None, None]
    assert snn.SpikingNeuron.instances == [None], "the slot stays until the next neuron, for walks by index"
    snn.Leaky.reset_hidden()
    lif = LIF(step_mode="s")
    assert [entry == lif for entry in snn.SpikingNeuron.instances] == [True]


@pytest.mark.parametrize("make", [copy.deepcopy, lambda lif: pickle.loads(pickle.dumps(lif))])
def test_a_copy_is_listed_too_and_class_wide_calls_reach_it(make):
    lif = LIF(0.9, step_mode="s")
    twin = make(lif)
    for neuron in (lif, twin):
        neuron(torch.rand(2, 3, requires_grad=True))
    snn.Leaky.detach_hidden()
    assert not lif.mem.requires_grad
    assert not twin.mem.requires_grad
    assert twin.mem.any()
    snn.Leaky.reset_hidden()
    assert not twin.mem.any()


def test_copies_of_a_multi_step_neuron(tmp_path):
    lif = LIF(0.8, threshold=0.7)
    x = torch.randn(4, 3, 50)
    spikes = lif(x)
    assert fires(spikes)
    torch.save(lif, tmp_path / "lif.pt")
    loaded = torch.load(tmp_path / "lif.pt", weights_only=False)
    for twin in (copy.deepcopy(lif), pickle.loads(pickle.dumps(lif)), loaded):
        assert type(twin) is LIF
        assert twin is not lif
        assert torch.equal(twin(x), spikes)
        assert twin not in snn.SpikingNeuron.instances


@pytest.mark.parametrize("make", [copy.deepcopy, lambda lif: pickle.loads(pickle.dumps(lif))])
def test_copy_with_a_live_membrane(make):
    lif, x = LIF(0.9, step_mode="s"), torch.rand(3, 2, 50, requires_grad=True)
    lif(x[0])
    assert not lif.mem.is_leaf
    twin = make(lif)
    assert torch.equal(twin.mem, lif.mem)
    assert twin.mem.is_leaf
    spikes = stepped(lif, x[1:])
    assert fires(spikes)
    assert torch.equal(stepped(twin, x[1:]), spikes)
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    assert grad[0].abs().max() > 0  # the copy has not cut the graph of the original


def test_a_copy_runs_its_own_membrane():
    lif = LIF(0.9, step_mode="s")
    lif(torch.full((1, 1), 0.7))
    twin = copy.deepcopy(lif)
    twin(torch.full((1, 1), 0.1))
    assert twin.mem.item() == pytest.approx(0.73)
    assert lif.mem.item() == pytest.approx(0.7)


def test_state_dict_keys_are_snntorchs():
    assert LIF().state_dict().keys() == snn.Leaky(0.5).state_dict().keys()
    lif = LIF(0.5)
    lif.load_state_dict(LIF(0.25, threshold=2.0).state_dict())
    assert (lif.beta.item(), lif.threshold.item()) == (0.25, 2.0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
@pytest.mark.parametrize("spike_grad", [None, snn.surrogate.atan()])
def test_compiles_into_one_graph(spike_grad):
    torch.compiler.reset()  # torch remembers that atan's alpha differed elsewhere, and then fails to trace it
    lif = LIF(0.7, spike_grad=spike_grad)
    x = torch.randn(4, 3, 50, requires_grad=True)
    wanted = lif(x)
    (wanted_grad,) = torch.autograd.grad(wanted.sum(), x)
    assert fires(wanted)
    spikes = torch.compile(lif, fullgraph=True, backend="eager")(x)
    (grad,) = torch.autograd.grad(spikes.sum(), x)
    assert torch.equal(spikes, wanted)
    assert torch.equal(grad, wanted_grad)


def test_repr():
    assert repr(LIF()) == "LIF(beta=0.5, threshold=1, spike_grad=Dspike(gamma=2.5), step_mode='m')"
    named = LIF(torch.rand(3), spike_grad=snn.surrogate.fast_sigmoid(slope=10), step_mode="s")
    assert repr(named) == "LIF(beta, threshold=1, spike_grad=fast_sigmoid(slope=10), step_mode='s')"
    assert repr(IntegerLIF(spike_cap=2)) == "IntegerLIF(levels=4, beta=0.25, spike_cap=2)"


def test_step_mode_error():
    wanted = r"^LIF: step_mode='x' is unknown\. Expected one of m, s\. Pass one of these\.$"
    with pytest.raises(SettingError, match=wanted):
        LIF(step_mode="x")
    lif = LIF()
    with pytest.raises(SettingError, match=wanted):
        lif.step_mode = "x"
    assert lif.step_mode == "m"


@pytest.mark.parametrize("make", [LIF, IntegerLIF])
@pytest.mark.parametrize("shape", [(3,), (0, 2, 4)])
def test_no_steps_error(make, shape: tuple[int, ...]):
    with pytest.raises(LayoutError) as caught:
        make()(torch.ones(shape))
    assert str(caught.value) == (
        f"{make.__name__}: expected (T, B, ...) with at least one step, got {shape}; add the time axis"
    )


def test_membrane_in_multi_step_mode_error():
    with pytest.raises(LayoutError) as caught:
        LIF()(torch.ones(2, 3), torch.zeros(3))
    assert str(caught.value) == (
        'LIF: step_mode="m" starts from rest and takes no membrane. Set step_mode="s" to pass one.'
    )


def test_integer_lif_by_hand():
    x = torch.tensor([2.75, 1.0, 6.0, -1.0, 0.75])[:, None, None]
    lif = IntegerLIF()
    assert lif(x).flatten().tolist() == [3, 1, 4, 0, 1]
    lif.spike_cap = 2
    assert lif(x).flatten().tolist() == [2, 1, 2, 0, 1]
    assert torch.equal(IntegerLIF(levels=2)(x), lif(x))
    lif.spike_cap = None
    assert lif(x).flatten().tolist() == [3, 1, 4, 0, 1]
    assert IntegerLIF(beta=0.0, levels=8)(x).flatten().tolist() == [3, 1, 6, 0, 1]


def test_integer_lif_straight_through_gradient():
    x = torch.tensor([[-0.5, 0.25, 3.75, 4.5]], requires_grad=True)
    IntegerLIF(levels=4)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 1, 0]]
    x.grad = None
    IntegerLIF(levels=4, spike_cap=3)(x).sum().backward()
    assert x.grad.tolist() == [[0, 1, 0, 0]]


def test_integer_lif_copies_and_keeps_nothing():
    lif, x = IntegerLIF(spike_cap=3), torch.randn(4, 3, 50) * 2
    spikes = lif(x)
    assert fires(spikes)
    assert torch.equal(lif(x), spikes)
    for twin in (copy.deepcopy(lif), pickle.loads(pickle.dumps(lif))):
        assert torch.equal(twin(x), spikes)
    assert lif.state_dict() == {}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"levels": 0}, "IntegerLIF: levels=0 must be at least 1. Pass the D of the net, for example 4."),
        ({"beta": 1.5}, "IntegerLIF: beta=1.5 is outside [0, 1]. Pass the membrane decay per step."),
        ({"beta": -0.5}, "IntegerLIF: beta=-0.5 is outside [0, 1]. Pass the membrane decay per step."),
        ({"spike_cap": 5}, "IntegerLIF: spike_cap=5 is outside 1..4. Pass a level, or None for no limit."),
        ({"spike_cap": 0}, "IntegerLIF: spike_cap=0 is outside 1..4. Pass a level, or None for no limit."),
    ],
)
def test_integer_lif_errors(settings: dict, wanted: str):
    with pytest.raises(SettingError) as caught:
        IntegerLIF(**settings)
    assert str(caught.value) == wanted
