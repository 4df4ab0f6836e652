"""What is known of a model that takes one step at a time, and what was chosen for the sequence that runs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from snntorch_smixer.selection import Selection


@dataclass(frozen=True)
class Loop:
    """How a model that takes one step at a time is called.

    Attributes:
        blocks: dotted names of those that take one step.
        own: True where its own forward loops; False where its caller does.
        counter: dotted attribute that its own loop runs to, "" where there is none.
        first_axis: True where its own loop runs over the first axis of its input.
        passed: blocks that may be passed over while the stem is looked at, with what each returns, see `passable`.
        carries: True where a caller's loop takes membranes from one call and passes them to the next.
    """

    blocks: tuple[str, ...]
    own: bool
    counter: str = ""
    first_axis: bool = False
    passed: Mapping[str, Any] = field(default_factory=dict)
    carries: bool = False

    def cannot_drop(self) -> str:
        """Why no step can be left out, "" where it can."""
        if not self.own or self.counter or self.first_axis:
            return ""
        return (
            "its forward loops over a number of steps that is written in its code or follows from data. Keep that "
            "number in an attribute, as in `for _ in range(self.num_steps)`, or pass t=None"
        )


class Sequence:
    """What pruning chose for the sequence that runs, from one reset of the neurons to the next.

    Attributes:
        kept: by block.
        joins: by block, the kept token that each dropped one joined.
        stream: the pruned stream of each kept step; None where all steps run.
        size: (T, B, N) of the stream that was looked at ahead, None where none was.
        scout: takes the stream of each step while the stem is looked at; None else.
        planned: steps that the caller's loop was told to run; None where it did not ask.
        step: calls of the first place so far.
        membranes: those that the last call of a caller's loop left, to see whether somebody reset them.
    """

    def __init__(self) -> None:
        self.start()

    def __reduce__(self) -> tuple[Any, ...]:
        return Sequence, ()

    def start(self) -> None:
        """A new sequence: nothing is chosen."""
        self.kept: dict[int, Selection] = {}
        self.joins: dict[int, Tensor] = {}
        self.stream: Tensor | None = None
        self.size: tuple[int, int, int] | None = None
        self.scout: list[Tensor] | None = None
        self.planned: list[int] | None = None
        self.step = 0
        self.membranes: dict[str, weakref.ref[Tensor]] = {}
