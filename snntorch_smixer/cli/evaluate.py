"""``smixer eval``: accuracy of a model on its data set."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from snntorch_smixer.cards.card import Card
from snntorch_smixer.cli.arguments import Commands, add_command, add_device, add_json, add_pruning, add_quiet
from snntorch_smixer.cli.dataset import add_data, check_positive, open_data
from snntorch_smixer.cli.listing import pruning
from snntorch_smixer.cli.printing import print_json, shows_progress
from snntorch_smixer.cli.subject import MODEL, check_pruning, device, pruned
from snntorch_smixer.models.evaluate import Accuracy, evaluate
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.saving import Blueprint
from snntorch_smixer.train.data import check_fits, class_indices
from snntorch_smixer.zoo.hub import from_pretrained

SPLIT = "all test images"

_EXAMPLES = """
  smixer eval smixer-2-64-fmnist --data DATA                 top-1 and top-5 on the test images of its data set
  smixer eval smixer-2-64-fmnist --data DATA --ps 0.3 --t 1  pruned
  smixer eval runs/my-model --data DATA --json               a folder, for programs
  smixer eval org/name --data DATA --dataset cifar-10 --limit 1000
"""


def add(commands: Commands) -> None:
    """Add the command."""
    parser = add_command(commands, "eval", text="accuracy of a model on its data set", examples=_EXAMPLES)
    parser.add_argument("model", help=MODEL)
    add_data(parser)
    add_pruning(parser, "prune the model, or change its pruning")
    parser.add_argument("--batch-size", type=int, default=250, help="inputs at once; default: 250")
    parser.add_argument("--limit", type=int, help="only the first N test inputs")
    add_device(parser)
    add_json(parser)
    add_quiet(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Load, evaluate, print."""
    check_pruning("eval", args)
    check_positive("--batch-size", args.batch_size)
    check_positive("--limit", args.limit)
    where = device(args.device)
    net = from_pretrained(args.model)
    name, data = open_data("eval", net, root=args.data, dataset=args.dataset, workers=args.workers)
    classes = _class_names(net)
    check_fits(net, data, by_name=bool(classes))
    batches: Iterator[tuple[Tensor, Tensor]] = data.test_batches(args.batch_size)
    if classes:
        logit_of = torch.tensor(class_indices(data.classes, classes))
        if len(data.classes) < len(classes):
            warnings.warn(
                f"eval: the data have {len(data.classes)} of the {len(classes)} classes of the model.", stacklevel=2
            )
        batches = ((x, logit_of[labels]) for x, labels in batches)
    else:
        warnings.warn(
            "eval: the card of this model names no classes, so label k of the data is taken for its logit k.",
            stacklevel=2,
        )
    if args.ps is not None:
        first = next(iter(data.test_batches(1)))[0]
        pruned(net, args, swap=False, example=first)
    count = min(args.limit or data.test_count, data.test_count)
    if count < data.test_count:
        batches = first_inputs(batches, count)
    found = evaluate(net, batches, device=where, progress=count if shows_progress(args) else None)
    result = as_dict(args.model, net, found) | {
        "dataset": name,
        "split": SPLIT if count == data.test_count else f"the first {count:,} test images",
    }
    if args.json:
        print_json(result)
    else:
        print(_text(result, net.card))
    return 0


def _class_names(net: Network) -> tuple[str, ...]:
    """The classes of the card, by logit; empty where it does not name all of them."""
    classes = net.card.classes if net.card else ()
    return classes if len(classes) == net.config.num_classes else ()


def first_inputs(batches: Iterator[tuple[Tensor, Tensor]], count: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The first ``count`` inputs, images ``(B, C, H, W)`` or frames ``(T, B, C, H, W)``."""
    for x, labels in batches:
        yield (x[:, :count] if x.dim() == 5 else x[:count]), labels[:count]
        count -= len(labels)
        if count <= 0:
            return


def as_dict(name: str, net: Network, found: Accuracy) -> dict[str, object]:
    """What was found, and with which pruning."""
    prune = Blueprint.of(net).prune
    return {
        "model": name,
        "samples": found.count,
        "correct": found.correct,
        "top1": found.top1,
        "top5": found.top5,
        "standard_error": found.standard_error,
        "ps": None if prune is None else prune.ps,
        "t": None if prune is None else prune.t,
        "place": None if prune is None else prune.place,
    }


def _text(result: dict[str, object], card: Card | None) -> str:
    top5 = "" if result["top5"] is None else f", top-5 {result['top5']:.2%}"
    error = f"standard error {result['standard_error']:.2%}"
    lines = [f"{result['model']} on {result['dataset']}, {result['split']}: top-1 {result['top1']:.2%}{top5}; {error}"]
    lines[0] += f" ({result['correct']:,} of {result['samples']:,})"
    if result["ps"] is not None:
        lines.append(f"DSTSP: {pruning(result['ps'], result['t'], result['place'])}")  # type: ignore[arg-type]
    same = (
        [m for m in card.measured if m.dataset == result["dataset"] and m.samples == result["samples"]] if card else []
    )
    lines += [f"the card says: {m.metric} {m.value:.2%} ({m.split}; {m.versions})" for m in same]
    return "\n".join(lines)
