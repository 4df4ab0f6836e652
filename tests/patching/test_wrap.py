"""Wrapping and unwrapping: the same as building the network with pruning, undone bit for bit, refused as a whole."""

import copy
import dataclasses
import pickle
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.layers.attention import SpikingSelfAttention
from snntorch_smixer.layers.mixer import mix_tokens
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.wrap import plan, unwrap, wrap
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig

SETTINGS = {"ps": 0.4, "t": 2, "merge": "fuse", "w_prime": "crop"}


def pruned(net: SMixerNet) -> SMixerNet:
    """Wrapped with SETTINGS: two are arguments, two are set afterwards."""
    wrap(net, ps=SETTINGS["ps"], t=SETTINGS["t"])
    net.dstsp.merge, net.dstsp.w_prime = SETTINGS["merge"], SETTINGS["w_prime"]
    return net


def images(batch: int = 5) -> Tensor:
    return torch.randn(batch, 2, 16, 16)


def test_it_wraps_in_place_and_returns_the_model(firing_net):
    net, x = firing_net(), images()
    before = net(x)
    assert wrap(net, ps=0.4, t=2) is net
    assert isinstance(net.dstsp, WrappedDSTSP)
    assert net.dstsp.settings == plan(unwrap(copy.deepcopy(net)), ps=0.4, t=2).settings
    assert net.features_and_kept(x)[0].shape == (2, 5, 10, 16)
    net.dstsp.merge = "fuse"
    assert net.features_and_kept(x)[0].shape == (2, 5, 11, 16)
    assert not torch.equal(net(x), before)


@pytest.mark.parametrize("training", [True, False])
def test_outputs_are_those_of_a_net_built_with_pruning(firing_net, training):
    net, x = firing_net(), images()
    config = dataclasses.replace(net.config, prune=DSTSPConfig(**SETTINGS))
    built = SMixerNet(config)
    built.load_state_dict(net.state_dict())
    pruned(net).train(training)
    expected = built.train(training)(x)
    assert len(expected.unique(dim=0)) == 5
    assert torch.equal(net(x), expected)


def test_the_defaults_of_wrap_are_those_of_the_configuration(firing_net):
    assert wrap(firing_net()).dstsp.settings == DSTSPConfig()


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_inherited(firing_net, training):
    net = wrap(firing_net().train(training))
    assert all(module.training is training for module in net.modules())
    kept = net.features_and_kept(images())[1]
    net.dstsp.active = "train"
    assert kept is not None
    assert (net.features_and_kept(images())[1] is not None) is training


def test_unwrapping_restores_bit_for_bit(firing_net):
    net, x = firing_net(), images()
    names, before, twin = dict(net.named_modules()), net(x), copy.deepcopy(net)
    pruned(net)
    assert not torch.equal(net(x), before)
    assert unwrap(net) is net
    assert dict(net.named_modules()) == names
    assert net.dstsp is None
    assert torch.equal(net(x), before)
    assert net.__dict__.keys() == twin.__dict__.keys()
    assert repr(net) == repr(twin)
    assert torch.equal(pruned(net)(x), pruned(twin)(x)), "it can be wrapped again"


def test_state_dict_keys_are_stable(firing_net):
    net = firing_net()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    assert [*wrap(net).state_dict()] == [*state]
    assert [name for name, _ in net.named_parameters()] == [name for name, _ in firing_net().named_parameters()]
    net.load_state_dict(state, strict=True)
    assert all(torch.equal(value, state[name]) for name, value in unwrap(net).state_dict().items())


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"])
def test_copies_of_a_wrapped_net(firing_net, clone):
    net, x = firing_net(), images()
    plain = net(x)
    pruned(net)
    net.dstsp.ps = 0.5
    twin = clone(net)
    fewer = net(x)
    assert not torch.equal(fewer, plain)
    assert torch.equal(twin(x), fewer)
    assert twin.dstsp.settings == net.dstsp.settings
    twin.dstsp.ps = 0.1
    assert net.dstsp.ps == 0.5
    assert torch.equal(unwrap(twin)(x), plain), "the undo record did not travel"
    assert torch.equal(net(x), fewer)


def test_settings_can_be_changed_afterwards(firing_net):
    net, x = wrap(firing_net(), ps=0.2, t=1), images()
    net.dstsp.ps, net.dstsp.t, net.dstsp.merge = SETTINGS["ps"], SETTINGS["t"], SETTINGS["merge"]
    net.dstsp.w_prime = SETTINGS["w_prime"]
    twin = pruned(unwrap(copy.deepcopy(net)))
    assert torch.equal(net(x), twin(x))


