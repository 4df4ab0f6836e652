"""``smixer zoo save``: a named or trained model as a folder."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

import torch

from snntorch_smixer.cards.card import CONFIG, WEIGHTS
from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.cli.subject import MODEL, is_trained
from snntorch_smixer.errors import SettingError
from snntorch_smixer.zoo.hub import create_model, from_pretrained

_EXAMPLES = """
  smixer zoo save smixer-2-64-fmnist my-model                        weights, configuration, card and README
  smixer zoo save smixer-2-64-fmnist my-model --num-classes 5        with a fresh head for five classes
  smixer zoo save smixer-8-768 big --img-size 192 192 --num-classes 100
  smixer zoo save org/name@v1 my-copy                                from the Hub
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "save", text="write a model to a folder", examples=_EXAMPLES)
    parser.add_argument("model", help=MODEL)
    parser.add_argument("folder", type=Path, nargs="?", help="made where it does not exist; or pass --out")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the folder")
    parser.add_argument("--num-classes", type=int, metavar="K", help="other classes: a fresh head; 0 for features")
    parser.add_argument("--in-channels", type=int, metavar="C", help="other input channels: the stem is adapted")
    size = "other size, one number for a square: every W_M is resized"
    parser.add_argument("--img-size", type=int, nargs="+", metavar="H W", help=size)
    parser.add_argument("--T", type=int, help="other number of time steps")
    parser.add_argument("--seed", type=int, default=0, help="of weights that are random")
    parser.add_argument("--force", action="store_true", help="replace a model that is there")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load or build, and write."""
    folder, size = _folder(args), _size(args.img_size)
    there = [name for name in (CONFIG, WEIGHTS) if (folder / name).exists()]
    if there and not args.force:
        raise SettingError(f"zoo save: {folder / there[0]} exists. Name another folder, or pass --force.")
    torch.manual_seed(args.seed)
    changes = {"num_classes": args.num_classes, "in_channels": args.in_channels, "img_size": size, "T": args.T}
    trained = is_trained(args.model)
    net = from_pretrained(args.model, **changes) if trained else create_model(args.model, **changes)
    card = net.save_pretrained(folder)
    if args.json:
        files = {name: dataclasses.asdict(record) for name, record in card.files.items()}
        print_json({"folder": str(folder), "model": args.model, "trained": trained, "files": files})
        return 0
    print(f"{folder}: {args.model}, {'trained weights' if trained else 'UNTRAINED'}")
    for name, record in sorted(card.files.items()):
        print(f"  {name:<20}{record.size_bytes:>12,} bytes  sha256 {record.sha256}")
    return 0


def _folder(args: argparse.Namespace) -> Path:
    named: list[Path] = [path for path in (args.folder, args.out) if path is not None]
    if len(named) != 1:
        got = "two" if named else "none"
        raise SettingError(f"zoo save: got {got}, expected one folder. Name it behind the model, or pass --out FOLDER.")
    return named[0]


def _size(asked: list[int] | None) -> tuple[int, int] | None:
    if asked is None:
        return None
    if len(asked) > 2:
        raise SettingError(f"zoo save: --img-size got {len(asked)} numbers, expected H W, or one for a square.")
    return asked[0], asked[-1]
