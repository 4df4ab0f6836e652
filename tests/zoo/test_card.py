"""Cards and configurations: read, written, and refused with the file's name when something is wrong."""

import dataclasses
import tomllib

import pytest

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.tables import read_toml
from snntorch_smixer.zoo.card import Card, Measured, load_config


@pytest.fixture
def folder(firing_net, save_model, tmp_path):
    return save_model(firing_net(prune=DSTSPConfig(t=None)), tmp_path / "tiny")


def edit(path, old, new):
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_a_card_is_read(folder):
    card = Card.load(folder)
    assert (card.name, card.dataset, card.license) == ("tiny", "noise", "MIT")
    assert (card.mean, card.std) == ((0.5, 0.25), (0.5, 1.0))
    assert card.classes == ("a", "b", "c", "d", "é")
    assert card.size_bytes == (folder / "weights.safetensors").stat().st_size
    assert card.measured == Measured(0.875, 8, 0.5, 2, 0, "fp32", 'train "tiny"', "torch 2")


def test_a_card_is_written_as_it_was_read(folder, tmp_path):
    card = Card.load(folder)
    Card.save(dataclasses.replace(card, summary='Quoted "é"\nin two lines'), tmp_path)
    again = Card.load(tmp_path)
    assert again.summary == 'Quoted "é"\nin two lines'
    assert dataclasses.replace(again, summary=card.summary) == card
    assert tomllib.loads((tmp_path / "card.toml").read_text(encoding="utf-8"))["measured"]["test_images"] == 8


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ('license = "MIT"\n', "", "card.toml", "missing keys ['license'], unknown keys []"),
        ('license = "MIT"', 'licence = "MIT"', "card.toml", "missing keys ['license'], unknown keys ['licence']"),
        ("epochs = 2\n", "", "card.toml [measured]", "missing keys ['epochs'], unknown keys []"),
        ("epochs = 2", "epochs = 2\nlr = 1", "card.toml [measured]", "missing keys [], unknown keys ['lr']"),
    ],
)
def test_missing_and_unknown_keys_are_refused(folder, old, new, where, what):
    edit(folder / "card.toml", old, new)
    with pytest.raises(CardError) as caught:
        Card.load(folder)
    assert str(caught.value) == f"{folder / where}: {what}. Restore the card."


def test_measured_must_be_a_table(folder):
    text = (folder / "card.toml").read_text(encoding="utf-8")
    (folder / "card.toml").write_text("measured = 3\n" + text[: text.index("[measured]")], encoding="utf-8")
    with pytest.raises(CardError) as caught:
        Card.load(folder)
    assert str(caught.value) == f"{folder / 'card.toml'} [measured]: expected a table, got 3. Restore the card."


def test_weights_are_recognised(folder):
    path = folder / "weights.safetensors"
    card = Card.load(folder)
    card.check_weights(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(CardError) as caught:
        card.check_weights(path)
    assert str(caught.value) == (
        f"{path}: {len(whole) - 1} bytes, the card of tiny says {len(whole)}; the file is truncated or another one. "
        "Get it again."
    )
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CardError) as caught:
        card.check_weights(path)
    assert str(caught.value).startswith(f"{path}: SHA-256 ")
    assert str(caught.value).endswith(
        f"the card of tiny says {card.sha256[:12]}...; the file is corrupt or another one. Get it again."
    )


def test_a_configuration_is_read(folder, firing_net):
    config = load_config(folder)
    assert config == firing_net(prune=DSTSPConfig(t=None)).config
    assert config != SMixerConfig()
    assert config.prune.t is None


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("dim = 16", "dim = 17", "SMixerConfig: dim=17 must be a multiple of 8 and of heads=2."),
        ("dim = 16", "dim = 16.0", "SMixerConfig: dim=16.0 must be a whole number of at least 1."),
        ("gamma = 2.5", "gamma = -1", "SMixerConfig: gamma=-1 must be a positive number."),
        ("beta = 0.5", 'beta = "x"', "SMixerConfig: beta='x' is outside [0, 1]. Pass the membrane decay per step."),
        ("depth = 2", "detph = 2", "SMixerConfig: unknown key 'detph'. Did you mean 'depth'?"),
        ("ps = 0.3", "ps = 1.0", "DSSP: ps=1.0 is outside [0, 1). Pass the share of tokens to drop, for example 0.3."),
        ('ranking = "low"', "ranking = 1", "DSTSP: ranking=1 is unknown. Expected one of low, high, random."),
        ("img_size = [16, 16]", "img_size = 16", "SMixerConfig: img_size=16 must be 2 whole numbers of at least 1."),
        ("img_size = [16, 16]", "img_size = [0, 0]", "SMixerConfig: img_size=(0, 0) must be 2 whole numbers"),
        ("[prune]", "[[prune]]", "SMixerConfig.prune: expected a table, got ["),
    ],
)
def test_a_bad_value_is_refused_with_the_file(folder, old, new, what):
    edit(folder / "config.toml", old, new)
    with pytest.raises(CardError) as caught:
        load_config(folder)
    assert str(caught.value).startswith(f"{folder / 'config.toml'}: {what}")


@pytest.mark.parametrize("load", [Card.load, load_config], ids=["card.toml", "config.toml"])
@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"name = \n", "not valid TOML: Invalid value (at line 1, column 8). Restore the file."),
        (b"name = 'a'\nname = 'b'\n", "not valid TOML: Cannot overwrite a value"),
        (b"\xff\xfe", "not valid TOML: 'utf-8' codec can't decode byte 0xff"),
        (None, "no such file. Restore it, or name another folder."),
    ],
    ids=["syntax", "twice", "no text", "missing"],
)
def test_files_that_cannot_be_read_are_refused(folder, load, content, what):
    path = folder / ("card.toml" if load == Card.load else "config.toml")
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CardError) as caught:
        load(folder)
    assert str(caught.value).startswith(f"{path}: {what}")


def test_toml_is_read_as_it_is(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('a = [1, 2.5]\n[b]\nc = "é"\n', encoding="utf-8")
    assert read_toml(path) == {"a": [1, 2.5], "b": {"c": "é"}}
