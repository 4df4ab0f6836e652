"""Inputs that are made one by one, from a file or an image, in worker processes while the net computes."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from snntorch_smixer.errors import CardError

Batch = tuple[Tensor, Tensor]
"""Normalised float32 images ``(B, C, H, W)``, or frames ``(T, B, C, H, W)``, and labels int64 ``(B,)``; on the CPU."""

Sample = tuple[Path, int]
"""A file and its label."""

Key = TypeVar("Key")
"""What a reader makes an input from: a file, or the index of an image in memory."""

Reader = Callable[[Key], Tensor]
"""From a key to one input; it is sent to worker processes, so it has to be picklable."""

MOST_WORKERS = 8

_SAMPLED = 64
"""Files of a split whose bytes enter a fingerprint."""


class Files(Dataset[tuple[Tensor, int]], Generic[Key]):
    """Inputs by index. What the reader draws depends on the seed and the index, not on the number of workers.

    Attributes:
        samples: keys (files) and labels.
        reader: from a key to one input.
        seed: of this pass over them.
    """

    def __init__(self, samples: Sequence[tuple[Key, int]], reader: Reader[Key], *, seed: int = 0) -> None:
        self.samples, self.reader, self.seed = samples, reader, seed

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        key, label = self.samples[index]
        with torch.random.fork_rng(devices=[]):
            # torch.manual_seed would seed the accelerators too, whose state is not saved here.
            torch.default_generator.manual_seed(self.seed + index)
            return self.reader(key), label


class OnDisk:
    """Counts of a data set whose samples lie on disk.

    Attributes:
        train: files and labels.
        test: files and labels, in order.
    """

    train: list[Sample]
    test: list[Sample]

    @property
    def train_count(self) -> int:
        """Samples to train on."""
        return len(self.train)

    @property
    def test_count(self) -> int:
        """Samples to evaluate on."""
        return len(self.test)

    def fingerprint(self) -> str:
        """SHA-256 of the name and label of every file, and of the bytes of 64 files at most of each split."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            every = max(1, math.ceil(len(split) / _SAMPLED))
            digest.update("".join(f"{path.name}\0{label}\n" for path, label in split).encode())
            for path, _ in split[::every]:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def digest_tensors(*tensors: Tensor) -> str:
    """SHA-256 of the shapes, kinds and values of tensors."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def shuffled(
    samples: Sequence[tuple[Key, int]], reader: Reader[Key], *, batch_size: int, workers: int, axis: int
) -> Iterator[Batch]:
    """One epoch in random order; order and seed are drawn from torch's generator.

    Args:
        samples: keys (files) and labels.
        reader: from a key to one input; may draw random numbers.
        batch_size: inputs per batch; the last one may be smaller.
        workers: processes; 0 for none.
        axis: of the batch, in what is returned.
    """
    seed = int(torch.randint(2**62, ()))
    order = torch.randperm(len(samples)).split(batch_size)
    return _load(Files(samples, reader, seed=seed), [chosen.tolist() for chosen in order], workers, axis)


def in_order(
    samples: Sequence[tuple[Key, int]], reader: Reader[Key], *, batch_size: int, workers: int, axis: int
) -> Iterator[Batch]:
    """All inputs, in order; draws nothing. The arguments are those of `shuffled`."""
    order = torch.arange(len(samples)).split(batch_size)
    return _load(Files(samples, reader), [chosen.tolist() for chosen in order], workers, axis)


def default_workers() -> int:
    """One reading process per core that this process may use, at most `MOST_WORKERS`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(MOST_WORKERS, cores)


def check_same_classes(train: Path, test: Path, classes: tuple[tuple[str, ...], tuple[str, ...]]) -> None:
    """Raise `CardError` unless both splits have the same class folders; labels are numbered by them."""
    first, second = classes
    odd = sorted(set(first) ^ set(second))
    if odd:
        raise CardError(
            f"{train} and {test} must have the same class folders: got {len(first)} and {len(second)}, and {odd[0]!r} "
            "is in one only. Sort the files of both into one folder per class."
        )


def _load(files: Files[Key], order: list[list[int]], workers: int, axis: int) -> Iterator[Batch]:
    # A generator of its own: the loader draws a number from the global one otherwise, even where nothing is random.
    loader: Iterable[Batch] = DataLoader(
        files, batch_sampler=order, num_workers=workers, collate_fn=partial(_stack, axis), generator=torch.Generator()
    )
    return iter(loader)


def _stack(axis: int, items: list[tuple[Tensor, int]]) -> Batch:
    return torch.stack([x for x, _ in items], axis), torch.tensor([label for _, label in items])
