"""``smixer bench memory``, ``neuron`` and ``train_step``: the benchmarks of this package."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from snntorch_smixer.bench.chart import bars
from snntorch_smixer.bench.report import result_table
from snntorch_smixer.bench.result import BenchResult, Value
from snntorch_smixer.bench.suite_memory import memory
from snntorch_smixer.bench.suite_neuron import neuron
from snntorch_smixer.bench.suite_train_step import train_step
from snntorch_smixer.errors import SettingError, check_choice
from snntorch_smixer.models.config import CONFIGS, SMixerConfig


@dataclass(frozen=True)
class _Suite:
    """Defaults and the chart of a benchmark.

    Attributes:
        batch: samples.
        rounds: timed rounds; 0 where nothing is timed.
        value: key of what the chart shows.
        label: keys that name a bar.
        reference: where the chart has a line.
        takes_nets: whether names of networks may follow.
    """

    batch: int
    rounds: int
    value: str
    label: tuple[str, ...]
    reference: float | None = None
    takes_nets: bool = True


SUITES: Mapping[str, _Suite] = {
    "memory": _Suite(16, 0, "saved_mib", ("variant", "pruning", "dtype")),
    "neuron": _Suite(32, 10, "train_ratio", ("part", "neuron", "tier"), 1.0, takes_nets=False),
    "train_step": _Suite(8, 5, "ratio", ("variant", "pruning", "tier"), 1.0),
}
"""The benchmarks by the word that asks for them."""


def run_suite(args: argparse.Namespace) -> int:
    """Measure, write where asked to, print."""
    name, *nets = args.models
    suite = SUITES[name]
    batch, rounds = _settings(name, suite, args)
    configs = _configs(name, nets)
    if name == "memory":
        result = memory(configs, batch=batch)
    elif name == "neuron":
        result = neuron(batch=batch, rounds=rounds)
    else:
        result = train_step(configs, batch=batch, rounds=rounds)
    if args.out is not None:
        write(result, suite, args.out)
    print(result.to_json() if args.json else result_table(result), end="" if args.json else "\n")
    return 0


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
    return ", ".join(str(row[key]) for key in suite.label if row[key] not in ("none", "eager", "fp32"))


def _settings(name: str, suite: _Suite, args: argparse.Namespace) -> tuple[int, int]:
    for option in ("ps", "t", "input", "shape", "device"):
        if getattr(args, option) is not None:
            raise SettingError(
                f"bench {name}: --{option} is for models. Leave it out; a benchmark has its own settings."
            )
    if args.rounds is not None and not suite.rounds:
        raise SettingError(f"bench {name}: --rounds {args.rounds}: nothing is timed. Leave it out.")
    batch = suite.batch if args.batch is None else args.batch
    rounds = suite.rounds if args.rounds is None else args.rounds
    if batch < 2:
        raise SettingError(f"bench {name}: --batch {batch}: expected at least 2, BatchNorm needs more than one.")
    if suite.rounds and rounds < 2:
        raise SettingError(f"bench {name}: --rounds {rounds}: expected at least 2.")
    return batch, rounds


def _configs(name: str, nets: list[str]) -> Mapping[str, SMixerConfig] | None:
    if nets and not SUITES[name].takes_nets:
        raise SettingError(f"bench {name}: got {nets[0]}, but it measures neurons. Leave the networks out.")
    for net in nets:
        check_choice(f"bench {name}", "network", net, tuple(CONFIGS))
    return {net: CONFIGS[net] for net in nets} or None
