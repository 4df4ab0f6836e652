"""What one block is: its layout, its attention, its first neuron, its residuals; found by running copies of it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.observe import Call, Observation, copied, first_tensor, observe
from snntorch_smixer.patching.prepare import STORED_STEPS, prepare
from snntorch_smixer.patching.products import Sizes
from snntorch_smixer.patching.swap import Swap, matrices
from snntorch_smixer.patching.trace import example_arguments

LAYOUTS = ("t b c y x", "t b c n", "t b n c", "b c y x", "b c n", "b n c", "(t b) c n", "(t b) n c", "(t b) c y x")


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
        units: for blocks that keep the grid: what works on kept tokens alone, or on all with dropped ones masked.
        silenced: neurons within the masked ones, by dotted name within the block, with their layouts.
        spatial: True where something in it looks at neighbours.
    """

    layout: str
    channels: int
    residual: bool
    neuron: str | None
    stateful: bool
    swaps: dict[str, Swap]
    left: dict[str, str]
    units: tuple[Unit, ...]
    silenced: dict[str, str]
    spatial: bool


def survey(block: nn.Module, *, tokens: int | None = None, rank: int | None = None) -> Survey:
    """Look at a block by running copies of it on fabricated tokens; the block is not touched.

    Args:
        block: takes the stream as its first argument and gives it back as its first result.
        tokens: N where the block takes no other.
        rank: number of axes of its input, where it is known.

    Raises:
        FamilyError: no layout and width fits.
    """
    twin = copied(block)
    for layout, channels, square in _candidates(twin, rank):
        x, sizes = fabricate(twin, layout, channels, tokens=tokens, square=square)
        try:
            seen = observe(copy.deepcopy(twin), example_arguments(twin, x))
        except Exception:  # noqa: BLE001 - foreign code on a wrong layout may raise anything
            continue
        out = first_tensor(seen.out)
        if out is not None and out.numel() == x.numel() and sorted(out.shape) == sorted(x.shape):
            return _describe(twin, layout, channels, x, sizes, seen)
    raise FamilyError(
        f"wrap: {type(block).__name__} takes none of the layouts {', '.join(LAYOUTS)} at any width of its weights. "
        "Pass family=... of your own, see dstsp.register."
    )


def _candidates(block: nn.Module, rank: int | None) -> Iterator[tuple[str, int, bool]]:
    widths = list(dict.fromkeys(p.shape[1] for p in block.parameters() if p.dim() > 1 and p.shape[1] > 1))
    widths += [m.in_features for m in block.modules() if isinstance(m, nn.Linear) and m.in_features not in widths]
    # A square grid only after all else failed: QKFormer's blocks (qkformer.py, c2a00e8) add columns to rows.
    for square, layout, channels in itertools.product((False, True), LAYOUTS, widths):
        if rank is None or len(Layout(layout).groups) == rank:
            yield layout, channels, square


