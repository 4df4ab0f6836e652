"""Loading from folders and by name: equal outputs, and a named file and reason for everything that is wrong."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from snntorch_smixer import create_model, from_pretrained, load_pretrained
from snntorch_smixer.cards.card import Card
from snntorch_smixer.errors import CardError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo import hub
from tests.zoo.conftest import card_of


@pytest.fixture
def net(made, tmp_path):
    return made(tmp_path / "tiny", prune=DSTSPConfig(ps=0.4, t=2, merge="fuse"))


@pytest.fixture
def folder(net, tmp_path):
    return tmp_path / "tiny"


@pytest.fixture
def no_card(folder):
    (folder / "card.toml").unlink()
    return folder


def images():
    return torch.randn(4, 2, 16, 16)


def refused(folder) -> str:
    with pytest.raises(CardError) as caught:
        from_pretrained(folder)
    return str(caught.value)


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("with_card", [True, False])
def test_a_folder_gives_equal_outputs_in_evaluation_mode(net, folder, no_network, as_text, with_card):
    if not with_card:
        (folder / "card.toml").unlink()
    loaded, x = from_pretrained(str(folder) if as_text else folder), images()
    assert isinstance(loaded, SMixerNet)
    assert not any(module.training for module in loaded.modules())
    assert loaded.config == net.config
    assert loaded.card == (Card.load(folder) if with_card else None)
    expected = net(x)
    assert len(expected.unique(dim=0)) == 4
    assert torch.equal(loaded(x), expected)


def test_a_folder_by_a_relative_name(net, folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for name in ("tiny", "./tiny", "../" + folder.parent.name + "/tiny"):
        assert from_pretrained(name).config == net.config
    (folder.parent / "org").mkdir()
    folder.rename(folder.parent / "org" / "tiny")
    assert from_pretrained("org/tiny").config == net.config  # a folder wins over a repository


def test_a_shipped_name_gives_equal_outputs(net, own_zoo, save_model, no_network):
    save_model(net, own_zoo / "tiny")
    x = images()
    assert torch.equal(from_pretrained("tiny")(x), net(x))
    assert from_pretrained("tiny").card.license == "MIT"


def test_loading_draws_over_every_weight(net, folder):
    torch.manual_seed(1)
    first = from_pretrained(folder).state_dict()
    torch.manual_seed(2)
    second = from_pretrained(folder).state_dict()
    assert all(
        torch.equal(first[name], second[name]) and torch.equal(first[name], v) for name, v in net.state_dict().items()
    )


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file(folder, keep):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:keep])
    assert refused(folder) == (
        f"{path}: {len(whole[:keep])} bytes, the card of tiny says {len(whole)}; the file is truncated or another one. "
        "Get it again."
    )


@pytest.mark.parametrize("place", [0, 50, -1])
def test_a_flipped_byte(folder, place):
    path = folder / "model.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[place] ^= 0x10
    path.write_bytes(damaged)
    text = refused(folder)
    assert text.startswith(f"{path}: SHA-256 ")
    assert text.endswith("; the file is corrupt or another one. Get it again.")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_without_a_card(no_card, keep):
    path = no_card / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = refused(no_card)
    assert text.startswith(f"{path}: not a readable safetensors file (")
    assert text.endswith("). Get it again.")


def change_weights(folder, change):
    path = folder / "model.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    return path


@pytest.mark.parametrize(
    ("change", "number", "detail"),
    [
        (lambda s: s.update({"head.linear.bias": torch.zeros(7)}), 1, "head.linear.bias: expected (5,), got (7,)"),
        (lambda s: s.pop("head.linear.bias"), 1, "head.linear.bias: expected (5,), got None"),
        (lambda s: s.update({"extra": torch.zeros(2)}), 1, "extra: expected None, got (2,)"),
        (
            lambda s: s.update({"head.linear.weight": torch.zeros(16, 5), "extra": torch.zeros(2)}),
            2,
            "extra: expected None, got (2,)",
        ),
    ],
    ids=["shape", "missing", "extra", "two"],
)
def test_weights_of_another_network(no_card, change, number, detail):
    path = change_weights(no_card, change)
    assert refused(no_card) == (
        f"{path}: {number} tensors do not fit the configuration, first {detail}. Use the config.json that belongs to "
        "these weights."
    )


def test_nothing_is_left_half_loaded(no_card, firing_net):
    change_weights(no_card, lambda state: state.pop("head.linear.bias"))
    other = firing_net()
    before = {name: value.clone() for name, value in other.state_dict().items()}
    with pytest.raises(CardError, match="tensors do not fit the configuration"):
        load_pretrained(other, no_card)
    assert all(torch.equal(before[name], value) for name, value in other.state_dict().items())


def edit(folder, change):
    path = folder / "config.json"
    raw = json.loads(path.read_text())
    change(raw)
    path.write_text(json.dumps(raw))
    return path


def test_a_configuration_that_was_edited_is_found_by_its_hash(folder):
    path = edit(folder, lambda raw: raw["config"].update(beta=0.25))
    assert f"{path}: " in refused(folder)
    assert "the card of tiny says" in refused(folder)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda c: c.update(T=8), "the configuration has T=8, the card of tiny says 4. Use the files that belong toge"),
        (lambda c: c["prune"].update(ps=0.5), "the configuration has ps=0.5, the card of tiny says 0.4. "),
        (lambda c: c["prune"].update(t=1), "the configuration has t=1, the card of tiny says 2. "),
        (lambda c: c.update(in_channels=3), "the configuration has input_size=(3, 16, 16), the card of tiny says (2, "),
    ],
)
def test_a_card_without_hashes_is_compared_with_the_configuration(net, folder, change, what):
    card_of(net).save(folder)
    assert from_pretrained(folder).card.files == {}
    path = edit(folder, lambda raw: change(raw["config"]))
    assert refused(folder).startswith(f"{path}: {what}")


def test_weights_for_a_network_at_hand_are_compared_with_their_card_too(net, folder, firing_net):
    dataclasses.replace(card_of(net), T=9).save(folder)
    with pytest.raises(CardError, match="the card of tiny says 9"):
        load_pretrained(firing_net(), folder)


LATER = "format 2 is of a later release, this one reads up to 1. Run pip install -U snntorch-smixer."


def wrapped(raw, **settings):
    del raw["config"]["prune"]
    raw["wrapped"] = settings


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda raw: raw.update(format=2), LATER),
        (lambda raw: raw.update(format=0), "format=0, expected 1. It was not written by snntorch-smixer."),
        (lambda raw: raw.update(format="1"), "format='1', expected 1. "),
        (lambda raw: raw.update(format=True), "format=True, expected 1. "),
        (lambda raw: raw.pop("format"), "format=None, expected 1. "),
        (lambda raw: raw.update(architecture="bert"), "architecture 'bert' is unknown. Expected one of qkformer"),
        (lambda raw: raw.update(architecture=["smixer"]), "architecture ['smixer'] is unknown. "),
        (lambda raw: raw.update(auto_map={"AutoModel": "x.Y"}), "unknown key 'auto_map'. Restore the file."),
        (lambda raw: raw.update(config=[]), "SMixerConfig: expected a table, got []"),
        (lambda raw: raw["config"].update(detph=2), "SMixerConfig: unknown key 'detph'. Did you mean 'depth'?"),
        (lambda raw: raw["config"].update(dim=17), "SMixerConfig: dim=17 must be a multiple of 8 and of heads=2."),
        (lambda raw: raw["config"].update(dim=16.0), "SMixerConfig: dim=16.0 must be a whole number of at least 1."),
        (lambda raw: raw["config"].update(img_size=1.5), "SMixerConfig: img_size=1.5 must be 2 whole numbers"),
        (lambda raw: raw["config"].update(prune=[]), "DSTSPConfig: expected a table, got []"),
        (lambda raw: raw["config"]["prune"].update(ps=1.0), "DSSP: ps=1.0 is outside [0, 1). "),
        (lambda raw: raw["config"]["prune"].update(ps={"first": 0}), "Schedule.__init__() missing 1 required"),
        (lambda raw: wrapped(raw, swap="os"), "wrapped.swap='os' is no argument of wrap. Restore the file."),
        (lambda raw: wrapped(raw, how=1), "wrapped: unknown key 'how'. Known keys: swap, dstsp, only."),
        (
            lambda raw: raw.update(wrapped={"swap": False}),
            "prune and wrapped are both there, and a network is ",
        ),
    ],
)
def test_a_bad_configuration_is_refused_with_the_file(no_card, change, what):
    path = edit(no_card, change)
    assert refused(no_card).startswith(f"{path}: {what}")


def test_missing_files(folder):
    (folder / "model.safetensors").unlink()
    assert refused(folder) == (
        f"from_pretrained: {folder / 'model.safetensors'} does not exist. Train the model, or name another folder."
    )
    (folder / "config.json").unlink()
    assert refused(folder).startswith(f"from_pretrained: {folder / 'config.json'} does not exist. ")
    missing = folder / "no_such_folder"
    assert refused(missing).startswith(f"from_pretrained: {missing / 'config.json'} does not exist. ")


def test_a_folder_with_a_pickle_says_that_it_is_never_loaded(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    assert refused(folder) == (
        f"from_pretrained: {folder / 'model.safetensors'} does not exist. It holds pytorch_model.bin, a pickle, which "
        "is never loaded; see `smixer zoo convert`. Train the model, or name another folder."
    )


@pytest.mark.parametrize("ending", ["bin", "ckpt", "pickle", "pkl", "pt", "pth", "tar"])
def test_a_pickle_by_its_name_is_refused_unread(tmp_path, no_network, ending):
    for name in (f"weights.{ending}", f"./deep/er/weights.{ending}", tmp_path / f"weights.{ending}"):
        assert refused(name) == (
            f"from_pretrained: {name} is a pickle by its name, and pickles can run code when they are loaded. Only "
            "safetensors are loaded here; `smixer zoo convert` turns a checkpoint that you trust into a model."
        )


def test_the_first_thing_wrong_is_named_before_weights_are_read(folder, monkeypatch):
    monkeypatch.setattr(hub, "read_tensors", lambda path: pytest.fail("weights were read"))
    card = folder / "card.toml"
    text = card.read_text(encoding="utf-8")
    card.write_text(text.replace("license", "licence"), encoding="utf-8")
    assert refused(folder).startswith(f"{card}: card: unknown key 'licence'. ")
    card.unlink()
    edit(folder, lambda raw: raw["config"].update(depth=3))
    assert "tensors do not fit the configuration" in refused(folder)


def test_a_pretrained_network_has_its_mode_from_the_call(own_zoo, net, save_model):
    save_model(net, own_zoo / "tiny")
    assert create_model("tiny", pretrained=True).training
    assert not from_pretrained("tiny").training


def damage_a_neuron(state):
    key = [key for key in state if key.endswith("reset_mechanism_val")][-1]
    state[key] = torch.full_like(state[key], 7)


def test_a_buffer_that_a_neuron_refuses_leaves_the_network_as_it_was(no_card, firing_net):
    change_weights(no_card, damage_a_neuron)
    assert "of another network" in refused(no_card)
    net = firing_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CardError, match="of another network"):
        load_pretrained(net, no_card)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert net.card is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_load_leaves_the_network_as_it_was(folder, firing_net, error):
    def stop(module, keys):
        raise error

    net = firing_net()
    net.head.register_load_state_dict_post_hook(stop)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(CardError if error is RuntimeError else error):
        load_pretrained(net, folder)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("with_card", [True, False])
def test_what_was_checked_is_what_is_loaded(net, folder, firing_net, monkeypatch, with_card):
    """Somebody saves another network into the folder while the first one is being built."""
    if not with_card:
        (folder / "card.toml").unlink()

    def save_meanwhile(blueprint, changes=None, construct=hub.construct):
        firing_net(num_classes=3).save_pretrained(folder)
        return construct(blueprint, changes)

    monkeypatch.setattr(hub, "construct", save_meanwhile)
    loaded, x = from_pretrained(folder), images()
    assert torch.equal(loaded(x), net(x))


def test_a_file_that_cannot_be_read_is_a_card_error(no_card, monkeypatch):
    def refuse(path, *args, **settings):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("pathlib.Path.open", refuse)
    assert "cannot be read: " in refused(no_card)
