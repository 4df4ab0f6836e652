"""Folders of pictures, one per class, such as ImageNet-1k and Tiny-ImageNet."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from snntorch_smixer.errors import CardError
from snntorch_smixer.extras import need, torchvision_ready
from snntorch_smixer.pictures import read_picture
from snntorch_smixer.train.augment import augment, erase, rand_augment
from snntorch_smixer.train.data import normalise
from snntorch_smixer.train.files import (
    Batch,
    OnDisk,
    Sample,
    check_same_classes,
    default_workers,
    in_order,
    shuffled,
)
from snntorch_smixer.train.recipe import Recipe

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet-1k, the usual choice for photographs."""


@dataclass(frozen=True, eq=False)
class FolderData(OnDisk):
    """Pictures on disk, decoded in worker processes.

    Attributes:
        train: files and labels.
        test: files and labels, in order.
        classes: names of the class folders, by label.
        size: (H, W) that every picture is brought to.
        crop: evaluation takes the centre, this share of the resized picture's shorter side.
        workers: decoding processes; 0 for none. Results do not depend on it.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        name: id of the data set; empty for data of one's own.
    """

    train: list[Sample] = field(repr=False)
    test: list[Sample] = field(repr=False)
    classes: tuple[str, ...] = field(repr=False)
    size: tuple[int, int] = (224, 224)
    crop: float = 0.875
    workers: int = field(default_factory=default_workers)
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    name: str = ""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(C, H, W)``."""
        return 3, *self.size

    def train_batches(self, recipe: Recipe) -> Iterator[Batch]:
        """One epoch in random order: random resized crop, flip, RandAugment, erasing.

        Raises:
            CardError: a file is no readable picture of 8 or 16 bits.
            MissingExtra: torchvision is not installed.
        """
        reader = RandomCrop(self.size, recipe, self.mean)
        size = recipe.batch_size
        for images, labels in shuffled(self.train, reader, batch_size=size, workers=self.workers, axis=0):
            yield erase(normalise(images, self.mean, self.std), recipe), labels

    def test_batches(self, batch_size: int = 64) -> Iterator[Batch]:
        """All test pictures, in order: resized, and cropped to the centre. Raises as `train_batches` does."""
        reader = CentreCrop(self.size, self.crop)
        for images, labels in in_order(self.test, reader, batch_size=batch_size, workers=self.workers, axis=0):
            yield normalise(images, self.mean, self.std), labels


def image_folder(
    root: str | Path, *, size: tuple[int, int] = (224, 224), crop: float = 0.875, workers: int | None = None
) -> FolderData:
    """Pictures in ``root/train/CLASS`` and ``root/val/CLASS``, at any depth below; labels in the order of the names.

    Args:
        root: the folder with ``train`` and ``val``.
        size: (H, W) of the net's input.
        crop: evaluation takes the centre, this share of the resized picture's shorter side; 1 for all of it.
        workers: decoding processes; 0 for none, None for one per core.

    Raises:
        CardError: a folder is missing or empty, or the two have other classes.
        MissingExtra: torchvision is not installed.
    """
    train, val = Path(root) / "train", Path(root) / "val"
    classes, train_samples = _samples(train)
    val_classes, val_samples = _samples(val)
    check_same_classes(train, val, (classes, val_classes))
    count = default_workers() if workers is None else workers
    return FolderData(train_samples, val_samples, classes, size=size, crop=crop, workers=count)


@dataclass(frozen=True)
class RandomCrop:
    """Reader for training: random resized crop, flip, RandAugment; uint8 ``(3, H, W)``."""

    size: tuple[int, int]
    recipe: Recipe
    mean: tuple[float, ...]

    def __call__(self, path: Path) -> Tensor:
        """The picture, changed at random."""
        v2 = _v2()
        crop = v2.RandomResizedCrop(
            self.size, scale=(self.recipe.crop_scale, 1.0), interpolation=v2.InterpolationMode.BICUBIC
        )
        image = _read(path, crop)[None]
        return rand_augment(augment(image, padding=0, flip=self.recipe.flip), self.recipe, mean=self.mean)[0]


@dataclass(frozen=True)
class CentreCrop:
    """Reader for evaluation: resized so that the crop is its centre; uint8 ``(3, H, W)``."""

    size: tuple[int, int]
    share: float

    def __call__(self, path: Path) -> Tensor:
        """The picture's centre."""
        v2 = _v2()
        resize = v2.Resize(round(max(self.size) / self.share), interpolation=v2.InterpolationMode.BICUBIC)
        return _read(path, v2.Compose([resize, v2.CenterCrop(self.size)]))


def _samples(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    torchvision_ready()
    try:
        found = need("torchvision.datasets", extra="vision").ImageFolder(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CardError(
            f"image_folder: {folder}: {error}. Expected {folder.parent}/train/CLASS/* and {folder.parent}/val/CLASS/*. "
            "Sort the pictures into one folder per class."
        ) from error
    return tuple(found.classes), [(Path(path), label) for path, label in found.samples]


def _v2() -> ModuleType:
    # Asked for in each call: a worker process may have to import and repair torchvision itself.
    torchvision_ready()
    return need("torchvision.transforms.v2", extra="vision")


def _read(path: Path, transform: Callable[[Any], Any]) -> Tensor:
    pil_to_tensor = need("torchvision.transforms.v2.functional", extra="vision").pil_to_tensor
    pixels: Tensor = pil_to_tensor(transform(read_picture(path)))
    return pixels
