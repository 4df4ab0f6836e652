"""How what is known of tensors passes through an operation that is no product: axes, unit, static input, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting import rules
from snntorch_smixer.cost.counting.axes import Axes
from snntorch_smixer.cost.counting.notes import Call, Note, Padding, Role, Values


@dataclass
class Clock:
    """The number of time steps, as far as it is known while the model runs.

    Attributes:
        steps: T, None while unknown.
        fired: a neuron has run: copies made after it are no repeats of an image.
    """

    steps: int | None
    fired: bool = False

    def label(self, count: int, note: Note) -> str:
        """ "t" where copying or stacking ``note`` ``count`` times makes an axis of time, else ""."""
        if note.role != Role.DATA or ax.has(note.axes, "t"):
            return ""
        if self.steps is None and not self.fired and count > 1:
            self.steps = count
        return "t" if count == self.steps else ""


def transfer(call: Call, clock: Clock) -> list[Note]:
    """Notes on the results of one call; ``clock`` may learn T from it."""
    if not call.notes:
        return [Note(Role.CONSTANT, tuple(map(ax.plain, o.shape))) for o in call.out]
    name, notes = call.name, call.notes
    main = _main(name, notes)
    if name in ("unbind", "select"):
        return _picked(call, main)
    role = main.role if name in _BY_INDEX else Role(max(n.role for n in notes))
    source = main.source or next((n.source for n in notes if n.source), "")
    steps = [n.step for n in notes if n.step is not None]
    result = []
    for o in call.out:
        note = Note(role, _axes(call, main, o, clock), source=source, raw=main.raw and name in rules.MOVING)
        note.step = max(steps) if steps and not ax.has(note.axes, "t") else None
        note.static = _static(note, notes)
        result.append(note)
    if len(result) == 1 or name in rules.NORMS:
        _values(call, main, result[0])
    return result


_BY_INDEX = frozenset({"index", "index_select", "gather", "take", "take_along_dim", "_unsafe_index"})


def _main(name: str, notes: Sequence[Note]) -> Note:
    if name in rules.MOVING and name not in ("stack", "cat", "copy", "index_put"):
        return notes[0]
    return max(notes, key=lambda note: note.role)


def _static(result: Note, notes: Sequence[Note]) -> bool:
    if result.role != Role.DATA or not ax.has(result.axes, "t"):
        return False
    data = [n for n in notes if n.role == Role.DATA]
    return all(n.static or (n.raw and not ax.has(n.axes, "t") and n.step is None) for n in data)


def _picked(call: Call, main: Note) -> list[Note]:
    at = (call.args[1] if len(call.args) > 1 else 0) % max(len(main.axes), 1)
    axis = main.axes[at]
    is_time = len(axis) == 1 and axis[0][0] == "t"
    indices = range(len(call.out)) if call.name == "unbind" else [call.args[2] % max(1, ax.size_of(axis))]
    fresh = replace(main, axes=ax.dropped(main.axes, [at]), static=False, reached=None)
    return [replace(fresh, step=i if is_time else main.step, values=Values()) for i in indices]


def _axes(call: Call, main: Note, out: Tensor, clock: Clock) -> Axes:
    shape, name = tuple(out.shape), call.name
    known = _AXES.get(name)
    if known is None and call.tensors[0].shape == shape and _alike(call.notes):
        return call.notes[0].axes
    if known is not None:
        axes: Axes = known(_Reshaping(call.args, main, shape, clock))
    elif name in rules.MOVING and name != "index" and len(shape) == len(main.axes):
        axes = ax.resized(main.axes, shape)
    else:
        data = [note.axes for note in call.notes if note.role == Role.DATA]
        axes = ax.broadcast(shape, data or [note.axes for note in call.notes])
    fits = len(axes) == len(shape) and all(ax.size_of(a) == s for a, s in zip(axes, shape, strict=True))
    return axes if fits else tuple(map(ax.plain, shape))


def _alike(notes: Sequence[Note]) -> bool:
    """True where nobody knows more of the axes than the first input: the common case, and the cheap one."""
    first = notes[0]
    return first.role == Role.DATA and all(n.role != Role.DATA or n.axes == first.axes for n in notes)


@dataclass(frozen=True)
class _Reshaping:
    """One call that changes axes: its arguments, what is known of its input, the shape of its result."""

    args: Sequence[Any]
    main: Note
    shape: tuple[int, ...]
    clock: Clock


def _expand(r: _Reshaping) -> Axes:
    count = math.prod(r.shape) // max(1, math.prod(map(ax.size_of, r.main.axes)))
    leads = len(r.shape) > len(r.main.axes) or ax.size_of(r.main.axes[0]) < r.shape[0]
    label = "copy" if r.main.role != Role.DATA else r.clock.label(count, r.main) if leads else ""
    return ax.expanded(r.main.axes, r.shape, label)


def _stack(r: _Reshaping) -> Axes:
    at = (r.args[1] if len(r.args) > 1 else 0) % len(r.shape)
    label = r.clock.label(r.shape[at], r.main) if at == 0 or r.shape[at] == r.clock.steps else ""
    return ax.inserted(r.main.axes, at, ((label, r.shape[at]),) if r.shape[at] > 1 else ())


def _permute(r: _Reshaping) -> Axes:
    return ax.permuted(r.main.axes, [i % len(r.main.axes) for i in r.args[1]])


def _transpose(r: _Reshaping) -> Axes:
    order = list(range(len(r.main.axes)))
    if order:
        i, j = (r.args[1], r.args[2]) if len(r.args) > 2 else (0, len(order) - 1)
        order[i], order[j] = order[j], order[i]
    return ax.permuted(r.main.axes, order)


def _unsqueeze(r: _Reshaping) -> Axes:
    return ax.inserted(r.main.axes, r.args[1] % len(r.shape), ())


def _view(r: _Reshaping) -> Axes:
    return ax.regroup(r.main.axes, r.shape)


def _reduce(r: _Reshaping) -> Axes:
    rank = len(r.main.axes)
    dims = r.args[1] if len(r.args) > 1 and r.args[1] is not None else range(rank)
    dims = [dims] if isinstance(dims, int) else list(dims) or range(rank)
    return ax.dropped(r.main.axes, dims, keep=len(r.shape) == rank)


_AXES: dict[str, Callable[[_Reshaping], Axes]] = {
    "expand": _expand,
    "repeat": _expand,
    "stack": _stack,
    "permute": _permute,
    "transpose": _transpose,
    "t": _transpose,
    "unsqueeze": _unsqueeze,
    **dict.fromkeys(("view", "_unsafe_view", "_reshape_alias", "reshape", "squeeze"), _view),
    **dict.fromkeys(("sum", "mean", "amax", "amin", "var", "any", "all", "argmax", "argmin", "max", "min"), _reduce),
}


def _values(call: Call, main: Note, result: Note) -> None:
    """What is known of the numbers: shared by reshapes; a unit passes constant factors, means and sums of its kind."""
    name, data = call.name, [n for n in call.notes if n.role == Role.DATA]
    result.unit = main.unit if name in rules.MOVING else 1.0
    result.fired = all(n.fired for n in data) if name in rules.MOVING else name in _GATES and any(_fired(call))
    result.padding = _padding(call, main)
    if len(data) == 1 and (name in rules.MOVING or name in rules.ADDING):
        result.base, result.compared = main.base or main.values, main.compared
    if name in rules.SAME_VALUES and (name not in ("_to_copy", "copy") or _stays_float(call)):
        result.values, result.linear, result.reached = main.values, main.linear, main.reached
        return
    factor = _factor(call, main)
    if factor is not None:
        result.unit, result.reached = main.unit * factor, main.reached
        result.fired, result.raw = main.fired and name != "mean", main.raw
        result.base, result.compared = main.base or main.values, main.compared
    elif name in rules.NORMS:
        result.reached = main.reached
    elif name in ("add", "sub"):
        known = [n.reached for n in data if n.reached is not None]
        result.reached = min(sum(known), call.out[0].numel()) if len(known) == len(data) else None
        result.linear = len(data) == 1 and main.linear
    if name in _KEEPS_UNIT and len({n.unit for n in data}) == 1:
        result.unit = data[0].unit


_GATES = frozenset({"mul", "where", "masked_fill"})


def _fired(call: Call) -> Iterator[bool]:
    """Spikes that a mask of truth values silences in part are still these spikes."""
    masked = call.name != "mul" or any(x.dtype == torch.bool for x in call.tensors)
    return (masked and n.fired and x.is_floating_point() for x, n in zip(call.tensors, call.notes, strict=True))


def _stays_float(call: Call) -> bool:
    return call.tensors[0].is_floating_point() and call.out[0].is_floating_point()


def _padding(call: Call, main: Note) -> Padding | None:
    """Padding of an activation, for the convolution behind it."""
    if call.name in ("_to_copy", "clone", "detach"):
        return main.padding
    if main.role != Role.DATA or not ("pad" in call.name and call.name in rules.MOVING):
        return None
    x = call.tensors[0]
    if main.padding is not None or call.name != "constant_pad_nd" or any(p < 0 for p in call.args[1]):
        return Padding(main.padding.x if main.padding is not None else x, None)
    if len(call.args) > 2 and call.args[2] != 0:
        return Padding(x, None)
    flat = list(call.args[1])
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
    return Padding(x, (*[(0, 0)] * (x.dim() - len(pairs)), *pairs))


_KEEPS_UNIT = frozenset({"add", "sub", "sum", "relu"}) | rules.POOLING | rules.ACCUMULATING


def _factor(call: Call, main: Note) -> float | None:
    """The one number that the operation multiplies every entry by, if it does."""
    name, args = call.name, call.args
    if name == "mean":
        return call.out[0].numel() / max(math.prod(map(ax.size_of, main.axes)), 1)
    if name in rules.AVERAGING:
        kernel = args[1] if isinstance(args[1], list | tuple) else [args[1]]
        return 1 / math.prod(list(kernel) * (int(name[-2]) // len(kernel)))
    if name == "neg":
        return -1.0
    if name not in rules.SCALING or sum(n.role == Role.DATA for n in call.notes) != 1:
        return None
    number = _one_number(args[1] if call.notes[0] is main else args[0])
    if name.startswith("mul"):
        return number
    return 1 / number if number and call.notes[0] is main else None


def _one_number(x: Any) -> float | None:
    if isinstance(x, Tensor):
        x = x.item() if x.numel() == 1 and x.layout is torch.strided else None  # complex numbers are left out below
    return float(x) if isinstance(x, int | float) and x and math.isfinite(x) else None
