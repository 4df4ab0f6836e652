"""``only=`` names the blocks to touch, ``settings=`` holds all settings of the pruning; both travel with the model."""

from typing import Any

import pytest
import torch

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.errors import SettingError
from snntorch_smixer.patching.standins import SwappedAttention
from tests.fakes.kinds import Membranes, Net, TwoTokens, pictures
from tests.fakes.neurons import reset

X = pictures()


def made(**settings: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return dstsp.wrap(Net(depth=3).eval(), **{"ps": 0.3, "t": 1, "example_input": X, **settings})


def swapped(net: torch.nn.Module) -> list[str]:
    return [path for path, module in net.named_modules() if isinstance(module, SwappedAttention)]


@pytest.mark.parametrize(
    ("only", "found"),
    [
        (["blocks.1"], [1]),
        ("blocks.2", [2]),
        ([1, -1], [1, 2]),
        (2, [2]),
        (lambda name, module: name != "blocks.0" and module.fc1.in_features == 24, [1, 2]),
    ],
)
def test_only_some_blocks_are_touched(only: Any, found: list[int]):
    net, tokens = made(only=only), []
    assert swapped(net) == [f"blocks.{i}.attn" for i in found]
    assert net.dstsp.only == tuple(f"blocks.{i}" for i in found)
    assert str(net.dstsp.plan).count("not in only=") == 3 - len(found)
    for block in net.blocks:
        block.fc1.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[2]))
    reset(net)
    net(X)
    assert tokens == [36 if i < found[0] else 25 for i in range(3)]


def test_the_rates_are_those_of_the_blocks_that_are_touched():
    net, tokens = made(only=[1, 2], ps=[0.1, 0.5]), []
    for block in net.blocks:
        block.fc1.register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[2]))
    reset(net)
    net(X)
    assert tokens == [36, 32, 18]


@pytest.mark.parametrize("only", [[], ["blocks.7"], [5], ["head"], lambda *_: False])
def test_no_block_or_another_module_is_refused(only: Any):
    net = Net(depth=3).eval()
    for call in (dstsp.plan, dstsp.wrap):
        with pytest.raises(SettingError, match=r"expected some of blocks\.0, blocks\.1, blocks\.2, or their numbers"):
            call(net, only=only, example_input=X)
    assert not hasattr(net, "dstsp")


def test_a_net_that_loops_is_pruned_in_front_of_its_first_block():
    with pytest.raises(
        SettingError, match=r"leaves blocks\.0 out, but tokens .* can leave in front of that block alone\. Name it too"
    ):
        dstsp.wrap(Membranes().eval(), only=[1], example_input=X)


def test_networks_of_this_package_have_one_kind_of_block():
    with pytest.raises(SettingError, match=r"only=.* is for third-party models, and this is a SMixerNet"):
        dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), only=[0])


def test_settings_are_those_of_one_configuration():
    settings = dstsp.DSTSPConfig(ps=0.5, t=2, merge="drop", active="eval")
    net = made(ps=0.3, settings=settings)
    assert net.dstsp.settings == settings
    assert net.dstsp.plan.tokens == (36, 18)
    with pytest.raises(SettingError, match=r"got ps=0\.1, t=1 and settings with ps=0\.5, t=2"):
        made(ps=0.1, settings=settings)
    with pytest.raises(SettingError, match="got settings of type dict"):
        made(settings={"ps": 0.1})
    last = TwoTokens().eval()
    with pytest.raises(SettingError, match="merge='fuse' moves tokens"):
        dstsp.wrap(last, settings=dstsp.DSTSPConfig(merge="fuse"), example_input=X)
