"""What one block is: its layout, its attention, its first neuron, its residuals; found by running copies of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, LayoutError
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.behaviour import keeps_state, neurons, without_weights
from snntorch_smixer.patching.fabricate import LAYOUTS, fabricate, layout_of
from snntorch_smixer.patching.judge import PlacesError
from snntorch_smixer.patching.observe import Observation, copied, first_tensor, observe
from snntorch_smixer.patching.prepare import prepare
from snntorch_smixer.patching.products import Sizes
from snntorch_smixer.patching.swap import Swap, matrices
from snntorch_smixer.patching.trace import carries_state, example_arguments, remember_given

Given = Mapping[str, tuple[Any, Any]]


@dataclass(frozen=True)
class Unit:
    """A part of a block that takes and gives the stream: attention, MLP, or the whole block.

    Attributes:
        path: dotted name within the block, "" for the block.
        layout: of its input.
        pointwise: True where tokens may be left out; False where it looks at neighbours.
        residual: True where its input is added inside.
    """

    path: str
    layout: str
    pointwise: bool
    residual: bool


@dataclass(frozen=True, eq=False)
class Survey:
    """What `survey` found.

    Attributes:
        layout: of the block's input.
        channels: C.
        residual: True where the block adds its input to its output.
        neuron: the first neuron that reads the stream, dotted name within the block; None where the stream is spikes.
        stateful: True where that neuron keeps something between calls.
        swaps: by dotted name within the block, "" for the block itself.
        left: attention that multiplies matrices and cannot be swapped, with the reason.
        others: chained products that are no attention and stay, with the reason.
        bound: attention whose tokens are tied to their places, with the reason.
        causal: True where no token knows of those behind it.
        ordered: True where its attention depends on the places of its tokens, as by a learned bias, and no mask or
            window says so: tokens may leave once ``W_M`` is in its place.
        units: for blocks that keep the grid: what works on kept tokens alone, or on all with dropped ones masked.
        silenced: neurons within the masked ones, by dotted name within the block, with their layouts.
        spatial: True where something in it looks at neighbours.
        remembers: True where two calls on the same stream differ, because neurons keep their membranes, or where it
            takes membranes and gives them back.
    """

    layout: str
    channels: int
    residual: bool
    neuron: str | None
    stateful: bool
    swaps: dict[str, Swap]
    left: dict[str, str]
    others: dict[str, str]
    bound: dict[str, str]
    causal: bool
    ordered: bool
    units: tuple[Unit, ...]
    silenced: dict[str, str]
    spatial: bool
    remembers: bool


def survey(
    block: nn.Module, *, tokens: int | None = None, shape: tuple[int, ...] = (), given: Given | None = None
) -> Survey:
    """Look at a block by running copies of it on fabricated tokens; the block is not touched.

    Args:
        block: takes the stream as its first argument and gives it back as its first result.
        tokens: N where the block takes no other.
        shape: of its input in a run, empty where it is not known. Its tokens are taken where no others fit.
        given: by dotted name within the block, all arguments that it and its parts were given in a run.

    Raises:
        FamilyError: no layout and width fits.
    """
    twin, furthest, reason = copied(block), -1, ""
    for path, (args, kwargs) in (given or {}).items():
        remember_given(twin.get_submodule(path), args, kwargs)
    for layout, channels, square, grid in _candidates(twin, shape, tokens, given or {}):
        x, sizes = fabricate(twin, layout, channels, grid=grid, square=square)
        seen = Observation()
        try:
            observe(copy.deepcopy(twin), example_arguments(twin, x), seen=seen)
        except Exception as error:  # noqa: BLE001 - foreign code on a wrong layout may raise anything
            if len(seen.calls) > furthest:
                furthest = len(seen.calls)
                reason = f"; it gets furthest with {layout!r}, and fails with {type(error).__name__}: {error}"
            continue
        out = first_tensor(seen.out)
        same = out is not None and out.numel() == x.numel() and sorted(out.shape) == sorted(x.shape)
        if (
            same
            and not _steps_are_samples(twin, layout, x, sizes, out)
            and not _mixes_samples(twin, layout, x, sizes, out)
        ):
            if square and shape and not _takes_other_grids(twin, layout, channels, sizes):
                continue
            own = grid if tokens is None else None
            return _describe(twin, layout, channels, x, sizes, replace(seen, own=own))
        if not same and len(seen.calls) >= furthest:
            furthest, gave = len(seen.calls) + 1, None if out is None else tuple(out.shape)
            reason = f"; with {layout!r} it runs, and gives {gave} for {tuple(x.shape)}"
    raise FamilyError(
        f"wrap: {type(block).__name__} takes none of the layouts {', '.join(LAYOUTS)} at any width of its weights"
        f"{reason}. Expected a block that gives a stream of any number of tokens back in its shape."
    )


@torch.no_grad()
def _takes_other_grids(block: nn.Module, layout: str, channels: int, sizes: Sizes) -> bool:
    """True where a block that runs on the square grid of ``sizes`` runs on other squares too."""
    for side in (sizes.y + 2, sizes.y + 4, 2 * sizes.y):
        x, _ = fabricate(block, layout, channels, grid=(side, side), square=True)
        twin = copy.deepcopy(block)
        try:
            out = first_tensor(twin(**example_arguments(twin, x)))
        except Exception:  # noqa: BLE001 - third-party code may raise anything
            continue
        if out is not None and out.numel() == x.numel():
            return True
    return False


@torch.no_grad()
def _steps_are_samples(block: nn.Module, layout: str, x: Tensor, sizes: Sizes, out: Tensor | None) -> bool:
    """True where the axes of steps and samples are the other way round.

    Samples do not know of each other, so a change of the last one changes nothing else; steps do, where neurons
    remember.
    """
    read = Layout(layout)
    if "t" not in read or "b" not in read or out is None or out.shape != x.shape:
        return False
    known, grid = {"t": sizes.t or 1}, {"y": sizes.y, "x": sizes.x}
    before = read.to_tokens(out, known)
    leaks = []
    for axis in (0, 1):
        changed = read.to_tokens(x, known).clone()
        changed.select(axis, 0).zero_()
        inputs = example_arguments(block, read.from_tokens(changed, grid))
        after = first_tensor(copy.deepcopy(block)(**inputs))
        after = before if after is None else read.to_tokens(after, known)
        leaks.append(bool((before != after).select(axis, -1).any()))
    return leaks == [False, True]


@torch.no_grad()
def _mixes_samples(block: nn.Module, layout: str, x: Tensor, sizes: Sizes, out: Tensor | None) -> bool:
    """True where, without an axis of steps alone, samples know of each other: then they are something else."""
    read = Layout(layout)
    if out is None or ("t",) in read.groups or out.shape != x.shape:
        return False
    known, grid = {"t": sizes.t or 1}, {"y": sizes.y, "x": sizes.x}
    for factor in (1.0, 0.1, 0.01):  # neurons that fire at every step show nothing
        whole = read.to_tokens(x * factor, known)
        changed = whole.clone()
        changed[:, 0] = 0
        inputs = (example_arguments(block, read.from_tokens(one, grid)) for one in (whole, changed))
        runs = [first_tensor(copy.deepcopy(block)(**one)) for one in inputs]
        before, after = (None if one is None else read.to_tokens(one, known)[:, 1:] for one in runs)
        if before is None or after is None or not torch.equal(before, after):
            return True
    return False


def _candidates(
    block: nn.Module, shape: tuple[int, ...], tokens: int | None, given: Given
) -> Iterator[tuple[str, int, bool, tuple[int, int] | None]]:
    widths = list(dict.fromkeys(p.shape[1] for p in block.parameters() if p.dim() > 1 and p.shape[1] > 1))
    widths += [m.in_features for m in block.modules() if isinstance(m, nn.Linear) and m.in_features not in widths]
    # A square grid only after all else failed: QKFormer's blocks (qkformer.py, c2a00e8) add columns to rows.
    for square, layout, channels in itertools.product((False, True), LAYOUTS, widths):
        if not shape or len(Layout(layout).groups) == len(shape):
            yield layout, channels, square, None if tokens is None else (tokens, 1)
    # Then the tokens of the run: Swin's windows divide no other grid, a table of places has a row for each.
    layouts = sorted(LAYOUTS, key=lambda layout: layout.endswith("c") != _reads_last_axis(block, shape, given))
    for layout, channels in itertools.product(layouts if shape and tokens is None else (), widths):
        groups = Layout(layout).groups
        if len(groups) == len(shape) and shape[groups.index(("c",))] == channels:
            size = dict(zip(groups, shape, strict=True))
            yield layout, channels, False, (size[("n",)], 1) if ("n",) in size else (size[("y",)], size[("x",)])


def _reads_last_axis(block: nn.Module, shape: tuple[int, ...], given: Given) -> bool:
    """True where the layers that take the stream as it is are no convolutions, which read the axis before the last."""
    layers = [
        block.get_submodule(path)
        for path, (args, kwargs) in given.items()
        if (x := first_tensor((args, kwargs))) is not None and tuple(x.shape[-2:]) == shape[-2:]
    ]
    return not any(isinstance(layer, nn.modules.conv._ConvNd) for layer in layers)


def _describe(block: nn.Module, layout: str, channels: int, x: Tensor, sizes: Sizes, seen: Observation) -> Survey:
    empty = without_weights(block)
    bare = observe(empty, example_arguments(empty, x))
    out = first_tensor(bare.out)
    found = _Attentions()
    swaps = dict(_attentions(block, layout, channels, sizes, seen, found))
    found.causal |= any(swap.causal for swap in swaps.values())
    if not seen.spatial and (found.causal or _is_causal(block, layout, x, sizes, seen)):
        found.causal = True
        swaps = {path: swap if swap.kind == "mixer" else replace(swap, causal=True) for path, swap in swaps.items()}
    bound = [path for path, swap in swaps.items() if swap.windows > 1 or swap.stride > 1]
    ordered = not (found.causal or seen.spatial or seen.own or bound or _follows_order(block, layout, x, sizes))
    local = ("",) if seen.own is not None or (ordered and not swaps) else tuple(bound)
    residual = out is not None and _same_values(out, x)
    parts = [
        replace(unit, pointwise=unit.pointwise and not any(_within(path, unit.path) for path in local))
        for unit in _units(block, x, sizes, seen, bare)
    ]
    units = _grid_units(parts, swaps, layout, residual)
    neuron = _first_neuron(block, x, bare)
    return Survey(
        layout=layout,
        channels=channels,
        residual=residual,
        neuron=neuron,
        stateful=neuron is not None and keeps_state(block.get_submodule(neuron), x),
        swaps=swaps,
        left=found.left,
        others=found.others,
        bound=found.bound,
        causal=found.causal,
        ordered=ordered and any(swap.kind != "mixer" for swap in swaps.values()),
        units=units,
        silenced=_silenced(block, units, sizes, seen),
        spatial=bool(seen.spatial or local),
        remembers=_remembers(block, x) or carries_state(block, seen.out),
    )


def _silenced(block: nn.Module, units: tuple[Unit, ...], sizes: Sizes, seen: Observation) -> dict[str, str]:
    masked = [unit.path for unit in units if not unit.pointwise]
    return {
        call.path: form
        for call in neurons(block, seen)
        if any(not path or call.path.startswith(f"{path}.") for path in masked)
        and (form := layout_of(call.x, sizes)[0])
    }


@torch.no_grad()
def _follows_order(block: nn.Module, layout: str, x: Tensor, sizes: Sizes) -> bool:
    """True where tokens in another order give the same in that order: it knows no places, and tokens may leave."""
    read, known, grid = Layout(layout), {"t": sizes.t or 1}, {"y": sizes.y, "x": sizes.x}
    order = torch.randperm(sizes.n, generator=torch.Generator().manual_seed(0))
    outs = []
    for tokens in (read.to_tokens(x, known), read.to_tokens(x, known)[:, :, order]):
        out = first_tensor(copy.deepcopy(block)(**example_arguments(block, read.from_tokens(tokens, grid))))
        if out is None or out.shape != x.shape:
            return True
        outs.append(read.to_tokens(out, known))
    # Sums in another order round otherwise, and single neurons then fire otherwise.
    return (outs[0][:, :, order] - outs[1]).abs().gt(1e-4).float().mean().item() < 0.02


def _within(path: str, unit: str) -> bool:
    """True where ``path`` is in ``unit``, or all of the block."""
    return not path or f"{path}.".startswith(f"{unit}.")


@torch.no_grad()
def _remembers(block: nn.Module, x: Tensor) -> bool:
    twin = copy.deepcopy(block)
    first, second = (first_tensor(twin(**example_arguments(twin, x))) for _ in range(2))
    return first is not None and second is not None and not torch.equal(first, second)


def _grid_units(units: list[Unit], swaps: dict[str, Swap], layout: str, residual: bool) -> tuple[Unit, ...]:
    """Pointwise parts, and attention that is not; the whole block where it has no attention at all."""
    if not swaps or "" in swaps:
        return (Unit("", layout, pointwise=False, residual=residual),)
    units = [unit for unit in units if not any(unit.path.startswith(f"{path}.") for path in swaps)]
    attends = [unit for unit in units if any(f"{path}.".startswith(f"{unit.path}.") for path in swaps)]
    chosen = tuple(unit for unit in units if unit.pointwise or unit in attends)
    return chosen or (Unit("", layout, pointwise=False, residual=residual),)


def _same_values(a: Tensor, b: Tensor) -> bool:
    """True when both hold the same numbers, in any layout."""
    if a.numel() != b.numel() or not torch.isclose(a.double().sum(), b.double().sum()):
        return False
    return torch.equal(a.flatten().sort().values, b.flatten().sort().values)


def _first_neuron(block: nn.Module, x: Tensor, bare: Observation) -> str | None:
    readers = (call for call in neurons(block, bare) if call.x is not None and _same_values(call.x, x))
    return next((call.path for call in readers), None)


def _attentions(
    block: nn.Module, layout: str, channels: int, sizes: Sizes, seen: Observation, found: _Attentions
) -> Iterator[tuple[str, Swap]]:
    for path, module in block.named_modules():
        if isinstance(getattr(module, "linear_mix", None), nn.ModuleList):
            call = seen.first_call(path)
            yield path, matrices(module, layout if call is None else layout_of(call.x, sizes)[0])
    for path, layer in seen.opaque:
        found.left[path] = f"wrap: got a {layer}, whose products are one call of torch. {_KEEP}"
    quadratic = attention_paths(seen)
    places = quadratic or list(dict.fromkeys(path for _, path in seen.sums))
    for path in places:
        module = block.get_submodule(path)
        call = seen.first_call(path)
        form, width = (layout, channels) if call is None else layout_of(call.x, sizes)
        if not form:
            continue
        swap = _prepared(path, module, form, width, found, seen.own)
        if path in found.left and seen.own is None:  # a number of tokens that its windows divide
            found.left.pop(path)
            swap = _prepared(path, module, form, width, found, (sizes.y, sizes.x))
        if swap is not None:
            yield path, replace(swap, grid=seen.own, again=_prepared_again)
        elif path not in quadratic and path in seen.gates:
            found.others.setdefault(path, "no neuron fires on its sum of products of entries (Hadamard)")
        elif path in quadratic and not {path} & {*found.left, *found.others}:
            found.left[path] = "wrap: its products are not two in a row. Pass swap=False to keep them."


def _prepared(
    path: str, module: nn.Module, form: str, width: int, found: _Attentions, grid: tuple[int, int] | None
) -> Swap | None:
    """How to swap an attention; where it is none, or cannot be swapped, ``found`` says why."""
    try:
        swap, other = prepare(module, *fabricate(module, form, width, steps=0, grid=grid), form)
    except (FamilyError, LayoutError) as error:
        found.left[path] = str(error) if str(error).startswith("wrap") else f"wrap: {error} Pass swap=False."
        if isinstance(error, PlacesError):
            found.bound[path] = error.why
            found.causal = found.causal or error.causal
        return None
    if other:
        found.others[path] = other
    return swap


def _prepared_again(
    module: nn.Module, layout: str, channels: int, *, steps: int, grid: tuple[int, int] | None
) -> Swap | None:
    """The swap of an attention that loops over its steps, for another number of them."""
    return prepare(module, *fabricate(module, layout, channels, steps=steps, grid=grid), layout)[0]


@dataclass(eq=False)
class _Attentions:
    """What is said of attentions that are not swapped, see `Survey`."""

    left: dict[str, str] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)
    bound: dict[str, str] = field(default_factory=dict)
    causal: bool = False


_KEEP = "Write its products out with matmul, or pass swap=False to keep it."


@torch.no_grad()
def _is_causal(block: nn.Module, layout: str, x: Tensor, sizes: Sizes, seen: Observation) -> bool:
    """True where later tokens read earlier ones and never the other way round, whatever they hold.

    In half of the samples the later tokens are changed, in the others the earlier ones.
    """
    read, known, half = Layout(layout), {"t": sizes.t or 1}, sizes.n // 2
    tokens, before, forward = read.to_tokens(x, known), first_tensor(seen.out), False
    generator = torch.Generator().manual_seed(0)
    for factor in (1.0, 8.0, 0.0, -4.0):
        changed = tokens.clone()
        for part in (changed[:, ::2, half:], changed[:, 1::2, :half]):
            part.copy_(torch.rand(part.shape, generator=generator) * factor)
        inputs = example_arguments(block, read.from_tokens(changed, {"y": sizes.y, "x": sizes.x}))
        after = first_tensor(copy.deepcopy(block)(**inputs))
        if before is None or after is None or before.shape != x.shape or after.shape != x.shape:
            return False
        moved = (read.to_tokens(before, known) != read.to_tokens(after, known)).any(3)
        if bool(moved[:, ::2, :half].any()):
            return False
        forward |= bool(moved[:, 1::2, half:].any())
    return forward


def attention_paths(seen: Observation) -> list[str]:
    """Where attentions are: each pair of products belongs to the innermost module that holds both."""
    found, paths = [], [path for _, path in seen.products]
    called = {call.path for call in seen.calls} | {""}
    while len(paths) > 1:
        first, second = paths[:2]
        pairs = zip(first.split("."), second.split("."), strict=False)
        shared = ".".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        outermost = "." not in first + second  # children of the module that is observed
        together = first == second or (shared in called if shared else outermost)
        found += [shared] if together else []
        paths = paths[2 if together else 1 :]
    return list(dict.fromkeys(found))


def _units(block: nn.Module, x: Tensor, sizes: Sizes, seen: Observation, bare: Observation) -> Iterator[Unit]:
    for call in seen.calls:
        if call.parent or call.x is None or call.out is None or call.x.numel() != x.numel():
            continue
        form, _ = layout_of(call.x, sizes)
        module = block.get_submodule(call.path)
        if not form or call.out.numel() != x.numel() or not any(p.dim() > 1 for p in module.parameters()):
            continue
        empty = bare.first_call(call.path)
        inside = empty is not None and empty.x is not None and empty.out is not None
        inside = inside and _same_values(empty.x, empty.out)  # type: ignore[arg-type,union-attr]
        spatial = any(call.start <= number < call.end for number, _ in seen.spatial)
        yield Unit(call.path, form, not spatial, inside)
