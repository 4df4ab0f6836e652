"""The operations of torch that multiply: how each one's arguments are the factors of a product, and what it counts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.cost.count.axes import Axes, Blocks, Window, count, plain
from snntorch_smixer.cost.count.ops import Call
from snntorch_smixer.cost.count.values import Note, Operand, Padding, Role, Scratch, classify, nonzero, spread, units
from snntorch_smixer.cost.records import Geometry


@dataclass
class Tally:
    """What one product did."""

    op: str  # name for the record
    kinds: list[str]  # kinds of its activations
    counts: dict[str, int]  # by the names of `COUNTS`
    events: Tensor  # events by step and sample, int64 ``(T, B)``
    activation: Note  # the note whose axes say what the rows and columns of ``events`` are
    weight: Operand | None = None  # the operand that is a weight; None for a product of activations
    geometry: Geometry | None = None  # connections, where there is a weight
    reached: int | None = None  # outputs that at least one event reached
    unit: float = 1.0  # the value that whole numbers in the result are multiples of
    levels: Mapping[int, int] = field(default_factory=dict)  # graded events by the absolute whole value that they carry
    silent: bool = False  # nothing but zeros came in: of which kind, the other inputs of the layer tell
    bytes: int = 0  # activations that entered and left, as stored
    source: Operand | None = None  # the activation that met a weight
    # which of its entries reach which outputs, along the axes that the weight works on; empty where unknown
    maps: Mapping[int, Blocks | Window] = field(default_factory=dict)


@dataclass
class Setting:
    """What a counter needs besides the operands: scratch memory and the name of the layer for errors."""

    scratch: Scratch
    where: str


@dataclass(frozen=True)
class Reach:
    """The synapses of one output feature that an input reaches, as a product over axes."""

    fan_out: int  # output features that each of them has
    axes: Mapping[int, Tensor] = field(default_factory=dict)  # per axis of the summed-up input, synapses per position
    # the same without positions that are zeros by padding; empty where there are none
    real: Mapping[int, Tensor] = field(default_factory=dict)


Fold = Callable[[Tensor], Tensor]
"""Sums an activation over the inputs that share all their targets, for example the channels of a token."""


def one_sided(x: Operand, fold: Fold, axes: Axes, reach: Reach, setting: Setting) -> tuple[Tally, Tensor]:
    """Counts of an activation that meets weights, and the folded nonzeros that tell which outputs are reached."""
    kind = classify(x.x, x.note, setting.scratch, setting.where)
    values = x.note.values
    whole = kind == "spikes" and values.unit == 1.0
    folded = fold(x.x if whole else nonzero(x.x, setting.scratch)).float()
    most = max(1.0, x.x.numel() / max(folded.numel(), 1))
    events = spread(folded, axes, reach.axes, most) * reach.fan_out
    edges = _edges(folded, round(most), reach)
    total, packets = int(events.sum()), _sent(x, folded, setting)
    inputs = x.x.numel() if x.note.padding is None else x.note.padding.x.numel()
    counts = {"synapses": edges, "packets": packets, "units": packets, "inputs": inputs}
    levels: Mapping[int, int] = {}
    if kind == "spikes":
        counts["ac"] = total
    elif kind == "graded":
        levels = _levels(units(x.x, values, setting.scratch), reach)
        counts |= {"graded": total, "graded_ac": sum(level * n for level, n in levels.items())}
        counts["units"] = _sum_of_units(x, setting)
    else:
        counts |= {"mac": counts["synapses"], "effective_mac": total}
        events = torch.full_like(events, edges // events.numel())
    silent = not values.low and not values.high
    return Tally("", [kind], counts, events, replace(x.note, axes=axes), levels=levels, silent=silent), folded


def _levels(whole: Tensor, reach: Reach) -> dict[int, int]:
    """Events of graded spikes by their absolute whole value, each as often as the synapses that it reaches."""
    values = whole.flatten().long()
    if not reach.axes:
        found = torch.bincount(values)
    else:
        weights = torch.ones((), dtype=torch.float64, device=whole.device)
        for axis, taps in reach.axes.items():
            weights = weights * taps.to(weights).view(-1, *[1] * (whole.dim() - 1 - axis))
        found = torch.bincount(values, weights.expand(whole.shape).flatten())
    return {level: int(n) * reach.fan_out for level, n in enumerate(found.tolist()) if level and n}


def _edges(folded: Tensor, entries: int, reach: Reach) -> int:
    """Synapses of a call: what its events would be if every input were nonzero."""
    taps = reach.real or reach.axes
    positions = [int(taps[i].sum()) if i in taps else size for i, size in enumerate(folded.shape)]
    return math.prod(positions) * entries * reach.fan_out


def _sent(x: Operand, folded: Tensor, setting: Setting) -> int:
    """Messages: nonzero entries, of which padding that repeats them makes no new ones."""
    padding = x.note.padding
    counted = folded if padding is None else nonzero(padding.x, setting.scratch)
    return int(counted.sum(dtype=torch.float64))


def matrix_product(left: Operand, right: Operand, setting: Setting) -> Tally:
    """``left @ right``, ``(..., m, k)`` times ``(..., k, n)``; at least one of them an activation."""
    m, k, n = left.x.shape[-2], left.x.shape[-1], right.x.shape[-1]
    dense = math.prod(left.x.shape[:-1]) * k * n
    if is_activation(left, right) and is_activation(right, left):
        tally = _two_sided(left, right, setting)
    else:
        first = is_activation(left, right)
        x, w = (left, right) if first else (right, left)
        axis, fan_out = (-1, n) if first else (-2, m)
        axes = x.note.axes[:-1] if first else (*x.note.axes[:-2], x.note.axes[-1])
        tally, rows = one_sided(x, lambda y: y.sum(axis, dtype=torch.float32), axes, Reach(fan_out), setting)
        tally.op, tally.weight = "linear" if first else "matmul", w
        tally.reached = int(rows.count_nonzero()) * fan_out
        blocks = rows.numel() // (count(axes, "t") * count(axes, "b"))
        sets = count(w.note.axes[:-2], "")
        tally.geometry = Geometry(fan_in=k, outputs=fan_out, blocks=blocks, weight_sets=sets)
        tally.source = x
        tally.maps = {axis % x.x.dim(): Blocks(k, fan_out, 1)} if sets == 1 else {}
    tally.counts |= {"dense": dense, "outputs": math.prod(left.x.shape[:-1]) * n}
    return tally


def is_activation(mine: Operand, other: Operand) -> bool:
    """True for data, and for a constant that meets parameters: the silent spikes of a first step.

    Entries of a parameter that data picks are weights where they meet other data, as ``W'`` of the kept tokens is.
    """
    if mine.note.role == Role.DATA:
        return not (mine.note.picked and other.note.role == Role.DATA and not other.note.picked)
    return mine.note.role == Role.CONSTANT and other.note.role == Role.WEIGHT


def _two_sided(left: Operand, right: Operand, setting: Setting) -> Tally:
    """Spikes times spikes: each event of one side has to be delivered to every entry that it can meet."""
    m, n = left.x.shape[-2], right.x.shape[-1]
    kinds = [classify(side.x, side.note, setting.scratch, setting.where) for side in (left, right)]
    axes = (*left.note.axes[:-2], left.note.axes[-1])
    of_left = nonzero(left.x, setting.scratch).sum(-2, dtype=torch.float32)
    of_right = nonzero(right.x, setting.scratch).sum(-1, dtype=torch.float32)
    events = spread(of_left, axes, {}, m) * n + spread(of_right, right.note.axes[:-1], {}, n) * m
    packets = int(of_left.sum(dtype=torch.float64)), int(of_right.sum(dtype=torch.float64))
    sizes = [packets[i] if kinds[i] != "graded" else _sum_of_units(s, setting) for i, s in enumerate((left, right))]
    counts = {
        "synapses": left.x.numel() * n,
        "act_act": packets[0] * n + packets[1] * m,
        "act_act_units": sizes[0] * n + sizes[1] * m,
        "coincidences": int((of_left.double() * of_right.double()).sum()),
        "packets": sum(packets),
        "units": sum(sizes),
        "inputs": left.x.numel() + right.x.numel(),
    }
    rates = [size / max(side.x.numel(), 1) for size, side in zip(sizes, (left, right), strict=True)]
    binary = [rate for rate, kind in zip(rates, kinds, strict=True) if kind == "spikes"]
    counts["rate_sop"] = round(left.x.numel() * n * min(binary or rates))
    if kinds == ["analog", "analog"]:
        counts["mac"], counts["effective_mac"] = counts["synapses"], counts.pop("coincidences")
        del counts["rate_sop"], counts["act_act"], counts["act_act_units"]
    unit = left.note.values.unit * right.note.values.unit if "analog" not in kinds else 1.0
    return Tally("act_act", kinds, counts, events, replace(left.note, axes=axes), unit=unit)


def entrywise_product(left: Operand, right: Operand, axes: Axes, wrote: int, setting: Setting) -> Tally:
    """A product entry by entry, of which ``wrote`` sums are taken: a synapse, or a pair of activations, each entry.

    The factors broadcast; ``axes`` are those of their product.
    """
    shape = torch.broadcast_shapes(left.x.shape, right.x.shape)
    size = math.prod(shape)
    first = is_activation(left, right)
    if first and is_activation(right, left):
        tally = _pairs(left, right, axes, shape, setting)
    else:
        x, w = (left, right) if first else (right, left)
        wide = Operand(x.x.expand(shape), replace(x.note, axes=axes, padding=None))
        tally, _ = one_sided(wide, lambda y: y, axes, Reach(1), setting)
        packets = int(nonzero(x.x, setting.scratch).sum(dtype=torch.float64))
        sizes = _sum_of_units(x, setting) if tally.kinds == ["graded"] else packets
        tally.counts |= {"packets": packets, "units": sizes, "inputs": x.x.numel()}
        tally.op, tally.weight, fan_in = "product", w, size // wrote
        blocks = wrote // (count(axes, "t") * count(axes, "b")) or 1
        tally.geometry = Geometry(fan_in, 1, blocks, weight_sets=max(1, w.x.numel() // fan_in))
    tally.counts |= {"dense": size, "outputs": wrote}
    return tally


def _pairs(left: Operand, right: Operand, axes: Axes, shape: Sequence[int], setting: Setting) -> Tally:
    kinds = [classify(side.x, side.note, setting.scratch, setting.where) for side in (left, right)]
    sides = [spread(nonzero(side.x.expand(shape), setting.scratch), axes, {}, 1) for side in (left, right)]
    both = nonzero(left.x.expand(shape), setting.scratch).mul_(right.x.expand(shape).ne(0))
    packets = [int(nonzero(side.x, setting.scratch).sum(dtype=torch.float64)) for side in (left, right)]
    size, met = math.prod(shape), int(both.sum(dtype=torch.float64))
    counts = {"synapses": size, "packets": sum(packets), "units": sum(packets)}
    counts["inputs"] = left.x.numel() + right.x.numel()
    if kinds == ["analog", "analog"]:
        counts |= {"mac": size, "effective_mac": met}
    else:
        delivered = int(sides[0].sum() + sides[1].sum())
        counts |= {"act_act": delivered, "act_act_units": delivered, "coincidences": met}
    return Tally("act_act", kinds, counts, sides[0] + sides[1], replace(left.note, axes=axes))


def _sum_of_units(side: Operand, setting: Setting) -> int:
    x = side.x if side.note.padding is None else side.note.padding.x
    return int(units(x, side.note.values, setting.scratch).sum(dtype=torch.float64))


@dataclass(frozen=True)
class Convolution:
    """Settings of one call of ``aten.convolution``."""

    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    transposed: bool
    output_padding: Sequence[int]
    groups: int

    def window(self, size: int, out: int, axis: int, kernel: int) -> Window:
        """The kernel along one axis."""
        stride, padding, dilation = (
            v[axis] if len(v) > 1 else v[0] for v in (self.stride, self.padding, self.dilation)
        )
        return Window(size, out, kernel, stride, padding, dilation, self.transposed)

    def ones(self, folded: Tensor, kernel: Sequence[int]) -> Tensor:
        """Events per output position: a kernel of ones on the folded nonzeros, ``(samples * groups, 1, ...)``."""
        mask = folded.ne(0).to(torch.float32).flatten(0, 1).unsqueeze(1)
        ones = torch.ones(1, 1, *kernel, device=mask.device)
        steps = list(self.stride), list(self.padding), list(self.dilation)
        return torch.convolution(mask, ones, None, *steps, self.transposed, list(self.output_padding), 1)


def without_zeros(reach: Mapping[int, Tensor], padding: Padding | None) -> Mapping[int, Tensor]:
    """The reach without positions that are zeros by padding; empty where there are none."""
    if padding is None or padding.zeros is None:
        return {}
    real = {}
    for axis, taps in reach.items():
        before, behind = padding.zeros[axis]
        real[axis] = taps.clone()
        real[axis][:before] = 0
        real[axis][len(taps) - behind :] = 0
    return real


def convolution(x: Operand, w: Operand, out: Tensor, how: Convolution, setting: Setting) -> Tally:
    """A convolution or transposed convolution over 1 to 3 axes."""
    kernel, groups, spatial = w.x.shape[2:], how.groups, w.x.dim() - 2
    per_group_out = w.x.shape[1] if how.transposed else w.x.shape[0] // groups
    per_group_in = x.x.shape[1] // groups
    axes: Axes = (x.note.axes[0], plain(groups), *x.note.axes[2:])
    windows = {2 + i: how.window(x.x.shape[2 + i], out.shape[2 + i], i, kernel[i]) for i in range(spatial)}
    reach = {axis: window.reach() for axis, window in windows.items()}
    pointwise = all(bool((r == 1).all()) for r in reach.values())
    reaches = Reach(per_group_out, {} if pointwise else reach, without_zeros(reach, x.note.padding))

    def fold(y: Tensor) -> Tensor:
        return y.unflatten(1, (groups, per_group_in)).sum(2, dtype=torch.float32)

    tally, folded = one_sided(x, fold, axes, reaches, setting)
    hit = folded if pointwise else how.ones(folded, kernel)
    tally.reached = int(hit.count_nonzero()) * per_group_out
    tally.op, tally.weight = f"conv{'_transpose' if how.transposed else ''}{spatial}d", w
    tally.source, tally.maps = x, {1: Blocks(x.x.shape[1], out.shape[1], groups), **windows}
    per_output = (x.x if how.transposed else out).numel()
    tally.counts["dense"] = per_output * math.prod(kernel) * (per_group_out if how.transposed else per_group_in)
    tally.counts["outputs"] = out.numel()
    runs = count(x.note.axes, "t") * count(x.note.axes, "b")
    positions = out.shape[0] * math.prod(out.shape[2:]) // runs
    tally.geometry = Geometry(
        fan_in=per_group_in * math.prod(kernel),
        outputs=per_group_out,
        blocks=positions * groups,
        weight_sets=groups,
        kernel=tuple(kernel),
        grid=tuple(out.shape[2:]),
        channels=(x.x.shape[1], out.shape[1]),
    )
    return tally


def _operand(call: Call, x: Tensor) -> Operand:
    return Operand(x, next(note for seen, note in zip(call.tensors, call.notes, strict=True) if seen is x))


def _finish(call: Call, tally: Tally, *factors: Operand) -> Tally:
    if tally.weight is not None and tally.kinds != ["analog"]:
        counts = tally.counts
        counts["rate_sop"] = round(counts["dense"] * counts["units"] / max(counts["inputs"], 1))
    activations = [f.x for f in factors if tally.weight is None or f.x is not tally.weight.x]
    tally.bytes = sum(x.numel() * x.element_size() for x in (*activations, *call.out[:1]))
    return tally


def _matrices(call: Call, setting: Setting) -> Tally | None:
    """Products of matrices and vectors, perhaps added to what stands first; None where neither is an activation."""
    *added, left, right = (_operand(call, x) for x in call.args[:3] if isinstance(x, Tensor))
    if left.x.dim() == 1:
        left = Operand(left.x[None], replace(left.note, axes=((), *left.note.axes)))
    if right.x.dim() == 1:
        right = Operand(right.x[:, None], replace(right.note, axes=(*right.note.axes, ())))
    if not is_activation(left, right) and not is_activation(right, left):
        return None
    tally = _finish(call, matrix_product(left, right, setting), left, right)
    if added and added[0].note.role == Role.DATA and call.name in ("addmm", "baddbmm"):
        tally.counts["adds"] = call.out[0].numel()
    return tally


def _convolution(call: Call, setting: Setting) -> Tally | None:
    x, w = _operand(call, call.args[0]), _operand(call, call.args[1])
    if not is_activation(x, w) or is_activation(w, x):
        return None  # a kernel that depends on the input: listed as uncounted
    how = Convolution(*call.args[3:9])
    return _finish(call, convolution(x, w, call.out[0], how, setting), x, w)


def _addbmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Tensor:
    wide = left.transpose(0, 1).reshape(left.shape[1], -1)
    return torch.addmm(bias, wide, right.reshape(-1, right.shape[2]), beta=beta, alpha=alpha)


def _bilinear(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    inner = F.linear(y, weight.reshape(-1, weight.shape[2])).unflatten(-1, weight.shape[:2])
    out = (inner @ x.unsqueeze(-1)).squeeze(-1)
    return out if bias is None else out + bias


SPELLED: Mapping[Any, Callable[..., Tensor]] = {
    torch.ops.aten.addbmm.default: _addbmm,
    torch.ops.aten.bilinear.default: _bilinear,
}
"""Products that torch runs as one operation of its own, spelled with those of `PRODUCTS`."""

PRODUCTS: Mapping[str, Callable[[Call, Setting], Tally | None]] = {
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm", "mv", "addmv", "dot", "vdot"), _matrices),
    **dict.fromkeys(("convolution", "_convolution"), _convolution),
}
"""What multiplies. A new entry returns None where no activation takes part."""
