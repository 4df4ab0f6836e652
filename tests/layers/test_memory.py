"""set_memory and memory_mode: what they set, restore and refuse, and when a layer takes the plain path all the same."""

import copy
import pickle

import pytest
import torch
from torch import nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.layers.memory import MODES, KeepsLess, memory_mode, set_memory
from snntorch_smixer.neurons import LIF
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from tests.layers.test_memory_compare import LEAN, assert_fires, assert_same, ran

KINDS = (
    "register_forward_hook",
    "register_forward_pre_hook",
    "register_full_backward_hook",
    "register_full_backward_pre_hook",
)
PLACES = (
    "blocks.0.mlp.expand",
    "blocks.0.mlp.contract.norm",
    "blocks.0.mlp.contract.neuron",
    "blocks.1.mixer.value.linear",
    "blocks.1.mixer.neuron",
    "stem.units.1.linear",
    "stem.short",
)


def modes(model: nn.Module) -> list[tuple[str, int]]:
    """Of the layers; their neurons must have been told the same."""
    layers = [m for m in model.modules() if isinstance(m, KeepsLess) and not isinstance(m, LIF)]
    for layer in layers:
        told = {(m.memory, m.chunks) for m in layer.modules() if isinstance(m, LIF)}
        assert told == {(layer.memory, layer.chunks)}
    return [(layer.memory, layer.chunks) for layer in layers]


def images(batch: int = 3) -> torch.Tensor:
    return torch.randn(batch, 2, 16, 16)


def own_modes(net: nn.Module) -> list[tuple[str, int]]:
    """Give the layers of a network of two blocks modes of their own, and return them."""
    set_memory(net.blocks[0], "reference")
    set_memory(net.blocks[1].mixer, "recompute", chunks=3)
    wanted = [("fused", 1), ("reference", 1), ("reference", 1), ("recompute", 3), ("fused", 1)]
    assert modes(net) == wanted
    return wanted


@pytest.mark.parametrize("mode", MODES)
def test_every_layer_is_set(firing_net, mode):
    net = firing_net(T=1)
    assert modes(net) == [("fused", 1)] * 5
    set_memory(net, mode, chunks=4)
    assert modes(net) == [(mode, 4)] * 5
    net.memory = mode
    assert modes(net) == [(mode, 4)] * 5
    assert net.memory == mode


def test_a_mode_for_a_while(firing_net):
    net = firing_net(T=1)
    before = own_modes(net)
    with memory_mode(net, "recompute", chunks=2):
        assert modes(net) == [("recompute", 2)] * 5
        with memory_mode(net.blocks[1], "reference"):
            assert modes(net) == [("recompute", 2)] * 3 + [("reference", 1)] * 2
        assert modes(net) == [("recompute", 2)] * 5
    assert modes(net) == before


def test_a_mode_ends_with_an_exception(firing_net):
    net = firing_net(T=1)
    before = own_modes(net)
    with pytest.raises(KeyError, match="stop"), memory_mode(net, "recompute", chunks=2):
        raise KeyError("stop")
    assert modes(net) == before


def test_a_refused_mode_changes_nothing(firing_net):
    net = firing_net(T=1)
    before = own_modes(net)
    for call in (set_memory, lambda *a, **k: memory_mode(*a, **k).__enter__()):
        for mode, chunks in (("lean", 1), ("fused", 0)):
            with pytest.raises(SettingError):
                call(net, mode, chunks=chunks)
        assert modes(net) == before


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_the_mode_of_the_forward_pass_counts(firing_net, training):
    net, x = firing_net(T=2).train(training), images()
    want = ran(net, "recompute", x)

    def forward(model, x):
        with memory_mode(model, "recompute"):
            return model(x)

    got = ran(net, "reference", x, forward=forward)
    assert_same(got, want, tol=0.0)
    assert got.saved == want.saved


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_keep_the_mode(firing_net, copied):
    net, x = firing_net(T=2), images()
    before = own_modes(net)
    twin = copied(net)
    assert modes(twin) == before
    set_memory(twin, "recompute")
    assert modes(net) == before
    assert_same(ran(twin, "recompute", x), ran(net, "reference", x))