class Box(nn.Module):
    """A container as of data parallel training."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)


INSIDE = "wrap: got a SMixerNet inside {}. Wrap the net itself, at {!r}."
OUTER = "wrap: this {} is {}. Wrap the plain model first, then compile or distribute it."


def foreign(net: SMixerNet) -> nn.Module:
    return nn.Sequential(net, nn.ReLU())


@pytest.mark.parametrize(
    ("around", "settings", "error", "text"),
    [
        (
            foreign,
            {},
            FamilyError,
            INSIDE.format("Sequential", "0"),
        ),
        (partial(torch.compile, backend="eager"), {}, FamilyError, OUTER.format("OptimizedModule", "compiled")),
        (Box, {}, FamilyError, INSIDE.format("Box", "module")),
        (nn.DataParallel, {}, FamilyError, OUTER.format("DataParallel", "inside DataParallel")),
        (None, {"t": 5}, SettingError, "wrap: t=5 is outside 1..4, the steps of this SMixerNet. Keep fewer."),
        (
            None,
            {"t": 0},
            SettingError,
            "DSTSP: t=0 must be a whole number of at least 1, or None for no limit.",
        ),
        (
            None,
            {"ps": 1.0},
            SettingError,
            "DSSP: ps=1.0 is outside [0, 1). Pass the share of tokens to drop, for example 0.3.",
        ),
    ],
    ids=["foreign", "compiled", "container", "data parallel", "t", "no t", "ps"],
)
def test_refusals_leave_the_model_as_it_was(firing_net, around, settings, error, text):
    net, x = firing_net(), images()
    before, state = net(x), copy.deepcopy(net.state_dict())
    model = around(net) if around else net
    attributes = {*vars(model)}
    with pytest.raises(error) as caught:
        wrap(model, **settings)
    assert str(caught.value) == text
    assert net.dstsp is None
    assert {*vars(model)} == attributes
    assert getattr(model, "dstsp", None) is None
    assert torch.equal(net(x), before)
    assert all(torch.equal(state[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("built", [True, False])
def test_a_second_wrap_is_refused(firing_net, built):
    net = firing_net(prune=DSTSPConfig()) if built else wrap(firing_net())
    dstsp = net.dstsp
    with pytest.raises(FamilyError) as caught:
        wrap(net, ps=0.5)
    undo = "build it without pruning" if built else "unwrap it first"
    assert str(caught.value) == (
        "wrap: this SMixerNet prunes already (ps=0.3, t=1, merge=softmatch, ranking=low, w_prime=gather, "
        f"spike_cap=None, active=both, place=stem). Set model.dstsp.ps and model.dstsp.t instead, or {undo}."
    )
    assert net.dstsp is dstsp
    assert dstsp.settings == DSTSPConfig()


def test_attention_is_swapped_and_comes_back(firing_net):
    net, x = firing_net(mixer="ssa"), images()
    before, names, keys = net(x), dict(net.named_modules()), [*net.state_dict()]
    count = sum(p.numel() for p in net.parameters())
    planned = plan(net)
    wrap(net)
    assert not any(isinstance(module, SpikingSelfAttention) for module in net.modules())
    assert planned.parameters == (count, sum(p.numel() for p in net.parameters()))
    assert net.config.mixer == "smixer"
    assert not torch.equal(net(x), before)
    unwrap(net)
    assert torch.equal(net(x), before)
    assert dict(net.named_modules()) == names
    assert [*net.state_dict()] == keys
    assert net.config.mixer == "ssa"


def test_attention_stays_when_asked(firing_net):
    net = wrap(firing_net(mixer="ssa"), swap=False)
    assert sum(isinstance(module, SpikingSelfAttention) for module in net.modules()) == 2
    assert net.features_and_kept(images())[0].shape == (1, 5, 11, 16)


def test_a_fitted_matrix_is_closer_to_the_attention(firing_net):
    net, x = firing_net(mixer="ssa"), images(32)
    attention = net.blocks[0].mixer
    value, product = attention.attend(net.tokens(x))
    wrap(net, ps=0, t=None, calibrate=[x[:16], x[16:]])
    fitted = mix_tokens(net.blocks[0].mixer.w_m, value)
    residual = ((fitted - product).square().mean() / product.square().mean()).item()
    assert residual < 0.6
    assert residual < ((product.mean() - product).square().mean() / product.square().mean()).item()


def test_rates_per_block(firing_net):
    net = wrap(firing_net(), ps=[0.25, 0.5], t=2)
    seen = []
    for block in net.blocks:
        block.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[2]))
    net(images())
    assert seen == [12, 8]
    with pytest.raises(SettingError, match="falls from one block to the next"):
        net.dstsp.ps = (0.5, 0.25)
    with pytest.raises(SettingError, match="got 3 rates, expected 2, one per block"):
        net.dstsp.ps = (0.1, 0.2, 0.3)


@pytest.mark.parametrize("prune", [None, DSTSPConfig()], ids=["plain", "built with pruning"])
def test_what_was_not_wrapped_is_not_unwrapped(firing_net, prune):
    net = firing_net(prune=prune)
    dstsp = net.dstsp
    with pytest.raises(FamilyError) as caught:
        unwrap(net)
    assert str(caught.value) == (
        "unwrap: this SMixerNet was not wrapped, so there is nothing to undo. A net built with pruning stops with "
        "model.dstsp.active = 'never'."
    )
    assert net.dstsp is dstsp


def test_a_module_of_another_kind_is_not_unwrapped():
    with pytest.raises(FamilyError, match=r"^unwrap: this Linear was not wrapped"):
        unwrap(nn.Linear(2, 2))


def test_a_wrapped_net_trains(firing_net):
    net = pruned(firing_net().train())
    net(images()).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in net.parameters())
    assert isinstance(net.dstsp, DSTSP)
