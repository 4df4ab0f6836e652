"""What the numbers of a tensor are (spikes, whole numbers, real values), and their sums by step and sample."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from snntorch_smixer.cost.counting.axes import Axis
from snntorch_smixer.cost.counting.notes import Note, Values
from snntorch_smixer.errors import MeasureError

LARGEST_GRADED = 4095
"""A spike that carries more than this is a real value."""
LARGEST_RAW = 15
"""Inputs of whole numbers up to this are event counts; larger ones are pixels."""
_EXACT_FLOAT32 = 2**24


class Scratch:
    """Memory for intermediate results, kept between operations: fresh memory costs more than the arithmetic."""

    def __init__(self) -> None:
        self._held: dict[tuple[torch.dtype, torch.device], Tensor] = {}

    def like(self, x: Tensor) -> Tensor:
        """Uninitialised memory in the shape and memory order of ``x``."""
        size, key = x.numel(), (_float(x), x.device)
        held = self._held.get(key)
        if held is None or held.numel() < size:
            held = self._held[key] = torch.empty(size, dtype=key[0], device=x.device)
        order = sorted(range(x.dim()), key=lambda i: x.stride(i), reverse=True)
        flat = held[:size].view([x.shape[i] for i in order])
        return flat.permute([order.index(i) for i in range(x.dim())])


def classify(x: Tensor, note: Note, scratch: Scratch, where: str) -> str:
    """The kind of ``x``, noted in ``note.values``: "spikes", "graded" or "analog".

    Spikes are zeros and one other value, which folds into the weights; with a known unit (a mean over spikes) that
    value has to be the unit. Without any zero nothing shows that the value is a level and not just a constant image, so
    that it has to be the unit or come out of a comparison. Graded are whole multiples of the unit.

    Raises:
        MeasureError: ``x`` holds values that are not finite.
    """
    values = note.values
    if values.kind:
        return values.kind
    if not x.numel():
        values.kind = "spikes"
        return values.kind
    values.low, values.high = (float(v) for v in torch.aminmax(x))
    if not (math.isfinite(values.low) and math.isfinite(values.high)):
        raise MeasureError(
            f"measure: the input of {where} holds values that are not finite. Check the batch and the weights: a count "
            "of such events has no meaning."
        )
    values.kind = _kind(x, note, values, scratch)
    return values.kind


def _kind(x: Tensor, note: Note, values: Values, scratch: Scratch) -> str:
    top = max(abs(values.low), abs(values.high))
    values.unit = note.unit
    if top == 0:
        return "spikes"
    units = top / abs(note.unit)
    whole = abs(units - round(units)) < 1e-3 and round(units) >= 1
    same = values.low == values.high
    if values.low * values.high >= 0 and (same or _two_level(x, values.high or values.low, scratch)):
        if whole and round(units) > 1 and not note.raw:
            return "graded" if units < LARGEST_GRADED + 0.5 else "analog"
        if not same or note.fired or (whole and round(units) == 1):
            values.unit = values.high or values.low
            return "spikes"
    limit = LARGEST_RAW if note.raw else LARGEST_GRADED
    if not whole or units > limit + 0.5:
        return "analog"
    return "graded" if _whole(x, note.unit, scratch) else "analog"


def _two_level(x: Tensor, level: float, scratch: Scratch) -> bool:
    """True where ``x`` holds nothing but zeros and ``level``."""
    ones = torch.ne(x, 0, out=scratch.like(x))
    return torch.equal(ones.mul_(level), x.to(ones.dtype))


def _whole(x: Tensor, unit: float, scratch: Scratch) -> bool:
    """True where ``x`` holds whole multiples of ``unit``; rounding of a division by ``unit`` is forgiven."""
    out = scratch.like(x)
    if unit == 1.0:
        return torch.equal(torch.round(x, out=out) if x.dtype == out.dtype else out.copy_(x).round_(), x.to(out.dtype))
    scaled = torch.mul(x.to(out.dtype), 1 / unit, out=out)
    return bool(((scaled - scaled.round()).abs() < 1e-3).all())


def nonzero(x: Tensor, scratch: Scratch) -> Tensor:
    """Ones where ``x`` is not zero, in memory that the next call overwrites."""
    return torch.ne(x, 0, out=scratch.like(x))


def units(x: Tensor, values: Values, scratch: Scratch) -> Tensor:
    """Absolute whole values of graded spikes, in memory that the next call overwrites."""
    out = torch.abs(x.to(_float(x)), out=scratch.like(x))
    return out if values.unit == 1.0 else out.mul_(1 / abs(values.unit)).round_()


def spread(y: Tensor, axes: tuple[Axis, ...], reach: Mapping[int, Tensor], most: float) -> Tensor:
    """Sums of ``y`` by step and sample, whole numbers in float64 ``(T, B)``; 1 where an axis is not there.

    Args:
        y: non-negative whole numbers.
        axes: its axes.
        reach: per axis that needs it, how many synapses of an output feature an entry at each position reaches.
        most: the largest entry of ``y``.
    """
    labels, dims, sizes = [], [], []
    for i, axis in enumerate(axes):
        splits = i not in reach and any(label for label, _ in axis)
        for label, size in axis if splits else (("", y.shape[i]),):
            labels.append(label)
            dims.append(i)
            sizes.append(size)
    y = y.reshape(sizes)
    summed = [k for k, label in enumerate(labels) if not label and dims[k] not in reach]
    count = math.prod(y.shape[k] for k in summed)
    small = count * most <= _EXACT_FLOAT32
    y = y.sum(summed, dtype=torch.float32 if small else torch.float64).double() if summed else y.double()
    rest = [k for k in range(len(labels)) if k not in summed]
    for k in reversed(rest):
        if dims[k] in reach:
            y = torch.tensordot(y, reach[dims[k]].to(y), ([rest.index(k)], [0]))
            rest.remove(k)
    left = [labels[k] for k in rest]
    return _steps_by_samples(y, left)


def _steps_by_samples(y: Tensor, labels: list[str]) -> Tensor:
    for label in ("t", "b"):
        while labels.count(label) > 1:  # a second axis of the same kind: steps of steps; summed up
            last = len(labels) - 1 - labels[::-1].index(label)
            y = y.sum(last)
            del labels[last]
    for label in ("t", "b"):
        if label not in labels:
            y = y.unsqueeze(0)
            labels = [label, *labels]
    return y.permute(labels.index("t"), labels.index("b"))


def _float(x: Tensor) -> torch.dtype:
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32
