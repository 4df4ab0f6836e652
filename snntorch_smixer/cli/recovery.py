"""``smixer recover`` and ``smixer search`` behind their arguments."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from torch.utils.data import DataLoader, TensorDataset

from snntorch_smixer.cli.arguments import Commands, add_command, add_json
from snntorch_smixer.cli.dataset import check_positive, open_data
from snntorch_smixer.cli.printing import print_json
from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.models.network import Network
from snntorch_smixer.patching.wrap import wrap
from snntorch_smixer.recovery.recover import STAGES, Recovery
from snntorch_smixer.recovery.recover import recover as recover_net
from snntorch_smixer.recovery.search import Search
from snntorch_smixer.recovery.search import search as search_net
from snntorch_smixer.recovery.settings import RecoverySettings
from snntorch_smixer.train.data import ImageData
from snntorch_smixer.zoo.hub import from_pretrained

_RECOVER = """
  smixer recover smixer-2-64-fmnist --data DATA --ps 0.3 --t 1 --out runs/recovered
  smixer recover smixer-2-64-fmnist --data DATA --ps 0.3 --stages statistics,head --limit 2000 --out runs/quick --json
"""
_SEARCH = """
  smixer search smixer-2-64-fmnist --data DATA --budget 'energy<=60%' --chip loihi1
  smixer search smixer-2-64-fmnist --data DATA --budget 'macs<=50%' --min-accuracy 0.88 --json
"""


def add(commands: Commands) -> None:
    """Add both commands."""
    parser = add_command(commands, "recover", text="give a pruned model back what pruning cost it", examples=_RECOVER)
    _add_subject(parser)
    parser.add_argument("--ps", type=float, default=0.3, help="share of tokens to drop, in [0, 1); default: 0.3")
    parser.add_argument("--t", type=int, help="time steps to keep; default: all")
    parser.add_argument(
        "--stages",
        default="statistics,head,distillation",
        help=f"of {', '.join(STAGES)}, with commas between them; default: statistics,head,distillation",
    )
    parser.add_argument("--limit", type=int, help="only the first N training images; their labels are not read")
    parser.add_argument("--seed", type=int, default=0, help="of the order and of what is drawn; default: 0")
    parser.add_argument("--out", type=Path, required=True, help="folder of the recovered model")
    add_json(parser)
    parser.set_defaults(run=run_recover)
    parser = add_command(commands, "search", text="find ps, t and merge under a budget", examples=_SEARCH)
    _add_subject(parser)
    parser.add_argument("--budget", required=True, help="as 'energy<=60%%' or 'macs<=50%%', of the unpruned model")
    parser.add_argument("--chip", help="a profile whose prices count, see smixer cost chips")
    parser.add_argument("--min-accuracy", type=float, help="least accuracy on 1,000 training images")
    add_json(parser)
    parser.set_defaults(run=run_search)


def _add_subject(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="a model that was trained without pruning: of the zoo, a folder, org/name")
    parser.add_argument("--data", required=True, type=Path, help="folder with the files of its data set")


def run_recover(args: argparse.Namespace) -> int:
    """Load, prune, recover, save, print."""
    check_positive("--limit", args.limit)
    net = prune(from_pretrained(args.model), ps=args.ps, t=args.t)
    settings = RecoverySettings(seed=args.seed)
    found = recover(net, args.data, out=args.out, stages=args.stages, limit=args.limit, settings=settings)
    if args.json:
        print_json({"model": args.model, **asdict(found), "out": str(args.out)})
    else:
        print(f"{found}\nwrote {args.out}")
    return 0


def run_search(args: argparse.Namespace) -> int:
    """Load, search, print."""
    net = from_pretrained(args.model)
    found = search(net, args.data, budget=args.budget, chip=args.chip, least=args.min_accuracy)
    if args.json:
        print_json({"model": args.model, **asdict(found)})
    else:
        print(found)
    return 0


def recover(
    net: Network,
    data: Path,
    *,
    out: Path,
    stages: str = "statistics,head,distillation",
    limit: int | None = None,
    settings: RecoverySettings | None = None,
) -> Recovery:
    """What the command does behind its arguments: recover ``net`` on the training images of its data set, and save it.

    Args:
        net: pruned by `wrap`.
        data: folder with the data set that its card names.
        out: folder for the recovered net.
        stages: of `STAGES`, with commas between them.
        limit: training images to use; all where it is None.
        settings: see `RecoverySettings`.

    Returns:
        What each stage gained, as accuracy on all test images.

    Raises:
        SettingError: an unknown stage, or a data set that is not held in memory.
        FamilyError: the net is not wrapped.
    """
    _, found = open_data("recover", net, root=data)
    if not isinstance(found, ImageData):
        raise SettingError("recover: this data set is read from folders. Call dstsp.recover with a loader of your own.")
    images = found.normalise(found.train[0][:limit])
    loader = DataLoader(TensorDataset(images), batch_size=128, shuffle=True, drop_last=len(images) >= 128)
    chosen = [word.strip() for word in stages.split(",") if word.strip()]
    report = recover_net(net, loader, stages=chosen, settings=settings, check=list(found.test_batches()))
    net.save_pretrained(out)
    return report


def search(net: Network, data: Path, *, budget: str, chip: str | None = None, least: float | None = None) -> Search:
    """What the command does behind its arguments: find the pruning of a net without any, on labelled training images.

    Args:
        net: trained without pruning.
        data: folder with the data set that its card names.
        budget: see `snntorch_smixer.dstsp.search`.
        chip: prices.
        least: accuracy that the chosen setting has to have.

    Raises:
        FamilyError: the net was trained with pruning.
        SettingError: no budget, or a data set that is not held in memory.
    """
    _, found = open_data("search", net, root=data)
    if not isinstance(found, ImageData):
        raise SettingError("search: this data set is read from folders. Call dstsp.search with a loader of your own.")
    images, labels = found.train
    last = slice(-min(1000, len(images)), None)
    batches = zip(found.normalise(images[last]).split(250), labels[last].split(250), strict=True)
    wrapped = prune(net, ps=0.0, t=None)
    return search_net(wrapped, list(batches), budget=budget, chip=chip, min_accuracy=least)


def prune(net: Network, *, ps: float, t: int | None) -> Network:
    """``net`` wrapped with this pruning.

    Raises:
        FamilyError: it was trained with pruning, so there is no unpruned net to follow.
    """
    if getattr(net, "dstsp", None) is not None:
        raise FamilyError(
            f"recover: this {type(net).__name__} was trained with pruning and has lost nothing to it. Pass the model "
            "that was trained without, such as smixer-2-64-fmnist."
        )
    return wrap(net, ps=ps, t=t)
