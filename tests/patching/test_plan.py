"""Planning: what would be done is listed, and nothing is touched."""

import copy
import dataclasses

import pytest
import torch
from torch import nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.models.config import CONFIGS
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.patching.record import Plan
from snntorch_smixer.patching.wrap import plan
from snntorch_smixer.pruning.pruner import DSTSPConfig


def test_it_lists_the_edit(firing_net):
    net = firing_net()
    count = sum(p.numel() for p in net.parameters())
    assert plan(net, ps=0.5, t=2) == Plan(
        model="SMixerNet",
        family="native",
        settings=DSTSPConfig(ps=0.5, t=2),
        steps=(4, 2),
        tokens=(16, 8),
        parameters=(count, count),
        depth=2,
        levels=None,
        keeps_grid=False,
        has_spikes=True,
        refusal="",
        edits=("dstsp: prunes behind the stem, T 4 -> 2, tokens 16 -> 8",),
    )


def test_it_prints_what_changes(firing_net):
    text = str(plan(firing_net(mixer="ssa"), ps=0.5, t=2))
    assert "tokens      16 -> 8 (50.0% dropped)" in text
    assert "steps       4 -> 2" in text
    assert "blocks.1.mixer: Q K^T V -> W_M, 16 x 16; Q and K dropped" in text


def test_defaults_are_those_of_the_paper():
    found = plan(SMixerNet(dataclasses.replace(CONFIGS["smixer-4-384"], dim=16, depth=1)))
    assert found.settings == DSTSPConfig()
    assert (found.steps, found.tokens) == ((4, 1), (64, 45))


def test_all_steps(firing_net):
    assert plan(firing_net(), t=None).steps == (4, 4)
    assert plan(firing_net(), t=4).steps == (4, 4)


def test_it_touches_nothing(firing_net):
    net = firing_net().train()
    twin, parts = copy.deepcopy(net), dict(net.named_modules())
    plan(net, ps=0.5)
    assert net.dstsp is None
    assert net.training
    assert dict(net.named_modules()) == parts
    assert net.config == twin.config
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())
    x = torch.randn(3, 2, 16, 16)
    assert torch.equal(net(x), twin(x))


def test_a_plan_is_immutable(firing_net):
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan(firing_net()).steps = (1, 1)


@pytest.mark.parametrize(
    ("model", "error", "text"),
    [
        (
            nn.Linear(2, 2),
            FamilyError,
            "wrap: no family matches Linear. Pass example_input=..., so that its forward can be looked at; or "
            "register a family of your own, see "
            "dstsp.register.",
        ),
        (None, SettingError, "wrap: t=5 is outside 1..4, the steps of this SMixerNet. Keep fewer."),
    ],
)
def test_it_raises_what_wrapping_raises(firing_net, model, error, text):
    with pytest.raises(error) as caught:
        plan(model or firing_net(), t=5)
    assert str(caught.value) == text
