"""Cards of networks that are saved or changed: true facts, and results only for the bytes that they belong to."""

import dataclasses

import pytest
import torch

from snntorch_smixer import create_model, from_pretrained, load_pretrained
from snntorch_smixer.cards.card import Card
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.saving import note_training
from snntorch_smixer.pruning.pruner import DSTSPConfig
from tests.zoo.conftest import MEASURED, REPORTED, card_of, files_of


def test_results_stay_with_the_weights_they_belong_to(firing_net, save_model, tmp_path):
    net = from_pretrained(save_model(firing_net(), tmp_path / "a"))
    assert (net.card.measured, net.card.reported) == ((MEASURED,), (REPORTED,))
    assert net.save_pretrained(tmp_path / "b") == from_pretrained(tmp_path / "a").card
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")


@pytest.mark.parametrize("change", ["weights", "settings"])
def test_results_are_dropped_with_the_weights_or_settings_they_belong_to(firing_net, save_model, tmp_path, change):
    folder = save_model(firing_net(prune=DSTSPConfig(t=None)), tmp_path / "a", repo_id="org/a", revision="0" * 40)
    net = from_pretrained(folder)
    if change == "weights":
        net.head.linear.bias.data[0] += 1
    else:
        net.dstsp.t = 2
    card = net.save_pretrained(tmp_path / "b")
    assert (card.measured, card.reported, card.repo_id, card.revision, card.trains) == ((), (), "", "", "")
    classes = () if change == "weights" else ("a", "b", "c", "d", "é")  # other weights may know other classes
    assert (card.classes, card.license) == (classes, "MIT")
    assert (card.T, card.t) == (4, 4 if change == "weights" else 2)
    assert card == Card.load(tmp_path / "b") == net.card
    assert card.files["model.safetensors"].size_bytes == (tmp_path / "b" / "model.safetensors").stat().st_size


def test_classes_are_dropped_with_the_head(firing_net, save_model, tmp_path):
    net = from_pretrained(save_model(firing_net(), tmp_path / "a"), num_classes=3)
    card = net.save_pretrained(tmp_path / "b")
    assert (card.classes, card.dataset) == ((), "")


def test_a_card_of_other_channels_has_no_mean_of_the_old_ones(made, tmp_path):
    made(tmp_path / "a")
    net = from_pretrained(tmp_path / "a", in_channels=1)
    card = net.save_pretrained(tmp_path / "b")
    assert (card.mean, card.std, card.input_size) == ((), (), (1, 16, 16))
    assert (card.classes, card.dataset) == ((), "")  # some weights are new
    with pytest.raises(CardError, match="no mean and std are known"):
        card.preprocess(torch.zeros(4, 1, 16, 16))


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"in_channels": 1}, {"img_size": (24, 16)}, {"T": 2}])
def test_a_network_that_is_loaded_with_changes_has_a_card_of_its_own(made, tmp_path, change):
    made(tmp_path / "a")
    card, net = Card.load(tmp_path / "a"), from_pretrained(tmp_path / "a", **change)
    assert card.measured
    assert (net.card.files, net.card.measured, net.card.reported, net.card.trains) == ({}, (), (), "")
    assert (net.card.T, net.card.input_size[1:]) == (net.config.T, net.config.img_size)
    assert net.card.parameters == sum(p.numel() for p in net.parameters())
    same = {key: getattr(net.config, key) for key in change} | {"num_classes": net.config.num_classes}
    net.save_pretrained(tmp_path / "b")
    assert from_pretrained(tmp_path / "b", **same).card == net.card  # nothing is changed by what it is already


def test_weights_put_into_another_network_bring_no_results(made, firing_net, tmp_path):
    made(tmp_path / "a")
    card = Card.load(tmp_path / "a")
    assert load_pretrained(firing_net(), tmp_path / "a").card == card
    pruned = load_pretrained(firing_net(prune=DSTSPConfig(ps=0.5, t=2)), tmp_path / "a")
    assert (pruned.card.measured, pruned.card.ps, pruned.card.t) == ((), 0.5, 2)
    assert pruned.card.name == card.name


def test_parameters_are_counted_when_a_network_is_saved(firing_net, tmp_path):
    net = firing_net()
    total = sum(p.numel() for p in net.parameters())
    assert net.save_pretrained(tmp_path / "a").parameters == total
    assert f"| parameters | {total:,} |" in (tmp_path / "a" / "README.md").read_text()
    told = dataclasses.replace(net.card, parameters=7)
    assert net.save_pretrained(tmp_path / "b", card=told).parameters == total


def test_a_card_that_is_passed_is_written_with_the_facts_of_the_network(firing_net, tmp_path):
    net = firing_net()
    card = dataclasses.replace(card_of(net), T=9, ps=0.5, t=3, input_size=(3, 8, 8))
    written = net.save_pretrained(tmp_path, card=card)
    assert (written.T, written.ps, written.t, written.input_size) == (4, 0.0, 4, (2, 16, 16))
    assert written.summary == "A network for tests."


