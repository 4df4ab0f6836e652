"""How what is known of tensors passes through an operation that is no product."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.cost.count.axes import Axes, Blocks, Connections, Window, plain
from snntorch_smixer.cost.count.neurons import unseen
from snntorch_smixer.cost.count.ops import Call, Clock, Kind, Move, folds, permutation, picked_rows
from snntorch_smixer.cost.count.products import Reach, Setting, Tally, one_sided, without_zeros
from snntorch_smixer.cost.count.values import LARGEST_GRADED, Chain, Key, Link, Note, Operand, Padding, Role, Values
from snntorch_smixer.cost.records import Geometry


def transfer(call: Call, clock: Clock) -> list[Note]:
    """Notes on the results of one call; ``clock`` may learn T from it."""
    if not call.notes:
        return [Note(Role.CONSTANT, ax.unknown(o.shape)) for o in call.out]
    notes = call.notes
    first = call.op.moves and call.name not in ("stack", "cat", "copy", "index_put")
    main = notes[0] if first else max(notes, key=lambda note: note.role)
    if call.name in ("unbind", "select"):
        return _picked(call, main)
    role = Role(max(n.role for n in notes))
    source = main.source or next((n.source for n in notes if n.source), "")
    steps = [n.step for n in notes if n.step is not None]
    senders = notes[0].senders if len(notes) == 1 else frozenset().union(*(n.senders for n in notes))
    result = []
    for o in call.out:
        note = Note(role, _axes(call, main, o, clock), source=source, raw=_is_raw(main) and call.op.moves)
        note.picked, note.senders = role == Role.DATA and _is_picked(call, main), senders
        note.step = max(steps) if steps and not ax.has(note.axes, "t") else None
        note.static = _static(note, notes)
        result.append(note)
    for note, o in zip(result, call.out, strict=True):
        if len(result) == 1 or o.is_floating_point():
            _values(call, main, note)
    return result


def _is_picked(call: Call, main: Note) -> bool:
    """True for entries of parameters that data picks, moved or added up since."""
    if call.op.axes is picked_rows:
        return main.picked if main.role == Role.DATA else main.role == Role.WEIGHT
    keeps = call.op.moves or call.name in ("sum", "mean")
    return keeps and all(n.picked for n in call.notes if n.role == Role.DATA)


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
    shape, known = tuple(out.shape), call.op.axes
    known = None if known is picked_rows and main.role == Role.DATA else known
    first = call.notes[0]
    same = known is None and call.tensors[0].shape == shape and first.role == Role.DATA
    if same and all(n.role != Role.DATA or n.axes == first.axes for n in call.notes):
        return first.axes  # nobody knows more: the common case, and the cheap one
    if known is not None:
        axes = known(Move(call, main, shape, clock))
    elif call.op.moves and call.name != "index" and len(shape) == len(main.axes):
        axes = ax.resized(main.axes, shape)
    else:
        data = [note.axes for note in call.notes if note.role == Role.DATA]
        axes = ax.broadcast(shape, data or [note.axes for note in call.notes])
    fits = len(axes) == len(shape) and all(ax.size_of(a) == s for a, s in zip(axes, shape, strict=True))
    return axes if fits else ax.unknown(shape)


def _values(call: Call, main: Note, result: Note) -> None:
    """What is known of the numbers: shared by reshapes; a unit passes constant factors, means and sums of its kind."""
    name, kind, moves, data = call.name, call.op.kind, call.op.moves, [n for n in call.notes if n.role == Role.DATA]
    result.unit = unit_of(main) if moves else 1.0
    result.fired = (
        all(n.fired for n in data) if moves else name in ("mul", "where", "masked_fill") and any(_fired(call))
    )
    result.padding = _padding(call, main)
    if len(data) == 1 and (moves or kind in (Kind.ADDING, Kind.SCALING)):
        result.rounded = main.rounded
    if len(data) == 1 and (moves or kind is Kind.ADDING):
        result.base, result.compared = main.base or main.values, main.compared
    floats = call.tensors[0].is_floating_point() and call.out[0].is_floating_point()
    if kind is Kind.SAME_VALUES and (floats or name not in ("_to_copy", "copy")):
        result.values, result.linear, result.reached = main.values, main.linear, main.reached
        return
    factor = _factor(call, main)
    if factor is not None:
        result.unit, result.reached = unit_of(main) * factor, main.reached
        result.fired = main.fired and name != "mean"
        result.raw = main.raw and main.values.kind not in ("spikes", "graded")
        result.base, result.compared = main.base or main.values, main.compared
    elif kind is Kind.NORMS:
        result.reached = main.reached
    elif name in ("add", "sub"):
        known = [n.reached for n in data if n.reached is not None]
        result.reached = min(sum(known), call.out[0].numel()) if len(known) == len(data) else None
        result.linear = len(data) == 1 and main.linear
    if "unit" in call.op.traits:
        result.unit = _common_unit([unit_of(n) for n in data])


def _fired(call: Call) -> Iterator[bool]:
    """Spikes that a mask of truth values silences in part are still these spikes."""
    masked = call.name != "mul" or any(x.dtype == torch.bool for x in call.tensors)
    return (masked and n.fired and x.is_floating_point() for x, n in zip(call.tensors, call.notes, strict=True))


def _padding(call: Call, main: Note) -> Padding | None:
    """Padding of an activation, for the convolution behind it."""
    if call.name in ("_to_copy", "clone", "detach"):
        return main.padding
    if main.role != Role.DATA or not ("pad" in call.name and call.op.moves):
        return None
    x = call.tensors[0]
    if main.padding is not None or call.name != "constant_pad_nd" or any(p < 0 for p in call.args[1]):
        return Padding(main.padding.x if main.padding is not None else x, None)
    if len(call.args) > 2 and call.args[2] != 0:
        return Padding(x, None)
    flat = list(call.args[1])
    pairs = [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)][::-1]
    return Padding(x, (*[(0, 0)] * (x.dim() - len(pairs)), *pairs))


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
    if call.op.kind is not Kind.SCALING or sum(n.role == Role.DATA for n in call.notes) != 1:
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


_ULPS = 4


def see_straight_through(call: Call, note: Note) -> None:
    """Follow ``q - x``; where ``x`` is added again the sum is put at ``q`` and known as what ``q`` is."""
    if call.name in ("detach", "alias"):
        note.difference = call.notes[0].difference
    elif len(call.tensors) == 2 and call.out[0].is_floating_point() and len(call.args) == 2:
        left, right = call.notes
        if call.name == "sub" and left.role == right.role == Role.DATA:
            note.difference = (call.tensors[0], left, right)
        elif call.name == "add":
            _snap(call, note, left, right)
            _snap(call, note, right, left)


def _snap(call: Call, note: Note, x: Note, rest: Note) -> None:
    """Replace a sum of ``x`` and ``q - x`` that is ``q`` within rounding by ``q``; any other sum stays as it is."""
    if rest.difference is None or rest.difference[2].values is not x.values:
        return
    out, (q, known, _) = call.out[0], rest.difference
    if q.shape != out.shape or q.dtype != out.dtype:
        return
    with unseen():
        size = torch.maximum(q.abs(), torch.stack([term.abs().expand_as(q) for term in call.tensors]).amax(0))
        bound = (_ULPS * torch.finfo(q.dtype).eps * size).clamp(max=1e-3 * abs(known.unit))
        if not bool(((out - q).abs() <= bound).all()):
            return
        out.copy_(q)
    note.unit, note.fired, note.values, note.rounded = known.unit, known.fired, known.values, known.rounded


def joined(before: Chain, after: Chain) -> Chain | None:
    """A chain with one more layer behind it, None where the connections of both together are not known."""
    maps: dict[int, Connections] = dict(before.maps)
    for axis, connections in after.maps.items():
        place = before.places[axis]
        both = _composed(maps[place], connections) if place in maps else connections
        if place is None or both is None:
            return None
        maps[place] = both
    return Chain(before.origin, (*before.keys, *after.keys), maps, before.places, after.shape, after.link)


def tally_of(chain: Chain, outputs: int, setting: Setting) -> Tally | None:
    """Counts of the one layer that all are, for so many outputs; None where it is no layer that a chip has."""
    found = _one_axis(chain, setting) if len(chain.maps) == 1 else _convolution(chain, setting)
    if found is not None:
        found.counts["outputs"] = outputs
        found.counts["rate_sop"] = round(found.counts["dense"] * found.counts["units"] / max(found.counts["inputs"], 1))
    return found


def begun(tally: Tally, key: Key, out: Tensor) -> Chain | None:
    """The chain of one product with weights; None where its connections are not known axis by axis."""
    if tally.source is None or not tally.maps or tally.source.x.dim() != out.dim():
        return None
    return Chain(tally.source, (key,), tally.maps, tuple(range(out.dim())), tuple(out.shape), Link())


def passed(call: Call) -> Chain | None:
    """The chain of a result, where the operation keeps it one."""
    data = [note for note in call.notes if note.role == Role.DATA]
    chain = data[0].chain if len(data) == 1 and call.out else None
    if chain is None or (call.notes[0] is not data[0] and call.name not in ("add", "mul", "rsub")):
        return None
    shape = tuple(call.out[0].shape)
    if call.op.kind is Kind.SAME_VALUES:
        return _reshaped(chain, call, shape)
    if call.name == "constant_pad_nd":
        return _padded(chain, call, shape)
    affine = call.op.kind in (Kind.ADDING, Kind.SCALING) or call.name == "expand" or folds(call.name)
    return chain if affine and shape == chain.shape else None


def writes_constant(call: Call) -> bool:
    """True where constants are written into a part of a chain's result, for example the border of an image."""
    return call.name in ("copy", "fill", "zero") and all(note.role != Role.DATA for note in call.notes[1:])


