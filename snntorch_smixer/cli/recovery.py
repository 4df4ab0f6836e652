"""``smixer recover`` and ``smixer search`` behind their arguments."""

from __future__ import annotations

from pathlib import Path

from torch.utils.data import DataLoader, TensorDataset

from snntorch_smixer.cli.dataset import open_data
from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.models.network import Network
from snntorch_smixer.patching.wrap import wrap
from snntorch_smixer.recovery.recover import STAGES, Recovery
from snntorch_smixer.recovery.recover import recover as recover_net
from snntorch_smixer.recovery.search import Search
from snntorch_smixer.recovery.search import search as search_net
from snntorch_smixer.recovery.settings import RecoverySettings
from snntorch_smixer.train.data import ImageData


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


STAGE_HELP = f"of {', '.join(STAGES)}, with commas between them"
