"""What cannot be wrapped or pruned, each refused in words before anything is touched."""

from __future__ import annotations

import re

from torch import nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.families import Sites
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.edits import SwapEdit
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.survey import Survey
from snntorch_smixer.pruning.pruner import DSTSP


def refuse_wrapped(model: nn.Module) -> None:
    """Raise `FamilyError` for a model that is compiled, distributed, or prunes already."""
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise FamilyError(f"wrap: got {name}, expected a torch.nn.Module.")
    outer = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, outer) or hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        what = "compiled" if not isinstance(model, outer) else "inside " + name
        raise FamilyError(f"wrap: this {name} is {what}. Wrap the plain model first, then compile or distribute it.")
    if any(
        isinstance(m, WrappedDSTSP)
        for child in model.children()
        if child is not getattr(model, "dstsp", None)
        for m in child.modules()
    ):
        raise FamilyError(f"wrap: a part of this {name} is wrapped already. Unwrap it first.")
    existing = getattr(model, "dstsp", None)
    if existing is not None:
        undo = "unwrap it first" if isinstance(existing, WrappedDSTSP) else "build it without pruning"
        raise FamilyError(
            f"wrap: this {name} prunes already ({_settings(existing)}). Set model.dstsp.ps and model.dstsp.t instead, "
            f"or {undo}."
        )


def _settings(existing: object) -> str:
    return existing.extra_repr() if isinstance(existing, DSTSP) else type(existing).__name__


def refuse_shared(model: nn.Module, sites: Sites) -> None:
    """Raise for a block that is called at several places: it would be patched several times."""
    blocks = [model.get_submodule(path) for path in sites.blocks]
    for path, block in zip(sites.blocks, blocks, strict=True):
        if blocks.count(block) > 1:
            raise FamilyError(
                f"wrap: block {path} of this {type(model).__name__} is used more than once. Copy it first."
            )


def refuse_shared_attention(model: nn.Module, swaps: list[SwapEdit]) -> None:
    """Raise for an attention at several places: each would get a ``W_M`` of its own."""
    modules = [model.get_submodule(edit.path) for edit in swaps]
    for edit, module in zip(swaps, modules, strict=True):
        if modules.count(module) > 1:
            raise FamilyError(f"wrap: {edit.path} is shared by several blocks. Copy it, or pass swap=False.")


def refuse_left(surveys: dict[str, Survey], swap: bool | str) -> None:
    """Raise for attention that should be swapped and cannot be."""
    left = [(f"{path}.{inner}", why) for path, found in surveys.items() for inner, why in found.left.items()]
    if left and swap:
        path, why = left[0]
        raise FamilyError(f"{path.rstrip('.')}: {why}")


def no_pruning(model: nn.Module, sites: Sites, surveys: dict[str, Survey], tokens: dict[str, int | None]) -> str:
    """Why tokens and steps of this model must not be dropped, "" where they may be."""
    for name, _ in model.named_parameters():
        if re.search(r"(^|[._])(cls|class|reg|register)(_?tokens?)?$", name):
            return f"its stream holds {name}, which would be ranked and dropped like an image token"
    stem = sites.tokens
    first = tokens[sites.blocks[0]]
    if stem is not None and first is not None and first != stem:
        return (
            f"its stream has {first} tokens where its stem says {stem}; the others would be dropped like image tokens"
        )
    for path, found in surveys.items():
        steps = "t" in Layout(found.layout)
        if not steps and not sites.virtual_steps and found.remembers:
            return (
                f"{path} takes one step at a time and its neurons remember, so that each step would keep other tokens"
            )
    return ""
