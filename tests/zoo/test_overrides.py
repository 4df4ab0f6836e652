"""Settings by keyword in `create_model` and `from_pretrained`, and the other conveniences that timm's users know."""

import dataclasses

import pytest
import torch
from torch import nn

from snntorch_smixer import create_model, dstsp, from_pretrained, load_pretrained, memory_mode, set_memory
from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.memory import memory_of
from snntorch_smixer.models.architectures import ARCHITECTURES
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo.hub import Overrides

NAME = "smixer-2-64-fmnist"


def test_every_field_of_every_configuration_can_be_asked_for():
    fields = {field.name for config, _ in ARCHITECTURES.values() for field in dataclasses.fields(config)}
    assert set(Overrides.__annotations__) == fields - {"num_classes", "in_channels", "img_size", "T"} | {"in_chans"}


def test_fields_replace_those_of_the_name():
    net = create_model("smixer-4-384", dim=32, heads=2, depth=1, strides=[1, 1, 1, 2, 4], beta=0.75, img_size=16)
    c = net.config
    assert (c.dim, c.heads, c.depth, c.strides, c.beta, c.img_size) == (32, 2, 1, (1, 1, 1, 2, 4), 0.75, (16, 16))
    assert net(torch.zeros(1, 3, 16, 16)).shape == (1, 10)
    assert create_model("sdt-v3-5m", dims=(8, 16, 32, 48), depths=(1, 1)).config.dims == (8, 16, 32, 48)


def test_none_of_the_pruning_is_a_value_and_of_all_others_the_default():
    assert create_model("smixer-4-384-dstsp", dim=32, depth=1, prune=None).dstsp is None
    assert create_model("smixer-4-384-dstsp", dim=32, depth=None).config.depth == 4
    assert create_model("smixer-4-384", dim=32, depth=1, prune=DSTSPConfig(ps=0.5)).dstsp.ps == 0.5


def test_in_chans_is_another_name_of_in_channels():
    assert create_model("smixer-4-384", dim=32, depth=1, in_chans=1).config.in_channels == 1
    assert from_pretrained(NAME, in_chans=3).config.in_channels == 3
    assert create_model("smixer-4-384", dim=32, depth=1, in_chans=2, in_channels=2).config.in_channels == 2
    with pytest.raises(SettingError, match="create_model: got in_channels=1 and in_chans=3, two names of one setting"):
        create_model("smixer-4-384", in_channels=1, in_chans=3)


@pytest.mark.parametrize("build", [create_model, from_pretrained])
def test_one_number_is_a_square(build):
    assert build(NAME, img_size=20).config.img_size == (20, 20)


@pytest.mark.parametrize("settings", [{"pretrained": False}, {"pretrained": True}], ids=["untrained", "trained"])
def test_unknown_settings_are_refused_with_a_close_match(settings):
    with pytest.raises(SettingError, match=r"^SMixerConfig: unknown setting 'depht'. Did you mean 'depth'\?$"):
        create_model(NAME, depht=3, **settings)
    with pytest.raises(SettingError, match=r"^SMixerConfig: unknown setting 'levels'. Known settings: img_size, "):
        create_model(NAME, levels=3, **settings)


@pytest.mark.parametrize(
    "change",
    [{"dim": 32}, {"depth": 1}, {"heads": 2}, {"mlp_ratio": 2.0}, {"mixer": "ssa"}, {"strides": [1, 1, 2, 1, 2]}],
)
def test_weights_are_not_loaded_into_another_shape(change):
    [key] = change
    for build in (lambda: from_pretrained(NAME, **change), lambda: create_model(NAME, pretrained=True, **change)):
        with pytest.raises(SettingError, match=rf"SMixerConfig: the weights are made for {key}=.*Build it untrained: "):
            build()


@pytest.mark.parametrize("name", ["spikformer-4-384", "qkformer-4-384"])
def test_weights_of_the_same_shapes_and_other_heads_are_not_loaded(name, tmp_path):
    settings = {"dim": 32, "img_size": 16, "T": 1}
    torch.manual_seed(0)
    create_model(name, heads=2, **settings).save_pretrained(tmp_path)
    net = create_model(name, heads=4, **settings)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    with pytest.raises(
        CardError, match=r"these weights are made for heads=2, the network has 4. Build it with heads=2"
    ):
        load_pretrained(net, tmp_path)
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    load_pretrained(create_model(name, heads=2, **settings), tmp_path)


def test_settings_that_weights_do_not_depend_on_change_with_weights():
    net, plain = from_pretrained(NAME, beta=0.25, dim=64, prune=DSTSPConfig(ps=0.5, t=1)), from_pretrained(NAME)
    assert net.config.beta == 0.25
    assert net.dstsp.ps == 0.5
    assert torch.equal(net.head.linear.weight, plain.head.linear.weight)
    assert net.card.measured == (), "the results are those of other settings"
    assert plain.card.measured


def test_adjustable_fields_change_no_shape():
    for config, network in ARCHITECTURES.values():
        assert set(config.adjustable) <= {field.name for field in dataclasses.fields(config)}, network


@pytest.mark.parametrize("name", ["smixer-4-384", "spikformer-4-384", "qkformer-4-384", "sdt-v3-5m"])
def test_the_classifier_and_its_classes(name):
    small = {"dims": (8, 16, 32, 48), "depths": (1, 1), "img_size": 32} if name == "sdt-v3-5m" else {"dim": 96}
    small |= {"heads": 4} if name == "smixer-4-384" else {}
    net = create_model(name, num_classes=7, **small)
    head = net.get_classifier()
    assert isinstance(head, nn.Linear)
    assert (head.out_features, net.num_classes) == (7, 7)
    net.reset_classifier(3)
    assert (net.get_classifier().out_features, net.num_classes) == (3, 3)
    net.reset_classifier(0)
    assert isinstance(net.get_classifier(), nn.Identity)
    assert net.num_classes == 0


def test_checkpointing_is_the_mode_recompute():
    net = create_model(NAME)
    net.set_grad_checkpointing()
    assert memory_of(net) == "recompute"
    net.set_grad_checkpointing(False)
    assert memory_of(net) == "fused"
    set_memory(net, "reference")
    net.set_grad_checkpointing(enable=False)
    assert memory_of(net) == "reference", "what does not checkpoint stays as it is"
    with memory_mode(net, "fused"):
        net.set_grad_checkpointing()
    assert memory_of(net) == "reference"


def test_checkpointing_reaches_a_wrapped_network():
    net = dstsp.wrap(
        create_model("spikformer-4-384", dim=24, heads=2, depth=1, T=2), example_input=torch.rand(1, 3, 32, 32)
    )
    net.set_grad_checkpointing()
    assert memory_of(net) == "recompute"