def _composed(first: Connections, second: Connections) -> Connections | None:
    if isinstance(first, Blocks) and isinstance(second, Blocks):
        few, many = sorted((first.groups, second.groups))
        return None if many % few else Blocks(first.inputs, second.outputs, few)
    one, two = _taps(first), _taps(second)
    if one is None or two is None or one.shape[1] != two.shape[0]:
        return None
    return (one @ two).clamp_(max=1)


def _taps(connections: Connections | None) -> Tensor | None:
    """Who reaches whom along an axis; None where nobody or too many do."""
    if isinstance(connections, Window):
        return connections.matrix()
    return connections if isinstance(connections, Tensor) else None


def _reshaped(chain: Chain, call: Call, shape: tuple[int, ...]) -> Chain | None:
    if call.name in ("permute", "transpose", "t"):
        return replace(chain, places=tuple(chain.places[i] for i in permutation(call, len(shape))), shape=shape)
    if call.name in ("flip", "roll", "numpy_T"):
        return None
    if shape == chain.shape:
        return chain if call.out[0].is_floating_point() else None
    # After a reshape an axis is the same where as many entries lie before it and in it.
    known, before = {}, 1
    for place, size in zip(chain.places, chain.shape, strict=True):
        known[before, size] = place if size > 1 else None
        before *= size
    places, before = [], 1
    for size in shape:
        places.append(known.get((before, size)) if size > 1 else None)
        before *= size
    return replace(chain, places=tuple(places), shape=shape)


