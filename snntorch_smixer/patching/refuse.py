"""What cannot be wrapped or pruned, each refused in words before anything is touched."""

from __future__ import annotations

from collections.abc import Collection

from torch import nn

from snntorch_smixer.errors import FamilyError
from snntorch_smixer.families import Sites
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching import built_in
from snntorch_smixer.patching.edits import SwapEdit
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.survey import Survey
from snntorch_smixer.pruning.pruner import DSTSP


def refuse_wrapped(model: nn.Module) -> None:
    """Raise `FamilyError` for a model that is compiled, distributed, or prunes already."""
    name = type(model).__name__
    if not isinstance(model, nn.Module):
        raise FamilyError(f"wrap: got {name}, expected a torch.nn.Module.")
    _refuse_tensors(model)
    outer = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    if isinstance(model, outer) or hasattr(model, "_orig_mod") or model._compiled_call_impl is not None:
        what = "compiled" if not isinstance(model, outer) else "inside " + name
        raise FamilyError(f"wrap: this {name} is {what}. Wrap the plain model first, then compile or distribute it.")
    shared = built_in.pruning_of(model)
    if shared is not None:
        built_in.refuse(model, shared)
        return
    if any(
        isinstance(m, WrappedDSTSP) or "dstsp" in vars(m)
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


_SHARDED = {"FullyShardedDataParallel", "FSDPModule"}
_RECOMPUTED = ("torch.nn.utils.weight_norm", "torch.nn.utils.spectral_norm", "torch.nn.utils.prune")
_PARALLEL = {"DistributedDataParallel", "DataParallel"}


def _refuse_tensors(model: nn.Module) -> None:
    """Raise for weights that cannot be computed with here: on the meta device, or spread over processes."""
    name = type(model).__name__
    for path, module in model.named_modules():
        kinds = {c.__name__ for c in type(module).__mro__ if c.__module__.startswith("torch.")}
        spread = next(iter(sorted(kinds & (_SHARDED | _PARALLEL if path else _SHARDED))), None)
        tensors = [*module._parameters.values(), *module._buffers.values()]
        if spread is None and any(type(t).__name__ == "DTensor" for t in tensors):
            spread = "DTensor"
        if spread is not None:
            raise FamilyError(
                f"wrap: {path or 'the root'} of this {name} is distributed ({spread}), and wrap copies what it looks "
                "at. Wrap the plain model first, then distribute or shard it."
            )
        recomputed = next((h for h in module._forward_pre_hooks.values() if type(h).__module__ in _RECOMPUTED), None)
        if recomputed is not None:
            raise FamilyError(
                f"wrap: the weight of {path or 'the root'} of this {name} is recomputed by {type(recomputed).__name__} "
                "of torch.nn.utils in each forward, and cannot be copied. Remove that, or use "
                "torch.nn.utils.parametrizations."
            )
        if any(t is not None and t.is_meta for t in tensors):
            raise FamilyError(
                f"wrap: {path or 'the root'} of this {name} is on the meta device, without values to look at. Load its "
                "weights first: model.to_empty(device='cpu'), then load_state_dict."
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


def loops_itself(found: Survey, sites: Sites) -> bool:
    """True where a block is called once for each step, by the model or by its caller."""
    return "t" not in Layout(found.layout) and not sites.virtual_steps and found.remembers


def no_pruning(surveys: dict[str, Survey]) -> str:
    """Why neither tokens nor steps of this model may be dropped, "" where they may be."""
    for path, found in surveys.items():
        if found.causal:
            return f"{path} is causal, and what is kept of a token would depend on those behind it"
    return ""


def tied_tokens(
    sites: Sites, surveys: dict[str, Survey], tokens: dict[str, int | None], swapped: Collection[str]
) -> str:
    """Why tokens of this model are not alike, as far as its blocks tell; "" where they are."""
    first = tokens[sites.blocks[0]]
    if sites.tokens is not None and first is not None and first != sites.tokens:
        return (
            f"its stream has {first} tokens where its stem says {sites.tokens}; the others would be dropped like image "
            "tokens"
        )
    bound = [(f"{path}.{inner}", why) for path, found in surveys.items() for inner, why in found.bound.items()]
    bound += [
        (f"{path}.{inner}", "the attention is kept, and depends on the places of its tokens, as by a learned bias")
        for path, found in surveys.items()
        for inner, attention in found.swaps.items()
        if found.ordered and attention.kind != "mixer" and f"{path}.{inner}".rstrip(".") not in swapped
    ]
    return f"at {bound[0][0].rstrip('.')} {bound[0][1]}" if bound else ""
