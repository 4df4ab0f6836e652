"""The training example makes a model folder that loads, from a data set of a few images."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from snntorch_smixer import Card, from_pretrained
from snntorch_smixer.train.recipe import Recipe
from tests.cli.few_images import write_few_images

pytest.importorskip("accelerate")
SCRIPT = Path(__file__).parents[2] / "examples" / "01_train_fashion_mnist.py"


def test_it_makes_a_model_folder(tmp_path: Path):
    data, out, recipe = write_few_images(tmp_path / "data"), tmp_path / "out", tmp_path / "short.toml"
    recipe.write_text("epochs = 1\nbatch_size = 32\nseed = 3\n", encoding="utf-8")
    command = [sys.executable, SCRIPT, "--data", data, "--model", "smixer-2-64-fmnist-dstsp", "--out", out]
    run = subprocess.run(
        [*command, "--recipe", recipe, "--threads", "1"], capture_output=True, text=True, env=os.environ, check=False
    )
    assert run.returncode == 0, run.stderr
    assert "of 32 test images" in run.stdout
    assert "179,794 parameters" in run.stdout
    card = Card.load(out)
    assert [(m.seed, m.samples, m.dataset) for m in card.measured] == [(3, 32, "fashion-mnist")]
    assert Recipe.load(out / "recipe.toml") == Recipe(epochs=1, batch_size=32, seed=3)
    net = from_pretrained(out)
    assert net.dstsp is not None
    assert net.dstsp.ps == 0.3
