"""Which modules are neurons: by their type, or by what they do while they run."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import snntorch as snn
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from snntorch_smixer.cost.count.values import Note
from snntorch_smixer.errors import MeasureError
from snntorch_smixer.neurons import IntegerLIF

_WITH_GATES = ("SLSTM", "SConv2dLSTM")
_STATES = ("mem", "syn", "syn_exc", "syn_inh", "v", "i")


def is_neuron(module: nn.Module) -> bool:
    """True for neurons of snnTorch, SpikingJelly and this package. snnTorch's LSTMs are none: they gate."""
    if isinstance(module, snn.SpikingNeuron):
        return type(module).__name__ not in _WITH_GATES
    if isinstance(module, IntegerLIF):
        return True
    return any(c.__name__ == "BaseNode" and c.__module__.startswith("spikingjelly") for c in type(module).__mro__)


def state_variables(module: nn.Module) -> int:
    """Numbers that one neuron keeps between steps; 1 where that cannot be seen."""
    names = set(module.__dict__) | set(module._buffers) | set(module.__dict__.get("_memories", {}))
    return max(1, sum(name in names for name in _STATES))


def first_tensor(x: Any) -> Tensor | None:
    """The first tensor of a module's output."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, dict):
        x = tuple(x.values())
    if isinstance(x, list | tuple):
        return next((found for found in map(first_tensor, x) if found is not None), None)
    return None


@dataclass
class Firing:
    """One call that turned real values into spikes, or a comparison that did if its result becomes a number."""

    layer: str  # dotted path
    module: nn.Module | None  # the neuron; None for a comparison in the forward of a larger module
    spikes: Tensor  # what it sent
    current: Note | None  # what is known of the tensor that drove it, or that was compared
    width: int  # bytes of one state variable
    calls: int = 0  # operations that were a part of the update


@dataclass
class Frame:
    """One running call of a module."""

    layer: str  # dotted path
    module: nn.Module  # which
    known: bool  # it is a neuron by its type, or inside one
    current: Tensor | None  # the first tensor that went in
    pure: bool = True  # nothing but elementwise operations ran in it so far
    counts: Counter[str] = field(default_factory=Counter)  # of elementwise operations, by the names of `COUNTS`
    calls: int = 0  # elementwise operations
    steps: int = 1  # time steps that their axes show
    fired: list[Firing] = field(default_factory=list)  # comparisons in its own forward
    below: list[Firing] = field(default_factory=list)  # neurons among its children, which might be parts of it
    products: int = 0  # products of activations so far, to number them
    resume: Callable[[], None] | None = None  # switches counting on again, where it is off inside a neuron


class _Bookkeeper(Protocol):
    """The recorder, as the stack needs it."""

    def pause(self) -> Callable[[], None]: ...
    def note(self, x: Tensor) -> Note: ...
    def is_spikes(self, x: Tensor) -> bool: ...
    def sent(self, module: nn.Module, output: Any, current: Tensor | None) -> None: ...
    def neuron(self, firing: Firing) -> None: ...
    def no_comparison(self, layer: str, elements: int) -> None: ...
    def elementwise(self, frame: Frame) -> None: ...


class Stack:
    """The frames of one run, outermost first."""

    def __init__(self, model: nn.Module, books: _Bookkeeper) -> None:
        self.model, self.books = model, books
        self.names = {module: name for name, module in model.named_modules()}
        self.frames: list[Frame] = []
        self.outside = False  # a comparison behind no module, in the code that runs the model, was a neuron
        self._open: list[Firing] = []  # truth values that nobody has turned into numbers yet
        self._kinds: dict[nn.Module, tuple[bool, bool]] = {}  # is it a neuron, has it layers
        self._thread, self._elsewhere = threading.get_ident(), ""

    @property
    def top(self) -> Frame | None:
        """The module that runs now."""
        return self.frames[-1] if self.frames else None

    def impure(self) -> None:
        """Something ran that no neuron does."""
        for frame in self.frames:
            frame.pure = False

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Hooks on every module, taken off at the end whatever happens.

        Raises:
            MeasureError: a module ran in another thread, where operations are not seen.
        """
        handles: list[RemovableHandle] = []
        try:
            for module in self.names:
                if not isinstance(module, torch.jit.ScriptModule):
                    handles.append(module.register_forward_pre_hook(self._enter, prepend=True))
                    handles.append(module.register_forward_hook(self._leave, always_call=True))
            yield
        finally:
            for handle in handles:
                handle.remove()
            self.frames.clear()
            if self._elsewhere:
                raise MeasureError(
                    f"measure: {self._elsewhere} ran in a thread of its own, expected all layers in the thread that "
                    "calls measure: the operations of others are not seen. Run the layers one after the other."
                )

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            self._elsewhere = self.names.get(module) or type(module).__name__  # a copy for a device has no name
            return
        inside = self.top is not None and self.top.known
        kind = self._kinds.get(module)
        if kind is None:
            kind = self._kinds[module] = (is_neuron(module), _has_layers(module))
        frame = Frame(self.names[module], module, inside or kind[0], first_tensor(args))
        self.frames.append(frame)
        if frame.known and not inside and not kind[1] and _has_no_hooks(module):
            frame.resume = self.books.pause()

    def _leave(self, module: nn.Module, _: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        while self.frames and self.frames[-1].module is not module:
            self.frames.pop()  # a module that raised left it behind
        if not self.frames:
            return
        frame = self.frames.pop()
        if frame.resume is not None:
            frame.resume()
        with unseen():
            self._close(frame, output)

    def _close(self, frame: Frame, output: Any) -> None:
        spikes, firings = first_tensor(output), frame.below
        inside = frame.known and self.top is not None and self.top.known
        if inside or (frame.known and spikes is None):
            return
        if frame.known:
            self.books.sent(frame.module, output, frame.current)
        is_one = spikes is not None and (frame.known or self._is_one(frame, spikes))
        if is_one and spikes is not None:
            current = None if frame.current is None else self.books.note(frame.current)
            calls = frame.calls + len(frame.fired) + sum(child.calls for child in frame.below)
            width = max((c.width for c in frame.fired), default=_width(spikes, frame.current))
            firings = [Firing(frame.layer, frame.module, spikes, current, width, calls)]
        passes_on = is_one or (frame.pure and not frame.calls and not frame.fired)
        if self.top is not None and passes_on and not frame.known:
            self.top.below += firings  # a larger module may turn out to be the neuron
        else:
            for firing in firings:
                self.books.neuron(firing)
        if not is_one:
            self._sort_out(frame)
            if any(frame.counts.values()):
                self.books.elementwise(frame)

    def _is_one(self, frame: Frame, spikes: Tensor) -> bool:
        """True for a neuron of unknown type: it sends its own spikes, or those of its surrogate function.

        It computed elementwise only, and compared something (or one child did, as a surrogate function).
        """
        one_part = len({child.layer for child in frame.below}) <= 1 and bool(frame.fired or frame.below)
        if not frame.pure or not one_part or not self.books.is_spikes(spikes):
            return False
        note = self.books.note(spikes)
        if frame.below and (not note.fired or not (frame.calls or frame.fired)):
            return False
        note.fired = True
        return True

    def _sort_out(self, frame: Frame) -> None:
        """Comparisons in a module that is no neuron: a neuron written out where the result became a number.

        Two of the same tensor are one neuron; what only serves as a mask, an index or a rounding is a comparison.
        """
        seen: set[int] = set()
        for one in frame.fired:
            if id(one.current) not in seen and self.books.note(one.spikes).number:
                self.books.neuron(one)
                seen.add(id(one.current))
            elif id(one.current) not in seen:
                frame.counts["compares"] += one.spikes.numel()
                frame.calls += 1
        for one in frame.fired:
            if id(one.current) not in seen:
                self.leave_open(one)

    def leave_open(self, one: Firing) -> None:
        """Remember a comparison, booked as such, that may turn out to be a neuron: see `settle`."""
        if one.spikes.dtype == torch.bool or self.books.note(one.spikes).number:
            self._open.append(one)

    def settle(self) -> None:
        """At the end of a run, comparisons whose results became numbers after their module are neurons after all."""
        seen: set[int] = set()
        for one in self._open:
            if id(one.current) in seen or not self.books.note(one.spikes).number:
                continue
            seen.add(id(one.current))
            self.outside |= not one.layer
            self.books.no_comparison(one.layer, one.spikes.numel())
            self.books.neuron(one)
        self._open.clear()


def unseen() -> Any:
    """A context in which no mode sees an operation; `_disable_current_modes`, which takes them apart, is far slower."""
    return torch._C._DisableTorchDispatch()


def _width(spikes: Tensor, current: Tensor | None) -> int:
    """Bytes of one state variable: real values as wide as what drives it, whatever its spikes are stored as."""
    real = [x.element_size() for x in (spikes, current) if x is not None and x.is_floating_point()]
    return max(real, default=spikes.element_size())


def _has_layers(module: nn.Module) -> bool:
    """True for a neuron with layers with weights, in which more than its update runs."""
    return any(p.dim() > 1 for p in module.parameters()) or any(
        next(child.parameters(), None) is not None for child in module.children()
    )


def _has_no_hooks(module: nn.Module) -> bool:
    """True for a module with no hooks but ours."""
    return len(module._forward_hooks) == 1 and len(module._forward_pre_hooks) == 1
