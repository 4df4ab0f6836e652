"""``smixer zoo verify``: is a model folder what its card says, and does it run."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, Card
from snntorch_smixer.cards.folder import check_file
from snntorch_smixer.cards.upload import RECIPE
from snntorch_smixer.cli.arguments import Commands, add_command, add_json, add_quiet
from snntorch_smixer.cli.printing import print_json, progress
from snntorch_smixer.detect.detector import SpikingDetector
from snntorch_smixer.errors import CardError, SettingError, SMixerError
from snntorch_smixer.models.architectures import shapes_of
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.train.datasets import DATASETS
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.zoo import registry
from snntorch_smixer.zoo.hub import from_pretrained
from snntorch_smixer.zoo.registry import configured, near_names

_EXAMPLES = """
  smixer zoo verify --all                       every folder of the zoo
  smixer zoo verify smixer-2-64-fmnist          one of them
  smixer zoo verify runs/my-model --json        your own; the exit code is 1 where something is wrong
"""


def add(commands: Commands) -> None:
    """Add the command."""
    text = "check card, hashes, shapes and recipe of model folders, and run them once"
    parser = add_command(commands, "verify", text=text, examples=_EXAMPLES)
    parser.add_argument("models", nargs="*", metavar="MODEL", help="a model of the zoo, or a folder")
    parser.add_argument("--all", action="store_true", help="every folder of the zoo")
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a line per folder and per problem; 1 where there is one."""
    if bool(args.models) == args.all:
        raise SettingError("zoo verify: name models or folders, or pass --all.")
    folders = {name: _folder(name) for name in (configured() if args.all else args.models)}
    found = {name: problems(path) for name, path in progress(folders.items(), args, text="verify", unit="model")}
    if args.json:
        print_json(found)
        return int(any(found.values()))
    for name, path in folders.items():
        state = "" if (path / WEIGHTS).is_file() else " (no weights here: not run)"
        print(f"{name}: {'PROBLEMS' if found[name] else 'ok'}{state}", *found[name], sep="\n  ")
    return int(any(found.values()))


def problems(folder: Path) -> list[str]:
    """What is wrong with a model folder; without weights only what can be said without them."""
    loaded: list[Card | Blueprint] = []
    found = _told(lambda: loaded.append(Card.load(folder))) + _told(lambda: loaded.append(_blueprint(folder)))
    for part in loaded:
        found += _of_card(part, folder) if isinstance(part, Card) else []
    if len(loaded) == 2:
        card, blueprint = loaded
        found += _told(lambda: blueprint.check_card(card, folder / CONFIG))  # type: ignore[arg-type, union-attr]
    if (folder / RECIPE).is_file():
        found += _told(lambda: Recipe.load(folder / RECIPE))
    if not found and (folder / WEIGHTS).is_file():
        found += _told(lambda: _run(folder))
    return found


def _told(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except (SMixerError, OSError) as error:
        return [str(error)]
    return []


def _blueprint(folder: Path) -> Blueprint:
    blueprint = Blueprint.load(folder)
    try:
        shapes_of(blueprint.config)
    except (RuntimeError, OverflowError, TypeError) as error:
        raise CardError(f"{folder / CONFIG}: builds no network: {error}.") from error
    return blueprint


KNOWN = (*DATASETS, "coco128")
"""Data sets that cards of the zoo name: those of `smixer train`, and that of the shipped detector."""


def _of_card(card: Card, folder: Path) -> list[str]:
    found = []
    if folder.parent == registry.zoo_folder() and card.name != folder.name:
        found.append(f"{folder / CARD}: name={card.name!r}, expected the name of its folder.")
    if folder.parent == registry.zoo_folder() and not card.license:
        found.append(f"{folder / CARD}: names no licence of the weights.")
    if card.dataset and folder.parent == registry.zoo_folder() and card.dataset not in KNOWN:
        found.append(f"{folder / CARD}: dataset={card.dataset!r} is none of {', '.join(KNOWN)}.")
    for name in (CONFIG, WEIGHTS):
        if (folder / name).is_file() and name in card.files:
            found += _told(lambda name=name: check_file(folder / name, card.files[name], owner=card.name))  # type: ignore[misc]
        elif (folder / name).is_file() and (name == WEIGHTS or WEIGHTS in card.files):
            found.append(f"{folder / CARD}: names no size and SHA-256 of {name}.")
    return found


def _run(folder: Path) -> None:
    net = from_pretrained(folder)
    with torch.no_grad():
        x = torch.rand(net.config.input_shape(2))
        # Of a detector the scores of the first cell: boxes are as many as it finds.
        out = net.decoded(x)[:, 4:, 0] if isinstance(net, SpikingDetector) else net(x)
    classes = net.config.num_classes or net.num_features
    if tuple(out.shape) != (2, classes) or not out.isfinite().all():
        raise CardError(
            f"{folder}: two inputs of noise give {tuple(out.shape)}, expected {(2, classes)} finite numbers."
        )


def _folder(name: str) -> Path:
    folder = registry.zoo_folder() / name if name in configured() else Path(name)
    if not folder.is_dir():
        near = near_names(name)
        hint = f"Did you mean {', '.join(near)}?" if near else "Architectures have no folder to check."
        raise CardError(f"zoo verify: {name!r} is no model of the zoo and no folder. {hint}")
    return folder
