"""What `measure` knows of a tensor: where it comes from, what its values are, their sums by step and sample."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.count.axes import Axes, Axis, Connections
from snntorch_smixer.errors import MeasureError

Key = tuple[str, str]
"""Layer and operation, as the books name them."""

_NAME = "_smixer_cost_note"


class Role(enum.IntEnum):
    """What a tensor depends on; the role of a result is the highest of its inputs."""

    CONSTANT = 0
    """Neither on parameters nor on the input: zeros, a state at rest, an index."""
    WEIGHT = 1
    """On parameters, not on the input."""
    DATA = 2
    """On the input."""


@dataclass
class Values:
    """What the numbers of a tensor are; found when first asked for, shared by its reshapes."""

    low: float = math.nan  # smallest
    high: float = math.nan  # largest
    kind: str = ""  # "spikes", "graded" or "analog"; "" until asked for
    unit: float = 1.0  # the value of one spike


@dataclass(frozen=True)
class Padding:
    """How a tensor was padded."""

    x: Tensor  # before
    # per axis, entries of zero before and behind; None where the padding repeats other entries
    zeros: tuple[tuple[int, int], ...] | None


@dataclass
class Note:
    """What is known of one tensor."""

    role: Role  # what it depends on
    axes: Axes  # its axes, see `axes`
    step: int | None = None  # the time step it belongs to where it has no axis of time, if known
    unit: float = 1.0  # a constant factor on whole numbers: 1/N behind a mean over N spikes
    # it is entries of a parameter, picked by data: in a product with data it is the weight, else it is data
    picked: bool = False
    raw: bool = False  # it is the model's input, reshaped or repeated
    static: bool = False  # all its time steps are the same by construction
    source: str = ""  # name of the parameter it is made from
    linear: bool = False  # it came out of a linear map, so that a BatchNorm on it folds
    fired: bool = False  # it is spikes of a comparison, moved or scaled
    base: Values | None = None  # numbers that it is a constant shift or multiple of; its own otherwise
    compared: Values | None = None  # what a comparison compared, where it came out of one
    padding: Padding | None = None  # what it was before it was padded, and the padding of each axis before and behind
    rounded: Note | None = None  # the note on whole numbers that it is a shift or multiple of
    # two tensors and the notes on them, where it is their product entry by entry
    factors: tuple[tuple[Tensor, Note], tuple[Tensor, Note]] | None = None
    number: bool = False  # truth values of a comparison that were turned into numbers, or its numbers
    truth: Note | None = None  # the truth values that it is as numbers
    difference: tuple[Tensor, Note, Note] | None = None  # ``q``, its note and that of ``x`` where it is ``q - x``
    read: bool = False  # something else than a mask on what was compared has read it as numbers
    reached: int | None = None  # how many of its entries at least one event reached, for the sums of a linear map
    values: Values = field(default_factory=Values)  # its numbers
    senders: frozenset[int] = frozenset()  # the layers with weights that it comes from, by their place in the books
    chain: Chain | None = None  # it as a linear function of what entered linear layers before it, see `transfer`
    part: Chain | None = None  # the chain of the tensor that it is a part of
    late: Waiting | None = None  # the calls that it waits with to be counted, so that `reached` is not known yet


@dataclass(frozen=True)
class Operand:
    """One factor of a product: a tensor and what is known of it."""

    x: Tensor
    note: Note


@dataclass
class Link:
    """What became of the result of a linear layer: read by a next one so many times; overwritten with other data."""

    taken: int = 0
    broken: bool = False


@dataclass(frozen=True)
class Chain:
    """A tensor as a linear function of another."""

    origin: Operand  # what entered the first layer
    keys: tuple[Key, ...]  # the layers, as the books name them
    maps: Mapping[int, Connections]  # connections along the axes of the origin that the layers work on
    # per axis of this tensor, which axis of the origin it was; None where reshapes have mixed it up
    places: tuple[int | None, ...]
    shape: tuple[int, ...]  # of this tensor
    link: Link  # what became of the last layer's result; shared by its reshapes


@dataclass
class Waiting:
    """Calls of one layer that wait to be counted, in their order."""

    # what came in, copied; the same object where it is the same tensor
    kept: list[Tensor] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)  # what was known of it
    # what is known of what came out, to be told how much of it events reached
    results: list[Note] = field(default_factory=list)
    reached: int | None = None  # outputs that events reached in all calls; None until counted together
    width: int = 0  # results of one call
    again: Callable[[int], Any] | None = None  # counts one of the calls by itself

    def add(self, kept: Tensor, note: Note, result: Note) -> None:
        """One call more."""
        self.kept.append(kept)
        self.notes.append(note)
        self.results.append(result)

    def together(self) -> tuple[Tensor, Note]:
        """All inputs as steps of one tensor, and the note on it."""
        note = self.notes[0]
        first = (("t", len(self.kept)), *note.axes[0]) if len(self.kept) > 1 else note.axes[0]
        return torch.cat(self.kept), Note(Role.DATA, (first, *note.axes[1:]), raw=note.raw, fired=note.fired)


def read(x: Tensor) -> Note | None:
    """The note on a tensor, None where there is none."""
    note: Note | None = x.__dict__.get(_NAME)
    return note


def write(x: Tensor, note: Note) -> None:
    """Put a note on a tensor."""
    x.__dict__[_NAME] = note


def erase(x: Tensor) -> None:
    """Take the note off a tensor."""
    x.__dict__.pop(_NAME, None)


def storage_of(x: Tensor) -> int | None:
    """A number that tensors of the same memory share, None where there is no memory (meta, sparse)."""
    if x.layout is not torch.strided or x.device.type == "meta":
        return None
    return x.untyped_storage().data_ptr() or None


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
