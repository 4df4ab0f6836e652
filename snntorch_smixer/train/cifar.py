"""CIFAR-10 and CIFAR-100 from their binary files; CIFAR-10 also from lossless WebP mosaics. No pickle is loaded."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.extras import need
from snntorch_smixer.train.data import ImageData, Split, check_labels

SIDE = 32
PIXELS = 3 * SIDE * SIDE
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
"""Of CIFAR-10; the recipes that the paper builds on use them for CIFAR-100 too."""

CIFAR_10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_PARTS = tuple(f"data_batch_{number}" for number in range(1, 6))
TEST_PARTS = ("test_batch",)

_CIFAR_100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm
"""
CIFAR_100_CLASSES = tuple(_CIFAR_100_NAMES.split())
"""The fine classes, by label: alphabetical."""


def cifar_10(root: str | Path) -> ImageData:
    """CIFAR-10: 50,000 training and 10,000 test images ``(3, 32, 32)``, in the official order.

    Args:
        root: folder of the binary files ``data_batch_1.bin`` to ``data_batch_5.bin`` and ``test_batch.bin``, or the
            one above ``cifar-10-batches-bin``. Or the folder of mosaics: ``data_batch_1.webp`` to ``test_batch.webp``,
            in each the images 32 x 32, as many to a row as fit, and ``labels.npz`` with the arrays ``train``, ``test``.

    Raises:
        CardError: a file is missing, is truncated or has a label outside 0 to 9; or only pickles are there.
        MissingExtra: mosaics without Pillow.

    Source:
        https://www.cs.toronto.edu/~kriz/cifar.html: a record is one byte of label and 3,072 of pixels, channels first.
    """
    root = Path(root)
    if any((root / f"{part}.webp").exists() for part in (*TRAIN_PARTS, *TEST_PARTS)):
        return ImageData(_mosaics(root, "train"), _mosaics(root, "test"), MEAN, STD, CIFAR_10_CLASSES)
    folder = _folder(root, "cifar-10", "data_batch_1")
    train, test = (_binary(folder, parts, labels=1, classes=10) for parts in (TRAIN_PARTS, TEST_PARTS))
    return ImageData(train, test, MEAN, STD, CIFAR_10_CLASSES)


def cifar_100(root: str | Path) -> ImageData:
    """CIFAR-100 with its fine labels: 50,000 training and 10,000 test images ``(3, 32, 32)``, in the official order.

    Args:
        root: folder of the binary files ``train.bin`` and ``test.bin``, or the one above ``cifar-100-binary``.

    Raises:
        CardError: a file is missing, is truncated or has a label outside 0 to 99; or only pickles are there.

    Source:
        https://www.cs.toronto.edu/~kriz/cifar.html: a record is the coarse label, the fine one, and 3,072 pixels.
    """
    folder = _folder(Path(root), "cifar-100", "train")
    train, test = (_binary(folder, (part,), labels=2, classes=100) for part in ("train", "test"))
    return ImageData(train, test, MEAN, STD, CIFAR_100_CLASSES)


def _folder(root: Path, name: str, part: str) -> Path:
    """Where the binary files are, or an error that says what is there instead."""
    inside = root / ("cifar-10-batches-bin" if name == "cifar-10" else "cifar-100-binary")
    pickles = root / ("cifar-10-batches-py" if name == "cifar-10" else "cifar-100-python")
    for folder in (inside, root):
        if (folder / f"{part}.bin").exists():
            return folder
    advice = f"Get {name}-binary.tar.gz from the data set's page and unpack it in {root}."
    for path in (pickles / part, root / part):
        if path.exists():
            raise CardError(
                f"{name}: {path} is a Python pickle, which can run code and is never loaded here; expected the binary "
                f"version, {inside.name}/{part}.bin. {advice}"
            )
    raise CardError(f"{name}: neither {inside / part}.bin nor {root / part}.bin exists. {advice}")


def _binary(folder: Path, parts: tuple[str, ...], *, labels: int, classes: int) -> Split:
    splits = [_records(folder / f"{part}.bin", labels, classes) for part in parts]
    return torch.cat([images for images, _ in splits]), torch.cat([found for _, found in splits])


def _records(path: Path, labels: int, classes: int) -> Split:
    if not path.exists():
        raise CardError(f"{path}: no such file. Unpack the archive again; it holds all of them.")
    raw, size = np.fromfile(path, np.uint8), labels + PIXELS
    if len(raw) % size:
        raise CardError(
            f"{path}: {len(raw)} bytes are no whole number of records of {size} bytes; the file is truncated or "
            "another one. Get it again."
        )
    records = torch.from_numpy(raw.reshape(-1, size))
    # CIFAR-100's first byte is the coarse label; the fine one is the last before the pixels.
    found = records[:, labels - 1].long()
    check_labels(path, found, len(records), classes)
    return records[:, labels:].reshape(-1, 3, SIDE, SIDE), found


def _mosaics(root: Path, split: str) -> Split:
    parts = TRAIN_PARTS if split == "train" else TEST_PARTS
    images = torch.cat([_tiles(root / f"{part}.webp") for part in parts])
    path = root / "labels.npz"
    try:
        # Opened here: np.load leaves its own file open where it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            labels = torch.from_numpy(arrays[split].astype(np.int64))
    except FileNotFoundError as error:
        raise CardError(f"{path}: no such file. Copy it beside the mosaics.") from error
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CardError(f"{path}: holds no readable array {split!r} of labels. Copy it again.") from error
    check_labels(path, labels, len(images), len(CIFAR_10_CLASSES))
    return images, labels


def _tiles(path: Path) -> Tensor:
    """uint8 ``(n, 3, 32, 32)``, the tiles of a mosaic row by row."""
    pillow = need("PIL.Image", extra="vision")
    if not path.exists():
        raise CardError(f"{path}: no such file. Copy it beside the other mosaics.")
    try:
        with pillow.open(path) as image:
            pixels = torch.from_numpy(np.array(image.convert("RGB")))
    except (OSError, SyntaxError, ValueError) as error:
        raise CardError(f"{path}: no readable picture. Copy it again.") from error
    if pixels.shape[0] % SIDE or pixels.shape[1] % SIDE:
        raise CardError(
            f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels are no mosaic of {SIDE} x {SIDE} images. Copy it "
            "again."
        )
    rows = pixels.unfold(0, SIDE, SIDE).unfold(1, SIDE, SIDE)
    return rows.flatten(0, 1).contiguous()
