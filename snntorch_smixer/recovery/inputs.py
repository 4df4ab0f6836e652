"""Inputs of a loader: read once into a list, or again in every epoch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.patching.observe import tensors


@dataclass(frozen=True)
class Sample:
    """One batch.

    Attributes:
        x: input, ``(B, ...)`` or frames ``(T, B, C, H, W)``.
        labels: int64 ``(B,)`` where the batch had some, else None.
    """

    x: Tensor
    labels: Tensor | None = None

    @property
    def count(self) -> int:
        """B."""
        return self.x.shape[batch_axis(self.x)]

    def first(self, count: int) -> Sample:
        """The first samples alone."""
        axis = batch_axis(self.x)
        return Sample(self.x.narrow(axis, 0, count), None if self.labels is None else self.labels[:count])

    def rest(self, start: int) -> Sample:
        """The samples from ``start`` on."""
        axis = batch_axis(self.x)
        left = self.x.narrow(axis, start, self.count - start)
        return Sample(left, None if self.labels is None else self.labels[start:])


def batch_axis(x: Tensor) -> int:
    """1 for frames ``(T, B, C, H, W)``, else 0."""
    return 1 if x.dim() == 5 else 0


def check_loader(where: str, loader: Any) -> None:
    """Raise `SettingError` unless ``loader`` can be gone through several times.

    A tensor is refused too: its rows would be taken for batches.
    """
    if isinstance(loader, Tensor) or not isinstance(loader, Iterable):
        raise SettingError(
            f"{where}: got a loader of type {type(loader).__name__}, expected batches. Pass a DataLoader or a list."
        )
    if isinstance(loader, Iterator):
        raise SettingError(
            f"{where}: got a {type(loader).__name__}, which runs dry after one pass, and several are needed. Pass a "
            "DataLoader or a list of batches."
        )


def batches(where: str, loader: Iterable[Any], model: nn.Module) -> Iterator[Sample]:
    """The batches of one pass, on the device and in the precision of ``model``.

    Raises:
        SettingError: a batch without a tensor, without samples, or with values that are not finite.
    """
    like = next((p for p in model.parameters() if p.is_floating_point()), None)
    for batch in loader:
        found = list(tensors(batch))
        if not found or not found[0].numel():
            raise SettingError(f"{where}: got a batch without samples. Pass batches of inputs, or (inputs, labels).")
        x, labels = found[0], found[-1]
        if x.is_floating_point():
            if not bool(x.isfinite().all()):
                raise SettingError(f"{where}: got NaN or infinity among the inputs. Clean them, or the transform.")
            x = x if like is None else x.to(like.device, like.dtype)
        elif like is not None:
            x = x.to(like.device)
        known = len(found) > 1 and labels.dim() == 1 and labels.dtype == torch.int64
        yield Sample(x, labels.to(x.device) if known and len(labels) == x.shape[batch_axis(x)] else None)


def read(where: str, loader: Iterable[Any], model: nn.Module, *, samples: int) -> list[Sample]:
    """The first ``samples`` inputs of a loader in its batches; fewer where it holds fewer.

    Raises:
        SettingError: it holds none; see `batches` too.
    """
    found: list[Sample] = []
    left = samples
    for sample in batches(where, loader, model):
        found.append(sample if sample.count <= left else sample.first(left))
        left -= found[-1].count
        if left <= 0:
            break
    if not found:
        raise SettingError(f"{where}: the loader gave no batch. Pass one that holds inputs.")
    return found


def parted(samples: list[Sample], held: int) -> tuple[list[Sample], list[Sample]]:
    """(all others, the last ``held`` inputs)."""
    total = sum(sample.count for sample in samples)
    seen, kept, out = 0, [], []
    for sample in samples:
        cut = min(sample.count, max(0, total - held - seen))
        if cut:
            kept.append(sample.first(cut))
        if cut < sample.count:
            out.append(sample.rest(cut))
        seen += sample.count
    return kept, out
