"""The calls that wait to be counted together, and how they are: see `late`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor, nn

from snntorch_smixer.cost.counting.counters import Setting, Tally
from snntorch_smixer.cost.counting.elementwise import read_truth
from snntorch_smixer.cost.counting.entries import Books, Entry
from snntorch_smixer.cost.counting.frames import Firing, Stack, unseen
from snntorch_smixer.cost.counting.late import (
    COMPOSED,
    LINEAR,
    Copies,
    Pattern,
    kind_of_call,
    may_wait,
    packets_of,
)
from snntorch_smixer.cost.counting.notes import Call, Note, Role, Values, Waiting, read, write
from snntorch_smixer.cost.counting.products import PRODUCTS
from snntorch_smixer.cost.counting.values import Scratch, classify, spread


class Counting(Protocol):
    """The recorder, as the queue needs it."""

    model: nn.Module
    books: Books
    stack: Stack
    scratch: Scratch

    @property
    def layer(self) -> str:
        """Dotted path of the module that runs now."""

    def note(self, x: Tensor) -> Note:
        """What is known of a tensor."""

    def add(self, entry: Entry, tally: Tally) -> None:
        """Add one product to an entry."""

    def add_silence(self, entry: Entry, tally: Tally, synapses: int, note: Note) -> None:
        """Add to an entry a call that was given nothing but zeros."""

    def booked(self, firing: Firing, note: Note) -> None:
        """Book one call of a neuron."""

    def add_neuron(self, entry: Entry, firing: Firing, kind: str, reached: int) -> None:
        """Add to an entry what does not depend on the spikes."""

    def __enter__(self) -> Any:
        """Watch."""

    def __exit__(self, *error: Any) -> None:
        """Do not."""


class Queue:
    """What waits, by layer.

    Args:
        recorder: counts what does not wait.
    """

    def __init__(self, recorder: Counting) -> None:
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
            return None  # it feeds another linear layer, see `chains`
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
        if self.copies.full:
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
            elif not note.values.kind:
                self._classify(note.values)

    def _classify(self, values: Values) -> None:
        """Find what the numbers of a tensor are that waits: others may depend on it."""
        held = self.copies.unknown.pop(id(values), None)
        if held is not None:
            x, note, where = held
            with unseen():
                classify(x, note, self.recorder.scratch, where)

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
        sent = packets_of(waiting, whole)
        counts["rate_sop"] = sum(round(dense * packets / inputs) for packets in sent)
        entry.kinds += [kind for kind in tally.kinds if kind not in entry.kinds and not tally.silent]
        entry.counts.update(counts)
        last = waiting.notes[-1]
        entry.last_input = last.values
        if last.raw and last.step is None:
            entry.once = 0
        entry.activation_bytes += tally.bytes
        for row, mine, packets in zip(tally.events.long().tolist(), waiting.notes, sent, strict=True):
            self._add_row(entry, row, mine)
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
            given = [*args[3:], *([[1], [0], [1], 1])[len(args[3:]) :]]
            stride, padding, dilation, groups = given
            sample = pattern.entry.geometry
            grid = sample.grid if sample is not None else (1,) * spatial
            out = x.new_empty(1).expand(x.shape[0], weight.shape[0], *grid)
            settings = (stride, padding, dilation, False, [0] * spatial, groups)
            call = Call("convolution", (x, weight, bias, *settings), (x, weight), (note, known), (out,))
        tally = PRODUCTS[call.name](call, Setting(self.recorder.scratch, pattern.key[0]))
        if tally is None:  # cannot be: the activation is data
            raise RuntimeError(pattern.key[0])
        return tally

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
            self._add_row(entry, row, mine)

    def _add_row(self, entry: Entry, row: list[int], note: Note) -> None:
        entry.calls += 1
        entry.add_rows([row], note, self.recorder.books.samples)

    def _reached(self, waiting: Waiting) -> list[int]:
        """Neurons that events reached, per call; of calls that were counted together their sum in the first."""
        first, size, n = waiting.results[0].late, waiting.width, len(waiting.results)
        if first is not None and first.reached is not None and first.width == size and len(first.results) == n:
            together = all(a is b for a, b in zip(first.results, waiting.results, strict=True))
            if together:
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
