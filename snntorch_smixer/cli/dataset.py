"""The data set that a command works on."""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from snntorch_smixer.errors import SettingError
from snntorch_smixer.models.network import Network
from snntorch_smixer.train.data import Data, ImageData
from snntorch_smixer.train.datasets import DATASETS, load_data
from snntorch_smixer.train.folders import FolderData


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that `open_data` reads."""
    parser.add_argument("--data", required=True, type=Path, help="folder with the files of the data set")
    parser.add_argument("--dataset", metavar="ID", help=f"default: that of the model's card; {', '.join(DATASETS)}")
    parser.add_argument("--workers", type=int, help="reading processes for folders; default: one per core")


def open_data(
    command: str, net: Network, *, root: Path, dataset: str | None = None, workers: int | None = None
) -> tuple[str, Data]:
    """Id of the data set and its inputs in the size of ``net``, normalised as its card says.

    Args:
        command: for errors.
        net: with the card that names the data set.
        root: folder with the files.
        dataset: instead of that of the card.
        workers: see `load_data`.

    Raises:
        SettingError: nobody names a data set, or an unknown one.
        CardError: files are missing or corrupt.
    """
    card = net.card
    name = dataset or (card.dataset if card else "")
    if not name:
        raise SettingError(
            f"{command}: the card of this model names no data set. Pass --dataset: {', '.join(DATASETS)}."
        )
    data = load_data(name, root, size=net.config.img_size, workers=workers)
    if card and card.mean and card.std and isinstance(data, (ImageData, FolderData)):
        data = dataclasses.replace(data, mean=card.mean, std=card.std)
    return name, data


def check_positive(option: str, value: int | None) -> None:
    """Raise `SettingError` for a number below 1."""
    if value is not None and value < 1:
        raise SettingError(f"{option} {value}: expected at least 1.")
