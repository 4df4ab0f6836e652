"""Fashion-MNIST from its idx files, and the two augmentations of the recipe, on whole batches."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from snntorch_smixer.errors import CardError

FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)

Split = tuple[Tensor, Tensor]
"""Images uint8 ``(n, C, H, W)`` and labels int64 ``(n,)``."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image classification data set in memory.

    Attributes:
        train: training images and labels.
        test: test images and labels.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        classes: names, by label.
    """

    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``(B, C, H, W)`` to float32 with zero mean and unit deviation per channel."""
        return normalise(images, self.mean, self.std)


def fashion_mnist(root: str | Path) -> ImageData:
    """All of Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28, in the official order.

    Args:
        root: folder that holds ``FashionMNIST/raw`` with the idx files, gzipped or not (torchvision's layout).

    Raises:
        CardError: a file is missing or is no idx file of the announced size.
    """
    raw = Path(root) / "FashionMNIST" / "raw"
    return ImageData(_split(raw, "train"), _split(raw, "t10k"), (0.2860,), (0.3530,), FASHION_MNIST_CLASSES)


def _split(raw: Path, part: str) -> Split:
    images = torch.from_numpy(_read_idx(raw / f"{part}-images-idx3-ubyte")).unsqueeze(1)
    return images, torch.from_numpy(_read_idx(raw / f"{part}-labels-idx1-ubyte")).long()


def _read_idx(path: Path) -> np.ndarray:
    zipped = path.with_name(path.name + ".gz")
    found = zipped if zipped.exists() else path
    if not found.exists():
        raise CardError(
            f"fashion_mnist: neither {path} nor {zipped.name} exists. Pass the folder above FashionMNIST/raw."
        )
    try:
        return _parse_idx(gzip.decompress(found.read_bytes()) if found is zipped else found.read_bytes())
    except (EOFError, OSError, ValueError, struct.error, zlib.error) as error:
        raise CardError(f"fashion_mnist: {found} is no complete idx file of bytes. Download it again.") from error


def _parse_idx(raw: bytes) -> np.ndarray:
    zeros, kind, axes = struct.unpack_from(">HBB", raw)
    if zeros or kind != 0x08:
        raise ValueError("not an idx file of unsigned bytes")
    shape = struct.unpack_from(f">{axes}I", raw, 4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy()


def normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """uint8 ``(B, C, H, W)`` to float32 with the given mean and std per channel, for pixels in [0, 1]."""
    center = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    spread = torch.tensor(std, device=images.device).view(-1, 1, 1)
    return (images.float() / 255 - center) / spread


def augment(images: Tensor, *, padding: int, flip: bool) -> Tensor:
    """Random crop after zero padding, and random horizontal flip, each drawn per image from torch's generator."""
    batch, _, height, width = images.shape
    columns = torch.arange(width).expand(batch, width)
    if flip:
        flipped = torch.rand(batch, 1) < 0.5
        columns = torch.where(flipped, columns.flip(1), columns)
    rows = torch.arange(height) + torch.randint(2 * padding + 1, (batch, 1))
    columns = columns + torch.randint(2 * padding + 1, (batch, 1))
    padded = F.pad(images, (padding,) * 4)
    pick = torch.arange(batch)[:, None, None]
    return padded.movedim(1, -1)[pick, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)
