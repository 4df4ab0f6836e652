"""What `measure` knows of a tensor while the model runs: where it comes from, its axes, what its values are."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from snntorch_smixer.cost.counting.axes import Axes

if TYPE_CHECKING:
    from snntorch_smixer.cost.counting.chains import Chain
    from snntorch_smixer.cost.counting.late import Waiting

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