@pytest.mark.parametrize(
    ("folder", "name"), [("my net", "my-net"), (".hidden", "hidden"), ("ä", "model"), ("run_3.1", "run_3.1")]
)
def test_a_card_that_nobody_wrote_is_named_after_the_folder(firing_net, tmp_path, folder, name):
    assert firing_net().save_pretrained(tmp_path / folder).name == name
    assert from_pretrained(tmp_path / folder).card.name == name


def test_a_folder_with_two_dots_in_its_name_can_be_saved_to(firing_net, tmp_path):
    assert firing_net().save_pretrained(tmp_path / "v1..2").name == "v1-2"


def step(net):
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.rand(2, 2, 16, 16)).square().sum().backward()
    optimizer.step()


CHANGES = {
    "an optimizer step": step,
    "a change in place": lambda net: net.head.linear.weight.data.add_(0.5),
    "another state dict": lambda net: net.load_state_dict({k: v + 0 * v for k, v in other(net).items()}),
    "a fresh head of as many classes": lambda net: net.reset_classifier(5),
    "half precision": lambda net: net.half(),
    "quantised weights": lambda net: net.head.linear.weight.data.round_(decimals=1),
    "running statistics": lambda net: net.train()(torch.rand(4, 2, 16, 16)),
}


def other(net):
    return type(net)(net.config).state_dict()


def says_nothing(card, folder):
    """True where a card, its file and its README know nothing of the training of "tiny"."""
    assert (card.dataset, card.dataset_text, card.classes, card.mean, card.std) == ("", "", (), (), ())
    assert (card.measured, card.reported, card.trains, card.repo_id, card.revision) == ((), (), "", "", "")
    assert (card.name, card.summary) == (folder.name, "smixer network.")
    text = (folder / "README.md").read_text() + (folder / "card.toml").read_text()
    return not [word for word in ("tiny", "noise", "A network for tests", "0.875", "é", "A paper") if word in text]


@pytest.mark.parametrize("change", CHANGES)
def test_other_weights_have_nothing_of_the_card_of_the_first(made, tmp_path, change):
    made(tmp_path / "tiny")
    net = from_pretrained(tmp_path / "tiny")
    CHANGES[change](net)
    card = net.save_pretrained(tmp_path / "b")
    assert says_nothing(card, tmp_path / "b")
    assert card.license == "MIT"  # it binds what is made of the weights
    assert from_pretrained(tmp_path / "b").card == card


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"in_channels": 3}, {"img_size": (24, 16)}])
@pytest.mark.parametrize("pretrained", [True, False])
def test_other_classes_channels_or_size_have_nothing_of_the_card(own_zoo, made, tmp_path, change, pretrained):
    made(own_zoo / "tiny")
    net = create_model("tiny", pretrained=pretrained, **change)
    assert (net.card.classes, net.card.dataset, net.card.mean, net.card.measured) == ((), "", (), ())
    assert says_nothing(net.save_pretrained(tmp_path / "b"), tmp_path / "b")


def test_an_untrained_network_is_not_published_as_the_trained_one(own_zoo, made, tmp_path):
    made(own_zoo / "tiny")
    net = create_model("tiny")
    assert (net.card.dataset, net.card.files, net.card.measured) == ("noise", {}, ())  # what it is to be trained on
    step(net)
    card = net.save_pretrained(tmp_path / "b")
    assert says_nothing(card, tmp_path / "b")
    assert card.license == ""


def test_other_settings_of_the_same_weights_keep_what_the_weights_know(made, tmp_path):
    made(tmp_path / "a")
    card = from_pretrained(tmp_path / "a", T=2).save_pretrained(tmp_path / "b")
    assert (card.name, card.classes, card.mean, card.dataset) == (
        "tiny",
        ("a", "b", "c", "d", "é"),
        (0.5, 0.25),
        "noise",
    )
    assert (card.T, card.measured, card.summary) == (2, (), "smixer network.")


def test_a_card_that_the_user_writes_is_about_what_is_saved(made, tmp_path):
    made(tmp_path / "a")
    net = from_pretrained(tmp_path / "a")
    step(net)
    net.card = card_of(net, classes=("v", "w", "x", "y", "z"))
    assert net.save_pretrained(tmp_path / "b").classes == ("v", "w", "x", "y", "z")
    step(net)
    assert net.save_pretrained(tmp_path / "c").classes == ()  # that card was about the weights before


def test_a_fresh_head_has_no_names_at_once(made, tmp_path):
    made(tmp_path / "a")
    net = from_pretrained(tmp_path / "a")
    net.reset_classifier(5)
    assert (net.card.classes, net.card.dataset, net.card.measured) == ((), "", ())


def test_training_writes_what_it_knows(made, tmp_path):
    made(tmp_path / "a")
    net = from_pretrained(tmp_path / "a")
    step(net)
    note_training(net, name="run 1", classes=("v", "w", "x", "y", "z"), norm=((0.5, 0.5), (0.25, 0.25)))
    card = net.save_pretrained(tmp_path / "b")
    assert (card.name, card.classes, card.mean, card.dataset) == ("run-1", ("v", "w", "x", "y", "z"), (0.5, 0.5), "")
    step(net)
    assert says_nothing(net.save_pretrained(tmp_path / "c"), tmp_path / "c")
