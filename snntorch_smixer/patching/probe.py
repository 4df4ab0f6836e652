"""What a model of no family really does: where it attends, where its stream can be pruned; found in one forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.families import Sites
from snntorch_smixer.patching.behaviour import is_neuron
from snntorch_smixer.patching.observe import Call, Observation, given_in
from snntorch_smixer.patching.survey import Survey, attention_paths, survey


@dataclass(frozen=True)
class Subject:
    """What is known of a model before its blocks are looked at.

    Attributes:
        name: of the family, or "probe".
        sites: where it can be patched.
        stored: dotted attributes behind the pruning that store T.
        stem: (dotted name, layout) of a module whose output is pruned, where no block takes the whole stream.
    """

    name: str
    sites: Sites
    stored: tuple[str, ...] = ()
    stem: tuple[str, str] | None = None


def find_sites(model: nn.Module, seen: Observation, *, swap: bool | str) -> Subject | None:
    """Blocks, grid and pruning place of a model that was observed once; None where there is nothing to patch.

    Args:
        model: is not touched.
        seen: the model on an example.
        swap: argument of `wrap`; False: blocks that do not attend will do.
    """
    attentions = [path for path in attention_paths(seen) or linear_paths(seen) if path]
    blocks = tuple(dict.fromkeys(_block(model, path, seen) for path in attentions))
    if not blocks and swap is False:
        blocks = residual_blocks(model, seen)
    if not blocks:
        return None
    first = seen.first_call(blocks[0])
    start = 0 if first is None else first.start
    # Where the model loops over the steps its stem runs again behind the blocks.
    stem_paths = {path for number, path in seen.spatial if number < start}
    loops = sum(call.path == blocks[0] for call in seen.calls) > 1
    spatial = any(number >= start and not (loops and path in stem_paths) for number, path in seen.spatial)
    whole = _surveyed(model, blocks[0], first, seen)
    stem = None if whole.residual or first is None else _stem(first, seen)
    return Subject("probe", Sites(blocks, keeps_grid=spatial), stem=stem)


def linear_paths(seen: Observation) -> list[str]:
    """Modules that multiply activations entry by entry and sum some: linear (Hadamard) attention may be there."""
    summed = {path for _, path in (*seen.sums, *seen.products)}
    return [path for path in dict.fromkeys(seen.gates) if path in summed]


def residual_blocks(model: nn.Module, seen: Observation) -> tuple[str, ...]:
    """The outermost parts that add their input to their output, of the resolution of the last one."""
    found: list[Call] = []
    for call in seen.calls:
        inside = any(call.path.startswith(f"{other.path}.") or call.path == other.path for other in found)
        same = call.x is not None and call.out is not None and call.x.shape == call.out.shape and call.x.dim() > 2
        if inside or not same or not any(p.dim() > 1 for p in model.get_submodule(call.path).parameters()):
            continue
        try:
            residual = _surveyed(model, call.path, call, seen).residual
        except FamilyError:
            continue
        found += [call] if residual else []
    shape = found[-1].x.shape if found else None  # type: ignore[union-attr]
    return tuple(call.path for call in found if call.x is not None and call.x.shape == shape)


def why_nothing(model: nn.Module, seen: Observation) -> str:
    """Why `find_sites` found nothing, in one sentence."""
    if seen.opaque:
        path, layer = seen.opaque[0]
        return f"{path or 'It'} is a {layer}, whose products are one call of torch and cannot be followed"
    gates = [path for path in seen.gates if not _in_neuron(model, path, seen)]
    if not seen.products and not gates:
        prune = "swap=False prunes it alone" if residual_blocks(model, seen) else "no part adds its input to its output"
        return f"Its forward multiplies no activations with activations, so there is nothing to swap; {prune}"
    places = list(dict.fromkeys([*(path for _, path in seen.products), *gates]))
    return (
        f"It multiplies activations at {', '.join(p or 'the root' for p in places[:3])}, but no two products in a row"
    )


def _in_neuron(model: nn.Module, path: str, seen: Observation) -> bool:
    call = seen.first_call(path)
    return call is not None and call.x is not None and is_neuron(model.get_submodule(path), call.x)


def _block(model: nn.Module, path: str, seen: Observation) -> str:
    """The caller of an attention where that adds a residual around it; the attention itself where the root calls it."""
    call = seen.first_call(path)
    if call is None or not call.parent:
        return path
    return path if _surveyed(model, path, call, seen).residual else call.parent


def _surveyed(model: nn.Module, path: str, call: Call | None, seen: Observation) -> Survey:
    shape = () if call is None or call.x is None else tuple(call.x.shape)
    return survey(model.get_submodule(path), shape=shape, given=given_in(seen, path))


def _stem(first: Call, seen: Observation) -> tuple[str, str] | None:
    """The last module that gave the stream to the root before the first block took it."""
    givers = [
        call
        for call in seen.calls
        if -1 < call.end < first.start and not call.parent and call.out is not None and _same(call.out, first.x)
    ]
    if not givers or givers[-1].out is None:
        return None
    out, axes = givers[-1].out, {5: "t b c y x", 4: "t b c n", 3: "b c n"}
    return (givers[-1].path, axes[out.dim()]) if out.dim() in axes else None


def _same(out: Tensor, x: Tensor | None) -> bool:
    return x is not None and out.numel() == x.numel() and torch.equal(out.flatten(), x.flatten())
