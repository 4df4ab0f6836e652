"""Names of models: listing, building, overriding, and refusing what is unknown or unpublished."""

import dataclasses
import time

import pytest
import torch

from snntorch_smixer import create_model, from_pretrained, is_model, list_models
from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.models.config import CONFIGS
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo.registry import TWIN, model_blueprint, model_card, shipped, zoo_folder

NAMED = [*CONFIGS, *(name + TWIN for name in CONFIGS)]


@pytest.fixture
def tiny(own_zoo, made):
    """A zoo with one model whose weights are there, and one that is only configured."""
    net = made(own_zoo / "tiny", prune=DSTSPConfig())
    made(own_zoo / "tiny-untrained", prune=DSTSPConfig())
    (own_zoo / "tiny-untrained" / "model.safetensors").unlink()
    card = dataclasses.replace(model_card("tiny"), name="tiny-untrained", files={}, measured=())
    card = dataclasses.replace(card, repo_id="org/untrained", trains="smixer train tiny --epochs 9")
    card.save(own_zoo / "tiny-untrained")
    return net


def refused(name, load=from_pretrained):
    with pytest.raises(CardError) as caught:
        load(name)
    return str(caught.value)


def test_the_zoo_lies_beside_the_package():
    assert zoo_folder().is_dir()
    assert set(NAMED) <= set(list_models())
    assert {"smixer-2-64-fmnist", "smixer-2-64-fmnist-dstsp"} <= set(shipped())


def test_listing(tiny):
    smixer = [name for name in NAMED if name.startswith("smixer-8")]
    assert list_models("smixer-8*") == sorted(smixer)
    assert len(smixer) == 6
    assert list_models("tiny*") == ["tiny", "tiny-untrained"]
    assert list_models("nothing*") == []
    assert {*NAMED, "tiny", "tiny-untrained"} <= {*list_models()}
    assert list_models() == sorted(list_models())


def test_only_models_with_weights_are_pretrained(tiny):
    assert shipped() == ["tiny"]
    assert list_models(pretrained=True) == ["tiny"]
    assert list_models("smixer*", pretrained=True) == []


def test_published_models_are_pretrained_too(tiny, own_zoo):
    files = model_card("tiny").files
    card = dataclasses.replace(model_card("tiny-untrained"), files=files)
    card.save(own_zoo / "tiny-untrained")
    assert list_models(pretrained=True) == ["tiny"]  # no revision is pinned
    card.pinned("org/untrained", "a" * 40).save(own_zoo / "tiny-untrained")
    assert list_models(pretrained=True) == ["tiny", "tiny-untrained"]
    assert shipped() == ["tiny"]


def test_is_model(tiny):
    assert is_model("tiny")
    assert is_model("smixer-4-384-dstsp")
    assert not is_model("smixer-4-385")
    assert not is_model("org/tiny")


def test_configurations_by_name(tiny):
    assert model_blueprint("smixer-4-384").config is CONFIGS["smixer-4-384"]
    twin = dataclasses.replace(CONFIGS["smixer-4-384"], prune=DSTSPConfig())
    assert model_blueprint("smixer-4-384-dstsp").config == twin
    assert model_blueprint("tiny").config == model_blueprint("tiny-untrained").config == tiny.config


def test_an_untrained_model(tiny, no_network):
    net = create_model("tiny-untrained")
    assert net.training
    assert net.config == tiny.config
    assert [*net.state_dict()] == [*tiny.state_dict()]
    assert not torch.equal(net.head.linear.weight, tiny.head.linear.weight)
    assert net.card.name == "tiny-untrained"


def test_a_pretrained_model(tiny):
    net, x = create_model("tiny", pretrained=True), torch.randn(4, 2, 16, 16)
    assert net.training
    expected = tiny(x)
    assert len(expected.unique(dim=0)) == 4
    assert torch.equal(net.eval()(x), expected)


@pytest.mark.parametrize("pretrained", [True, False])
@pytest.mark.parametrize(
    ("changes", "frames"),
    [
        ({"num_classes": 3}, (2, 2, 16, 16)),
        ({"num_classes": 0}, (2, 2, 16, 16)),
        ({"in_channels": 1}, (2, 1, 16, 16)),
        ({"img_size": (24, 16)}, (2, 2, 24, 16)),
        ({"T": 6}, (6, 2, 2, 16, 16)),
        ({"num_classes": 3, "in_channels": 1, "T": 2}, (2, 2, 1, 16, 16)),
    ],
)
def test_overrides(tiny, changes, frames, pretrained):
    net = create_model("tiny", pretrained=pretrained, **changes)
    assert net.config == dataclasses.replace(tiny.config, **changes)
    assert net(torch.randn(frames)).shape == (2, changes.get("num_classes", 5) or 16)


def test_what_the_weights_have_may_be_named(tiny):
    assert create_model("tiny", pretrained=True, num_classes=5, in_channels=2).config == tiny.config