def test_a_state_dict_holds_no_mode(firing_net):
    net = firing_net(T=1)
    names = list(net.state_dict())
    set_memory(net, "recompute", chunks=3)
    assert list(net.state_dict()) == names
    twin = copy.deepcopy(net)
    set_memory(twin, "reference")
    twin.load_state_dict(net.state_dict())
    assert modes(twin) == [("reference", 1)] * 5


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (
            lambda net: set_memory(net, "lean"),
            "set_memory: mode='lean' is unknown. Expected one of reference, fused, recompute. Pass one of these.",
        ),
        (
            lambda net: setattr(net, "memory", None),
            "set_memory: mode=None is unknown. Expected one of reference, fused, recompute. Pass one of these.",
        ),
        (
            lambda net: set_memory(net, "recompute", chunks=0),
            "set_memory: chunks=0 must be a whole number of at least 1.",
        ),
        (
            lambda net: set_memory(nn.Linear(1, 1), "fused"),
            "set_memory: Linear holds no layer and no neuron of this package. Pass a network of this package or a "
            "model with its layers, a model that dstsp.wrap changed, or one whose neurons are snntorch_smixer.LIF.",
        ),
        (
            lambda net: memory_mode(net.head, "fused").__enter__(),
            "memory_mode: ClassifierHead holds no layer and no neuron of this package. Pass a network of this package "
            "or a model with its layers, a model that dstsp.wrap changed, or one whose neurons are "
            "snntorch_smixer.LIF.",
        ),
    ],
    ids=["mode", "property", "chunks", "no layer", "context"],
)
def test_words_of_the_errors(firing_net, call, text):
    with pytest.raises(SettingError) as caught:
        call(firing_net(T=1, depth=1))
    assert str(caught.value) == text


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", PLACES)
def test_hooks_are_called(firing_net, place, kind):
    net, x = firing_net(T=1).train(), images().requires_grad_()
    want = ran(net, "reference", x)
    for mode in LEAN:
        hooked, calls = copy.deepcopy(net), []
        set_memory(hooked, mode)
        getattr(hooked.get_submodule(place), kind)(lambda *_, calls=calls: calls.append(1))
        out = hooked(x)
        assert torch.equal(out, want.out)
        torch.manual_seed(2)
        (out * torch.randn_like(out)).sum().backward()
        assert calls == [1], mode


def test_a_hook_costs_one_layer_its_lean_form(firing_net):
    net, x = firing_net(T=4), images()
    plain, lean = ran(net, "reference", x), ran(net, "recompute", x)
    handle = net.blocks[0].mlp.expand.linear.register_forward_hook(lambda *_: None)
    hooked = ran(net, "recompute", x)
    assert lean.saved < hooked.saved < 0.6 * plain.saved
    handle.remove()
    assert ran(net, "recompute", x).saved == lean.saved


def test_forward_hook_on_the_matrix(firing_net):
    net, x = firing_net(T=2), images()
    want = ran(net, "reference", x)
    calls = []
    net.blocks[1].mixer.w_m.register_forward_hook(lambda *_: calls.append(1))
    for mode in LEAN:
        calls.clear()
        assert_same(ran(net, mode, x), want)
        assert calls == [1], mode


def test_hooks_on_all_modules_are_called(firing_net):
    net, x = firing_net(T=2), images()
    for mode in LEAN:
        net.memory, calls = mode, []
        handle = nn.modules.module.register_module_forward_hook(
            lambda module, *_, calls=calls: calls.append(type(module).__name__)
        )
        try:
            net(x)
        finally:
            handle.remove()
        assert calls.count("LIF") == sum(isinstance(m, LIF) for m in net.modules())
        assert calls.count("Conv1d") == 2


@pytest.mark.parametrize("mode", LEAN)
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("merge", ["softmatch", "drop"])
def test_spike_cap(firing_net, merge, training, mode):
    net, x = firing_net(T=4).train(training), images(6)
    free = ran(net, "reference", x)
    net.dstsp = DSTSP(DSTSPConfig(ps=0.2, t=3, merge=merge, spike_cap=1), depth=2)
    assert_fires(net, x)
    want, got = ran(net, "reference", x), ran(net, mode, x)
    assert not torch.equal(want.out, free.out)
    assert_same(got, want)
    assert got.saved < want.saved  # the stem stays lean
