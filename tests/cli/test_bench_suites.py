"""``smixer bench memory``, ``neuron``, ``train_step``."""

import inspect
import json
import sys
from pathlib import Path

import pytest
import torch

from snntorch_smixer.bench.result import BenchResult
from snntorch_smixer.cli import bench_suites, printing
from snntorch_smixer.cli.main import main


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What the benchmark of training steps was called with; it measures nothing."""
    calls: list[object] = []

    def measure(configs, *, progress, **settings):
        calls.append((configs and sorted(configs), settings))
        assert [*progress([1, 2], "rounds")] == [1, 2]
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


def test_bars_are_drawn_on_a_terminal_unless_quiet(smixer, recorded, monkeypatch: pytest.MonkeyPatch):
    assert smixer("bench", "train_step").err == ""
    monkeypatch.setattr(printing, "shows_progress", lambda args: not args.quiet)
    assert "rounds: " in smixer("bench", "train_step").err
    assert smixer("bench", "train_step", "--quiet").err == ""


def test_what_is_written(smixer, recorded, tmp_path: Path):
    shown = smixer("bench", "train_step", "--json", "--out", tmp_path / "new").out
    assert [row["ratio"] for row in json.loads(shown)["rows"]] == [0.5, 0.25]
    assert (tmp_path / "new" / "train_step.json").read_text() == shown
    assert (tmp_path / "new" / "train_step.png").read_bytes().startswith(b"\x89PNG")


def test_the_folder_is_checked_before_anything_is_measured(smixer, recorded, tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    for folder, reason in ((tmp_path / "file", "File exists"), (tmp_path / "file" / "below", "Not a directory")):
        err = smixer("bench", "train_step", "--out", folder, code=2).err
        assert f"bench train_step: --out {folder}: {reason}. Expected a folder that can be written." in err
    assert recorded == []
    smixer("bench", "train_step", "--out", tmp_path / "a" / "b")
    names = sorted(path.name for path in (tmp_path / "a" / "b").iterdir())
    assert names == ["train_step.json", "train_step.png", "train_step.svg"]


def test_a_folder_without_the_right_to_write(smixer, recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(**where: Path) -> None:
        raise PermissionError(13, "Permission denied", str(where["dir"]))

    monkeypatch.setattr(bench_suites.tempfile, "TemporaryFile", refuse)  # the rights of a folder do not stop root
    assert f"--out {tmp_path}: Permission denied." in smixer("bench", "train_step", "--out", tmp_path, code=2).err
    assert recorded == []


def test_matplotlib_is_asked_for_before_anything_is_measured(smixer, recorded, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "matplotlib.figure", raising=False)
    assert "matplotlib" in smixer("bench", "train_step", "--out", tmp_path / "new", code=2).err
    assert recorded == []
    assert not (tmp_path / "new").exists()
    smixer("bench", "train_step")
    assert len(recorded) == 1, "without --out nothing is drawn"


def test_what_cannot_be_written_is_printed(recorded, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "train_step.json").mkdir()
    assert main(["bench", "train_step", "--out", str(tmp_path)]) == 2
    shown = capsys.readouterr()
    assert "train_step.json" in shown.err
    assert "0.25" in shown.out


def test_the_chart_shows_the_first_network_only(smixer, recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real, drawn = bench_suites.draw_bars, []
    monkeypatch.setattr(
        bench_suites, "draw_bars", lambda *args, **named: drawn.append((args, named)) or real(*args, **named)
    )
    smixer("bench", "train_step", "--out", tmp_path)
    (((groups, series), named),) = drawn
    assert named["title"] == "a"
    assert groups == ["ours, fused, compiled"]
    assert list(series.values()) == [[0.5]]


def test_the_table(smixer, monkeypatch: pytest.MonkeyPatch):
    real = bench_suites.neuron

    def tiny(*, batch: int, rounds: int, progress) -> BenchResult:
        return real(batch=batch, tokens=2, dim=8, rounds=rounds, compiled=False, progress=progress)

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
        lambda configs, *, batch, progress: calls.append((set(configs), batch)) or BenchResult("memory", [], ""),
    )
    smixer("bench", "memory", "smixer-2-256", "smixer-4-384")
    assert calls == [({"smixer-2-256", "smixer-4-384"}, 16)]


@pytest.mark.parametrize(
    ("name", "words", "wanted"),
    [
        ("prune_place", ("smixer-2-256",), {"configs": ["smixer-2-256"], "batch": 8, "rounds": 5}),
        ("paper", (), {}),
        ("gpu", (), {"configs": None, "batch": None, "rounds": 10}),
        ("gpu", ("--batch", 64, "--rounds", 3), {"configs": None, "batch": 64, "rounds": 3}),
    ],
)
def test_settings_of_the_others(smixer, monkeypatch: pytest.MonkeyPatch, name: str, words, wanted: dict):
    calls = []
    monkeypatch.setattr(bench_suites, name, lambda **settings: calls.append(settings) or BenchResult(name, [], ""))
    smixer("bench", name, *words)
    (got,) = calls
    assert callable(got.pop("progress", print))
    assert got | ({"configs": list(got["configs"])} if got.get("configs") else {}) == wanted


def test_every_benchmark_takes_its_settings_and_is_described(smixer):
    out = " ".join(smixer("bench", "--help").out.split())
    for name, suite in bench_suites.SUITES.items():
        taken = inspect.signature(getattr(bench_suites, name)).parameters
        assert set(suite.takes) <= set(taken), name
        assert f"{name} {suite.text}" in out


def test_a_chart_has_a_group_per_way_to_run_and_a_gap_where_nothing_was_measured():
    pytest.importorskip("matplotlib")
    rows = [
        {"net": "a", "variant": "naive", "tier": "eager", "pruning": "none", "ratio": 1.0},
        {"net": "a", "variant": "naive", "tier": "eager", "pruning": "ps=0.3 t=1", "ratio": 0.6},
        {"net": "a", "variant": "fused", "tier": "compile", "pruning": "none", "ratio": 0.8},
        {"net": "b", "variant": "reference", "tier": "eager", "pruning": "none", "ratio": 9.0},
    ]
    figure = bench_suites.chart(BenchResult("train_step", rows, ""), bench_suites.SUITES["train_step"])
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["plain loop", "ours, fused, compiled"]
    assert [bars.get_label() for bars in axes.containers] == ["no pruning", "ps=0.3 t=1"]
    assert [text.get_text() for text in axes.texts] == ["1", "0.8", "0.6", ""]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_cuda_device(smixer):
    assert "bench gpu: there is no CUDA device." in smixer("bench", "gpu", code=2).err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("memory", "smixer-4-385"), "bench memory"),
        (("memory", "--rounds", 3), "bench memory: --rounds 3: nothing is timed."),
        (("memory", "--ps", 0.3), "bench memory: --ps is for models."),
        (("memory", "--seed", 0), "bench memory: --seed is for models."),
        (("memory", "--place", "lif2"), "bench memory: --place is for models."),
        (("neuron", "--shape", "2,3"), "bench neuron: --shape is for models."),
        (("neuron", "smixer-4-384"), "bench neuron: got smixer-4-384, but it takes no networks."),
        (("paper", "smixer-4-384"), "bench paper: got smixer-4-384, but it takes no networks."),
        (("paper", "--batch", 3), "bench paper: --batch 3: it has the paper's batches."),
        (("paper", "--rounds", 3), "bench paper: --rounds 3: nothing is timed."),
        (("gpu", "--rounds", 1), "bench gpu: --rounds 1: expected at least 2."),
        (("neuron", "--batch", 1), "bench neuron: --batch 1: expected at least 2"),
        (("train_step", "--rounds", 1), "bench train_step: --rounds 1: expected at least 2."),
        (
            ("smixer-2-64-fmnist", "--out", "x"),
            "bench: --out is for the benchmarks memory, neuron, train_step, prune_place, ",
        ),
    ],
)
def test_mistakes(smixer, words: tuple[object, ...], text: str):
    assert text in smixer("bench", *words, code=2).err
