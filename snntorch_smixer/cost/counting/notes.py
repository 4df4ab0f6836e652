"""What `measure` knows of a tensor while the model runs: where it comes from, its axes, what its values are."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.counting.axes import Axes
from snntorch_smixer.cost.counting.connections import Connections

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
    """What the numbers of a tensor are; found when first asked for, shared by its reshapes.

    Attributes:
        low: smallest.
        high: largest.
        kind: "spikes", "graded" or "analog"; "" until asked for.
        unit: the value of one spike.
    """

    low: float = math.nan
    high: float = math.nan
    kind: str = ""
    unit: float = 1.0


@dataclass(frozen=True)
class Padding:
    """How a tensor was padded.

    Attributes:
        x: before.
        zeros: per axis, entries of zero before and behind; None where the padding repeats other entries.
    """

    x: Tensor
    zeros: tuple[tuple[int, int], ...] | None


@dataclass
class Note:
    """What is known of one tensor.

    Attributes:
        role: what it depends on.
        axes: its axes, see `axes`.
        step: the time step it belongs to where it has no axis of time, if known.
        unit: a constant factor on whole numbers: 1/N behind a mean over N spikes.
        picked: it is entries of a parameter, picked by data: in a product with data it is the weight, else it is data.
        raw: it is the model's input, reshaped or repeated.
        static: all its time steps are the same by construction.
        source: name of the parameter it is made from.
        linear: it came out of a linear map, so that a BatchNorm on it folds.
        fired: it is spikes of a comparison, moved or scaled.
        base: numbers that it is a constant shift or multiple of; its own otherwise.
        compared: what a comparison compared, where it came out of one.
        padding: what it was before it was padded, and the padding of each axis before and behind.
        factors: two tensors and the notes on them, where it is their product entry by entry.
        rounded: the note on whole numbers that it is a shift or multiple of.
        number: truth values of a comparison that were turned into numbers, or its numbers.
        truth: the truth values that it is as numbers.
        difference: ``q``, its note and that of ``x`` where it is ``q - x``.
        read: something else than a mask on what was compared has read it as numbers.
        reached: how many of its entries at least one event reached, for the sums of a linear map.
        values: its numbers.
        senders: the layers with weights that it comes from, by their place in the books.
        chain: it as a linear function of what entered linear layers before it, see `chains`.
        part: the chain of the tensor that it is a part of.
        late: the calls that it waits with to be counted, so that `reached` is not known yet.
    """

    role: Role
    axes: Axes
    step: int | None = None
    unit: float = 1.0
    picked: bool = False
    raw: bool = False
    static: bool = False
    source: str = ""
    linear: bool = False
    fired: bool = False
    base: Values | None = None
    compared: Values | None = None
    padding: Padding | None = None
    rounded: Note | None = None
    factors: tuple[tuple[Tensor, Note], tuple[Tensor, Note]] | None = None
    number: bool = False
    truth: Note | None = None
    difference: tuple[Tensor, Note, Note] | None = None
    read: bool = False
    reached: int | None = None
    values: Values = field(default_factory=Values)
    senders: frozenset[int] = frozenset()
    chain: Chain | None = None
    part: Chain | None = None
    late: Waiting | None = None


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
    """A tensor as a linear function of another.

    Attributes:
        origin: what entered the first layer.
        keys: the layers, as the books name them.
        maps: connections along the axes of the origin that the layers work on.
        places: per axis of this tensor, which axis of the origin it was; None where reshapes have mixed it up.
        shape: of this tensor.
        link: what became of the last layer's result; shared by its reshapes.
    """

    origin: Operand
    keys: tuple[Key, ...]
    maps: Mapping[int, Connections]
    places: tuple[int | None, ...]
    shape: tuple[int, ...]
    link: Link


@dataclass
class Waiting:
    """Calls of one layer that wait to be counted, in their order.

    Attributes:
        kept: what came in, copied; the same object where it is the same tensor.
        notes: what was known of it.
        results: what is known of what came out, to be told how much of it events reached.
        reached: outputs that events reached in all calls; None until counted together.
        width: results of one call.
        again: counts one of the calls by itself.
    """

    kept: list[Tensor] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    results: list[Note] = field(default_factory=list)
    reached: int | None = None
    width: int = 0
    again: Callable[[int], Any] | None = None

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


@dataclass(frozen=True)
class Call:
    """One call of an operation.

    Attributes:
        name: of the operation, see `rules.plain_name`.
        args: as they were passed.
        tensors: those among them, lists laid flat.
        notes: on the tensors.
        out: tensors that came out.
    """

    name: str
    args: Sequence[Any]
    tensors: Sequence[Tensor]
    notes: Sequence[Note]
    out: Sequence[Tensor]

    @property
    def data(self) -> list[int]:
        """Which tensors are activations: those that depend on the input, picked parameters only for want of others."""
        data = [i for i, note in enumerate(self.notes) if note.role == Role.DATA]
        return [i for i in data if not self.notes[i].picked] or data


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