def fabricate(
    module: nn.Module,
    layout: str,
    channels: int,
    *,
    tokens: int | None = None,
    square: bool = False,
    free_steps: bool = False,
) -> tuple[Tensor, Sizes]:
    """An input of ``module`` whose axes all have different sizes, none of them a width of the module.

    T is the one that the module stores, unless ``free_steps``.
    """
    taken = {size for p in module.parameters() for size in p.shape} | {channels}
    taken |= {size // k for size in taken for k in (2, 3)}
    counts = {v for m in module.modules() for v in vars(m).values() if type(v) is int and v > 0}
    stored = {v for m in module.modules() for n in STORED_STEPS if type(v := getattr(m, n, None)) is int}
    counts -= stored if free_steps else set()
    stored -= stored if free_steps else set()
    taken |= counts | {channels // count for count in counts}
    edges = (8, 10, 12, 14, 22, 26, 34)
    sides = [(edge, edge) for edge in edges] if square else list(itertools.permutations(edges, 2))
    sides = [(tokens, 1)] if tokens is not None else sides
    for (y, x), t, b in itertools.product(sides, stored or (3, 5, 7, 2, 11, 13), (5, 7, 3, 11, 13, 17, 19)):
        used = [t, b, t * b, y, *([] if square or tokens else [x]), *([] if tokens else [y * x])]
        if len(set(used)) == len(used) and not set(used) & taken - stored - {tokens}:
            break
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        stream = torch.rand(t if "t" in Layout(layout) else 1, b, y * x, channels) * 4
    weight = next((p for p in module.parameters() if p.is_floating_point()), None)
    if weight is not None:
        stream = stream.to(weight)
    sizes = Sizes(t if "t" in Layout(layout) else None, b, y, x)
    return Layout(layout).from_tokens(stream, {"y": y, "x": x}), sizes


def _describe(block: nn.Module, layout: str, channels: int, x: Tensor, sizes: Sizes, seen: Observation) -> Survey:
    empty = _without_weights(block)
    bare = observe(empty, example_arguments(empty, x))
    out = first_tensor(bare.out)
    left: dict[str, str] = {}
    swaps = dict(_attentions(block, layout, channels, sizes, seen, left))
    residual = out is not None and _same_values(out, x)
    units = _grid_units(list(_units(block, x, sizes, seen, bare)), swaps, layout, residual)
    masked = [unit.path for unit in units if not unit.pointwise]
    silenced = {
        call.path: form
        for call in neurons(block, seen)
        if any(not path or call.path.startswith(f"{path}.") for path in masked)
        and (form := layout_of(call.x, sizes)[0])
    }
    neuron = _first_neuron(block, x, bare)
    return Survey(
        layout=layout,
        channels=channels,
        residual=residual,
        neuron=neuron,
        stateful=neuron is not None and keeps_state(block.get_submodule(neuron), x),
        swaps=swaps,
        left=left,
        units=units,
        silenced=silenced,
        spatial=bool(seen.spatial),
    )


def _grid_units(units: list[Unit], swaps: dict[str, Swap], layout: str, residual: bool) -> tuple[Unit, ...]:
    """Pointwise parts, and attention that is not; the whole block where it has no attention at all."""
    if not swaps or "" in swaps:
        return (Unit("", layout, pointwise=False, residual=residual),)
    units = [unit for unit in units if not any(unit.path.startswith(f"{path}.") for path in swaps)]
    attends = [unit for unit in units if any(f"{path}.".startswith(f"{unit.path}.") for path in swaps)]
    chosen = tuple(unit for unit in units if unit.pointwise or unit in attends)
    return chosen or (Unit("", layout, pointwise=False, residual=residual),)


def _without_weights(block: nn.Module) -> nn.Module:
    """A copy that adds nothing to its input: what is left of the input shows where the residual runs."""
    empty = copy.deepcopy(block)
    with torch.no_grad():
        for parameter in empty.parameters():
            parameter.zero_()
    return empty


def _same_values(a: Tensor, b: Tensor) -> bool:
    """True when both hold the same numbers, in any layout."""
    if a.numel() != b.numel() or not torch.isclose(a.double().sum(), b.double().sum()):
        return False
    return torch.equal(a.flatten().sort().values, b.flatten().sort().values)


def is_neuron(module: nn.Module, x: Tensor) -> bool:
    """True when ``module`` turns any numbers into a few non-negative levels of the same shape, and has no weights."""
    if any(p.dim() > 1 for p in module.parameters()) or any(isinstance(m, _BatchNorm) for m in module.modules()):
        return False
    twin = copy.deepcopy(module)
    reset = getattr(twin, "reset", None)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            if callable(reset):
                reset()
            torch.manual_seed(0)
            out = twin(torch.rand_like(x) * 8 - 2)
    except Exception:  # noqa: BLE001 - foreign code that is no neuron may raise anything
        return False
    if not isinstance(out, Tensor) or out.shape != x.shape:
        return False
    if out.min() < 0 or out.max() <= 0:
        return False
    return len(out.flatten()[:: max(1, out.numel() // 4096)].unique()) <= 17


def keeps_state(neuron: nn.Module, x: Tensor) -> bool:
    """True when a call leaves something in ``neuron``: a membrane, a counter."""
    twin = copy.deepcopy(neuron)
    before = [dict(vars(m), **m._buffers) for m in twin.modules()]
    with torch.no_grad():
        twin(x)
    after = [dict(vars(m), **m._buffers) for m in twin.modules()]
    memories = any(getattr(m, "_memories", None) for m in twin.modules())  # SpikingJelly 2 keeps v in a dictionary
    return memories or any(old.get(k) is not v for old, new in zip(before, after, strict=True) for k, v in new.items())


def levels_of(module: nn.Module) -> tuple[float, int] | None:
    """(output of one spike, most spikes) of an integer neuron without children or weights, None for all else."""
    if any(True for _ in module.children()) or any(True for _ in module.parameters()):
        return None
    twin = copy.deepcopy(module).eval()
    try:
        with torch.no_grad():
            out = twin(torch.linspace(-2, 40, 4201))
    except Exception:  # noqa: BLE001 - foreign code that is no neuron may raise anything
        return None
    levels = out.unique() if isinstance(out, Tensor) else torch.zeros(0)
    if not 2 < len(levels) <= 33 or levels[0] != 0:
        return None
    return levels[1].item(), len(levels) - 1


def neurons(block: nn.Module, seen: Observation) -> Iterator[Call]:
    """Calls of neurons, the outermost where one holds another."""
    ends = -1
    for call in seen.calls:
        if call.x is None or call.out is None or call.out.shape != call.x.shape or call.start <= ends:
            continue
        if is_neuron(block.get_submodule(call.path), call.x):
            ends = call.end
            yield call


def _first_neuron(block: nn.Module, x: Tensor, bare: Observation) -> str | None:
    readers = (call for call in neurons(block, bare) if call.x is not None and _same_values(call.x, x))
    return next((call.path for call in readers), None)


def _attentions(
    block: nn.Module, layout: str, channels: int, sizes: Sizes, seen: Observation, left: dict[str, str]
) -> Iterator[tuple[str, Swap]]:
    for path, module in block.named_modules():
        if isinstance(getattr(module, "linear_mix", None), nn.ModuleList):
            call = seen.first_call(path)
            yield path, matrices(module, layout if call is None else layout_of(call.x, sizes)[0])
    quadratic = attention_paths(seen)
    places = quadratic or list(dict.fromkeys(path for _, path in seen.sums))
    for path in places:
        module = block.get_submodule(path)
        call = seen.first_call(path)
        form, width = (layout, channels) if call is None else layout_of(call.x, sizes)
        if not form:
            continue
        try:
            found = prepare(module, *fabricate(module, form, width, free_steps=True), form)
        except FamilyError as error:
            left[path] = str(error)
            continue
        if found is not None:
            yield path, found
        elif path in quadratic:
            left[path] = "wrap: its products are not two in a row. Pass swap=False to keep them."


def attention_paths(seen: Observation) -> list[str]:
    """Where attentions are: each pair of products belongs to the innermost module that holds both."""
    found, paths = [], [path for _, path in seen.products]
    for first, second in zip(paths[::2], paths[1::2], strict=False):
        shared = [a for a, b in zip(first.split("."), second.split("."), strict=False) if a == b]
        found.append(first if first == second else ".".join(shared))
    return list(dict.fromkeys(found))


def layout_of(x: Tensor | None, sizes: Sizes) -> tuple[str, int]:
    """Layout and channels of a tensor by the sizes of its axes; "" where they do not tell."""
    if x is None:
        return "", 0
    known = {sizes.y: "y", sizes.x: "x", sizes.n: "n", sizes.b: "b", (sizes.t or 1) * sizes.b: "(t b)"}
    if sizes.t is not None:
        known[sizes.t] = "t"
    else:
        known[sizes.b] = "b"
    letters = [known.get(size, "c") for size in x.shape]
    if sizes.x == sizes.y and letters.count("x") == 2:
        letters[letters.index("x")] = "y"
    if sizes.x == 1 and "y" in letters and "x" not in letters:
        letters[letters.index("y")] = "n"
    text = " ".join(letters)
    if letters.count("c") != 1 or text not in LAYOUTS:
        return "", 0
    return text, x.shape[letters.index("c")]


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
