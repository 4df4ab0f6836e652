"""``smixer cost``: what it prints, what it refuses, and how."""

import csv
import json
import subprocess
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snntorch_smixer import cost, from_pretrained
from snntorch_smixer.cli.main import main
from snntorch_smixer.cost.profile import list_profiles

NAME = "smixer-2-64-fmnist"


def net() -> nn.Module:
    """What the command is told to call."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def no_net() -> str:
    return "no net"


@pytest.fixture
def batch(tmp_path: Path) -> Path:
    path = tmp_path / "batch.npy"
    np.save(path, np.random.default_rng(0).normal(size=(2, 1, 28, 28)))
    return path


def run(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main(["cost", *map(str, args)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert main(["cost", *map(str, args)]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Traceback" not in shown.err
    return shown.err


def test_the_report_is_that_of_the_library(capsys, batch: Path):
    x = torch.from_numpy(np.load(batch)).float()
    report = cost.estimate(from_pretrained(NAME), x, chip="loihi1")
    out = run(capsys, NAME, "--chip", "loihi1", "--input", batch)
    assert out == f"{NAME}: trained weights; input batch.npy (2, 1, 28, 28)\n{report}\n"


def test_untrained_models_and_noise_are_named(capsys):
    out = run(capsys, "smixer-4-384", "--batch", 1, "--fits", "--chip", "loihi2")
    assert "UNTRAINED" in out.splitlines()[0]
    assert "NOISE (1, 3, 32, 32)" in out.splitlines()[0]
    stem = (48 + 96 + 192) * 32**2 + 384 * 16**2 + (336 + 48) * 8**2
    neurons = stem + 4 * 64 * 384 * (3 + 4 + 1) + 10
    assert f"{neurons} neurons; by neurons alone {-(-neurons // 8192)} cores, 2 chips" in out


def test_formats(capsys, batch: Path, tmp_path: Path):
    parsed = json.loads(run(capsys, NAME, "--input", batch, "--format", "json"))
    assert parsed["model"] == "SMixerNet"
    rows = list(csv.DictReader(StringIO(run(capsys, NAME, "--input", batch, "--format", "csv"))))
    assert len(rows) == len(parsed["layers"])
    assert run(capsys, NAME, "--input", batch, "--format", "markdown", "--output", tmp_path / "cost.md") == ""
    assert "| layer |" in (tmp_path / "cost.md").read_text(encoding="utf-8")


def test_pruning_is_compared_with_the_net_as_it_is(capsys, batch: Path):
    out = run(capsys, NAME, "--input", batch, "--ps", 0.3, "--t", 1)
    assert "saving" in out
    assert "fewer time steps" in out


def test_assumptions_price_what_was_unpriced(capsys, batch: Path):
    bare = json.loads(run(capsys, NAME, "--input", batch, "--chip", "loihi1", "--format", "json"))
    args = ("--hops", 2, "--latency-ms", 1, "--format", "json")
    full = json.loads(run(capsys, NAME, "--input", batch, "--chip", "loihi1", *args))
    missing = {entry["price"] for entry in bare["without"]} - {entry["price"] for entry in full["without"]}
    assert missing == {"hop_pj", "static_mw"}
    assert full["static_power_pj"] == pytest.approx(104e6)


def test_models_of_the_user(capsys):
    out = run(capsys, f"{__name__}:net", "--shape", "3,6", "--format", "json")
    assert {layer["layer"]: layer["counts"].get("mac") for layer in json.loads(out)["layers"] if layer["geometry"]} == {
        "0": 3 * 6 * 4,
        "2": 3 * 4 * 2,
    }


def test_chips(capsys):
    assert [line.split()[0] for line in run(capsys, "chips").splitlines()] == list_profiles()


def test_w_prime(capsys):
    args = ("w-prime", "--ps", 0.3, "--chip", "loihi1", "--rate", 0.158, "--held", 0.85, "--batch", 1)
    out = run(capsys, "smixer-8-768", *args)
    assert "N = 196 to N' = 137" in out
    assert "without pruning: 37.3 M events" in out
    assert "G pays against S: never" in out
    cells = [line.split() for line in out.splitlines() if " KiB " in line]
    assert [(row[0], row[3]) for row in cells] == [("F", "154"), ("S", "110"), ("G", "110")]


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("smixer-4-385",), "no model is called 'smixer-4-385'. Did you mean smixer-4-384"),
        ((NAME, "--chip", "lohi1"), "no chip 'lohi1'. Did you mean loihi1"),
        (("nowhere.nets:build", "--shape", "1,2"), "No module named 'nowhere'"),
        ((f"{__name__}:no_net", "--shape", "1,2"), "got str, expected a torch.nn.Module"),
        ((f"{__name__}:net",), "no input. Pass --input batch.npy, or --shape"),
        ((f"{__name__}:net", "--shape", "3,x"), "--shape '3,x': expected whole numbers"),
        ((NAME, "--input", "pyproject.toml"), "no array of numbers"),
        ((NAME, "--input", "nothing.npy"), "nothing.npy"),
        ((NAME, "--t", 1), "--t needs --ps"),
        ((NAME, "w-prime"), "--ps None is outside [0, 1)"),
        ((f"{__name__}:net", "w-prime", "--shape", "3,6", "--ps", 0.3), "no token mixers"),
        ((NAME, "w-prime", "--ps", 0.3, "--chip", "speck"), "speck has no ac_pj"),
        ((NAME, "--hops", -1), "hops=-1.0 must be a finite number"),
        ((NAME, "--fits", "--chip", "akida"), "neurons of a akida core are not published"),
    ],
)
def test_mistakes(capsys, args: tuple[object, ...], text: str):
    assert text in refused(capsys, *args)


def test_python_dash_m_is_the_same_command():
    done = subprocess.run(
        [sys.executable, "-m", "snntorch_smixer", "cost", "chips"], capture_output=True, text=True, check=True
    )
    assert done.stdout.split()[0] == list_profiles()[0]
