"""Watches every operation of torch that a model runs, and keeps the books."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting import rules
from snntorch_smixer.cost.counting.counters import Setting, Tally
from snntorch_smixer.cost.counting.elementwise import fires, is_strange, verdict
from snntorch_smixer.cost.counting.entries import Books
from snntorch_smixer.cost.counting.frames import Comparison, Firing, Frame, Stack
from snntorch_smixer.cost.counting.neurons import state_variables
from snntorch_smixer.cost.counting.notes import Call, Note, Role, Values, read, storage_of, write
from snntorch_smixer.cost.counting.products import PRODUCTS
from snntorch_smixer.cost.counting.transfer import Clock, transfer
from snntorch_smixer.cost.counting.values import Scratch, classify, nonzero, spread

_IN_NEURONS = (
    rules.ADDING | rules.SCALING | rules.COMPARING | rules.THRESHOLD | rules.EQUALITY | rules.SPECIAL | rules.MOVING
    | rules.MAKING | rules.LOGICAL | rules.DROPPING | rules.MULTIPLY_ADDS | rules.DIVIDE_ADDS
    | rules.CONJUNCTION | rules.DISJUNCTION | rules.RANDOM
)  # fmt: skip

_TO_NUMBERS = rules.ADDING | rules.SCALING | {"_to_copy"}


class Recorder(TorchDispatchMode):
    """Counts what runs while it is entered.

    It works below autograd, autocast and modules, on torch's basic operations; composed ones (``linear``, ``einsum``
    under ``inference_mode``) are taken apart first, so that every spelling of a product is the same product.

    Args:
        model: whose layers are told apart.
        samples: B.
        clock: T, as far as it is known.
    """

    def __init__(self, model: nn.Module, samples: int, clock: Clock) -> None:
        super().__init__()
        self.model, self.clock, self.books = model, clock, Books(samples)
        self.stack = Stack(model, self)
        self.scratch = Scratch()
        self.weights = {storage_of(w): name for name, w in _constants(model)}
        self._atomic: dict[Any, str] = {torch.ops.aten._pad_circular.default: "_pad_circular"}  # else only copies
        self._data: set[int | None] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled meanwhile, and torch's guard against it doubles the cost of a call

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation and count it."""
        kwargs = kwargs or {}
        name = self._atomic.get(func)
        if name is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
            name = self._atomic[func] = rules.name_of(func)
        top = self.stack.top
        if top is not None and top.known and name not in PRODUCTS:
            self.clock.fired = True
            self.books.calls += 1
            self.books.free[rules.NEURON] += 1
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
        self.clock.fired = True
        self.books.calls += 1
        self.books.free[rules.NEURON] += 1
        off = ExitStack()
        off.enter_context(_disable_current_modes())
        return off.close

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
        return Note(role, tuple(map(ax.plain, x.shape)), source=source or "")

    def _guess(self, shape: Sequence[int]) -> ax.Axes:
        """Axes of memory that was filled piece by piece: by its lengths."""
        lead = (self.clock.steps or 0, self.books.samples)
        if tuple(shape[:2]) == lead and min(lead) > 0:
            return ax.of_batch(shape, "t b", None)
        return ax.of_batch(shape, "b", None) if tuple(shape[:1]) == lead[1:] else tuple(map(ax.plain, shape))

    def _count(self, func: Any, call: Call) -> None:
        name, out = call.name, call.out
        self.books.calls += 1
        product, strange = PRODUCTS.get(name), is_strange(call)
        tally = product(call, Setting(self.scratch, self.layer)) if product is not None and not strange else None
        notes = transfer(call, self.clock)
        if tally is not None:
            self._book_product(tally, notes[0])
        elif strange or (product is not None and any(n.role == Role.DATA for n in call.notes)):
            self.stack.impure()
            self.books.leave_out(self.layer, str(func), sum(x.numel() for x in out))
        elif product is not None:
            self.books.free[rules.CONSTANT] += 1
        else:
            self._book_other(call, func, notes)
        if name in _TO_NUMBERS and out and out[0].is_floating_point():
            for x, note in zip(call.tensors, call.notes, strict=True):
                note.number = note.number or x.dtype == torch.bool
        written = func._schema.is_mutable
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

    def _book_product(self, tally: Tally, note: Note) -> None:
        self.stack.impure()
        layer, op = self._place(tally)
        entry = self.books.entry(layer, op)
        entry.kinds += [kind for kind in tally.kinds if kind not in entry.kinds]
        entry.counts.update(tally.counts)
        entry.counts["static_mac"] += self._repeated(tally, entry.last_input)
        if tally.activation.raw and not ax.has(tally.activation.axes, "t") and tally.activation.step is None:
            entry.once = tally.counts.get("mac", 0)
        entry.last_input = tally.activation.values
        entry.add_events(tally.events, tally.activation, self.books.samples)
        entry.geometry = tally.geometry
        if tally.weight is not None:
            entry.weight_bytes = self._bytes_of(tally.weight.note.source)
        entry.activation_bytes += tally.bytes
        note.role = max(note.role, tally.activation.role)
        note.linear, note.reached, note.raw = tally.weight is not None, tally.reached, False
        note.unit = tally.unit

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

    def _bytes_of(self, source: str) -> int:
        owner, _, leaf = source.rpartition(".")
        module = self.model.get_submodule(owner)
        own = [p for n, p in module.named_parameters(recurse=False) if leaf in ("weight", n)]
        return sum(p.numel() * p.element_size() for p in own)

    def _book_other(self, call: Call, func: Any, notes: Sequence[Note]) -> None:
        top = self.stack.top
        if call.name not in _IN_NEURONS:
            self.stack.impure()
        if fires(call):
            self.clock.fired = True
            notes[0].number = call.name != "round" and call.out[0].is_floating_point()
            notes[0].fired, notes[0].compared = True, call.notes[0].base or call.notes[0].values
            comparison = Comparison(call.out[0], call.notes[0], call.tensors[0].element_size())
            if top is not None:
                top.fired.append(comparison)
                self.books.free[rules.NEURON] += 1
                return
            write(call.out[0], notes[0])
            self.stack.leave_open("", comparison)
        found = verdict(call, self.scratch)
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

    def elementwise(self, frame: Frame) -> None:
        """Book elementwise operations of a module that is no neuron."""
        entry = self.books.entry(frame.layer, "elementwise")
        entry.steps = max(entry.steps, frame.steps, entry.calls if frame.steps == 1 else 1)
        entry.counts.update(frame.counts)

    def no_comparison(self, layer: str, elements: int) -> None:
        """Take back comparisons of a layer that have turned out to be a neuron."""
        entry = self.books.entries[layer, "elementwise"]
        entry.counts["compares"] -= elements
        self.books.free[rules.NEURON] += 1
        if not any(entry.counts.values()):
            del self.books.entries[layer, "elementwise"]

    def is_spikes(self, x: Tensor) -> bool:
        """True for zeros and one other value, or whole numbers of a known unit."""
        return x.is_floating_point() and classify(x, self.note(x), self.scratch, self.layer) != "analog"

    def sent(self, output: Any, current: Tensor | None) -> None:
        """Note on what a neuron of known type returned: as what drove it, of the same steps and samples."""
        drive = Note(Role.DATA, ()) if current is None else self.note(current)
        for x in _tensors([output]):
            same = current is not None and x.shape == current.shape
            axes = drive.axes if same else self._guess(x.shape)
            write(x, Note(drive.role, axes, step=drive.step, fired=True))

    def neuron(self, firing: Firing) -> None:
        """Book one call of a neuron."""
        spikes, note = firing.spikes, self.note(firing.spikes)
        entry = self.books.entry(firing.layer, "neuron")
        kind = classify(spikes, note, self.scratch, firing.layer)
        entry.kinds += [kind] if kind not in entry.kinds else []
        ones = spikes if kind == "spikes" and note.values.unit == 1.0 else nonzero(spikes, self.scratch)
        events = spread(ones, note.axes, {}, 1)
        updates, sent = spikes.numel(), int(events.sum())
        current = firing.current
        reached = updates if current is None or current.reached is None else min(current.reached, updates)
        entry.counts.update(updates=updates, triggered=reached, spikes=sent, outputs=updates)
        entry.add_events(events, note, self.books.samples)
        timed = ax.count(note.axes, "t") * ax.count(note.axes, "b")
        variables = 1 if firing.module is None else state_variables(firing.module)
        entry.state_bytes = max(entry.state_bytes, updates // timed * variables * firing.width)
        entry.activation_bytes += updates * spikes.element_size()
        self.books.free[rules.NEURON] += firing.calls


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
