"""``smixer bench memory``, ``neuron``, ``train_step`` and the others: the benchmarks of this package."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from snntorch_smixer.bench.chart import bars
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


@dataclass(frozen=True)
class _Suite:
    """What a benchmark is about, its defaults and its chart.

    Attributes:
        text: for the help.
        takes: which of "configs" (networks by name), "batch", "rounds" and "progress" it has.
        batch: samples; None where the benchmark chooses.
        rounds: timed rounds.
        value: key of what the chart shows.
        label: keys that name a bar.
        reference: where the chart has a line.
    """

    text: str
    takes: tuple[str, ...]
    batch: int | None
    rounds: int
    value: str
    label: tuple[str, ...]
    reference: float | None = None


_TIMED = ("configs", "batch", "rounds", "progress")

SUITES: Mapping[str, _Suite] = {
    "memory": _Suite(
        "bytes and kernels of a training step, by how the network is run",
        ("configs", "batch", "progress"),
        16,
        0,
        "saved_mib",
        ("variant", "pruning", "dtype"),
    ),
    "neuron": _Suite(
        "time and bytes of neurons against a loop over snntorch.Leaky; a minute",
        ("batch", "rounds", "progress"),
        32,
        10,
        "train_ratio",
        ("part", "neuron", "tier"),
        1.0,
    ),
    "train_step": _Suite(
        "time of training steps against the plain loop; minutes",
        _TIMED,
        8,
        5,
        "ratio",
        ("variant", "pruning", "tier"),
        1.0,
    ),
    "prune_place": _Suite(
        "cost of dropping steps behind the stem or inside it; minutes",
        _TIMED,
        8,
        5,
        "train_ratio",
        ("place",),
        1.0,
    ),
    "paper": _Suite(
        "the paper's table of operations and memory, counted",
        ("progress",),
        None,
        0,
        "fused_mib",
        ("pruning",),
    ),
    "gpu": _Suite(
        "training steps on a CUDA device: time, memory, kernels, bytes moved",
        ("configs", "batch", "rounds"),
        None,
        10,
        "ratio",
        ("batch", "dtype", "pruning", "variant", "tier"),
        1.0,
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
    """Write ``NAME.json`` with everything, and ``NAME.png`` with the rows of the first network.

    Raises:
        MissingExtra: matplotlib is not installed; the JSON file is there.
    """
    result.save(folder / f"{result.name}.json")
    first = result.rows[0].get("net")
    rows = [{**row, "label": _label(row, suite)} for row in result.rows if row.get("net") == first]
    title = result.name if first is None else f"{result.name} {first}"
    chart = replace(result, name=title, rows=rows)
    bars(chart, folder / f"{result.name}.png", value=suite.value, label="label", reference=suite.reference)


def _label(row: Mapping[str, Value], suite: _Suite) -> str:
    words = [str(row[key]) for key in suite.label if row[key] not in ("none", "eager", "fp32")]
    return ", ".join(words) or "none"


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
