"""The books of a run: one entry per layer and operation, closed into `Records` at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from torch import Tensor

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting.chains import name_of
from snntorch_smixer.cost.counting.notes import Note, Values
from snntorch_smixer.cost.records import Folding, Geometry, Record, Records, Uncounted


@dataclass
class Entry:
    """What one layer has done so far; fields as in `Record`.

    Attributes:
        place: number of the entry, in the order of their first call.
        silent: synapses of calls whose inputs were all zero, by the step that they began with: those of real values
            where the layer is given nothing else, or where it is one of torch's recurrent layers (``analog``).
        escaped: its result went elsewhere than into the next linear layer.
        fed: how often each next linear layer read its result.
        folded: what it does as one layer with the linear layers before it.
        path: all of these, itself the last.
    """

    place: int = 0
    calls: int = 0
    kinds: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    levels: Counter[int] = field(default_factory=Counter)
    events: dict[int, list[int]] | None = field(default_factory=dict)
    geometry: Geometry | None = None
    weight_bytes: int = 0
    state_bytes: int = 0
    activation_bytes: int = 0
    steps: int = 1
    last_input: Values | None = None
    once: int = 0
    silent: dict[int, int] = field(default_factory=dict)
    analog: bool = False
    parameters: int = 0
    sources: set[int] = field(default_factory=set)
    escaped: bool = False
    fed: Counter[tuple[str, str]] = field(default_factory=Counter)
    folded: Entry | None = None
    path: tuple[tuple[str, str], ...] = ()

    def add_events(self, events: Tensor, note: Note, samples: int) -> None:
        """Add events of one call, float64 ``(T, B)``, at the steps that ``note`` says."""
        self.add_rows(events.long().tolist(), note, samples)

    def add_rows(self, rows: list[list[int]], note: Note, samples: int) -> None:
        """The same as lists."""
        self.see_steps(note)
        if len(rows[0]) != samples:
            self.events = None
        if self.events is None:
            return
        start = self._start(note)
        for t, row in enumerate(rows):
            mine = self.events.get(start + t)
            self.events[start + t] = row if mine is None else [a + b for a, b in zip(mine, row, strict=True)]
        self.steps = max(self.steps, len(self.events))

    def see_steps(self, note: Note) -> None:
        """Take the number of steps from the axis of time, or else from the calls, unless they say which step it is."""
        timed = ax.count(note.axes, "t")
        told = timed > 1 or (note.step is not None and self.events is not None)
        self.steps = max(self.steps, timed, 1 if told else self.calls)

    def add_silence(self, synapses: int, note: Note) -> None:
        """Add a call that was given nothing but zeros; after `add_events`."""
        start, steps = self._start(note), ax.count(note.axes, "t")
        for t in range(start, start + steps):
            self.silent[t] = self.silent.get(t, 0) + synapses // steps

    def _start(self, note: Note) -> int:
        return 0 if ax.has(note.axes, "t") else self.calls - 1 if note.step is None else note.step

    def _break_silence(self) -> None:
        """Zeros among real values are multiplied like any other."""
        if not self.analog and self.kinds != ["analog"]:
            return
        self.kinds = ["analog"] if self.analog and not self.kinds else self.kinds
        self.counts["mac"] += sum(self.silent.values())
        if self.events is None:
            return
        for step, synapses in self.silent.items():
            row = self.events[step]
            self.events[step] = [n + synapses // len(row) for n in row]

    def closed(self, layer: str, op: str, steps: int, names: Mapping[int, str]) -> Record:
        """The entry as a record; ``steps`` tells whether an image was computed once for several steps."""
        if self.silent:
            self._break_silence()
            self.kinds = self.kinds or ["spikes"]
        if self.calls == 1 and steps > 1:
            self.counts["static_once"] = self.once
        return Record(
            layer=layer,
            op=op,
            operand="+".join(self.kinds),
            calls=self.calls,
            counts={name: count for name, count in self.counts.items() if count},
            levels=dict(sorted(self.levels.items())),
            events=_rows(self.events),
            steps=self.steps,
            geometry=self.geometry,
            weight_bytes=self.weight_bytes,
            state_bytes=self.state_bytes,
            activation_bytes=self.activation_bytes,
            parameters=self.parameters,
            sources=tuple(dict.fromkeys(names[i] for i in sorted(self.sources) if i in names)),
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
    opened: int = 0

    def entry(self, layer: str, op: str) -> Entry:
        """The entry of a layer, which counts one call more."""
        entry = self.entries.get((layer, op))
        if entry is None:
            entry = self.entries[layer, op] = Entry(place=self.opened)
            self.opened += 1
        entry.calls += 1
        return entry

    def leave_out(self, layer: str, op: str, elements: int) -> None:
        """Note a call that nothing covers."""
        held = self.uncounted.setdefault((layer, op), [0, 0])
        held[0] += 1
        held[1] += elements

    def closed(self, model: str, steps: int) -> Records:
        """Everything as plain data."""
        names = {entry.place: layer for (layer, _), entry in self.entries.items()}
        return Records(
            model=model,
            samples=self.samples,
            steps=steps,
            layers=tuple(
                e.closed(layer, op.partition("#")[0], steps, names) for (layer, op), e in self.entries.items()
            ),
            free=dict(self.free),
            uncounted=tuple(Uncounted(layer, op, *held) for (layer, op), held in self.uncounted.items()),
            calls=self.calls,
            foldings=tuple(self._foldings(steps, names)),
        )

    def _foldings(self, steps: int, names: Mapping[int, str]) -> Iterator[Folding]:
        """Linear layers in a row of which each did nothing but feed the next, in every call."""
        place = {key: i for i, key in enumerate(self.entries)}
        for key, entry in self.entries.items():
            if entry.folded is None or entry.folded.calls != entry.calls:
                continue
            pairs = [(self.entries[first], second) for first, second in pairwise(entry.path)]
            if any(first.escaped or first.fed != {second: first.calls} for first, second in pairs):
                continue
            layers = [layer for layer, _ in entry.path]
            yield Folding(
                tuple(place[step] for step in entry.path),
                entry.folded.closed(name_of(layers), key[1].partition("#")[0], steps, names),
            )
