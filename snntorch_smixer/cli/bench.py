"""``smixer bench``: models side by side on the same input, or one of the benchmarks of this package."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.throughput import throughput
from snntorch_smixer.cli.arguments import Commands, add_command, add_device, add_json, add_pruning, add_quiet
from snntorch_smixer.cli.bench_suites import SUITES, run_suite
from snntorch_smixer.cli.listing import pruning
from snntorch_smixer.cli.printing import columns, print_json, progress
from snntorch_smixer.cli.subject import CALLED, add_batch, check_pruning, device, load_batch, load_model, pruned
from snntorch_smixer.errors import LayoutError, SettingError

_EXAMPLES = """
  smixer bench smixer-2-64-fmnist smixer-2-64-fmnist-dstsp      two models
  smixer bench smixer-2-64-fmnist --ps 0.3 --t 1                a model, and the same with its tokens and steps pruned
  smixer bench spikformer-4-384 smixer-4-384 --batch 8 --device cuda
  smixer bench my_package.nets:build --shape 4,3,32,32 --json   your own model: a function without arguments
  smixer bench memory --out results                             bytes of a training step, by how the network is run
  smixer bench memory smixer-4-384                              the same, of one network
  smixer bench train_step --rounds 10                           time, in more rounds
"""

_BATCH, _ROUNDS, _SEED = 4, 5, 0


def add(commands: Commands) -> None:
    """Add the command."""
    listed = "\n".join(f"  {name:<12} {suite.text}" for name, suite in SUITES.items())
    epilog = f"\nbenchmarks:\n{listed}\n\nimages/s and times are measured in turns and change from run to run; "
    epilog += "compare the ratios."
    text = "operations, training memory and speed of models side by side"
    parser = add_command(commands, "bench", text=text, examples=_EXAMPLES, epilog=epilog)
    parser.add_argument("models", nargs="+", metavar="MODEL", help=f"{CALLED}; or {', '.join(SUITES)}: a benchmark")
    add_batch(parser)
    add_pruning(parser, "add the wrapped twin of each model")
    parser.add_argument("--rounds", type=int, help="timed passes per model; default: 5, in neuron and gpu 10")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="of a benchmark: write NAME.json and NAME.png there")
    add_device(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run, batch=None, seed=None)


def run(args: argparse.Namespace) -> int:
    """Load, measure, print."""
    if args.models[0] in SUITES:
        return run_suite(args)
    if args.out is not None:
        raise SettingError(f"bench: --out is for the benchmarks {', '.join(SUITES)}. Pass --json to keep the numbers.")
    check_pruning("bench", args)
    args.batch = _BATCH if args.batch is None else args.batch
    args.rounds = _ROUNDS if args.rounds is None else args.rounds
    args.seed = _SEED if args.seed is None else args.seed
    if args.rounds < 1:
        raise SettingError(f"--rounds {args.rounds}: expected at least 1.")
    where = device(args.device)
    torch.manual_seed(args.seed)
    nets, notes, x, shown = _load(args)
    nets, x = {name: net.to(where) for name, net in nets.items()}, x.to(where)
    axis = 1 if x.dim() == 5 else 0
    _check_all_run(nets, x)
    rows: list[dict[str, Any]] = [
        {
            "model": name,
            "dense_macs": dense_macs(net, x, batch_axis=axis),
            "saved_bytes": saved_bytes(net, x, batch_axis=axis),
        }
        for name, net in progress(nets.items(), args, text="count", unit="model")
    ]
    speed = throughput(nets, x, rounds=args.rounds, batch_axis=axis)
    rows = [{**row, "images_per_s": speed[row["model"]]} for row in rows]
    if args.json:
        print_json({"input": shown, "device": str(where), "models": rows})
    else:
        print("\n".join([*notes, f"{shown}; {where}, {torch.get_num_threads()} threads; per image", table(rows)]))
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """Rows as text; shares and ratios are against the first."""
    base = rows[0]
    cells = [
        (
            row["model"],
            f"{row['dense_macs'] / 1e6:,.2f} M{_share(row['dense_macs'], base['dense_macs'])}",
            f"{row['saved_bytes'] / 2**20:,.2f} MiB{_share(row['saved_bytes'], base['saved_bytes'])}",
            f"{row['images_per_s']:,.1f} (x{row['images_per_s'] / base['images_per_s']:.2f})",
        )
        for row in rows
    ]
    return columns(("model", "dense MACs", "kept for backward", "images/s"), cells)


def _share(value: float, base: float) -> str:
    return f" ({value / base:.0%})" if base else ""


def _load(args: argparse.Namespace) -> tuple[dict[str, nn.Module], list[str], Tensor, str]:
    nets: dict[str, nn.Module] = {}
    notes, batches = [], []
    for name in args.models:
        nets[name], origin = load_model(name)
        notes.append(origin)
        batches.append(load_batch(args, nets[name]))
        if args.ps is not None:
            twin = pruned(load_model(name)[0], args, example=batches[-1][0])
            nets[f"{name} {pruning(args.ps, args.t, args.place)}"] = twin
    shapes = {tuple(x.shape) for x, _ in batches}
    if len(shapes) > 1:
        raise SettingError(
            f"bench: the models take other inputs: {', '.join(map(str, sorted(shapes)))}. Compare models of one input."
        )
    return nets, notes, *batches[0]


def _check_all_run(nets: dict[str, nn.Module], x: Tensor) -> None:
    for name, net in nets.items():
        try:
            with torch.no_grad():
                net(x)
        except (RuntimeError, TypeError, LayoutError) as error:
            raise SettingError(
                f"bench: {name} does not run on input {tuple(x.shape)}: {str(error).splitlines()[0]} Pass --input or "
                "--shape of what it takes, or a smaller --batch."
            ) from error
