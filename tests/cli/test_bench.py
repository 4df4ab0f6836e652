"""``smixer bench``: the numbers of the library, side by side."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from snntorch_smixer import dstsp, from_pretrained
from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.cli import bench

NAME = "smixer-2-64-fmnist"


def net() -> nn.Module:
    """What the command is told to call."""
    return nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 2))


def broken() -> nn.Module:
    """Another one."""
    raise RuntimeError("it does not build")


def test_it_is_what_the_library_measures(smixer):
    words = ("bench", NAME, f"{NAME}-dstsp", "--batch", 2, "--rounds", 1, "--device", "cpu")
    shown = json.loads(smixer(*words, "--json").out)
    assert shown["device"] == "cpu"
    assert shown["input"] == "input: NOISE (2, 1, 28, 28)"
    x = torch.randn(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for row, name in zip(shown["models"], (NAME, f"{NAME}-dstsp"), strict=True):
        ours = from_pretrained(name)
        assert row["model"] == name
        assert row["dense_macs"] == dense_macs(ours, x)
        assert row["saved_bytes"] == saved_bytes(ours, x)
        assert row["images_per_s"] > 0


def test_the_seed_is_zero_unless_it_is_given(smixer, monkeypatch: pytest.MonkeyPatch):
    seen = []
    real = bench.load_batch
    monkeypatch.setattr(bench, "load_batch", lambda args, net: seen.append(real(args, net)[0]) or real(args, net))
    words = ("bench", f"{__name__}:net", "--shape", "3,6", "--rounds", 1)
    for seed in ((), ("--seed", 0), ("--seed", 1)):
        smixer(*words, *seed)
    torch.testing.assert_close(seen[0], seen[1], rtol=0, atol=0)
    assert not torch.equal(seen[0], seen[2])


def test_the_wrapped_twin(smixer, tmp_path: Path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(3, 1, 28, 28)))
    x = torch.from_numpy(np.load(tmp_path / "x.npy")).float()
    words = ("bench", NAME, "--ps", 0.5, "--t", 1, "--rounds", 1, "--input", tmp_path / "x.npy")
    plain, twin = json.loads(smixer(*words, "--json").out)["models"]
    assert (plain["model"], twin["model"]) == (NAME, f"{NAME} ps=0.5 t=1")
    assert twin["dense_macs"] == dense_macs(dstsp.wrap(from_pretrained(NAME), ps=0.5, t=1), x)
    assert twin["dense_macs"] < 0.6 * plain["dense_macs"]
    out = smixer(*words).out
    assert out.splitlines()[0] == f"{NAME}: trained weights"
    assert "input x.npy (3, 1, 28, 28); cpu" in out
    assert "kept for backward" in out


def test_twins_of_a_model_that_prunes_already(smixer):
    words = ("bench", f"{NAME}-dstsp", "--ps", 0, "--rounds", 1, "--batch", 1)
    plain, twin = json.loads(smixer(*words, "--json").out)["models"]
    assert twin["dense_macs"] > 1.5 * plain["dense_macs"], "nothing was switched off"


def test_models_of_the_user(smixer):
    (row,) = json.loads(smixer("bench", f"{__name__}:net", "--shape", "3,6", "--rounds", 1, "--json").out)["models"]
    assert row["dense_macs"] == 6 * 4 + 4 * 2


def test_the_table():
    rows = [
        {"model": "a", "dense_macs": 2e6, "saved_bytes": 2**20, "images_per_s": 10.0},
        {"model": "b", "dense_macs": 1e6, "saved_bytes": 2**19, "images_per_s": 25.0},
    ]
    lines = [line.split("  ") for line in bench.table(rows).splitlines()]
    cells = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert cells[1:] == [
        ["a", "2.00 M (100%)", "1.00 MiB (100%)", "10.0 (x1.00)"],
        ["b", "1.00 M (50%)", "0.50 MiB (50%)", "25.0 (x2.50)"],
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((NAME, "--t", 1), "bench: --t needs --ps"),
        ((NAME, "--rounds", 0), "--rounds 0: expected at least 1."),
        ((NAME, "--batch", 0), "--batch 0: expected at least one sample."),
        ((NAME, "smixer-4-384"), "bench: the models take other inputs: (4, 1, 28, 28), (4, 3, 32, 32)."),
        ((NAME, "--shape", "4,3,28,28"), f"bench: {NAME} does not run on input (4, 3, 28, 28): encode: expected 1"),
        ((NAME, "--shape", "4,x"), "--shape '4,x': expected whole numbers"),
        ((f"{__name__}:net", "--shape", "3,5"), "net does not run on input (3, 5): mat1 and mat2"),
        ((f"{__name__}:net",), "no input. Pass --input batch.npy, or --shape"),
        ((f"{__name__}:broken", "--shape", "3,5"), "broken': it does not build. Expected package.module:function"),
        ((NAME, "--ps", 1), "ps=1.0"),
        ((NAME, "--device", "gpu"), "--device gpu: Expected one of cpu"),
    ],
)
def test_mistakes(smixer, words: tuple[object, ...], text: str):
    assert text in smixer("bench", *words, code=2).err
