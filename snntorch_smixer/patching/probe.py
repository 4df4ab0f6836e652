"""What a model of no family really does: where it attends, where its stream can be pruned; found in one forward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snntorch_smixer.families import Sites
from snntorch_smixer.patching.observe import Call, Observation
from snntorch_smixer.patching.survey import attention_paths, survey


@dataclass(frozen=True)
class Stem:
    """Where the stream is pruned that no block takes whole: at the output of a module.

    Attributes:
        path: dotted name.
        layout: of its output.
        neuron: None, the output has to be spikes.
    """

    path: str
    layout: str
    neuron: str | None = None


@dataclass(frozen=True)
class Found:
    """What `find_sites` found.

    Attributes:
        sites: as a family would give them.
        stem: where to prune instead of in front of the first block, or None.
    """

    sites: Sites
    stem: Stem | None


def find_sites(model: nn.Module, seen: Observation) -> Found | None:
    """Blocks, grid and pruning place of a model that was observed once; None where nothing attends."""
    attentions = [path for path in attention_paths(seen) if path]
    if not attentions:
        return None
    blocks = tuple(dict.fromkeys(_block(model, path, seen) for path in attentions))
    first = seen.first_call(blocks[0])
    start = 0 if first is None else first.start
    spatial = any(number >= start for number, _ in seen.spatial)
    whole = survey(model.get_submodule(blocks[0]), rank=None if first is None or first.x is None else first.x.dim())
    stem = None if whole.residual or first is None else _stem(model, first, seen)
    return Found(Sites(blocks, keeps_grid=spatial), stem)


def _block(model: nn.Module, path: str, seen: Observation) -> str:
    """The caller of an attention where that adds a residual around it; the attention itself where the root calls it."""
    call = seen.first_call(path)
    if call is None or not call.parent:
        return path
    inside = survey(model.get_submodule(path), rank=None if call.x is None else call.x.dim())
    return path if inside.residual else call.parent


def _stem(model: nn.Module, first: Call, seen: Observation) -> Stem | None:
    """The last module that gave the stream to the root before the first block took it."""
    givers = [
        call
        for call in seen.calls
        if -1 < call.end < first.start and not call.parent and call.out is not None and _same(call.out, first.x)
    ]
    if not givers or givers[-1].out is None:
        return None
    return Stem(givers[-1].path, "t b c y x" if givers[-1].out.dim() == 5 else _like(givers[-1].out, first))


def _same(out: Tensor, x: Tensor | None) -> bool:
    return x is not None and out.numel() == x.numel() and torch.equal(out.flatten(), x.flatten())


def _like(out: Tensor, first: Call) -> str:
    return {4: "t b c n", 3: "b c n"}.get(out.dim(), "t b c n")