def test_fewer_steps_than_are_kept_are_refused(own_zoo, made):
    made(own_zoo / "tiny", prune=DSTSPConfig(t=3))
    for pretrained in (True, False):
        with pytest.raises(SettingError, match=r"^SMixerConfig: prune.t=3 is outside 1..T=2"):
            create_model("tiny", pretrained=pretrained, T=2)


@pytest.mark.parametrize("load", [create_model, from_pretrained])
def test_unknown_names_are_refused_with_close_ones(tiny, no_network, load):
    wanted = "zoo: no model is called 'smixer-4-38'. Did you mean smixer-4-384, smixer-8-384, smixer-10-384?"
    assert refused("smixer-4-38", load) == wanted
    assert refused("tinny", load) == "zoo: no model is called 'tinny'. Did you mean tiny?"
    assert refused("resnet", load).startswith("zoo: no model is called 'resnet'. See list_models()")


def test_a_name_without_weights_says_what_is_missing_and_what_to_run(tiny, own_zoo, no_network):
    began = time.perf_counter()
    assert refused("tiny-untrained") == (
        f"from_pretrained: nobody has published weights of tiny-untrained yet. Its card, "
        f"{own_zoo / 'tiny-untrained' / 'card.toml'}, names no pinned revision of org/untrained and no SHA-256 of "
        "model.safetensors. To train them: smixer train tiny --epochs 9. To publish them: smixer zoo push "
        "runs/tiny-untrained org/untrained. create_model('tiny-untrained') builds the network untrained."
    )
    assert time.perf_counter() - began < 1
    assert refused("tiny-untrained", lambda name: create_model(name, pretrained=True)).startswith("from_pretrained: n")


def test_a_card_that_names_no_command_gets_one(tiny, own_zoo, no_network):
    card = dataclasses.replace(model_card("tiny-untrained"), trains="", repo_id="")
    card.save(own_zoo / "tiny-untrained")
    text = refused("tiny-untrained")
    assert "names no repository and no pinned revision and no SHA-256 of model.safetensors. " in text
    assert "To train them: smixer train tiny-untrained --data DATA. " in text
    assert "To publish them: smixer zoo push runs/tiny-untrained org/tiny-untrained. " in text


def test_only_what_is_missing_is_said_to_be_missing(tiny, own_zoo, no_network):
    dataclasses.replace(model_card("tiny-untrained"), files=model_card("tiny").files).save(own_zoo / "tiny-untrained")
    assert ", names no pinned revision of org/untrained. To train them: " in refused("tiny-untrained")


def test_an_architecture_names_its_trainings(own_zoo, save_model, no_network):
    net = create_model("smixer-2-256", num_classes=5, img_size=(16, 16))
    save_model(net, own_zoo / "gestures", name="gestures")
    assert refused("smixer-2-256") == (
        "from_pretrained: smixer-2-256 is an architecture, weights belong to a data set. Pass one of gestures; "
        "create_model('smixer-2-256') builds it untrained."
    )


@pytest.mark.parametrize("name", ["smixer-4-384", "smixer-8-768-dstsp"])
def test_an_architecture_that_nobody_trained_is_not_said_to_be_unknown(own_zoo, no_network, name):
    assert refused(name) == (
        f"from_pretrained: {name} is an architecture, and nobody has trained it for the zoo. See "
        f"list_models(pretrained=True) for weights. create_model('{name}') builds it untrained; `smixer train {name} "
        "--data DATA --dataset ID --recipe FILE` trains it."
    )


@pytest.mark.parametrize(
    "name", ["../outside", "tiny/../tiny", "a/b/tiny", "./a", "..", "", "tiny/", "a/b@", "@", "a@b"]
)
@pytest.mark.parametrize("load", [create_model, from_pretrained])
def test_a_name_is_no_path(own_zoo, made, tmp_path, monkeypatch, no_network, name, load):
    for folder in (own_zoo / "tiny", own_zoo.parent / "outside"):
        made(folder, prune=DSTSPConfig())
    (tmp_path / "here" / "deep").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here" / "deep")
    if name == ".." and load is from_pretrained:
        assert refused(name).startswith("from_pretrained: ../config.json does not exist. ")
    else:
        assert refused(name, load).startswith(f"zoo: no model is called {name!r}. ")


def test_a_folder_that_happens_to_lie_here_is_not_taken_for_the_model(tiny, tmp_path, monkeypatch):
    (tmp_path / "here" / "tiny").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    assert torch.equal(create_model("tiny", pretrained=True).head.linear.weight, tiny.head.linear.weight)


def test_cards_by_name(tiny):
    assert model_card("tiny").classes == ("a", "b", "c", "d", "é")
    assert refused("smixer-4-384", model_card) == (
        "model_card: 'smixer-4-384' has no card; there are cards of tiny, tiny-untrained."
    )
