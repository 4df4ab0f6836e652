"""What a model of no family really does: where it attends, where its stream can be pruned; found in one forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

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


def find_sites(model: nn.Module, seen: Observation) -> Subject | None:
    """Blocks, grid and pruning place of a model that was observed once; None where nothing attends."""
    attentions = [path for path in attention_paths(seen) if path]
    if not attentions:
        return None
    blocks = tuple(dict.fromkeys(_block(model, path, seen) for path in attentions))
    first = seen.first_call(blocks[0])
    start = 0 if first is None else first.start
    # Where the model loops over the steps its stem runs again behind the blocks.
    stem_paths = {path for number, path in seen.spatial if number < start}
    loops = sum(call.path == blocks[0] for call in seen.calls) > 1
    spatial = any(number >= start and not (loops and path in stem_paths) for number, path in seen.spatial)
    whole = _surveyed(model, blocks[0], first, seen)
    stem = None if whole.residual or first is None else _stem(first, seen)
    return Subject("probe", Sites(blocks, keeps_grid=spatial), stem=stem)


def why_nothing(model: nn.Module, seen: Observation) -> str:
    """Why `find_sites` found nothing, in one sentence."""
    if seen.opaque:
        path, layer = seen.opaque[0]
        return f"{path or 'It'} is a {layer}, whose products are one call of torch and cannot be followed"
    gates = [path for path in seen.gates if not _in_neuron(model, path, seen)]
    sums = [path for _, path in seen.sums]
    linear = next((path for path in gates if path in sums), None)
    if linear is not None:
        return (
            f"{linear or 'It'} multiplies activations entry by entry and sums them, which may be linear (Hadamard) "
            "attention such as the sum of k * v; that is found in models of a family only"
        )
    if not seen.products and not gates:
        return "Its forward multiplies no activations with activations"
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
    rank = None if call is None or call.x is None else call.x.dim()
    return survey(model.get_submodule(path), rank=rank, given=given_in(seen, path))


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
