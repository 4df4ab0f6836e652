"""Watches every operation of torch that a model runs, and keeps the books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.cost.count import ops
from snntorch_smixer.cost.count.books import COMPOSED, Books, Entry, Queue
from snntorch_smixer.cost.count.neurons import Firing, Frame, Stack, is_neuron, state_variables, unseen
from snntorch_smixer.cost.count.ops import Call, Clock, Kind, fires, is_strange, masks, read_truth, resets, verdict
from snntorch_smixer.cost.count.products import PRODUCTS, SPELLED, Setting, Tally, entrywise_product
from snntorch_smixer.cost.count.transfer import (
    begun,
    joined,
    passed,
    see_straight_through,
    tally_of,
    transfer,
    writes_constant,
)
from snntorch_smixer.cost.count.values import (
    Chain,
    Note,
    Operand,
    Role,
    Scratch,
    Values,
    classify,
    nonzero,
    read,
    spread,
    storage_of,
    write,
)


class _Guess(Protocol):
    """Sees what a model does, see `measure.Guess`."""

    def look(self, call: Call) -> None: ...
    def look_at_neuron(self, module: nn.Module, axes: ax.Axes) -> None: ...


class Recorder(TorchDispatchMode):
    """Counts what runs while it is entered.

    It works below autograd, autocast and modules, on torch's basic operations; composed ones (``linear``, ``einsum``
    under ``inference_mode``) are taken apart first, so that every spelling of a product is the same product.
    ``guess`` watches a model whose axes nobody named.
    """

    def __init__(self, model: nn.Module, samples: int, clock: Clock, guess: _Guess | None = None) -> None:
        super().__init__()
        self.model, self.clock, self.books, self.guess = model, clock, Books(samples), guess
        self.stack = Stack(model, self)
        self.scratch = Scratch()
        self.weights = {storage_of(w): name for name, w in _constants(model)}
        self._atomic: dict[Any, str] = {torch.ops.aten._pad_circular.default: "_pad_circular"}  # else only copies
        self._data: set[int | None] = set()
        self.queue = Queue(self)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled meanwhile, and torch's guard against it doubles the cost of a call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        if func in SPELLED:
            with self:
                return SPELLED[func](*args, **kwargs)
        name = self._atomic.get(func)
        if name is None:
            waited = self.queue.layer(func, args) if func in COMPOSED and not kwargs else None
            if waited is not None:
                return waited
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            name = self._atomic[func] = ops.name_of(func)
        top = self.stack.top
        if top is not None and top.known and name not in PRODUCTS and not self._feeds_back(name, args):
            self._in_neuron()
            return func(*args, **kwargs)
        if name == "index_put" and args[3:4] == (True,):
            name = "_index_put_impl"  # adds up, where without accumulate= it moves
        tensors = _tensors((*args, *kwargs.values()))
        before = [self.note(x) for x in tensors]
        result = func(*args, **kwargs)
        self._count(func, Call(name, args, tensors, before, _tensors([result])))
        return result

    def pause(self) -> Callable[[], None]:
        """Stop watching, for the inside of a neuron, which counts as one operation; what is returned goes on."""
        self._in_neuron()
        off = unseen()
        off.__enter__()
        return lambda: off.__exit__(None, None, None)

    def _in_neuron(self) -> None:
        self.clock.fired = True
        self.books.calls += 1
        self.books.free[ops.NEURON] += 1

    def note(self, x: Tensor) -> Note:
        """What is known of a tensor."""
        note = read(x)
        if note is not None and (note.role == Role.DATA or not self._data):
            return note
        place = storage_of(x)
        if place is not None and place in self._data:
            return Note(Role.DATA, self._guess(x.shape))
        if note is not None:
            return note
        source = self.weights.get(place) if place is not None else None
        role = Role.CONSTANT if source is None else Role.WEIGHT
        return Note(role, ax.unknown(x.shape), source=source or "")

    def _guess(self, shape: Sequence[int]) -> ax.Axes:
        """Axes of memory that was filled piece by piece: by its lengths."""
        lead = (self.clock.steps or 0, self.books.samples)
        if tuple(shape[:2]) == lead and min(lead) > 0:
            return ax.of_batch(shape, "t b", None)
        return ax.of_batch(shape, "b", None) if tuple(shape[:1]) == lead[1:] else ax.unknown(shape)

    def _count(self, func: Any, call: Call) -> None:
        name, out = call.name, call.out
        self.queue.settled(call.notes)
        self.books.calls += 1
        if self.guess is not None:
            self.guess.look(call)
        product, strange = PRODUCTS.get(name), is_strange(call)
        tally = product(call, Setting(self.scratch, self.layer)) if product is not None and not strange else None
        notes = transfer(call, self.clock)
        if name in ("sub", "add", "detach", "alias"):
            see_straight_through(call, notes[0])
        if tally is None and not strange:
            tally = self._entrywise(call, notes)
        self._follow(call, notes, tally)
        if tally is not None:
            self._book_product(tally, notes[0], out[0])
        elif strange or (product is not None and any(n.role == Role.DATA for n in call.notes)):
            self.stack.impure()
            self.books.leave_out(self.layer, str(func), sum(x.numel() for x in out))
        elif product is not None:
            self.books.free[ops.CONSTANT] += 1
        else:
            self._book_other(call, func, notes)
        self._write(func, call, notes)

    def _write(self, func: Any, call: Call, notes: Sequence[Note]) -> None:
        """Put notes on what came out, and on truth values that have become numbers."""
        out = call.out
        if "numbers" in call.op.traits and out and out[0].is_floating_point():
            for i, (x, note) in enumerate(zip(call.tensors, call.notes, strict=True)):
                note.number = note.number or (x.dtype == torch.bool and not masks(call, i))
        for note in call.notes:
            if note.truth is not None:
                read_truth(note.truth, only_masks=call.name == "mul" and any(resets(note, n) for n in call.notes))
        if call.name == "_to_copy" and call.tensors[0].dtype == torch.bool and notes:
            notes[0].truth = call.notes[0]
        written = func._schema.is_mutable
        if written:
            self.queue.copies.forget()
        for x, note in zip(out, notes, strict=True):
            if written and note.role == Role.DATA:
                self._data.add(storage_of(x))
                note = replace(note, values=Values())
            elif self._data and not func.is_view:
                self._data.discard(storage_of(x))
            write(x, note)

    @property
    def layer(self) -> str:
        """Dotted path of the module that runs now."""
        return "" if self.stack.top is None else self.stack.top.layer

    def _follow(self, call: Call, notes: Sequence[Note], tally: Tally | None) -> None:
        """Take chains of linear layers through an operation, or end them."""
        if not any(note.chain or note.part for note in call.notes) or call.op.kind is Kind.MAKING:
            return
        inside = call.name in ("slice", "select")
        chain, constant = passed(call), writes_constant(call)
        for note in call.notes:
            part = note.part or (note.chain if inside else None)
            if part is not None and inside:
                notes[0].part = part
            elif part is not None and not constant:
                part.link.broken |= call.name in ("copy", "fill", "zero") or call.name.startswith("index_put")
                self._escapes(part)
            elif note.chain is not None and chain is None and not constant:
                extends = tally is not None and tally.source is not None and tally.source.note is note
                if not extends:
                    self._escapes(note.chain)
        if chain is not None:
            notes[0].chain = chain

    def _escapes(self, chain: Chain) -> None:
        """The result of a linear layer is needed as it is."""
        self.books.entries[chain.keys[-1]].escaped = True

    def ended(self, output: Any) -> None:
        """Note what the model returned."""
        for x in tree_leaves(output):
            note = read(x) if isinstance(x, Tensor) else None
            if note is not None and note.chain is not None:
                self._escapes(note.chain)
            if note is not None and note.truth is not None:
                read_truth(note.truth)

    def _book_product(self, tally: Tally, note: Note, out: Tensor) -> None:
        self.stack.impure()
        self.queue.count()
        layer, op = self._place(tally)
        entry = self.books.entry(layer, op)
        self.add(entry, tally)
        if tally.weight is not None:
            entry.weight_bytes, entry.parameters = self._size_of(tally.weight.note.source)
        note.role = max(note.role, tally.activation.role)
        note.linear, note.reached, note.raw = tally.weight is not None, tally.reached, False
        note.unit = tally.unit
        entry.sources |= note.senders
        note.senders = frozenset((entry.place,))
        note.chain = self._chained(entry, tally, (layer, op), out) if note.role == Role.DATA else None

    def add(self, entry: Entry, tally: Tally) -> None:
        """Add one call to an entry."""
        if not tally.silent:
            entry.kinds += [kind for kind in tally.kinds if kind not in entry.kinds]
        entry.counts.update(tally.counts)
        entry.levels.update(tally.levels)
        entry.counts["static_mac"] += self._repeated(tally, entry.last_input)
        if tally.activation.raw and not ax.has(tally.activation.axes, "t") and tally.activation.step is None:
            entry.once = tally.counts.get("mac", 0)
        entry.last_input = tally.activation.values
        entry.add_events(tally.events.long().tolist(), tally.activation, self.books.samples)
        if tally.silent:
            self.add_silence(entry, tally, tally.counts["synapses"], tally.activation)
        entry.geometry = tally.geometry
        entry.activation_bytes += tally.bytes

    def add_silence(self, entry: Entry, tally: Tally, synapses: int, note: Note) -> None:
        """Add to an entry a call that was given nothing but zeros."""
        entry.add_silence(synapses, note)
        entry.analog = entry.analog or self._is_recurrent(tally)

    def _chained(self, entry: Entry, tally: Tally, key: tuple[str, str], out: Tensor) -> Chain | None:
        """The chain behind one linear layer, with what it does together with those before it booked beside it."""
        chain = begun(tally, key, out)
        before = None if tally.source is None else tally.source.note.chain
        if chain is None or before is None:
            return chain
        first = self.books.entries[before.keys[-1]]
        before.link.taken += 1
        first.fed[key] += 1
        first.escaped |= before.link.taken > 1 or before.link.broken
        longer = None if key in before.keys else joined(before, chain)
        whole = None if longer is None else tally_of(longer, out.numel(), Setting(self.scratch, key[0]))
        if longer is None or whole is None or (entry.folded is not None and entry.path != longer.keys):
            first.escaped = True
            return chain
        if entry.folded is None:
            entry.folded, entry.path = Entry(), longer.keys
        entry.folded.calls += 1
        whole.bytes = longer.origin.x.numel() * longer.origin.x.element_size() + out.numel() * out.element_size()
        self.add(entry.folded, whole)
        weights = 0 if whole.geometry is None else whole.geometry.weights
        entry.folded.parameters = weights + (entry.parameters - tally.weight.x.numel() if tally.weight else 0)
        entry.folded.weight_bytes = entry.folded.parameters * (tally.weight.x.element_size() if tally.weight else 0)
        entry.folded.sources |= self.books.entries[longer.keys[0]].sources
        return longer

    def _feeds_back(self, name: str, args: Sequence[Any]) -> bool:
        """True for the weights of a recurrence one to one, in a module of their own inside a neuron."""
        top = self.stack.top
        inside = top is not None and top.known and not is_neuron(top.module)
        return inside and name == "mul" and any(self.note(x).role == Role.WEIGHT for x in _tensors(args))

    def _entrywise(self, call: Call, notes: Sequence[Note]) -> Tally | None:
        """A product entry by entry: of a recurrence one to one, or of which a sum is taken now.

        One of which nobody takes a sum is booked as multiplications or gates; what was booked is taken back.
        """
        setting = Setting(self.scratch, self.layer)
        if call.name == "mul" and len(call.tensors) == 2 and call.out[0].is_floating_point():
            left, right = (Operand(x, note) for x, note in zip(call.tensors, call.notes, strict=True))
            if self.stack.top is not None and self.stack.top.known:
                return entrywise_product(left, right, notes[0].axes, call.out[0].numel(), setting)
            return None
        factors = call.notes[0].factors if call.name in ("sum", "mean") and call.notes else None
        wrote = call.out[0].numel() if call.out else 0
        if factors is None or not 0 < wrote < call.tensors[0].numel():
            return None
        left, right = (Operand(*factor) for factor in factors)
        again = Call("mul", (left.x, right.x), (left.x, right.x), (left.note, right.note), call.tensors[:1])
        booked = verdict(again, self.scratch)
        if isinstance(booked, Mapping) and self._take_back(booked):
            return entrywise_product(left, right, call.notes[0].axes, wrote, setting)
        return None

    def _see_mask(self, call: Call) -> None:
        """Signs that multiply real values are a mask, no spikes."""
        for i, note in enumerate(call.notes):
            other = call.tensors[1 - i]
            signs = note.number and note.fired and call.tensors[i].is_floating_point()
            if signs and not resets(note, call.notes[1 - i]) and other.is_floating_point():
                note.number = classify(other, call.notes[1 - i], self.scratch, self.layer) != "analog"

    def _take_back(self, booked: Mapping[str, int]) -> bool:
        """Take elementwise counts of the module that runs off the books; False where they are not there."""
        entry, top = self.books.entries.get((self.layer, "elementwise")), self.stack.top
        counts = top.counts if top is not None else entry.counts if entry is not None else Counter[str]()
        if any(counts[name] < n for name, n in booked.items()):
            return False
        counts.subtract(booked)
        if top is None and not any(counts.values()):
            del self.books.entries[self.layer, "elementwise"]
        return True

    def _is_recurrent(self, tally: Tally) -> bool:
        """True for torch's RNN, LSTM and GRU, whose state is real values from its zeros on."""
        if tally.weight is None:
            return False
        owner = self.model.get_submodule(tally.weight.note.source.rpartition(".")[0])
        return isinstance(owner, nn.RNNBase | nn.RNNCellBase)

    def _place(self, tally: Tally) -> tuple[str, str]:
        """The layer that a product belongs to: the owner of its weight, or the module that ran it."""
        source = tally.weight.note.source if tally.weight is not None else ""
        if source:
            return _owner(source), tally.op
        if self.stack.top is None:
            return "", tally.op
        self.stack.top.products += 1
        return self.layer, f"{tally.op}#{self.stack.top.products}"

    def _repeated(self, tally: Tally, last_input: Values | None) -> int:
        """Of the multiply-accumulates of an image, those that an earlier step has done already."""
        mac, note = tally.counts.get("mac", 0), tally.activation
        if not mac:
            return 0
        if note.static:
            return mac - mac // ax.count(note.axes, "t")
        return mac if note.raw and note.values is last_input else 0

    def _size_of(self, source: str) -> tuple[int, int]:
        """(bytes, number) of the parameters of a layer."""
        owner, _, leaf = source.rpartition(".")
        module = self.model.get_submodule(owner)
        own = [p for n, p in module.named_parameters(recurse=False) if leaf in ("weight", n)]
        return sum(p.numel() * p.element_size() for p in own), sum(p.numel() for p in own)

    def _book_other(self, call: Call, func: Any, notes: Sequence[Note]) -> None:
        top = self.stack.top
        if not call.op.inside:
            self.stack.impure()
        if fires(call) and self._compare(call, notes[0]):
            return
        if call.name == "mul" and len(call.data) == 2:
            self._see_mask(call)
        if "ranks" in call.op.traits and call.notes[0].rounded is not None:
            call.notes[0].rounded.number = False  # ranks and weights made of whole numbers, no spikes
        found = verdict(call, self.scratch)
        floats = isinstance(found, Mapping) and all(x.is_floating_point() for x in call.tensors)
        if call.name == "mul" and len(call.tensors) == 2 and floats:
            left, right = zip(call.tensors, call.notes, strict=True)
            notes[0].factors = left, right
        if found is None:
            self.books.leave_out(self.layer, str(func), sum(x.numel() for x in call.out))
        elif isinstance(found, str):
            self.books.free[found] += 1
        else:
            frame = top or Frame("", self.model, False, None)
            frame.counts.update(found)
            frame.calls += 1
            frame.steps = max(frame.steps, ax.count(notes[0].axes, "t"))
            if top is None:
                self.elementwise(frame)

    def _compare(self, call: Call, note: Note) -> bool:
        """Note a comparison or rounding that may be a neuron; True where its module will say so when it returns."""
        top, self.clock.fired = self.stack.top, True
        drive = max(call.notes, key=lambda seen: seen.role)
        note.number = call.out[0].is_floating_point()
        note.fired, note.compared = True, drive.base or drive.values
        firing = Firing(self.layer, None, call.out[0], drive, call.tensors[0].element_size())
        if call.op.kind is Kind.ROUNDING:
            write(call.out[0], note)
            note.number, note.rounded = self.is_spikes(call.out[0]), note
        if top is not None:
            top.fired.append(firing)
            self.books.free[ops.NEURON] += 1
            return True
        write(call.out[0], note)
        self.stack.leave_open(firing)
        return False

    def elementwise(self, frame: Frame) -> None:
        """Book elementwise operations of a module that is no neuron."""
        entry = self.books.entry(frame.layer, "elementwise")
        entry.steps = max(entry.steps, frame.steps, entry.calls if frame.steps == 1 else 1)
        entry.counts.update(frame.counts)

    def no_comparison(self, layer: str, elements: int) -> None:
        """Take back comparisons of a layer that have turned out to be a neuron."""
        entry = self.books.entries[layer, "elementwise"]
        entry.counts["compares"] -= elements
        self.books.free[ops.NEURON] += 1
        if not any(entry.counts.values()):
            del self.books.entries[layer, "elementwise"]

    def is_spikes(self, x: Tensor) -> bool:
        """True for zeros and one other value, or whole numbers of a known unit."""
        return x.is_floating_point() and classify(x, self.note(x), self.scratch, self.layer) != "analog"

    def sent(self, module: nn.Module, output: Any, current: Tensor | None) -> None:
        """Note on what a neuron of known type returned: as what drove it, of the same steps and samples."""
        drive = Note(Role.DATA, ()) if current is None else self.note(current)
        if self.guess is not None:
            self.guess.look_at_neuron(module, drive.axes)
        if drive.chain is not None:
            self._escapes(drive.chain)
        for x in _tensors([output]):
            same = current is not None and x.shape == current.shape
            axes = drive.axes if same else self._guess(x.shape)
            write(x, Note(drive.role, axes, step=drive.step, fired=True, senders=drive.senders))

    def neuron(self, firing: Firing) -> None:
        """Book one call of a neuron."""
        note = self.note(firing.spikes)
        if note.senders:
            latest = max(note.senders)  # its neurons are where the last sum is made
            note.senders = frozenset((latest,))
        if not self.queue.neuron(firing, note):
            self.booked(firing, note)

    def booked(self, firing: Firing, note: Note) -> None:
        """Book one call of a neuron now."""
        spikes, entry = firing.spikes, self.books.entry(firing.layer, "neuron")
        kind = classify(spikes, note, self.scratch, firing.layer)
        ones = spikes if kind == "spikes" and note.values.unit == 1.0 else nonzero(spikes, self.scratch)
        events, updates, current = spread(ones, note.axes, {}, 1), spikes.numel(), firing.current
        reached = updates if current is None or current.reached is None else min(current.reached, updates)
        self.add_neuron(entry, firing, kind, reached)
        entry.counts["spikes"] += int(events.sum())
        entry.sources |= note.senders
        entry.add_events(events.long().tolist(), note, self.books.samples)
        timed = ax.count(note.axes, "t") * ax.count(note.axes, "b")
        variables = 1 if firing.module is None else state_variables(firing.module)
        entry.state_bytes = max(entry.state_bytes, updates // timed * variables * firing.width)

    def add_neuron(self, entry: Entry, firing: Firing, kind: str, reached: int) -> None:
        """Add to an entry what does not depend on the spikes."""
        updates = firing.spikes.numel()
        entry.kinds += [kind] if kind not in entry.kinds else []
        entry.counts.update(updates=updates, triggered=reached, outputs=updates)
        entry.activation_bytes += updates * firing.spikes.element_size()
        self.books.free[ops.NEURON] += firing.calls


def _constants(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters, and buffers that are saved: the others are states."""
    yield from model.named_parameters()
    for path, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set and name not in ("mem", "syn", "spk"):
                yield (f"{path}.{name}" if path else name), buffer


def _tensors(x: Sequence[Any]) -> list[Tensor]:
    """The tensors among arguments, lists laid flat."""
    found: list[Tensor] = []
    for item in x:
        if isinstance(item, Tensor):
            found.append(item)
        elif isinstance(item, list | tuple):
            found += _tensors(item)
    return found


def _owner(source: str) -> str:
    """The layer of a parameter: its module where it is called weight, else the parameter itself."""
    path, _, leaf = source.rpartition(".")
    if path.endswith(".parametrizations.weight") or ".parametrizations." in path:
        return path.partition(".parametrizations.")[0]
    return path if leaf in ("weight", "weight_orig", "weight_g", "weight_v") else source
