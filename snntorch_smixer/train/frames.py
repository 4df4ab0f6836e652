"""Event frames on disk as SpikingJelly writes them: one ``.npz`` per recording, integrated to T frames."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.train.augment import augment, erase
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


@dataclass(frozen=True, eq=False)
class FrameData(OnDisk):
    """Event frames on disk, read in worker processes; numbers of events, not normalised.

    Attributes:
        train: files and labels.
        test: files and labels, in order.
        classes: names, by label.
        shape: ``(T, C, H, W)`` of every file; C is 2, the polarities.
        workers: reading processes; 0 for none. Results do not depend on it.
        mean: empty; frames are not normalised.
        std: empty.
        name: id of the data set; empty for data of one's own.
    """

    train: list[Sample] = field(repr=False)
    test: list[Sample] = field(repr=False)
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    workers: int = field(default_factory=default_workers)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    name: str = ""

    def train_batches(self, recipe: Recipe) -> Iterator[Batch]:
        """One epoch in random order, ``(T, B, C, H, W)``: crop, flip and erasing, alike in all steps of a recording.

        Raises:
            CardError: a file is corrupt, has other frames than the first, or counts that are not finite or negative.
            SettingError: the recipe has RandAugment, whose colour operations mean nothing on numbers of events.
        """
        if recipe.randaugment_ops:
            raise SettingError(
                f"FrameData: randaugment_ops={recipe.randaugment_ops} needs pictures, got event frames. Set it to 0."
            )
        reader = ReadFrames(self.shape)
        batches = shuffled(self.train, reader, batch_size=recipe.batch_size, workers=self.workers, axis=1)
        return ((_change(frames, recipe), labels) for frames, labels in batches)

    def test_batches(self, batch_size: int = 16) -> Iterator[Batch]:
        """All test recordings, in order, ``(T, B, C, H, W)``.

        Raises:
            CardError: a file is corrupt, has other frames than the first, or counts that are not finite or negative.
        """
        return in_order(self.test, ReadFrames(self.shape), batch_size=batch_size, workers=self.workers, axis=1)


def frame_folder(root: str | Path, *, train_share: float | None = None, workers: int | None = None) -> FrameData:
    """Frames in ``root/train/CLASS/*.npz`` and ``root/test/CLASS/*.npz``, key "frames", ``(T, 2, H, W)``.

    Labels follow the names of the class folders in the order of strings, as torchvision's and SpikingJelly's do: "10"
    comes before "2".

    Args:
        root: that folder, or the one above, where SpikingJelly makes ``frames_number_16_split_by_number``.
        train_share: without ``train`` and ``test``, this share of each class, the first by name, is for training, as
            in SpikingJelly's ``split_to_train_test_set``; None to refuse such folders.
        workers: reading processes; 0 for none, None for one per core.

    Raises:
        CardError: folders are missing or empty or have other classes, a class is left without a test recording, or
            the first file holds no frames.
    """
    base = _base(Path(root))
    train, test = base / "train", base / "test"
    if train.is_dir() or train_share is None:
        classes, train_samples = _class_folders(train)
        test_classes, test_samples = _class_folders(test)
        check_same_classes(train, test, (classes, test_classes))
    else:
        classes, samples = _class_folders(base)
        train_samples, test_samples = _share_out(samples, train_share)
        _check_every_class_is_tested(base, classes, test_samples)
    shape = tuple(_read(train_samples[0][0]).shape)
    count = default_workers() if workers is None else workers
    return FrameData(train_samples, test_samples, classes, shape, workers=count)


@dataclass(frozen=True)
class ReadFrames:
    """Reader: float32 ``(T, 2, H, W)`` of the one shape that all files must have."""

    shape: tuple[int, ...]

    def __call__(self, path: Path) -> Tensor:
        """The frames of a recording."""
        frames = _read(path)
        if tuple(frames.shape) != self.shape:
            raise CardError(
                f"{path}: frames {tuple(frames.shape)}, those of the first file are {self.shape} (T, polarity, H, W). "
                "Integrate all recordings alike."
            )
        return frames


def _base(root: Path) -> Path:
    if (root / "train").is_dir():
        return root
    found = sorted(root.glob("frames_number_*_split_by_*"))
    if len(found) > 1:
        raise CardError(
            f"{root} holds {', '.join(path.name for path in found)}; expected one. Pass the one with the net's T."
        )
    return found[0] if found else root


def _class_folders(folder: Path) -> tuple[tuple[str, ...], list[Sample]]:
    """Classes and files of a folder with one folder per class, both in the order of their names as strings."""
    names = tuple(sorted(path.name for path in folder.iterdir() if path.is_dir())) if folder.is_dir() else ()
    if not names:
        state = "has no class folders" if folder.is_dir() else "is no folder"
        raise CardError(
            f"frame_folder: {folder} {state}. Expected one folder per class, with one .npz file per recording, as "
            "SpikingJelly writes them with data_type='frame'."
        )
    samples: list[Sample] = []
    for label, name in enumerate(names):
        found = sorted((folder / name).glob("*.npz"), key=lambda path: path.name)
        if not found:
            raise CardError(f"frame_folder: {folder / name} has no .npz files. Add them, or remove the folder.")
        samples += [(path, label) for path in found]
    return names, samples


def _share_out(samples: list[Sample], train_share: float) -> tuple[list[Sample], list[Sample]]:
    train: list[Sample] = []
    test: list[Sample] = []
    for _, group in groupby(samples, key=lambda sample: sample[1]):
        of_class = list(group)
        first = math.ceil(len(of_class) * train_share)
        train += of_class[:first]
        test += of_class[first:]
    return train, test


def _check_every_class_is_tested(folder: Path, classes: tuple[str, ...], test: list[Sample]) -> None:
    tested = {label for _, label in test}
    missing = [name for label, name in enumerate(classes) if label not in tested]
    if missing:
        raise CardError(
            f"frame_folder: {folder / missing[0]} has so few recordings that none is left for the test. Add some, or "
            "sort the recordings into train and test."
        )


def _read(path: Path) -> Tensor:
    try:
        # Opened here: np.load leaves its own file open where it is no archive.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            frames = arrays["frames"]
    except (EOFError, KeyError, OSError, TypeError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise CardError(f"{path}: holds no readable array 'frames'. Integrate the recording again.") from error
    if frames.dtype.kind not in "biuf" or frames.ndim != 4 or frames.shape[1] != 2 or not frames.size:
        raise CardError(
            f"{path}: 'frames' is {frames.dtype} {frames.shape}, expected numbers (T, 2, H, W). Integrate the "
            "recording again."
        )
    # What becomes infinite here is refused below.
    with np.errstate(over="ignore"):
        counts = torch.from_numpy(frames.astype(np.float32))
    if not (counts.isfinite() & (counts >= 0)).all():
        odd = "NaN" if counts.isnan().any() else "negative values" if (counts < 0).any() else "infinity"
        raise CardError(
            f"{path}: 'frames' holds {odd}, expected numbers of events, finite and at least 0. Integrate the recording "
            "again."
        )
    return counts


def _change(frames: Tensor, recipe: Recipe) -> Tensor:
    if not (recipe.crop_padding or recipe.flip or recipe.erasing):
        return frames
    steps, _, channels = frames.shape[:3]
    # The steps become channels, so that all of them move alike.
    images = frames.transpose(0, 1).flatten(1, 2)
    images = erase(augment(images, padding=recipe.crop_padding, flip=recipe.flip), recipe)
    return images.unflatten(1, (steps, channels)).transpose(0, 1)
