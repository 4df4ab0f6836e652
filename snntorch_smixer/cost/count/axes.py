"""Which axis of a tensor is time and which is samples, and who reaches whom along an axis of a layer.

`Axes` has one entry per axis of a tensor: the factors that the axis is made of, slowest first, each a label and a
size. ``(("t", 4), ("b", 2))`` is an axis of length 8 that holds 4 steps of 2 samples. Labels are "t", "b" and "" for
all else. Factors of size 1 are left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from snntorch_smixer.errors import MeasureError

Factor = tuple[str, int]
Axis = tuple[Factor, ...]
Axes = tuple[Axis, ...]


def plain(size: int) -> Axis:
    """An axis that is neither time nor samples."""
    return (("", size),) if size > 1 else ()


def unknown(shape: Sequence[int]) -> Axes:
    """Axes of which nothing is known."""
    return tuple(map(plain, shape))


def of_batch(shape: Sequence[int], letters: str, steps: int | None) -> Axes:
    """Axes of a model's input.

    Args:
        shape: of the input.
        letters: its leading axes: "b", "t b", "b t", or merged "(t b)", "(b t)".
        steps: T of merged axes.

    Raises:
        MeasureError: the shape does not fit.
    """
    known = {"b": 1, "t b": 2, "b t": 2, "(t b)": 1, "(b t)": 1}
    if letters not in known:
        raise MeasureError(f"measure: axes={letters!r} is unknown. Expected one of {', '.join(map(repr, known))}.")
    if len(shape) < known[letters]:
        raise MeasureError(f"measure: axes={letters!r} names more axes than the batch of shape {tuple(shape)} has.")
    if not letters.startswith("("):
        named = [((letter, size),) if size > 1 else () for letter, size in zip(letters.split(), shape, strict=False)]
        return (*named, *map(plain, shape[len(named) :]))
    if not steps or shape[0] % steps:
        raise MeasureError(
            f"measure: axes={letters!r} needs steps=, a divisor of the first axis, got steps={steps} and shape "
            f"{tuple(shape)}. Pass the T that is merged in it."
        )
    sizes = {"t": steps, "b": shape[0] // steps}
    return (tuple((i, sizes[i]) for i in letters.strip("()").split() if sizes[i] > 1), *map(plain, shape[1:]))


def size_of(axis: Axis) -> int:
    """Length of an axis."""
    return math.prod(size for _, size in axis)


def has(axes: Axes, label: str) -> bool:
    """True where some axis holds the label."""
    return any(factor[0] == label for axis in axes for factor in axis)


def count(axes: Axes, label: str) -> int:
    """How many entries the label counts in all; 1 where it is not there."""
    return math.prod(size for axis in axes for name, size in axis if name == label)


def regroup(axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes after a reshape. A factor that is cut in two loses its label, unless it is cut at its end by ones."""
    queue = [factor for axis in axes for factor in axis]
    out: list[Axis] = []
    for size in shape:
        axis: list[Factor] = []
        left = size
        while left > 1:
            if not queue:
                return unknown(shape)
            label, length = queue.pop(0)
            common = math.gcd(left, length) if left % length else length
            if common == 1:
                return unknown(shape)
            if common < length:
                queue.insert(0, ("", length // common))
                label = ""
            axis.append((label, common))
            left //= common
        out.append(tuple(axis))
    return tuple(out)


def broadcast(shape: Sequence[int], inputs: Iterable[Axes]) -> Axes:
    """Axes of the result of an elementwise operation, a product or a convolution: matched from the right by length.

    Products and convolutions fit because the axes that they sum over hold neither time nor samples.
    """
    out = [plain(size) for size in shape]
    for axes in inputs:
        for back in range(1, min(len(axes), len(shape)) + 1):
            axis = axes[-back]
            if size_of(axis) == shape[-back] and _labels(axis) > _labels(out[-back]):
                out[-back] = axis
    return tuple(out)


def resized(axes: Axes, shape: Sequence[int]) -> Axes:
    """Axes after picking entries: an axis of one labelled factor keeps its label at its new length."""
    out = []
    for axis, size in zip(axes, shape, strict=True):
        keeps = size_of(axis) == size
        out.append(axis if keeps else ((axis[0][0], size),) if len(axis) == 1 and size > 1 else plain(size))
    return tuple(out)


def permuted(axes: Axes, order: Sequence[int]) -> Axes:
    """Axes in another order."""
    return tuple(axes[i] for i in order)


def inserted(axes: Axes, at: int, axis: Axis) -> Axes:
    """Axes with one more at position ``at``."""
    return (*axes[:at], axis, *axes[at:])


def dropped(axes: Axes, which: Iterable[int], *, keep: bool = False) -> Axes:
    """Axes without some, or with those at length 1."""
    gone = {i % max(len(axes), 1) for i in which}
    return tuple(() if i in gone else axis for i, axis in enumerate(axes) if keep or i not in gone)


def expanded(axes: Axes, shape: Sequence[int], label: str) -> Axes:
    """Axes after an expansion or tiling to ``shape``: what is new gets ``label``, "t" only once."""
    lead = len(shape) - len(axes)
    out: list[Axis] = []
    for i, size in enumerate(shape):
        old = axes[i - lead] if i >= lead else ()
        if size_of(old) == size:
            out.append(old)
            continue
        copies, rest = divmod(size, size_of(old))
        fresh = () if rest or copies < 2 else ((label, copies),)
        out.append((*fresh, *old) if fresh else plain(size))
        label = "" if fresh and label == "t" else label
    return tuple(out)


def _labels(axis: Axis) -> int:
    return sum(label != "" for label, _ in axis)


@dataclass(frozen=True)
class Blocks:
    """Connections along one axis: groups of neighbours, in which every input reaches every output."""

    inputs: int
    outputs: int
    groups: int


@dataclass(frozen=True)
class Window:
    """A kernel along one axis: ``size`` inputs, ``out`` outputs."""

    size: int
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    transposed: bool

    def reach(self) -> Tensor:
        """Per input position, the taps of the kernel that end at an output."""
        return _reach(self)

    def matrix(self) -> Tensor | None:
        """Who reaches whom, as 0 and 1: ``(size, out)``; None where that takes more than 64 MiB."""
        return _matrix(self) if self.size * self.out <= _LARGEST_MATRIX else None


_LARGEST_MATRIX = 2**24


@lru_cache(maxsize=4096)
def _reach(w: Window) -> Tensor:
    return torch.bincount(_meeting(w)[0], minlength=w.size).double()


@lru_cache(maxsize=64)
def _matrix(w: Window) -> Tensor:
    matrix = torch.zeros(w.size, w.out)
    matrix[_meeting(w)] = 1.0
    return matrix


def _meeting(w: Window) -> tuple[Tensor, Tensor]:
    """Inputs and outputs that meet, one pair for each tap of the kernel."""
    starts, most = (w.size, w.out) if w.transposed else (w.out, w.size)
    ends = (torch.arange(starts)[:, None] * w.stride + torch.arange(w.kernel) * w.dilation - w.padding).flatten()
    real = (ends >= 0) & (ends < most)
    begins = torch.arange(starts).repeat_interleave(w.kernel)
    return (begins[real], ends[real]) if w.transposed else (ends[real], begins[real])


Connections = Blocks | Window | Tensor
"""Along one axis: groups in which every input reaches every output, a kernel, or who reaches whom as 0 and 1."""
