"""Whether a model treats the leading axes of its batch as they were guessed: it leaves samples alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn as nn
from torch import Tensor

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting.notes import Call, Note, Role
from snntorch_smixer.cost.counting.transfer import Clock
from snntorch_smixer.errors import MeasureError

_APART = frozenset({"unbind", "select", "slice", "narrow", "split", "split_with_sizes", "unsafe_split", "chunk"})
_REDUCING = frozenset({"sum", "mean", "amax", "amin", "max", "min", "argmax", "cumsum"})
_RESHAPING = frozenset({"view", "_unsafe_view", "reshape", "_reshape_alias"})
_PRODUCTS = frozenset({"mm", "bmm", "addmm", "baddbmm"})


class Guess:
    """Axes that nobody named, and the first thing a model did that does not fit them.

    Args:
        letters: as guessed, see `axes.of_batch`.
        shape: of the batch.
        clock: T, as far as it is known: a model that makes an axis of time from its batch has none in it.

    Attributes:
        doubt: what the model did; "" where all fits.
    """

    def __init__(self, letters: str, shape: Sequence[int], clock: Clock) -> None:
        self.letters, self.shape, self.clock, self.doubt = letters, tuple(shape), clock, ""
        self._seen: set[int] = set()

    def look(self, call: Call) -> None:
        """Look at one call.

        Raises:
            MeasureError: a convolution takes samples for channels.
        """
        if self._settled or not call.notes or call.notes[0].role != Role.DATA:
            return
        name, axes = call.name, call.notes[0].axes
        if name in ("convolution", "_convolution"):
            self._check_channels(call.tensors[0], axes)
        elif name in _APART and self._takes_apart(call, axes):
            self.doubt = "takes samples apart one by one"
        elif name in _REDUCING and _sums_up(call, axes):
            self.doubt = "sums over samples"
        elif name in _RESHAPING and axes and _only(axes[0], "b") and 1 < call.out[0].shape[0] < ax.size_of(axes[0]):
            self.doubt = "cuts the first axis in two"
        elif name in _PRODUCTS and any(map(_contracts, call.notes[-2:], (-1, -2))):
            self.doubt = "has weights between samples"

    def look_at_neuron(self, module: nn.Module, axes: ax.Axes) -> None:
        """Look at what drives a neuron, which takes the first axis for time if it is one of several steps."""
        if not self._settled and getattr(module, "step_mode", "") == "m" and axes and _only(axes[0], "b"):
            self.doubt = f"has a {type(module).__name__} of several steps, which takes samples for time"

    @property
    def _settled(self) -> bool:
        return bool(self.doubt) or (self.letters == "b" and self.clock.steps is not None)

    @property
    def warning(self) -> str:
        """What to say of it."""
        sizes = ax.count(ax.of_batch(self.shape, self.letters, None), "b")
        return (
            f"measure: the batch of shape {self.shape} is read as axes={self.letters!r}, {sizes} samples, but the "
            f"model {self.doubt}. What is told per sample and per step may be wrong. Pass axes='t b' or 'b t' if one "
            f"of them is time, axes={self.letters!r} if not."
        )

    def _check_channels(self, x: Tensor, axes: ax.Axes) -> None:
        labelled = len(axes) > 1 and any(label for label, _ in axes[1])
        volumes = self.letters == "t b" and x.dim() == 5 and _only(axes[0], "t")
        if labelled or volumes:
            raise MeasureError(
                f"measure: the batch of shape {self.shape} is read as axes={self.letters!r}, and a convolution over "
                f"{x.dim() - 2} axes takes its second axis for channels. Pass axes='b' if the first axis is samples."
            )

    def _takes_apart(self, call: Call, axes: ax.Axes) -> bool:
        """True where an axis of samples falls into entries, all at once or one after the other."""
        at, place = _axis_and_place(call)
        if not axes or not _only(axes[at % len(axes)], "b"):
            return False
        if len(call.out) > 1:
            return call.name == "unbind" or all(x.shape[at] == 1 for x in call.out)
        if call.name == "select" or call.out[0].shape[at] == 1:
            self._seen.add(place % ax.size_of(axes[at % len(axes)]))
        return len(self._seen) > 1


def _axis_and_place(call: Call) -> tuple[int, int]:
    """The axis that is taken apart, and the first entry that is taken."""
    plain = [arg for arg in call.args[1:] if isinstance(arg, int)]
    if call.name in ("unbind", "select", "slice", "narrow"):
        return (*plain, 0, 0)[0], (*plain, 0, 0)[1]
    last: Any = call.args[2] if len(call.args) > 2 else 0
    return int(last), 0


def _sums_up(call: Call, axes: ax.Axes) -> bool:
    dims = call.args[1] if len(call.args) > 1 else None
    dims = [dims] if isinstance(dims, int) else dims
    if not isinstance(dims, list | tuple) or not dims or len(dims) == len(axes):
        return False
    return any(_only(axes[i % len(axes)], "b") for i in dims)


def _contracts(note: Note, at: int) -> bool:
    return note.role == Role.DATA and len(note.axes) >= -at and any(label == "b" for label, _ in note.axes[at])


def _only(axis: ax.Axis, label: str) -> bool:
    return len(axis) == 1 and axis[0][0] == label