def _padded(chain: Chain, call: Call, shape: tuple[int, ...]) -> Chain | None:
    """A chain with zeros around it."""
    pads = list(call.args[1])
    maps: dict[int, Connections] = dict(chain.maps)
    if any(p < 0 for p in pads) or (len(call.args) > 2 and call.args[2] != 0):
        return None
    for i in range(len(pads) // 2):
        before, axis = pads[2 * i], len(shape) - 1 - i
        place, size = chain.places[axis], chain.shape[axis]
        if shape[axis] == size:
            continue
        held = None if place is None else _taps(maps.get(place))
        if place is None or held is None:
            return None
        maps[place] = torch.nn.functional.pad(held, (before, shape[axis] - size - before))
    return replace(chain, maps=maps, shape=shape)


def _one_axis(chain: Chain, setting: Setting) -> Tally | None:
    """A linear layer over one axis."""
    ((axis, map_),) = chain.maps.items()
    x = chain.origin
    if not isinstance(map_, Blocks) or map_.groups > 1 or map_.inputs != x.x.shape[axis]:
        return None
    axes = (*x.note.axes[:axis], *x.note.axes[axis + 1 :])
    tally, rows = one_sided(x, lambda y: y.sum(axis, dtype=torch.float32), axes, Reach(map_.outputs), setting)
    tally.op = "linear"
    tally.counts["dense"] = rows.numel() * map_.inputs * map_.outputs
    blocks = rows.numel() // max(1, _runs(x))
    tally.geometry = Geometry(fan_in=map_.inputs, outputs=map_.outputs, blocks=blocks)
    return tally


def _convolution(chain: Chain, setting: Setting) -> Tally | None:
    """A convolution over all axes behind the channels."""
    x, channels = chain.origin, chain.maps.get(1)
    spatial = range(2, x.x.dim())
    taps = [m for i in spatial if (m := _taps(chain.maps.get(i))) is not None]
    if not isinstance(channels, Blocks) or not taps or len(taps) < len(spatial) or len(chain.maps) > 1 + len(taps):
        return None
    groups, per_in, per_out = channels.groups, channels.inputs // channels.groups, channels.outputs // channels.groups
    reach = {i: m.sum(1).double() for i, m in zip(spatial, taps, strict=True)}
    reaches = Reach(per_out, reach, without_zeros(reach, x.note.padding))
    axes = (x.note.axes[0], plain(groups), *x.note.axes[2:])

    def fold(y: Tensor) -> Tensor:
        return y.unflatten(1, (groups, per_in)).sum(2, dtype=torch.float32)

    tally, _ = one_sided(x, fold, axes, reaches, setting)
    kernel, grid = tuple(int(m.sum(0).max()) for m in taps), tuple(m.shape[1] for m in taps)
    size = per_in * math.prod(kernel)
    positions = x.x.shape[0] * math.prod(grid)
    tally.op = f"conv{len(taps)}d"
    tally.counts["dense"] = positions * channels.outputs * size
    tally.geometry = Geometry(
        fan_in=size,
        outputs=per_out,
        blocks=positions // max(1, _runs(x)) * groups,
        weight_sets=groups,
        kernel=kernel,
        grid=grid,
        channels=(channels.inputs, channels.outputs),
    )
    return tally


def _runs(x: Operand) -> int:
    """Steps times samples that a tensor holds."""
    return math.prod(size for axis in x.note.axes for label, size in axis if label in ("t", "b"))


def name_of(layers: Sequence[str]) -> str:
    """One name for several layers: what they share once, then the rest joined by "+"."""
    parts = [layer.split(".") for layer in layers]
    shared = 0
    while all(len(part) > shared + 1 and part[shared] == parts[0][shared] for part in parts):
        shared += 1
    return ".".join([*parts[0][:shared], "+".join(".".join(part[shared:]) for part in parts)])
