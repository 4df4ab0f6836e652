"""``smixer bench memory``, ``neuron``, ``train_step`` and the others: the benchmarks of this package."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from pathlib import Path
from typing import Any

from snntorch_smixer.bench.progress import Item, Progress
from snntorch_smixer.bench.report import result_table
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.suite_gpu import gpu
from snntorch_smixer.bench.suite_memory import memory
from snntorch_smixer.bench.suite_neuron import neuron
from snntorch_smixer.bench.suite_paper import paper
from snntorch_smixer.bench.suite_prune_place import prune_place
from snntorch_smixer.bench.suite_train_step import train_step
from snntorch_smixer.cli.printing import progress
from snntorch_smixer.errors import SettingError, check_choice
from snntorch_smixer.extras import need
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.viz.style import draw_bars, write_both


@dataclass(frozen=True)
class _Suite:
    """What a benchmark is about, its defaults and its chart.

    Attributes:
        text: for the help.
        takes: which of "configs" (networks by name), "batch", "rounds" and "progress" it has.
        batch: samples; None where the benchmark chooses.
        rounds: timed rounds.
        values: what the chart shows: keys, and what they are in words.
        group: keys that name a group of bars.
        series: keys that name the bars of a group, beside the value.
        unit: of the values.
    """

    text: str
    takes: tuple[str, ...]
    batch: int | None
    rounds: int
    values: Mapping[str, str]
    group: tuple[str, ...]
    series: tuple[str, ...]
    unit: str


_TIMED = ("configs", "batch", "rounds", "progress")

SUITES: Mapping[str, _Suite] = {
    "memory": _Suite(
        "bytes and kernels of a training step, by how the network is run",
        ("configs", "batch", "progress"),
        16,
        0,
        {"saved_mib": ""},
        ("variant",),
        ("pruning", "dtype"),
        "MiB per image, kept for the backward pass",
    ),
    "neuron": _Suite(
        "time and bytes of neurons against a loop over snntorch.Leaky; a minute",
        ("batch", "rounds", "progress"),
        32,
        10,
        {"train_ratio": "forward and backward", "forward_ratio": "forward without gradients"},
        ("part", "neuron", "tier"),
        (),
        "time, of a loop over snn.Leaky",
    ),
    "train_step": _Suite(
        "time of training steps against the plain loop; minutes",
        _TIMED,
        8,
        5,
        {"ratio": ""},
        ("variant", "tier"),
        ("pruning",),
        "time of a training step, of the plain loop without pruning",
    ),
    "prune_place": _Suite(
        "cost of dropping steps behind the stem or inside it; minutes",
        _TIMED,
        8,
        5,
        {"train_ratio": "training", "infer_ratio": "inference"},
        ("place",),
        (),
        "time, of the plain loop without pruning",
    ),
    "paper": _Suite(
        "the paper's table of operations and memory, counted",
        ("progress",),
        None,
        0,
        {"fused_mib": "fused", "recompute_mib": "recompute"},
        ("pruning",),
        (),
        "MiB of a training step",
    ),
    "gpu": _Suite(
        "training steps on a CUDA device: time, memory, kernels, bytes moved",
        ("configs", "batch", "rounds"),
        None,
        10,
        {"ratio": ""},
        ("variant", "tier", "batch"),
        ("pruning", "dtype"),
        "time of a training step, of the plain loop",
    ),
}
"""The benchmarks by the word that asks for them."""


def run_suite(args: argparse.Namespace) -> int:
    """Measure, write where asked to, print; what cannot be written is printed all the same."""
    name, *nets = args.models
    suite = SUITES[name]
    batch, rounds = _settings(name, suite, args)
    settings = {"configs": _configs(name, nets), "batch": batch, "rounds": rounds, "progress": _bars(args)}
    if args.out is not None:
        _check_out(name, args.out)
    result = _measure(name, {key: value for key, value in settings.items() if key in suite.takes})
    try:
        if args.out is not None:
            write(result, suite, args.out)
    finally:
        print(result.to_json() if args.json else result_table(result), end="" if args.json else "\n")
    return 0


def _check_out(name: str, folder: Path) -> None:
    """Make the folder; raise before minutes are spent on what cannot be drawn or written."""
    need("matplotlib.figure", extra="viz")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SettingError(
            f"bench {name}: --out {folder}: {error.strerror or error}. Expected a folder that can be written. Pass "
            "another one."
        ) from error


def _measure(name: str, settings: Mapping[str, Any]) -> BenchResult:
    benchmarks: Mapping[str, Callable[..., BenchResult]] = {
        "memory": memory,
        "neuron": neuron,
        "train_step": train_step,
        "prune_place": prune_place,
        "paper": paper,
        "gpu": gpu,
    }
    return benchmarks[name](**settings)


def _bars(args: argparse.Namespace) -> Progress:
    def watched(items: Sequence[Item], text: str) -> Iterable[Item]:
        return progress(items, args, text=text, unit="")

    return watched


def write(result: BenchResult, suite: _Suite, folder: Path) -> None:
    """Write ``NAME.json`` with everything, and ``NAME.png`` and ``NAME.svg`` with the rows of the first network.

    Raises:
        MissingExtra: matplotlib is not installed; the JSON file is there.
    """
    result.save(folder / f"{result.name}.json")
    write_both(chart(result, suite), folder / f"{result.name}.png")


WORDS = {
    "naive": "plain loop",
    "snntorch": "loop over snn.Leaky",
    "reference": "ours, nothing left out",
    "fused": "ours, fused",
    "recompute": "ours, recompute",
    "recompute_chunks": "ours, recompute in pieces",
    "none": "no pruning",
    "compile": "compiled",
    "stem": "behind the stem",
    "fp32": "",
    "eager": "",
}
"""What the benchmarks call what they run, in words."""


def chart(result: BenchResult, suite: _Suite) -> Any:
    """Grouped bars of the rows of the first network; what was not measured has no bar."""
    first = result.rows[0].get("net")
    groups: list[str] = []
    cells: dict[tuple[str, str], float] = {}
    for row in (row for row in result.rows if row.get("net") == first):
        group = _words(row, suite.group)
        groups += [] if group in groups else [group]
        for key, text in suite.values.items():
            value = row.get(key)
            if isinstance(value, (int, float)):
                cells[group, ", ".join(filter(None, (text, _words(row, suite.series))))] = float(value)
    names = list(dict.fromkeys(series for _, series in cells))
    series: dict[str, Sequence[float]] = {name: [cells.get((group, name), nan) for group in groups] for name in names}
    return draw_bars(groups, series, unit=suite.unit, title="" if first is None else str(first))


def _words(row: Mapping[str, Value], keys: Sequence[str]) -> str:
    words = (WORDS.get(str(row.get(key)), str(row.get(key))) for key in keys)
    return ", ".join(filter(None, words))


def _settings(name: str, suite: _Suite, args: argparse.Namespace) -> tuple[int | None, int]:
    for option in ("ps", "t", "place", "input", "shape", "seed", "device"):
        if getattr(args, option) is not None:
            raise SettingError(
                f"bench {name}: --{option} is for models. Leave it out; a benchmark has its own settings."
            )
    if args.rounds is not None and "rounds" not in suite.takes:
        raise SettingError(f"bench {name}: --rounds {args.rounds}: nothing is timed. Leave it out.")
    if args.batch is not None and "batch" not in suite.takes:
        raise SettingError(f"bench {name}: --batch {args.batch}: it has the paper's batches. Leave it out.")
    batch = suite.batch if args.batch is None else args.batch
    rounds = suite.rounds if args.rounds is None else args.rounds
    if batch is not None and batch < 2:
        raise SettingError(f"bench {name}: --batch {batch}: expected at least 2, BatchNorm needs more than one.")
    if "rounds" in suite.takes and rounds < 2:
        raise SettingError(f"bench {name}: --rounds {rounds}: expected at least 2.")
    return batch, rounds


def _configs(name: str, nets: list[str]) -> Mapping[str, SMixerConfig] | None:
    if nets and "configs" not in SUITES[name].takes:
        raise SettingError(f"bench {name}: got {nets[0]}, but it takes no networks. Leave them out.")
    for net in nets:
        check_choice(f"bench {name}", "network", net, tuple(CONFIGS))
    return {net: CONFIGS[net] for net in nets} or None
