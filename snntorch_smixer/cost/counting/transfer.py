"""How what is known of tensors passes through an operation that is no product: axes, unit, static input, step."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.counting import axes as ax
from snntorch_smixer.cost.counting import rules
from snntorch_smixer.cost.counting.axes import Axes
from snntorch_smixer.cost.counting.notes import Call, Note, Padding, Role, Values
from snntorch_smixer.cost.counting.values import LARGEST_GRADED


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
    role = Role(max(n.role for n in notes))
    source = main.source or next((n.source for n in notes if n.source), "")
    steps = [n.step for n in notes if n.step is not None]
    senders = notes[0].senders if len(notes) == 1 else frozenset().union(*(n.senders for n in notes))
    result = []
    for o in call.out:
        note = Note(role, _axes(call, main, o, clock), source=source, raw=_is_raw(main) and name in rules.MOVING)
        note.picked = role == Role.DATA and _is_picked(call, main)
        note.senders = senders
        note.step = max(steps) if steps and not ax.has(note.axes, "t") else None
        note.static = _static(note, notes)
        result.append(note)
    for note, o in zip(result, call.out, strict=True):
        if len(result) == 1 or o.is_floating_point():
            _values(call, main, note)
    return result


_BY_INDEX = frozenset({"index", "_unsafe_index", "index_select", "gather", "take", "embedding", "masked_select"})
"""What is picked from stands first, which of its entries behind it."""


def _is_picked(call: Call, main: Note) -> bool:
    """True for entries of parameters that data picks, moved or added up since."""
    if call.name in _BY_INDEX and main.role != Role.DATA:
        return main.role == Role.WEIGHT
    data = [n for n in call.notes if n.role == Role.DATA]
    keeps = call.name in rules.MOVING or call.name in ("sum", "mean")
    return main.picked if call.name in _BY_INDEX else keeps and all(n.picked for n in data)


def _main(name: str, notes: Sequence[Note]) -> Note:
    if name in rules.MOVING and name not in ("stack", "cat", "copy", "index_put"):
        return notes[0]
    return max(notes, key=lambda note: note.role)


def _static(result: Note, notes: Sequence[Note]) -> bool:
    if result.role != Role.DATA or not ax.has(result.axes, "t"):
        return False
    data = [n for n in notes if n.role == Role.DATA]
    return all(n.static or (n.raw and not ax.has(n.axes, "t") and n.step is None) for n in data)


def _is_raw(note: Note) -> bool:
    """True for the model's input, but for event counts: a part of them that holds no 1 counts events all the same."""
    return note.raw and note.values.kind != "graded"


def _picked(call: Call, main: Note) -> list[Note]:
    at = (call.args[1] if len(call.args) > 1 else 0) % max(len(main.axes), 1)
    axis = main.axes[at]
    is_time = len(axis) == 1 and axis[0][0] == "t"
    indices = range(len(call.out)) if call.name == "unbind" else [call.args[2] % max(1, ax.size_of(axis))]
    axes, raw = ax.dropped(main.axes, [at]), _is_raw(main)
    fresh = replace(main, axes=axes, static=False, reached=None, chain=None, raw=raw, unit=unit_of(main))
    return [replace(fresh, step=i if is_time else main.step, values=Values()) for i in indices]


def _axes(call: Call, main: Note, out: Tensor, clock: Clock) -> Axes:
    shape, name = tuple(out.shape), call.name
    known = _rows if name in _BY_INDEX and main.role != Role.DATA else _AXES.get(name)
    if known is None and call.tensors[0].shape == shape and _alike(call.notes):
        return call.notes[0].axes
    if known is not None:
        axes: Axes = known(_Reshaping(call, main, shape, clock))
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
    """One call that changes axes: what is known of its input, the shape of its result."""

    call: Call
    main: Note
    shape: tuple[int, ...]
    clock: Clock

    @property
    def args(self) -> Sequence[Any]:
        """Arguments of the call."""
        return self.call.args


