"""``smixer zoo push``: what is checked, what reaches the Hub, and how the zoo is pinned to it."""

import dataclasses
import json
import tomllib
from pathlib import Path

import pytest
from huggingface_hub import constants

from snntorch_smixer import Card, from_pretrained
from snntorch_smixer.cards.upload import Published
from snntorch_smixer.cli import push
from snntorch_smixer.zoo import registry


@pytest.fixture
def folder(tmp_path: Path, save_model, firing_net) -> Path:
    folder = save_model(firing_net(), tmp_path / "run")
    (folder / "recipe.toml").write_text("epochs = 2\n", encoding="utf-8")
    (folder / "state").mkdir()
    (folder / "state" / "optimizer.bin").write_bytes(b"a pickle")
    return folder


def test_it_is_on_the_hub(smixer, hub, folder: Path):
    out = smixer("zoo", "push", folder, "org/net", "--message", "First").out
    repo = hub.repos["org/net"]
    commit = repo.branches["main"]
    files = {name: content for name, content in repo.commits[commit].items() if name != ".gitattributes"}
    assert set(files) == {"config.json", "model.safetensors", "card.toml", "README.md", "recipe.toml"}
    card = Card.load(folder)
    assert (card.repo_id, card.revision) == ("org/net", "")
    assert files["card.toml"].decode() == card.to_toml()
    assert "org/net" in files["README.md"].decode()
    assert out.splitlines()[0] == f"{hub.endpoint}/org/net at {commit}"
    told = tomllib.loads(out.partition("(--pin writes it):")[2])
    pinned = Card.from_dict({**tomllib.loads(card.to_toml()), **told})
    assert pinned == card.pinned("org/net", commit)
    assert from_pretrained(f"org/net@{commit}").card.name == "tiny"


def test_pinning(smixer, hub, folder: Path, own_zoo: Path, save_model, firing_net, monkeypatch):
    theirs = save_model(firing_net(), own_zoo / "tiny", summary="The zoo's words.", files={}, measured=())
    (theirs / "model.safetensors").unlink()
    card = dataclasses.replace(Card.load(theirs), files={})
    card.save(theirs)
    out = smixer("zoo", "push", folder, "org/net", "--pin").out
    commit, pinned = hub.repos["org/net"].branches["main"], Card.load(theirs)
    assert "pinned; run smixer zoo cards" in out
    assert (pinned.repo_id, pinned.revision, pinned.summary) == ("org/net", commit, "The zoo's words.")
    assert (pinned.files, pinned.measured) == (Card.load(folder).files, Card.load(folder).measured)
    assert pinned.is_published
    assert from_pretrained("tiny").card == pinned


def test_a_broken_folder_is_a_finding(smixer, folder: Path, monkeypatch):
    monkeypatch.setattr(push, "push_folder", lambda *args, **rest: pytest.fail("it was uploaded"))
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    before = (folder / "card.toml").read_bytes()
    ran = smixer("zoo", "push", folder, "org/net", code=1)
    assert ran.out == ""
    assert ran.err.splitlines()[0] == f"smixer: {folder} is not uploaded:"
    assert "the card of tiny says" in ran.err.splitlines()[1]
    assert (folder / "card.toml").read_bytes() == before


def test_arguments_reach_the_library(smixer, folder: Path, monkeypatch):
    asked = []

    def upload(*args: object, **rest: object) -> Published:
        asked.append((args, rest))
        return Published("org/net", "a" * 40, "https://hub/org/net")

    monkeypatch.setattr(push, "push_folder", upload)
    assert smixer("zoo", "push", folder, "org/net", "--private").out.startswith(f"https://hub/org/net at {'a' * 40}\n")
    shown = json.loads(smixer("zoo", "push", folder, "org/net", "--private", "--json").out)
    assert (shown["repo_id"], shown["revision"], shown["pinned"]) == ("org/net", "a" * 40, None)
    assert shown["files"]["config.json"]["sha256"] == Card.load(folder).files["config.json"].sha256
    assert asked == 2 * [((folder, "org/net"), {"private": True, "message": "Upload model"})]


def test_pins_that_are_refused_before_the_upload(
    smixer, folder: Path, own_zoo: Path, save_model, firing_net, monkeypatch
):
    monkeypatch.setattr(push, "push_folder", lambda *args, **rest: pytest.fail("it was uploaded"))
    words = ("zoo", "push", folder, "org/net", "--pin")
    assert registry.configured() == []
    assert "push: --pin: the zoo has no folder tiny" in smixer(*words, code=2).err
    save_model(firing_net(depth=1), own_zoo / "tiny")
    assert "is not the configuration that the zoo has for tiny" in smixer(*words, code=2).err


def test_mistakes(smixer, folder: Path, tmp_path: Path, monkeypatch):
    def err(*words: object, code: int = 2) -> str:
        return smixer("zoo", "push", *words, code=code).err

    assert "push: 'net' is no repository. Expected org/name." in err(folder, "net")
    assert "card.toml: no such file" in err(tmp_path / "nowhere", "org/net", code=1)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "push: HF_HUB_OFFLINE is set, so nothing is uploaded." in err(folder, "org/net")


def test_the_hub_refuses(smixer, hub, folder: Path):
    hub.can_write = False
    assert "push: the Hub refused org/net" in smixer("zoo", "push", folder, "org/net", code=2).err
