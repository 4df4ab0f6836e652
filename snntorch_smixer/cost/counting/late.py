"""Calls of a loop that are counted together at its end: the same layer on small tensors of the same shape and kind.

Counting takes a dozen operations of torch, which on small tensors cost more than the layer itself. So a call that is
like one that was counted already is only kept, with a copy of its input, and the counters run once over all of them.
Whatever does not count as plain spikes is counted call by call, as if it had not waited.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.counting.entries import Entry
from snntorch_smixer.cost.counting.notes import Note, Role, Waiting

LARGEST = 2**17
"""Entries of a tensor that is worth waiting; counting larger ones at once costs little beside their layer."""
_MOST_BYTES = 2**26

LINEAR = torch.ops.aten.linear.default
COMPOSED: Mapping[Any, int] = {
    LINEAR: 2,
    torch.ops.aten.conv1d.default: 3,
    torch.ops.aten.conv2d.default: 4,
    torch.ops.aten.conv3d.default: 5,
}
"""Layers that torch takes apart, and the axes of an input that they leave as it is."""


@dataclass(frozen=True)
class Pattern:
    """One call that was counted, as the model for others like it.

    Attributes:
        entry: where it was booked.
        key: name of that entry.
        result_note: what is known of its result.
        calls: operations that it is made of.
        free: those of them that are free, by rule.
    """

    entry: Entry
    key: tuple[str, str]
    result_note: Note
    calls: int
    free: Mapping[str, int]

    def result(self, note: Note, waiting: Waiting) -> Note:
        """What is known of another result before its call is counted."""
        step = note.step if self.result_note.step is not None else None
        return Note(
            Role.DATA, self.result_note.axes, step=step, linear=True, senders=self.result_note.senders, late=waiting
        )


class Copies:
    """Copies of tensors, one for each, as long as nothing is written anywhere.

    Attributes:
        bytes: that all copies take.
        unknown: copies of whose numbers nobody knows what they are: by these numbers, with note and layer.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Note, Tensor]] = {}
        self.bytes = 0
        self.unknown: dict[int, tuple[Tensor, Note, str]] = {}

    def of(self, x: Tensor, note: Note, layer: str) -> Tensor:
        """The copy of a tensor that a layer got or sent."""
        held = self._held.get(id(x))
        if held is not None and held[0] is x and held[1] is note:
            return held[2]
        copy = x.clone()
        self._held[id(x)] = (x, note, copy)
        self.bytes += x.numel() * x.element_size()
        if not note.values.kind:
            self.unknown[id(note.values)] = (copy, note, layer)
        return copy

    @property
    def full(self) -> bool:
        """True where more is kept than is worth it."""
        return self.bytes > _MOST_BYTES

    def forget(self) -> None:
        """Make new copies from now on: a tensor may have been written to."""
        self._held.clear()

    def clear(self) -> None:
        """Nothing waits any more."""
        self._held.clear()
        self.unknown.clear()
        self.bytes = 0


def may_wait(x: Tensor, note: Note) -> bool:
    """True for a small input whose first axis is samples or one, and no other is samples or time."""
    return (
        note.role == Role.DATA
        and 0 < x.numel() <= LARGEST
        and x.is_floating_point()
        and note.unit == 1.0
        and note.chain is None
        and note.part is None
        and note.padding is None
        and not note.static
        and bool(note.axes)
        and all(label == "b" for label, _ in note.axes[0])
        and len(note.axes[0]) <= 1
        and not any(label for axis in note.axes[1:] for label, _ in axis)
    )


def kind_of_call(x: Tensor, note: Note) -> tuple[Any, ...]:
    """What two inputs share that are counted together."""
    return tuple(x.shape), x.dtype, note.axes, note.raw, note.fired, note.step is None, note.senders


def packets_of(waiting: Waiting, whole: Tensor) -> list[int]:
    """Spikes of each call, of zeros and ones in one tensor."""
    sums = whole.view(len(waiting.kept), -1).sum(1, dtype=torch.float64)
    return [int(n) for n in sums.tolist()]