def _rows(r: _Reshaping) -> Axes:
    """Entries picked from what has neither time nor samples: those of the index."""
    name, args, which = r.call.name, r.args, [n.axes for n in r.call.notes[1:]]
    if name == "embedding":
        return (*which[0], *r.main.axes[1:])
    if name == "index_select":
        at = args[1] % max(len(r.main.axes), 1)
        return (*r.main.axes[:at], *which[0], *r.main.axes[at + 1 :])
    if name not in ("index", "_unsafe_index"):
        return ax.broadcast(r.shape, which)
    used = [i for i, index in enumerate(args[1]) if index is not None]
    if any(args[1][i].dtype == torch.bool for i in used):
        return tuple(map(ax.plain, r.shape))
    picked = ax.broadcast(torch.broadcast_shapes(*(args[1][i].shape for i in used)), which)
    at = used[0] if used[-1] - used[0] == len(used) - 1 else 0
    rest = [axis for i, axis in enumerate(r.main.axes) if i not in used]
    return (*rest[:at], *picked, *rest[at:])


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
    result.unit = unit_of(main) if name in rules.MOVING else 1.0
    result.fired = all(n.fired for n in data) if name in rules.MOVING else name in _GATES and any(_fired(call))
    result.padding = _padding(call, main)
    if len(data) == 1 and (name in rules.MOVING or name in rules.ADDING or name in rules.SCALING):
        result.rounded = main.rounded
    if len(data) == 1 and (name in rules.MOVING or name in rules.ADDING):
        result.base, result.compared = main.base or main.values, main.compared
    if name in rules.SAME_VALUES and (name not in ("_to_copy", "copy") or _stays_float(call)):
        result.values, result.linear, result.reached = main.values, main.linear, main.reached
        return
    factor = _factor(call, main)
    if factor is not None:
        result.unit, result.reached = unit_of(main) * factor, main.reached
        result.fired, result.raw = (
            main.fired and name != "mean",
            main.raw and main.values.kind not in ("spikes", "graded"),
        )
        result.base, result.compared = main.base or main.values, main.compared
    elif name in rules.NORMS:
        result.reached = main.reached
    elif name in ("add", "sub"):
        known = [n.reached for n in data if n.reached is not None]
        result.reached = min(sum(known), call.out[0].numel()) if len(known) == len(data) else None
        result.linear = len(data) == 1 and main.linear
    if name in _KEEPS_UNIT:
        result.unit = _common_unit([unit_of(n) for n in data])


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


_KEEPS_UNIT = (
    rules.POOLING | rules.ACCUMULATING | rules.SORTING | (rules.ADDING - {"rsub"})
    | {"cat", "stack", "sum", "relu", "abs", "maximum", "minimum", "fmax", "fmin", "max", "min", "amax", "amin"}
    | {"where", "masked_fill"}
)  # fmt: skip


def unit_of(note: Note) -> float:
    """The value that the numbers of a tensor are multiples of, if of any: that of one spike where they are spikes."""
    return note.values.unit if note.values.kind == "spikes" and note.values.high != note.values.low else note.unit


def _common_unit(units: Sequence[float]) -> float:
    """The largest value that all units are whole multiples of; the first where there is none of the kind."""
    common = units[0] if units else 1.0
    for unit in units[1:]:
        ratio = Fraction(unit / common).limit_denominator(LARGEST_GRADED)
        if abs(ratio.numerator) > LARGEST_GRADED or abs(ratio * common / unit - 1) > 1e-9:
            return units[0]
        common /= ratio.denominator
    return common


def _factor(call: Call, main: Note) -> float | None:
    """The one number that the operation multiplies every entry by, if it does."""
    name, args = call.name, call.args
    if name == "mean":
        return call.out[0].numel() / max(math.prod(map(ax.size_of, main.axes)), 1)
    if "avg_pool" in name:
        return 1 / _divisor(call)
    if name == "neg":
        return -1.0
    if name not in rules.SCALING or sum(n.role == Role.DATA for n in call.notes) != 1:
        return None
    number = _one_number(args[1] if call.notes[0] is main else args[0])
    if name.startswith("mul"):
        return number
    return 1 / number if number and call.notes[0] is main else None


def _divisor(call: Call) -> int:
    """What sums are divided by in average pooling; where windows differ in size, the least multiple of all sizes."""
    dims, args = int(call.name[-2]), [*call.args[1:], *(None,) * 6]
    if "adaptive" in call.name:
        sides = zip(call.tensors[0].shape[-dims:], call.out[0].shape[-dims:], strict=True)
        return math.prod(math.lcm(*(-(-(i + 1) * n // m) - i * n // m for i in range(m))) for n, m in sides)
    if args[5]:
        return int(args[5])
    kernel = args[0] if isinstance(args[0], list | tuple) else [args[0]]
    kernel = list(kernel) * (dims // len(kernel))
    cut = args[3] or args[4] is False  # ceil_mode, count_include_pad=False
    return math.prod(math.lcm(*range(1, k + 1)) if cut else k for k in kernel)


def _one_number(x: Any) -> float | None:
    if isinstance(x, Tensor):
        x = x.item() if x.numel() == 1 and x.layout is torch.strided else None  # complex numbers are left out below
    return float(x) if isinstance(x, int | float) and x and math.isfinite(x) else None
