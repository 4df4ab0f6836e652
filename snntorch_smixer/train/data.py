"""What training and evaluation ask of a data set; image data in memory; Fashion-MNIST from its idx files."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.train.augment import augment, erase, rand_augment
from snntorch_smixer.train.files import Batch, digest_tensors, shuffled
from snntorch_smixer.train.recipe import Recipe

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


class Data(Protocol):
    """A data set as `fit` and `evaluate` use it; everything random is drawn from torch's generator."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Per channel, for pixels in [0, 1]; empty for event frames."""

    @property
    def std(self) -> tuple[float, ...]:
        """Per channel; empty for event frames."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names, by label."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one input, ``(C, H, W)`` or ``(T, C, H, W)``."""

    @property
    def train_count(self) -> int:
        """Inputs to train on."""

    @property
    def test_count(self) -> int:
        """Inputs to evaluate on."""

    def train_batches(self, recipe: Recipe) -> Iterator[Batch]:
        """One epoch in random order, augmented; mixing is left to the loop."""

    def test_batches(self, batch_size: int = 250) -> Iterator[Batch]:
        """All test inputs, in order, as they are."""


@dataclass(frozen=True, eq=False)
class ImageData:
    """An image classification data set in memory.

    Attributes:
        train: training images and labels.
        test: test images and labels.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        classes: names, by label.
        workers: processes for RandAugment, the one slow augmentation; 0 for none. Results do not depend on it.
        name: id of the data set; empty for data of one's own.

    Raises:
        SettingError: images that are not uint8 ``(n, C, H, W)`` with a label each.
    """

    train: Split
    test: Split
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    workers: int = 0
    name: str = ""

    def __post_init__(self) -> None:
        for split, (images, labels) in (("train", self.train), ("test", self.test)):
            if images.dtype != torch.uint8 or images.dim() != 4 or labels.shape != images.shape[:1]:
                raise SettingError(
                    f"ImageData: {split} has images {images.dtype} {tuple(images.shape)} and labels "
                    f"{tuple(labels.shape)}, expected uint8 (n, C, H, W) and (n,). Scale the images to 0..255."
                )

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)``."""
        return tuple(self.train[0].shape[1:])

    @property
    def train_count(self) -> int:
        """Images to train on."""
        return len(self.train[0])

    @property
    def test_count(self) -> int:
        """Images to evaluate on."""
        return len(self.test[0])

    def fingerprint(self) -> str:
        """SHA-256 of all images and labels."""
        return digest_tensors(*self.train, *self.test)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 ``(B, C, H, W)`` to float32 with zero mean and unit deviation per channel."""
        return normalise(images, self.mean, self.std)

    def train_batches(self, recipe: Recipe) -> Iterator[Batch]:
        """One epoch in random order, augmented; everything random is drawn from torch's generator."""
        for images, labels in self._augmented(recipe):
            yield erase(self.normalise(images), recipe), labels

    def _augmented(self, recipe: Recipe) -> Iterator[Split]:
        images, labels = self.train
        if recipe.randaugment_ops:
            samples, reader = list(enumerate(labels.tolist())), AugmentImage(images, recipe, self.mean)
            yield from shuffled(samples, reader, batch_size=recipe.batch_size, workers=self.workers, axis=0)
            return
        # The published nets were trained with this order and these draws.
        for chosen in torch.randperm(len(images)).split(recipe.batch_size):
            yield augment(images[chosen], padding=recipe.crop_padding, flip=recipe.flip), labels[chosen]

    def test_batches(self, batch_size: int = 250) -> Iterator[Batch]:
        """All test images, in order, normalised."""
        images, labels = self.test
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            yield self.normalise(x), y


@dataclass(frozen=True, eq=False)
class AugmentImage:
    """Reader of one training image in memory: crop, flip, RandAugment; uint8 ``(C, H, W)``."""

    images: Tensor
    recipe: Recipe
    mean: tuple[float, ...]

    def __call__(self, index: int) -> Tensor:
        """The image, changed at random."""
        image = augment(self.images[index, None], padding=self.recipe.crop_padding, flip=self.recipe.flip)
        return rand_augment(image, self.recipe, mean=self.mean)[0]


