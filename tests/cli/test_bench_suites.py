"""``smixer bench memory``, ``neuron``, ``train_step``."""

import json
from pathlib import Path

import pytest

from snntorch_smixer.bench.result import BenchResult
from snntorch_smixer.cli import bench_suites


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the benchmark of training steps was called with; it measures nothing."""
    calls: list[object] = []

    def measure(configs, **settings):
        calls.append((configs and sorted(configs), settings))
        rows = [
            {"net": net, "pruning": "none", "variant": "fused", "tier": "compile", "ratio": ratio}
            for net, ratio in (("a", 0.5), ("b", 0.25))
        ]
        return BenchResult("train_step", rows, "smixer bench train_step")

    monkeypatch.setattr(bench_suites, "train_step", measure)
    return calls


def test_settings(smixer, recorded):
    smixer("bench", "train_step")
    smixer("bench", "train_step", "smixer-4-384", "--batch", 3, "--rounds", 2)
    assert recorded == [
        (None, {"batch": 8, "rounds": 5}),
        (["smixer-4-384"], {"batch": 3, "rounds": 2}),
    ]


def test_what_is_written(smixer, recorded, tmp_path: Path):
    shown = smixer("bench", "train_step", "--json", "--out", tmp_path / "new").out
    assert [row["ratio"] for row in json.loads(shown)["rows"]] == [0.5, 0.25]
    assert (tmp_path / "new" / "train_step.json").read_text() == shown
    assert (tmp_path / "new" / "train_step.png").read_bytes().startswith(b"\x89PNG")


def test_the_chart_shows_the_first_network_only(smixer, recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    drawn = []
    monkeypatch.setattr(bench_suites, "bars", lambda result, path, **_: drawn.append((result.name, result.rows)))
    smixer("bench", "train_step", "--out", tmp_path)
    ((name, (row,)),) = drawn
    assert name == "train_step a"
    assert (row["label"], row["ratio"]) == ("fused, compile", 0.5)


def test_the_table(smixer, monkeypatch: pytest.MonkeyPatch):
    real = bench_suites.neuron

    def tiny(*, batch: int, rounds: int) -> BenchResult:
        return real(batch=batch, tokens=2, dim=8, rounds=rounds, compiled=False)

    monkeypatch.setattr(bench_suites, "neuron", tiny)
    lines = smixer("bench", "neuron", "--batch", 2, "--rounds", 2).out.splitlines()
    assert lines[0].split() == ["part", "neuron", "tier", "train_ratio", "forward_ratio", "saved_bytes", "goals"]
    assert lines[-1] == "smixer bench neuron --batch 2 --rounds 2"
    assert any("R5 train_ratio" in line for line in lines)


def test_memory_is_called_with_the_networks(smixer, monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(
        bench_suites,
        "memory",
        lambda configs, *, batch: calls.append((set(configs), batch)) or BenchResult("memory", [], ""),
    )
    smixer("bench", "memory", "smixer-2-256", "smixer-4-384")
    assert calls == [({"smixer-2-256", "smixer-4-384"}, 16)]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("memory", "smixer-4-385"), "bench memory"),
        (("memory", "--rounds", 3), "bench memory: --rounds 3: nothing is timed."),
        (("memory", "--ps", 0.3), "bench memory: --ps is for models."),
        (("neuron", "--shape", "2,3"), "bench neuron: --shape is for models."),
        (("neuron", "smixer-4-384"), "bench neuron: got smixer-4-384, but it measures neurons."),
        (("neuron", "--batch", 1), "bench neuron: --batch 1: expected at least 2"),
        (("train_step", "--rounds", 1), "bench train_step: --rounds 1: expected at least 2."),
        (("smixer-2-64-fmnist", "--out", "x"), "bench: --out is for the benchmarks memory, neuron, train_step."),
    ],
)
def test_mistakes(smixer, words: tuple[object, ...], text: str):
    assert text in smixer("bench", *words, code=2).err
