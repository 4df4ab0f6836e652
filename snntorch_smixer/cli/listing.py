"""``smixer list``: the models by name."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from snntorch_smixer.cards.card import WEIGHTS, Card
from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.counts import count, parameter_shapes
from snntorch_smixer.cli.printing import columns, print_json
from snntorch_smixer.errors import CardError
from snntorch_smixer.zoo import registry
from snntorch_smixer.zoo.registry import configured, list_models, model_blueprint, model_card, near_names

_EXAMPLES = """
  smixer list                    every name that create_model, train, cost and the others take
  smixer list cifar              names with "cifar" in them
  smixer list "smixer-8*"        a pattern, as a shell has them
  smixer list --pretrained       only those with weights
  smixer list --json             for programs
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "list", text="list the models by name", examples=_EXAMPLES)
    parser.add_argument("pattern", nargs="?", default="*", help="part of a name, or a shell pattern")
    parser.add_argument("--pretrained", action="store_true", help="only models whose weights are shipped or published")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print one row per model; nothing is downloaded and no large network is built."""
    pattern = args.pattern if set(args.pattern) & set("*?[") else f"*{args.pattern}*"
    names = list_models(pattern, pretrained=args.pretrained)
    if not names:
        near = near_names(args.pattern)
        hint = f"Did you mean {', '.join(near)}?" if near else "Run smixer list for all names."
        of = "model with weights" if args.pretrained else "model"
        raise CardError(f"list: no {of} matches {args.pattern!r}. {hint}")
    rows = [row(name) for name in names]
    if args.json:
        print_json(rows)
        return 0
    header = ("name", "architecture", "data set", "input", "T", "DSTSP", "parameters", "weights")
    print(columns(header, [_cells(entry) for entry in rows]))
    return 0


def row(name: str) -> dict[str, Any]:
    """What is known about a named model: names and numbers."""
    blueprint = model_blueprint(name)
    card = model_card(name) if name in configured() else None
    facts = blueprint.facts()
    folder = registry.zoo_folder() / name if card else None
    return {
        "name": name,
        "architecture": blueprint.config.architecture,
        "dataset": card.dataset if card else None,
        "input_size": list(facts["input_size"]),
        "T": facts["T"],
        "ps": facts["ps"] if blueprint.prune else None,
        "t": facts["t"] if blueprint.prune else None,
        "parameters": card.parameters if card and card.parameters else count(parameter_shapes(blueprint, folder)),
        "weights": None if card is None or folder is None else _weights(card, folder),
    }


def pruning(ps: float | tuple[float, ...] | None, t: int | None, place: str | None = None) -> str:
    """Settings of DSTSP for people; "-" for none."""
    if ps is None:
        return "-"
    text = f"{ps:g}" if isinstance(ps, (int, float)) else "/".join(f"{share:g}" for share in ps)
    where = "" if place in (None, "stem") else f" place={place}"
    return f"ps={text}" if t is None else f"ps={text} t={t}{where}"


def _weights(card: Card, folder: Path) -> str:
    if (folder / WEIGHTS).is_file():
        return "shipped"
    return card.repo_id if card.is_published else "not published"


def _cells(entry: dict[str, Any]) -> tuple[str, ...]:
    channels, height, width = entry["input_size"]
    return (
        entry["name"],
        entry["architecture"],
        entry["dataset"] or "-",
        f"{channels}x{height}x{width}",
        str(entry["T"]),
        pruning(entry["ps"], entry["t"]) if entry["ps"] or entry["t"] not in (None, entry["T"]) else "-",
        "-" if entry["parameters"] is None else f"{entry['parameters'] / 1e6:.2f} M",
        entry["weights"] or "architecture only",
    )
