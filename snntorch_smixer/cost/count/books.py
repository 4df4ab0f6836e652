"""The books of a run: one entry per layer and operation, and the calls that wait to be counted together."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.cost.count.neurons import Firing, Stack, unseen
from snntorch_smixer.cost.count.ops import Call, read_truth
from snntorch_smixer.cost.count.products import PRODUCTS, Setting, Tally
from snntorch_smixer.cost.count.transfer import name_of
from snntorch_smixer.cost.count.values import Note, Role, Scratch, Values, Waiting, classify, read, spread, write
from snntorch_smixer.cost.records import Folding, Geometry, Record, Records, Uncounted


@dataclass
class Entry:
    """What one layer has done so far; fields as in `Record`."""

    place: int = 0  # number of the entry, in the order of their first call
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
    # synapses of calls whose inputs were all zero, by the step that they began with: those of real values where the
    # layer is given nothing else, or where it is one of torch's recurrent layers (``analog``)
    silent: dict[int, int] = field(default_factory=dict)
    analog: bool = False
    parameters: int = 0
    sources: set[int] = field(default_factory=set)
    escaped: bool = False  # its result went elsewhere than into the next linear layer
    fed: Counter[tuple[str, str]] = field(default_factory=Counter)  # how often each next linear layer read its result
    folded: Entry | None = None  # what it does as one layer with the linear layers before it
    path: tuple[tuple[str, str], ...] = ()  # all of these, itself the last

    def add_events(self, rows: list[list[int]], note: Note, samples: int) -> None:
        """Add events of one call, by step and sample, at the steps that ``note`` says."""
        timed = ax.count(note.axes, "t")
        told = timed > 1 or (note.step is not None and self.events is not None)
        self.steps = max(self.steps, timed, 1 if told else self.calls)  # the calls are steps, unless told otherwise
        if len(rows[0]) != samples:
            self.events = None
        if self.events is None:
            return
        start = self._start(note)
        for t, row in enumerate(rows):
            mine = self.events.get(start + t)
            self.events[start + t] = row if mine is None else [a + b for a, b in zip(mine, row, strict=True)]
        self.steps = max(self.steps, len(self.events))

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
        events = None
        if self.events:
            silent = [0] * len(next(iter(self.events.values())))
            events = tuple(tuple(self.events.get(t, silent)) for t in range(max(self.events) + 1))
        return Record(
            layer=layer,
            op=op,
            operand="+".join(self.kinds),
            counts={name: count for name, count in self.counts.items() if count},
            levels=dict(sorted(self.levels.items())),
            events=events,
            sources=tuple(dict.fromkeys(names[i] for i in sorted(self.sources) if i in names)),
            **{name: getattr(self, name) for name in _AS_THEY_ARE},
        )


_AS_THEY_ARE = ["calls", "steps", "geometry", "weight_bytes", "state_bytes", "activation_bytes", "parameters"]


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
    """One call that was counted, as the model for others like it."""

    entry: Entry  # where it was booked
    key: tuple[str, str]  # name of that entry
    result_note: Note  # what is known of its result
    calls: int  # operations that it is made of
    free: Mapping[str, int]  # those of them that are free, by rule

    def result(self, note: Note, waiting: Waiting) -> Note:
        """What is known of another result before its call is counted."""
        step = note.step if self.result_note.step is not None else None
        return Note(
            Role.DATA, self.result_note.axes, step=step, linear=True, senders=self.result_note.senders, late=waiting
        )


class Copies:
    """Copies of tensors, one for each, as long as nothing is written anywhere."""

    def __init__(self) -> None:
        self._held: dict[int, tuple[Tensor, Note, Tensor]] = {}
        self.bytes = 0
        self.unknown: dict[int, tuple[Tensor, Note, str]] = {}  # by values of which nobody knows what they are

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


class _Recorder(Protocol):
    """The recorder, as the queue needs it."""

    books: Books
    stack: Stack
    scratch: Scratch

    @property
    def layer(self) -> str: ...
    def note(self, x: Tensor) -> Note: ...
    def add(self, entry: Entry, tally: Tally) -> None: ...
    def add_silence(self, entry: Entry, tally: Tally, synapses: int, note: Note) -> None: ...
    def booked(self, firing: Firing, note: Note) -> None: ...
    def add_neuron(self, entry: Entry, firing: Firing, kind: str, reached: int) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *error: Any) -> None: ...


class Queue:
    """What waits, by layer; the recorder counts what does not.

    Counting takes a dozen operations of torch, which on small tensors cost more than the layer itself. So a call that
    is like one that was counted already is only kept, with a copy of its input, and the counters run once over all of
    them. Whatever does not count as plain spikes is counted call by call, as if it had not waited.
    """

    def __init__(self, recorder: _Recorder) -> None:
        self.recorder, self.copies = recorder, Copies()
        self._patterns: dict[tuple[Any, ...], Pattern] = {}
        self._products: dict[tuple[Any, ...], tuple[Pattern, Any, Sequence[Any], Waiting]] = {}
        self._neurons: dict[tuple[Any, ...], tuple[list[Firing], Waiting]] = {}
        self._seen: set[tuple[Any, ...]] = set()
        self._weights: dict[int, tuple[Tensor, Note]] = {}

    def layer(self, func: Any, args: Sequence[Any]) -> Tensor | None:
        """Run a linear layer like one that was counted, which then waits; None where it has to be counted at once."""
        r, x = self.recorder, args[0]
        if r.stack.top is not None and r.stack.top.known:
            return None
        note, weight = r.note(x), self._constant(args[1])
        bias = args[2] if len(args) > 2 else None
        plain = weight.role == Role.WEIGHT and (bias is None or self._constant(bias).role == Role.WEIGHT)
        if x.dim() != COMPOSED[func] or not plain or not weight.source or not may_wait(x, note):
            return None
        key = (func, r.layer, weight.source, tuple(args[1].shape), repr(args[3:]), *kind_of_call(x, note))
        pattern = self._patterns.get(key)
        if pattern is None:
            return self._first(key, func, args)
        if pattern.entry.fed:
            return None  # it feeds another linear layer, see `transfer`
        if note.truth is not None:
            read_truth(note.truth)
        out: Tensor = func(*args)
        held = self._products.get(key)
        if held is None:
            held = self._products[key] = (pattern, func, args, Waiting(width=out.numel()))
        result = pattern.result(note, held[3])
        held[3].add(self.copies.of(x, note, r.layer), note, result)
        r.stack.impure()
        r.books.calls += pattern.calls
        for rule, n in pattern.free.items():
            r.books.free[rule] += n
        write(out, result)
        if self.copies.bytes > _MOST_BYTES:
            self.count()
        return out

    def _constant(self, x: Tensor) -> Note:
        """What is known of a parameter, found once."""
        held = self._weights.get(id(x))
        if held is not None and held[0] is x:
            return held[1]
        note = self.recorder.note(x)
        if isinstance(x, nn.Parameter):
            self._weights[id(x)] = (x, note)
        return note

    def _first(self, key: tuple[Any, ...], func: Any, args: Sequence[Any]) -> Tensor:
        """Count a layer at once and remember how."""
        books = self.recorder.books
        calls, free = books.calls, Counter(books.free)
        with self.recorder:
            result: Tensor = func.decompose(*args)
        note = read(result)
        if note is not None and note.chain is not None and len(note.chain.keys) == 1:
            entry = books.entries[note.chain.keys[0]]
            spent = {rule: n - free[rule] for rule, n in books.free.items() if n > free[rule]}
            self._patterns[key] = Pattern(entry, note.chain.keys[0], note, books.calls - calls, spent)
        return result

    def neuron(self, firing: Firing, note: Note) -> bool:
        """True where a call of a neuron waits."""
        if firing.current is None or not may_wait(firing.spikes, note):
            self.count()
            return False
        key = (firing.layer, firing.width, firing.calls, *kind_of_call(firing.spikes, note))
        if key not in self._seen:
            self._seen.add(key)
            self.count()
            return False
        firings, waiting = self._neurons.setdefault(key, ([], Waiting(width=firing.spikes.numel())))
        firings.append(firing)
        waiting.add(self.copies.of(firing.spikes, note, firing.layer), note, firing.current)
        return True

    def settled(self, notes: Sequence[Note]) -> None:
        """Count what is needed to know all of these tensors."""
        for note in notes:
            if note.late is not None:
                waiting = note.late
                self.count()
                self._split(waiting)
            elif not note.values.kind and id(note.values) in self.copies.unknown:
                with unseen():
                    x, known, where = self.copies.unknown.pop(id(note.values))
                    classify(x, known, self.recorder.scratch, where)

    def count(self) -> None:
        """Count all that waits."""
        if not self._products and not self._neurons:
            return
        products, neurons = list(self._products.values()), list(self._neurons.values())
        self._products, self._neurons = {}, {}
        with unseen():
            for pattern, func, args, waiting in products:
                self._count_products(pattern, func, args, waiting)
            for firings, waiting in neurons:
                self._count_neurons(firings, waiting)
        self.copies.clear()

    def _count_products(self, pattern: Pattern, func: Any, args: Sequence[Any], waiting: Waiting) -> None:
        entry, (whole, note) = pattern.entry, waiting.together()
        waiting.again = lambda i: self._tally(pattern, func, args, waiting.kept[i], waiting.notes[i], waiting.width)
        n = len(waiting.kept)
        if classify(whole, note, self.recorder.scratch, pattern.key[0]) != "spikes" or note.values.unit != 1.0:
            done: dict[int, Tally] = {}  # the same image at every step is counted once
            for i in range(n):
                tally = done.get(id(waiting.kept[i])) or waiting.again(i)
                done[id(waiting.kept[i])] = tally
                entry.calls += 1
                self.recorder.add(entry, tally)
                waiting.results[i].reached, waiting.results[i].late = tally.reached, None
            return
        tally = self._tally(pattern, func, args, whole, note, waiting.width * n)
        counts = tally.counts
        dense, inputs = counts["dense"] // n, counts["inputs"] // n
        sent = [int(packets) for packets in whole.view(n, -1).sum(1, dtype=torch.float64).tolist()]
        counts["rate_sop"] = sum(round(dense * packets / inputs) for packets in sent)
        entry.kinds += [kind for kind in tally.kinds if kind not in entry.kinds and not tally.silent]
        entry.counts.update(counts)
        last = waiting.notes[-1]
        entry.last_input = last.values
        if last.raw and last.step is None:
            entry.once = 0
        entry.activation_bytes += tally.bytes
        for row, mine, packets in zip(tally.events.long().tolist(), waiting.notes, sent, strict=True):
            entry.calls += 1
            entry.add_events([row], mine, self.recorder.books.samples)
            if not packets:
                self.recorder.add_silence(entry, tally, counts["synapses"] // n, mine)
        waiting.reached = tally.reached
        if n == 1:
            waiting.results[0].reached, waiting.results[0].late = tally.reached, None

    def _tally(self, pattern: Pattern, func: Any, args: Sequence[Any], x: Tensor, note: Note, outputs: int) -> Tally:
        """Counts of a layer on one input, which may hold several calls."""
        weight, bias = args[1], args[2] if len(args) > 2 else None
        known = self.recorder.note(weight)
        if func is LINEAR:
            weight = weight.t()
            known = Note(Role.WEIGHT, (*known.axes[::-1],), source=known.source)
            out = x.new_empty(1).expand(x.shape[0], outputs // x.shape[0])
            call = Call("mm", (x, weight), (x, weight), (note, known), (out,))
        else:
            spatial = x.dim() - 2
            given: list[Any] = [*args[3:], *([[1], [0], [1], 1])[len(args[3:]) :]]
            stride, padding, dilation, groups = given
            sample = pattern.entry.geometry
            grid = sample.grid if sample is not None else (1,) * spatial
            out = x.new_empty(1).expand(x.shape[0], weight.shape[0], *grid)
            settings = (stride, padding, dilation, False, [0] * spatial, groups)
            call = Call("convolution", (x, weight, bias, *settings), (x, weight), (note, known), (out,))
        tally = PRODUCTS[call.name](call, Setting(self.recorder.scratch, pattern.key[0]))
        return cast(Tally, tally)  # the activation is data, so it is never None

    def _count_neurons(self, firings: Sequence[Firing], waiting: Waiting) -> None:
        r, (whole, note) = self.recorder, waiting.together()
        if classify(whole, note, r.scratch, firings[0].layer) != "spikes" or note.values.unit != 1.0:
            for firing, kept, mine in zip(firings, waiting.kept, waiting.notes, strict=True):
                if firing.current is not None and firing.current.late is not None:
                    self._split(firing.current.late)
                r.booked(Firing(firing.layer, firing.module, kept, firing.current, firing.width, firing.calls), mine)
            return
        entry, events = r.books.entries[firings[0].layer, "neuron"], spread(whole, note.axes, {}, 1)
        for firing, reached in zip(firings, self._reached(waiting), strict=True):
            r.add_neuron(entry, firing, "spikes", reached)
        entry.counts["spikes"] += int(events.sum())
        entry.sources |= waiting.notes[0].senders
        for row, mine in zip(events.long().tolist(), waiting.notes, strict=True):
            entry.calls += 1
            entry.add_events([row], mine, r.books.samples)

    def _reached(self, waiting: Waiting) -> list[int]:
        """Neurons that events reached, per call; of calls that were counted together their sum in the first."""
        first, size, n = waiting.results[0].late, waiting.width, len(waiting.results)
        if (
            first is not None
            and first.reached is not None
            and (first.width, len(first.results)) == (size, n)
            and (all(map(operator.is_, first.results, waiting.results)))
        ):
            return [first.reached, *[0] * (n - 1)]
        for current in waiting.results:
            if current.late is not None:
                self._split(current.late)
        return [size if note.reached is None else min(note.reached, size) for note in waiting.results]

    def _split(self, waiting: Waiting) -> None:
        """How much each of several calls reached that were counted together."""
        for i, result in enumerate(waiting.results):
            if result.late is not None and waiting.again is not None:
                with unseen():
                    result.reached = waiting.again(i).reached
                result.late = None
