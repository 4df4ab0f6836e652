"""The SpikingJelly example prints the summary and the accuracies that the page on wrapping shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("spikingjelly")
ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^(.*\S)\s+(\d+\.\d)%$", re.MULTILINE)


@pytest.fixture(scope="module")
def output() -> str:
    script = ROOT / "examples" / "02_wrap_spikingjelly.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def accuracies(output: str) -> dict[str, float]:
    return {name: float(value) for name, value in ROW.findall(output)}


def test_fitting_keeps_the_trained_net_working(accuracies: dict[str, float]):
    before = accuracies["unmodified, attention Q K^T V"]
    random, fitted = accuracies["swapped, random W_M"], accuracies["swapped, W_M fitted to 500 images"]
    assert before > 88
    assert fitted > before - 4
    assert fitted > random + 15


def test_fine_tuning_recovers_both(accuracies: dict[str, float]):
    for name in ("random W_M, one epoch of fine-tuning", "fitted W_M, one epoch of fine-tuning"):
        assert accuracies[name] > accuracies["unmodified, one epoch of fine-tuning"] - 2.5


def test_it_says_what_was_done(output: str):
    assert "tokens      49 -> 34 (30.6% dropped)" in output
    assert "steps       4 -> 1" in output
    assert "parameters  162,754 -> 165,066" in output
    assert "blocks.1.attn: Q K^T V -> W_M, 4 heads, 49 x 49" in output


def test_the_page_shows_these_numbers(accuracies: dict[str, float]):
    text = (ROOT / "docs" / "how-to" / "wrap-a-model.md").read_text(encoding="utf-8")
    shown = dict(re.findall(r"^\| ([^|]+?) \| (\d+\.\d)% \| \d+\.\d% \|$", text, re.MULTILINE))
    assert set(accuracies) <= set(shown)
    # Another machine rounds differently, and a spike more or less moves an image or two.
    assert all(abs(float(shown[name]) - value) < 1 for name, value in accuracies.items())
