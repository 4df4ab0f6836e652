"""The cost example prints what the documentation shows."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("spikingjelly")
ROOT = Path(__file__).parents[2]
TOTAL = re.compile(r"(\d+\.?\d*) uJ to (\d+\.?\d*) uJ per sample, saving .*\((\d+\.\d)%\)")


@pytest.fixture(scope="module")
def output() -> str:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "04_estimate_cost.py"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_page_shows_these_numbers(output: str):
    text = (ROOT / "docs" / "how-to" / "estimate-cost.md").read_text(encoding="utf-8")
    shown = re.findall(r"^\| .* \| (\d+\.?\d*) uJ \| (\d+\.?\d*) uJ \| (\d+\.\d)% \|$", text, re.MULTILINE)
    assert len(shown) == 2
    for page, ours in zip(shown, TOTAL.findall(output), strict=True):
        # The stem's sums differ in the last bit between CPUs, which moves a few spikes.
        assert [float(v) for v in page] == pytest.approx([float(v) for v in ours], rel=0.01, abs=0.2)


def test_the_readme_shows_these_savings(output: str):
    text = (ROOT / "README.md").read_text(encoding="utf-8").replace("\n", " ")
    shown = re.search(r"DSTSP saves (\d+\.\d)% of the energy, `W_M` for attention (\d+\.\d)%", text)
    assert shown is not None
    assert [float(v) for v in shown.groups()] == pytest.approx([float(v[2]) for v in TOTAL.findall(output)], abs=0.2)


def test_attention_multiplies_spikes_and_the_mixer_does_not(output: str):
    after = [float(v) for v in re.findall(r"after, per image:.*act_act (\d+\.\d) k", output)]
    before = [float(v) for v in re.findall(r"before, per image:.*act_act (\d+\.\d) k", output)]
    assert before[0] == after[1] == 0
    assert before[1] > 100
    assert after[0] > 0, "ranking and merging tokens multiplies activations"
