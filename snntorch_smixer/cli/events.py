"""``smixer audit``: which operations of a model an asynchronous chip can run."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from torch import Tensor, nn

from snntorch_smixer.cli.arguments import Commands, add_command, add_json, add_pruning
from snntorch_smixer.cli.subject import add_subject, check_pruning, load_batch, load_model, pruned
from snntorch_smixer.events import audit

_EXAMPLES = """
  smixer audit smixer-2-64-fmnist                                every operation: runs, folds, cannot
  smixer audit smixer-2-64-fmnist --ps 0.3 --t 1 --json          pruned, for programs
  smixer audit my_package.nets:build --shape 4,3,32,32           your own model: a function without arguments
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(
        commands, "audit", text="which operations of a model an asynchronous chip can run", examples=_EXAMPLES
    )
    add_subject(parser)
    add_pruning(parser, "prune the model first")
    add_json(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, audit, print."""
    check_pruning("audit", args)
    model, origin = load_model(args.model)
    batch, shown = load_batch(args, model)
    if args.ps is not None:
        pruned(model, args, example=batch[:1])
    text = audit_text(model, batch, axes=args.axes, as_json=args.json)
    print(text if args.json else f"{origin}; {shown}\n{text}")
    return 0


def audit_text(model: nn.Module, example: Tensor, *, axes: str | None = None, as_json: bool = False) -> str:
    """What `events.audit` finds, as a table or as JSON.

    Raises:
        MeasureError: as `events.audit`.
    """
    found = audit(model, example, axes=axes)
    return json.dumps(asdict(found) | {"event_driven": found.event_driven}, indent=2) if as_json else str(found)
