"""Linear layers in a row, without a neuron in between: the connections of the one layer that they are together.

A `Chain` goes with the result of a linear layer, through what keeps it linear: BatchNorm, biases and constant factors,
reshapes, padding, constants written into its border. Which inputs reach which outputs is known axis by axis. Only what
is exactly linear is followed; a constant that the border of an image gets is a constant current of its neurons.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from snntorch_smixer.cost.counting import rules
from snntorch_smixer.cost.counting.axes import plain
from snntorch_smixer.cost.counting.connections import Blocks, Connections, Window
from snntorch_smixer.cost.counting.counters import Reach, Setting, Tally, one_sided, without_zeros
from snntorch_smixer.cost.counting.notes import Call, Chain, Key, Link, Operand, Role
from snntorch_smixer.cost.records import Geometry


def joined(before: Chain, after: Chain) -> Chain | None:
    """A chain with one more layer behind it, None where the connections of both together are not known."""
    maps: dict[int, Connections] = dict(before.maps)
    for axis, connections in after.maps.items():
        place = before.places[axis]
        if place is None:
            return None
        both = _composed(maps[place], connections) if place in maps else connections
        if both is None:
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
    if call.name in rules.SAME_VALUES:
        return _reshaped(chain, call, shape)
    if call.name == "constant_pad_nd":
        return _padded(chain, call, shape)
    return chain if shape == chain.shape and (call.name in _AFFINE or is_folding_norm(call.name)) else None


_AFFINE = rules.ADDING | rules.SCALING | {"expand"}


def is_folding_norm(name: str) -> bool:
    """True for a BatchNorm of known statistics."""
    return name in rules.NORMS and (name.endswith("no_training") or name.startswith(("cudnn", "miopen")))


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
    if shape == chain.shape and call.name not in ("permute", "transpose", "t", "flip", "roll", "numpy_T"):
        return chain if call.out[0].is_floating_point() else None
    if call.name == "permute":
        order = [i % len(shape) for i in call.args[1]]
    elif call.name in ("transpose", "t"):
        order = list(range(len(shape)))
        i, j = (call.args[1], call.args[2]) if len(call.args) > 2 else (0, len(order) - 1)
        order[i], order[j] = order[j], order[i]
    elif call.name in ("flip", "roll", "numpy_T"):
        return None
    else:
        return replace(chain, places=_regrouped(chain, shape), shape=shape)
    return replace(chain, places=tuple(chain.places[i] for i in order), shape=shape)


def _regrouped(chain: Chain, shape: tuple[int, ...]) -> tuple[int | None, ...]:
    """Places after a reshape: an axis is the same where as many entries lie before it and in it."""
    known, before = {}, 1
    for place, size in zip(chain.places, chain.shape, strict=True):
        known[before, size] = place if size > 1 else None
        before *= size
    places, before = [], 1
    for size in shape:
        places.append(known.get((before, size)) if size > 1 else None)
        before *= size
    return tuple(places)


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
