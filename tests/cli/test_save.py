"""``smixer zoo save``: a model as a folder that loads."""

import json
from pathlib import Path

import pytest
import torch

from snntorch_smixer import Card, create_model, from_pretrained

NAME = "smixer-2-64-fmnist"


def test_a_trained_model(smixer, tmp_path: Path):
    out = smixer("zoo", "save", NAME, tmp_path / "net").out
    net, ours = from_pretrained(tmp_path / "net"), from_pretrained(NAME)
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in net.state_dict().items())
    assert net.card == ours.card
    assert out.splitlines()[0] == f"{tmp_path / 'net'}: {NAME}, trained weights"
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["config.json", "model.safetensors"]
    assert all(record.sha256 in out for record in net.card.files.values())


def test_json(smixer, tmp_path: Path):
    shown = json.loads(smixer("zoo", "save", NAME, tmp_path, "--json").out)
    assert (shown["folder"], shown["model"], shown["trained"]) == (str(tmp_path), NAME, True)
    assert shown["files"]["config.json"]["sha256"] == Card.load(tmp_path).files["config.json"].sha256


def test_changes(smixer, tmp_path: Path):
    changes = ("--num-classes", 5, "--in-channels", 3, "--img-size", 32, 24, "--T", 2)
    smixer("zoo", "save", NAME, tmp_path / "net", *changes)
    c = from_pretrained(tmp_path / "net").config
    assert (c.num_classes, c.in_channels, c.img_size, c.T) == (5, 3, (32, 24), 2)
    card = Card.load(tmp_path / "net")
    assert (card.measured, card.input_size) == ((), (3, 32, 24))


def test_an_architecture_is_untrained_and_seeded(smixer, tmp_path: Path):
    assert "UNTRAINED" in smixer("zoo", "save", "smixer-2-256", tmp_path / "net", "--seed", 3).out
    net = from_pretrained(tmp_path / "net")
    torch.manual_seed(3)
    ours = create_model("smixer-2-256")
    assert all(torch.equal(value, ours.state_dict()[key]) for key, value in net.state_dict().items())


def test_nothing_is_replaced_unasked(smixer, tmp_path: Path):
    smixer("zoo", "save", NAME, tmp_path)
    err = smixer("zoo", "save", NAME, tmp_path, "--T", 2, code=2).err
    assert f"zoo save: {tmp_path / 'config.json'} exists. Name another folder, or pass --force." in err
    assert from_pretrained(tmp_path).config.T == 4
    smixer("zoo", "save", NAME, tmp_path, "--T", 2, "--force")
    assert from_pretrained(tmp_path).config.T == 2


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("smixer-4-385",), "no model is called 'smixer-4-385'"),
        ((NAME, "--img-size", 30, 30), "img_size=(30, 30) is no multiple"),
        ((NAME, "--T", 0), "T=0 must be a whole number"),
        (("org/nothing",), "org/nothing at main is not in the cache"),
    ],
)
def test_mistakes(smixer, tmp_path: Path, words: tuple[object, ...], text: str):
    name, *rest = words
    assert text in smixer("zoo", "save", name, tmp_path / "net", *rest, code=2).err
    assert not (tmp_path / "net").exists()
