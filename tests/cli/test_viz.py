"""``smixer viz``: the picture that the library draws, of images as they are stored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from snntorch_smixer import from_pretrained
from snntorch_smixer.cli import viz
from snntorch_smixer.viz.tokens import trace_pruning

pytest.importorskip("matplotlib")
NAME = "smixer-2-64-fmnist"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    path = tmp_path / "images.npy"
    np.save(path, np.random.default_rng(0).integers(256, size=(3, 28, 28), dtype=np.uint8))
    return path


def test_it_writes_a_picture(smixer, images: Path, tmp_path: Path):
    out = tmp_path / "a.png"
    ran = smixer("viz", f"{NAME}-dstsp", "--input", images, "--output", out)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert ran.out == f"{NAME}-dstsp: trained weights\n{out}: 3 images, 69.4% of the tokens and 1 steps kept\n"


def test_what_is_drawn(smixer, images: Path, tmp_path: Path, monkeypatch):
    drawn = []

    def draw(*args: object) -> object:
        drawn.append(args)
        return real(*args)

    real = viz.draw_pruning
    monkeypatch.setattr(viz, "draw_pruning", draw)
    smixer("viz", NAME, "--input", images, "--ps", 0.5, "--t", 2, "--output", tmp_path / "a.png")
    (shown, trace, titles), raw = drawn[0], torch.from_numpy(np.load(images)).unsqueeze(1)
    assert torch.equal(shown, raw)
    net = from_pretrained(NAME)
    x = net.card.preprocess(raw)
    net = viz.pruned(net, viz.argparse.Namespace(ps=0.5, t=2, place=None))
    expected = trace_pruning(net, x)
    assert torch.equal(trace.kept, expected.kept)
    assert torch.equal(trace.steps, expected.steps)
    with torch.no_grad():
        assert titles == [net.card.classes[k] for k in net(x).argmax(1)]


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((3, 28, 28)), "float64 (3, 28, 28), expected uint8 (B, C, H, W) or (B, H, W)"),
        (np.zeros((28, 28), np.uint8), "uint8 (28, 28), expected uint8 (B, C, H, W)"),
        (np.zeros((17, 28, 28), np.uint8), "17 images, a picture has 1 to 16"),
        (np.zeros((0, 28, 28), np.uint8), "0 images, a picture has 1 to 16"),
        (np.zeros((1, 3, 28, 28), np.uint8), "expected 1 channels of 28 x 28"),
        (np.array(["a"]), "no array of numbers"),
    ],
)
def test_images_that_are_none(smixer, tmp_path: Path, array: np.ndarray, text: str):
    np.save(tmp_path / "x.npy", array)
    words = ("viz", f"{NAME}-dstsp", "--input", tmp_path / "x.npy", "--output", tmp_path / "a.png")
    assert text in smixer(*words, code=2).err
    assert not (tmp_path / "a.png").exists()


def test_mistakes(smixer, images: Path, tmp_path: Path):
    def err(*words: object) -> str:
        return smixer("viz", *words, code=2).err

    assert "this network prunes nothing here" in err(NAME, "--input", images)
    assert "viz: --t needs --ps" in err(NAME, "--input", images, "--t", 1)
    assert "nothing.npy" in err(NAME, "--input", tmp_path / "nothing.npy")
    assert "prunes nothing here" in err("tests.cli.test_bench:net", "--input", images)
    assert "--what cost needs images" in err(NAME, "--what", "cost")
    assert "Pass --ps and --t" in err(NAME, "--what", "comparison", "--input", images)
    assert "one .npy file" in err(NAME, "--input", images, images)
    (tmp_path / "a.png").write_bytes(b"none")
    assert "no readable picture" in err(NAME, "--input", tmp_path / "a.png")
    picture = ("--output", tmp_path / "a.xyz")
    assert "Format 'xyz' is not supported" in err(f"{NAME}-dstsp", "--input", images, *picture)
    assert "no-folder" in err(f"{NAME}-dstsp", "--input", images, "--output", tmp_path / "no-folder" / "a.png")


@pytest.mark.parametrize("what", ["weights", "rates", "cost", "comparison"])
def test_each_picture(smixer, images: Path, tmp_path: Path, what: str):
    words = () if what == "weights" else ("--input", images)
    ran = smixer("viz", f"{NAME}-dstsp", "--what", what, *words, "--out", tmp_path / "a.svg", "--json")
    assert json.loads(ran.out)["what"] == what
    assert "<svg" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_picture_files_are_brought_to_the_size_of_the_model(smixer, tmp_path: Path):
    for name, mode in (("a.png", "L"), ("b.jpg", "RGB")):
        Image.new(mode, (90, 60), 200).save(tmp_path / name)
    words = ("viz", f"{NAME}-dstsp", "--input", tmp_path / "a.png", tmp_path / "b.jpg", "--out", tmp_path / "c.png")
    assert "2 images" in smixer(*words).out


def test_a_third_party_model(smixer, tmp_path: Path):
    pytest.importorskip("spikingjelly")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(256, size=(2, 1, 28, 28), dtype=np.uint8))
    words = ("viz", f"{__name__}:spikformer", "--input", tmp_path / "x.npy", "--ps", 0.3, "--t", 1)
    assert "1 steps kept" in smixer(*words, "--out", tmp_path / "a.png").out


def spikformer() -> nn.Module:
    from spikingjelly.activation_based.model.spikformer import Spikformer

    torch.manual_seed(0)
    sizes = {"img_size_h": 28, "img_size_w": 28, "patch_size": 4, "in_channels": 1, "num_classes": 10}
    return Spikformer(T=4, embed_dims=16, num_heads=2, depths=1, **sizes)
