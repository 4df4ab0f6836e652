"""The books of a run: one entry per layer and operation, closed into `Records` at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting.notes import Note, Values
from snntorch_smixer.cost.records import Geometry, Record, Records, Uncounted


@dataclass
class Entry:
    """What one layer has done so far; fields as in `Record`."""

    calls: int = 0
    kinds: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    events: dict[int, list[int]] | None = field(default_factory=dict)
    geometry: Geometry | None = None
    weight_bytes: int = 0
    state_bytes: int = 0
    activation_bytes: int = 0
    steps: int = 1
    last_input: Values | None = None
    once: int = 0

    def add_events(self, events: Tensor, note: Note, samples: int) -> None:
        """Add events of one call, float64 ``(T, B)``, at the steps that ``note`` says."""
        self.see_steps(note)
        if events.shape[1] != samples:
            self.events = None
        if self.events is None:
            return
        timed = ax.has(note.axes, "t")
        start = 0 if timed else self.calls - 1 if note.step is None else note.step
        for t, row in enumerate(events.long().tolist()):
            mine = self.events.get(start + t)
            self.events[start + t] = row if mine is None else [a + b for a, b in zip(mine, row, strict=True)]
        self.steps = max(self.steps, len(self.events))

    def see_steps(self, note: Note) -> None:
        """Take the number of steps from the axis of time, or else from the calls, unless they say which step it is."""
        timed = ax.count(note.axes, "t")
        told = timed > 1 or (note.step is not None and self.events is not None)
        self.steps = max(self.steps, timed, 1 if told else self.calls)

    def closed(self, layer: str, op: str, steps: int) -> Record:
        """The entry as a record; ``steps`` tells whether an image was computed once for several steps."""
        if self.calls == 1 and steps > 1:
            self.counts["static_once"] = self.once
        return Record(
            layer=layer,
            op=op,
            operand="+".join(self.kinds),
            calls=self.calls,
            counts={name: count for name, count in self.counts.items() if count},
            events=_rows(self.events),
            steps=self.steps,
            geometry=self.geometry,
            weight_bytes=self.weight_bytes,
            state_bytes=self.state_bytes,
            activation_bytes=self.activation_bytes,
        )


def _rows(events: Mapping[int, list[int]] | None) -> tuple[tuple[int, ...], ...] | None:
    if not events:
        return None
    width = len(next(iter(events.values())))
    return tuple(tuple(events.get(t, [0] * width)) for t in range(max(events) + 1))


@dataclass
class Books:
    """All entries of a run."""

    samples: int
    entries: dict[tuple[str, str], Entry] = field(default_factory=dict)
    free: Counter[str] = field(default_factory=Counter)
    uncounted: dict[tuple[str, str], list[int]] = field(default_factory=dict)
    calls: int = 0

    def entry(self, layer: str, op: str) -> Entry:
        """The entry of a layer, which counts one call more."""
        entry = self.entries.setdefault((layer, op), Entry())
        entry.calls += 1
        return entry

    def leave_out(self, layer: str, op: str, elements: int) -> None:
        """Note a call that nothing covers."""
        held = self.uncounted.setdefault((layer, op), [0, 0])
        held[0] += 1
        held[1] += elements

    def closed(self, model: str, steps: int) -> Records:
        """Everything as plain data."""
        return Records(
            model=model,
            samples=self.samples,
            steps=steps,
            layers=tuple(e.closed(layer, op.partition("#")[0], steps) for (layer, op), e in self.entries.items()),
            free=dict(self.free),
            uncounted=tuple(Uncounted(layer, op, *held) for (layer, op), held in self.uncounted.items()),
            calls=self.calls,
        )
