"""Names of models: listing, building, overriding, and refusing what is unknown."""

import dataclasses

import pytest
import torch

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.config import CONFIGS
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo import registry
from snntorch_smixer.zoo.registry import create_model, list_models, model_card, model_config, shipped, zoo_folder

NAMED = [*CONFIGS, *(name + "-dstsp" for name in CONFIGS)]


@pytest.fixture
def tiny(firing_net, own_zoo, save_model):
    """A zoo with one model whose weights are there, and one that is only configured."""
    net = firing_net(prune=DSTSPConfig())
    save_model(net, own_zoo / "tiny")
    (save_model(net, own_zoo / "tiny-untrained") / "weights.safetensors").unlink()
    return net


@pytest.fixture
def no_building(monkeypatch):
    """Fails the test when a network is built."""
    monkeypatch.setattr(registry, "SMixerNet", lambda config: pytest.fail("a network was built"))


def test_the_zoo_lies_beside_the_package():
    assert zoo_folder().is_dir()
    assert set(NAMED) <= set(list_models())
    for name in list_models(pretrained=True):
        assert (zoo_folder() / name / "weights.safetensors").is_file()
        assert model_config(name) == SMixerNet(model_config(name)).config


def test_listing(tiny):
    assert list_models() == sorted([*NAMED, "tiny", "tiny-untrained"])
    assert list_models("smixer-8*") == [
        "smixer-8-384",
        "smixer-8-384-dstsp",
        "smixer-8-512",
        "smixer-8-512-dstsp",
        "smixer-8-768",
        "smixer-8-768-dstsp",
    ]
    assert list_models("*-384") == ["smixer-10-384", "smixer-4-384", "smixer-8-384"]
    assert list_models("tiny*") == ["tiny", "tiny-untrained"]
    assert list_models("nothing*") == []


def test_only_models_with_weights_are_pretrained(tiny):
    assert shipped() == ["tiny"]
    assert list_models(pretrained=True) == ["tiny"]
    assert list_models("smixer*", pretrained=True) == []


def test_configurations_by_name(tiny):
    assert model_config("smixer-4-384") is CONFIGS["smixer-4-384"]
    assert model_config("smixer-4-384-dstsp") == dataclasses.replace(CONFIGS["smixer-4-384"], prune=DSTSPConfig())
    assert model_config("tiny") == model_config("tiny-untrained") == tiny.config


def test_every_twin_prunes_with_the_defaults():
    for name in CONFIGS:
        assert model_config(name + "-dstsp").prune == DSTSPConfig()


def test_an_untrained_model(tiny):
    net = create_model("tiny-untrained")
    assert net.training
    assert net.config == tiny.config
    assert [*net.state_dict()] == [*tiny.state_dict()]
    assert not torch.equal(net.head.linear.weight, tiny.head.linear.weight)


def test_a_pretrained_model(tiny):
    net, x = create_model("tiny", pretrained=True), torch.randn(4, 2, 16, 16)
    assert net.training
    expected = tiny(x)
    assert len(expected.unique(dim=0)) == 4
    assert torch.equal(net.eval()(x), expected)


@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"num_classes": 3}, (2, 2, 16, 16)),
        ({"in_channels": 1}, (2, 1, 16, 16)),
        ({"T": 6}, (6, 2, 2, 16, 16)),
        ({"num_classes": 3, "in_channels": 1, "T": 2}, (2, 2, 1, 16, 16)),
    ],
)
def test_overrides(tiny, changes, frames):
    net = create_model("tiny", **changes)
    assert net.config == dataclasses.replace(tiny.config, **changes)
    assert net(torch.randn(frames)).shape == (2, changes.get("num_classes", 5))


def test_pretrained_weights_serve_another_number_of_steps(tiny):
    net = create_model("tiny", pretrained=True, T=6)
    assert net.config.T == 6
    assert torch.equal(net.head.linear.weight, tiny.head.linear.weight)


def test_what_the_weights_have_may_be_named(tiny):
    assert create_model("tiny", pretrained=True, num_classes=5, in_channels=2).config == tiny.config


@pytest.mark.parametrize(("key", "value", "has"), [("num_classes", 3, 5), ("in_channels", 1, 2)])
def test_weights_of_another_shape_are_refused(tiny, no_building, key, value, has):
    with pytest.raises(CardError) as caught:
        create_model("tiny", pretrained=True, **{key: value})
    assert str(caught.value) == (
        f"create_model: the weights of tiny have {key}={has}, got {key}={value}. Leave it out, or set pretrained=False."
    )


@pytest.mark.parametrize("changes", [{"num_classes": 0}, {"T": 0}, {"in_channels": -1}])
def test_overrides_are_checked(tiny, no_building, changes):
    [(key, value)] = changes.items()
    with pytest.raises(SettingError, match=rf"^SMixerConfig: {key}={value} must be a whole number of at least 1"):
        create_model("tiny", **changes)


def test_fewer_steps_than_are_kept_are_refused(own_zoo, firing_net, save_model, no_building):
    save_model(firing_net(prune=DSTSPConfig(t=3)), own_zoo / "tiny")
    with pytest.raises(SettingError, match=r"^SMixerConfig: prune.t=3 is outside 1..T=2"):
        create_model("tiny", T=2)


@pytest.mark.parametrize("build", [create_model, lambda name: create_model(name, pretrained=True)])
def test_unknown_names_are_refused_with_close_ones(tiny, no_building, build):
    with pytest.raises(CardError) as caught:
        build("smixer-4-38")
    assert str(caught.value).startswith("zoo: no model is called 'smixer-4-38'. Did you mean smixer-4-384, smixer-")
    with pytest.raises(CardError) as caught:
        build("resnet")
    assert str(caught.value) == "zoo: no model is called 'resnet'. See list_models()."


@pytest.mark.parametrize("name", ["smixer-4-384", "smixer-4-384-dstsp", "tiny-untrained"])
def test_known_names_without_weights_say_what_to_do(tiny, no_building, name):
    with pytest.raises(CardError) as caught:
        create_model(name, pretrained=True)
    assert str(caught.value) == (
        f"zoo: no weights of {name} are shipped. With weights: tiny. create_model({name!r}) builds it untrained."
    )


def test_an_empty_zoo_says_none(own_zoo, no_building):
    with pytest.raises(CardError, match=r"With weights: none\. create_model"):
        create_model("smixer-4-384", pretrained=True)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize("name", ["../outside", "tiny/../tiny", "a/tiny", "./tiny", "/", "..", "", "tiny/"])
def test_a_name_is_no_path(tiny, own_zoo, save_model, no_building, monkeypatch, name, pretrained):
    save_model(tiny, own_zoo.parent / "outside")
    save_model(tiny, own_zoo / "a" / "tiny")
    monkeypatch.chdir(own_zoo)
    monkeypatch.setattr(registry, "load_config", lambda folder: pytest.fail(f"{folder} was read"))
    with pytest.raises(CardError) as caught:
        create_model(name, pretrained=pretrained)
    assert str(caught.value).startswith(f"zoo: no model is called {name!r}. ")


def test_a_folder_that_happens_to_lie_here_is_not_taken_for_the_model(tiny, tmp_path, monkeypatch):
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert torch.equal(create_model("tiny", pretrained=True).head.linear.weight, tiny.head.linear.weight)


def test_cards_by_name(tiny):
    assert model_card("tiny").classes == ("a", "b", "c", "d", "é")
    with pytest.raises(CardError) as caught:
        model_card("smixer-4-384")
    assert str(caught.value) == "model_card: 'smixer-4-384' is not shipped; there are cards of tiny."
