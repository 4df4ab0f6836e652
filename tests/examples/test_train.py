"""The training example makes a model folder that loads, from a data set of a few images."""

import gzip
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from snntorch_smixer import from_pretrained
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.zoo.card import Card

pytest.importorskip("accelerate")
SCRIPT = Path(__file__).parents[2] / "examples" / "01_train_fashion_mnist.py"


def write_idx(path: Path, values: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes()))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    raw = tmp_path / "data" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, count in (("train", 64), ("t10k", 32)):
        write_idx(raw / f"{part}-images-idx3-ubyte.gz", draw.integers(256, size=(count, 28, 28), dtype=np.uint8))
        write_idx(raw / f"{part}-labels-idx1-ubyte.gz", draw.integers(10, size=count, dtype=np.uint8))
    return tmp_path / "data"


def test_it_makes_a_model_folder(data: Path, tmp_path: Path):
    recipe = tmp_path / "short.toml"
    recipe.write_text("epochs = 1\nbatch_size = 32\nseed = 3\n", encoding="utf-8")
    out = tmp_path / "out"
    command = [sys.executable, SCRIPT, "--data", data, "--model", "smixer-2-64-fmnist-dstsp", "--out", out]
    run = subprocess.run(
        [*command, "--recipe", recipe, "--threads", "1"], capture_output=True, text=True, env=os.environ, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "of 32 test images" in run.stdout
    card = Card.load(out)
    assert (card.measured.epochs, card.measured.seed, card.measured.test_images) == (1, 3, 32)
    assert Recipe.load(out / "recipe.toml") == Recipe(epochs=1, batch_size=32, seed=3)
    net = from_pretrained(out)
    assert net.dstsp is not None
    assert net.dstsp.ps == 0.3
