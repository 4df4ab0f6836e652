"""``smixer zoo convert``: a checkpoint of a published form becomes a folder that loads."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from snntorch_smixer import Card, from_pretrained
from snntorch_smixer.zoo.convert import convert
from tests.fakes.calibrate import images
from tests.zoo.upstream import published_stmixer

UPSTREAM = "tests.zoo.upstream:published_stmixer"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    save_file(published_stmixer().state_dict(), tmp_path / "theirs.safetensors")
    return tmp_path / "theirs.safetensors"


def test_it_is_the_network_that_the_library_makes(smixer, checkpoint: Path, tmp_path: Path):
    words = ("zoo", "convert", checkpoint, "--from", "stmixer", "--T", 4, "--upstream", UPSTREAM)
    words = (*words, "--out", tmp_path / "net")
    shown = json.loads(smixer(*words, "--json").out)
    theirs = published_stmixer()
    done = convert(theirs.state_dict(), "stmixer", T=4, upstream=theirs)
    assert shown["config"] == {"architecture": "smixer", **json.loads(json.dumps(done.config.to_dict()))}
    assert shown["parameters"] == sum(p.numel() for p in done.net.parameters())
    assert (shown["source"], shown["entry"], shown["dropped"]) == ("stmixer", "", list(done.dropped))
    assert shown["verified"].startswith("equal to STMixerV3 on random images in double precision")
    net, size = from_pretrained(tmp_path / "net"), done.config.img_size[0]
    with torch.no_grad():
        x = images(2, 0, size=size)
        assert torch.equal(net(x), done.net(x))
    card = Card.load(tmp_path / "net")
    assert (card.name, card.license) == ("net", "")
    assert card.summary.startswith("Converted from the stmixer checkpoint theirs.safetensors; equal to STMixerV3")
    assert smixer("zoo", "verify", tmp_path / "net").out.endswith(": ok\n")


def test_names_tell_the_source_and_nothing_is_written_unasked(smixer, checkpoint: Path, tmp_path: Path):
    out = smixer("zoo", "convert", checkpoint, "--T", 2).out
    assert out.startswith(f"{checkpoint}: stmixer, ")
    assert " T=2," in out
    assert "not verified: there was no published module" in out
    assert out.endswith("nothing written; pass --out\n")
    assert [path.name for path in tmp_path.iterdir()] == ["theirs.safetensors"]


def test_pickles_are_asked_for(smixer, tmp_path: Path):
    path = tmp_path / "theirs.pth"
    torch.save({"epoch": 3, "model": published_stmixer().state_dict()}, path)
    assert "--allow-pickle" in smixer("zoo", "convert", path, code=2).err
    assert f"{path}, entry model: stmixer" in smixer("zoo", "convert", path, "--allow-pickle").out


def test_mistakes(smixer, checkpoint: Path, tmp_path: Path):
    def err(*words: object) -> str:
        return smixer("zoo", "convert", *words, code=2).err

    assert "nowhere.pth: no such file" in err("nowhere.pth")
    assert "look like those of stmixer: convert with source 'stmixer'" in err(checkpoint, "--from", "qkformer")
    assert "--from 'stmixr' is unknown. Did you mean stmixer?" in err(checkpoint, "--from", "stmixr")
    assert "heads=0 must be a whole number" in err(checkpoint, "--heads", 0)
    assert "No module named 'nowhere'" in err(checkpoint, "--upstream", "nowhere:build")
    assert "not both in the checkpoint and in Linear" in err(checkpoint, "--upstream", f"{__name__}:other")
    save_file({"a": torch.zeros(1)}, tmp_path / "odd.safetensors")
    assert "its names look like none of stmixer, spikformer, qkformer, sdt-v3. Pass --from." in err(
        tmp_path / "odd.safetensors"
    )
    (tmp_path / "config.json").touch()
    assert f"zoo convert: {tmp_path / 'config.json'} exists." in err(checkpoint, "--out", tmp_path)


def other() -> torch.nn.Module:
    """Another model than that of the checkpoint."""
    return torch.nn.Linear(2, 2)
