"""``smixer train``: a model, its recipe and its data set to a model folder."""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from snntorch_smixer.cli.arguments import Commands, add_command, add_device, add_json, add_quiet
from snntorch_smixer.cli.dataset import add_data, check_positive
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.subject import device
from snntorch_smixer.cli.training import Training, train
from snntorch_smixer.kernels.compiled import IMPLS
from snntorch_smixer.memory import MODES
from snntorch_smixer.train.state import epochs_kept

_EXAMPLES = """
  smixer train smixer-2-64-fmnist --data DATA --out runs/mine     with its own recipe; again to continue after a stop
  smixer train smixer-2-64-fmnist --data DATA --out runs/short --epochs 2 --seed 1 --compile
  smixer train smixer-4-384 --data DATA --out runs/c10 --dataset cifar-10 --recipe zoo/smixer-2-64-fmnist/recipe.toml
  smixer train smixer-4-384 --data PICTURES --dataset image-folder --recipe FILE    your own: train/CLASS/*, val/CLASS/*
  smixer train smixer-2-64-fmnist --data DATA --memory recompute --impl compile    less memory, then less time
  smixer train smixer-2-64-fmnist --data DATA --out runs/mine --json > card.json     the card, for programs
  smixer eval runs/mine --data DATA                               what came out
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "train", text="train a model into a model folder", examples=_EXAMPLES)
    parser.add_argument("model", help="a model of the zoo, see smixer list")
    add_data(parser)
    parser.add_argument("--out", type=Path, help="folder of the run, and of the model in the end; default: runs/MODEL")
    parser.add_argument("--recipe", type=Path, help="default: recipe.toml of the model")
    parser.add_argument("--epochs", type=int, help="instead of the recipe's")
    parser.add_argument("--seed", type=int, help="instead of the recipe's")
    parser.add_argument("--compile", action="store_true", help="torch.compile the whole; not with --memory or --impl")
    parser.add_argument("--memory", choices=MODES, help="what is kept for the backward pass; default: fused")
    parser.add_argument("--impl", choices=IMPLS, default="auto", help="tier of the kernels; default: auto")
    add_device(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, save, print."""
    check_positive("--epochs", args.epochs)
    training = Training(
        model=args.model,
        data=args.data,
        out=args.out or Path("runs") / args.model,
        dataset=args.dataset,
        recipe=args.recipe,
        epochs=args.epochs,
        seed=args.seed,
        device=str(device(args.device)),
        compile_net=args.compile,
        memory=args.memory,
        impl=args.impl,
        workers=args.workers,
        progress=not args.quiet,
    )
    try:
        # With --json nothing but the document goes to the output; what is said on the way goes to the error stream.
        with contextlib.redirect_stdout(sys.stderr) if args.json else contextlib.nullcontext():
            card = train(training)
    except KeyboardInterrupt:
        print(f"smixer: {_stopped(training.out)}", file=sys.stderr)
        raise
    if args.json:
        print_json({"folder": str(training.out), "card": card})
        return 0
    found = card.measured[0]
    print(f"{card.name}: {found.metric} {found.value:.2%} on {found.dataset}, {found.split} ({found.samples:,})")
    print(f"{training.out}: a model folder; see smixer info {training.out}, smixer zoo push {training.out} org/name")
    return 0


def _stopped(out: Path) -> str:
    kept = epochs_kept(out)
    if not kept:
        return "stopped before the first epoch was kept. The same command starts again."
    return f"stopped; {out} keeps {kept} {'epoch' if kept == 1 else 'epochs'}. The same command continues after them."