def check_fits(net: nn.Module, data: Data, *, by_name: bool = False) -> None:
    """Refuse data that a net was not built for, before anything is computed.

    Steps, channels, size and number of classes are compared with ``net.config``; a net without one passes.

    Args:
        net: classifier.
        data: to train or evaluate on.
        by_name: the classes are compared by name, see `class_indices`; their number is not compared here.

    Raises:
        SettingError: naming the first that differs, or the split that is empty.
    """
    for split, count in (("training", data.train_count), ("test", data.test_count)):
        if not count:
            raise SettingError(f"check_fits: the data have no {split} inputs, expected at least one. Add some.")
    *steps, channels, height, width = data.shape
    found = {"T": steps[0] if steps else None, "in_channels": channels, "img_size": (height, width)}
    advice = {"T": "integrate the events into as many frames as the net has steps", "img_size": "pass data of its size"}
    found |= {} if by_name else {"num_classes": len(data.classes)}
    for name, got in found.items():
        wanted = getattr(getattr(net, "config", None), name, None)
        if None in (wanted, got) or wanted == got:
            continue
        raise SettingError(
            f"check_fits: the data have {name}={got}, {type(net).__name__} was built with {name}={wanted}. Build it "
            f"with {name}={got}, or {advice.get(name, 'pass the data it was made for')}."
        )


def class_indices(found: tuple[str, ...], known: tuple[str, ...]) -> tuple[int, ...]:
    """For each class of a data set, its index among the classes that a model knows, by name.

    Args:
        found: classes of the data, by label.
        known: classes of the model, by logit.

    Raises:
        SettingError: naming the classes that the model does not know.
    """
    if found == known:
        return tuple(range(len(known)))
    odd = sorted(set(found) - set(known)) or sorted(name for name in set(known) if known.count(name) > 1)
    if odd:
        missing = sorted(set(known) - set(found))
        lacks = f" The data lack {_names(missing)}." if missing else ""
        raise SettingError(
            f"class_indices: the model has no single class called {_names(odd)}, expected some of its {len(known)} "
            f"classes.{lacks} Rename the classes of the data, or leave those out."
        )
    return tuple(known.index(name) for name in found)


def _names(names: list[str]) -> str:
    few = ", ".join(map(repr, names[:5]))
    return few if len(names) <= 5 else f"{few} and {len(names) - 5} more"


def fashion_mnist(root: str | Path) -> ImageData:
    """All of Fashion-MNIST: 60,000 training and 10,000 test images of 28 x 28, in the official order.

    Args:
        root: folder that holds ``FashionMNIST/raw`` with the idx files, gzipped or not (torchvision's layout).

    Raises:
        CardError: a file is missing, is no idx file of the announced size, or has a label outside 0 to 9.
    """
    raw = Path(root) / "FashionMNIST" / "raw"
    return ImageData(_split(raw, "train"), _split(raw, "t10k"), (0.2860,), (0.3530,), FASHION_MNIST_CLASSES)


def check_labels(where: Path, labels: Tensor, images: int, classes: int) -> None:
    """Raise `CardError` unless there is one label per image, all from 0 to ``classes - 1``, and at least one."""
    wrong = labels[(labels < 0) | (labels >= classes)]
    if not images or len(labels) != images:
        got = f"{len(labels)} labels for {images} images, expected one for each, and at least one"
    elif len(wrong):
        got = f"label {int(wrong[0])}, expected 0 to {classes - 1}"
    else:
        return
    raise CardError(f"{where}: got {got}. The file is another one or corrupt; get it again.")


def _split(raw: Path, part: str) -> Split:
    images = torch.from_numpy(_read_idx(raw / f"{part}-images-idx3-ubyte")).unsqueeze(1)
    path = raw / f"{part}-labels-idx1-ubyte"
    labels = torch.from_numpy(_read_idx(path)).long()
    check_labels(path, labels, len(images), len(FASHION_MNIST_CLASSES))
    return images, labels


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
