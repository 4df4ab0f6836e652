"""Detectors of this package: their layers share one DSTSP from the start, and `wrap` gives it its settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.memory import memory_of
from snntorch_smixer.patching.observe import copied
from snntorch_smixer.patching.record import Plan, check_fits, steps_after
from snntorch_smixer.pruning.pruner import DSTSP, DSTSPConfig
from snntorch_smixer.pruning.rates import check_rates, rate_at
from snntorch_smixer.pruning.spatial import tokens_kept

Sizes = Mapping[str, tuple[int, int]]
"""(rows, columns) of the map of each block, by dotted name."""


@dataclass(frozen=True)
class Wrapped:
    """What `unwrap` and `summary` need to know.

    Attributes:
        before: settings in front of `wrap`.
        sizes: of the maps on the example; empty without one.
        handle: True where the detector had no attribute ``dstsp`` of its own.
    """

    before: DSTSPConfig
    sizes: Sizes
    handle: bool


def pruning_of(model: nn.Module) -> DSTSP | None:
    """The one `DSTSP` that all layers of ``model`` share; None where there is none.

    Recognised by its class attribute ``wrapped``. A layer that prunes holds it as ``dstsp``, and has ``index``, its
    number, -1 where it drops steps only. One that drops tokens says by ``saves_dense`` if that saves dense arithmetic.

    Raises:
        FamilyError: there are several.
    """
    found = list({id(m): m for m in model.modules() if isinstance(m, DSTSP) and hasattr(type(m), "wrapped")}.values())
    if len(found) > 1:
        raise FamilyError(
            f"wrap: this {type(model).__name__} holds {len(found)} detectors, each with pruning of its own. Wrap each."
        )
    return found[0] if found else None


def refuse(model: nn.Module, dstsp: DSTSP) -> None:
    """Raise `FamilyError` for a detector that is wrapped."""
    if dstsp.wrapped is not None:
        raise FamilyError(
            f"wrap: this {type(model).__name__} is wrapped already ({dstsp.extra_repr()}). Set model.dstsp.ps and "
            "model.dstsp.t instead, or unwrap it first."
        )


def look(model: nn.Module, dstsp: DSTSP, settings: DSTSPConfig, sizes: Sizes) -> Plan:
    """What pruning with ``settings`` does to a detector; see `snntorch_smixer.patching.plan.look`.

    Args:
        model: with the detector in it.
        dstsp: its pruning.
        settings: to be shown.
        sizes: of the maps that come, where they are known.

    Raises:
        SettingError: a setting does not fit, or no layer of the detector follows it.
    """
    check_rates(settings.ps, depth=dstsp.depth, may_fall=True)
    layers, depth = _places(model, dstsp), dstsp.depth or 1
    steps = dstsp.steps, steps_after(settings, dstsp.steps)
    blocks = {path: part for path, part in layers.items() if _is_block(part)}
    tokens = [_tokens(path, part, settings, sizes) for path, part in blocks.items()]
    count = sum(p.numel() for p in model.parameters())
    plan = Plan(
        model=type(model).__name__,
        family="native",
        settings=settings,
        steps=steps,
        tokens=tokens[-1] if tokens else (None, None),
        parameters=(count, count),
        depth=len(tokens),
        levels=None,
        keeps_grid=True,
        has_spikes=True,
        refusal="",
        edits=tuple(_line(path, part, settings, steps, sizes) for path, part in layers.items()),
    )
    check_fits(replace(plan, depth=depth), settings)
    dstsp.check(settings)
    if steps[0] != steps[1] and layers == blocks:
        raise SettingError(f"wrap: no layer of this {plan.model} drops steps. Add a row PruneSteps, or pass t=None.")
    if not blocks and any(rate_at(settings.ps, i, depth) for i in range(depth)):
        raise SettingError(
            f"wrap: no block of this {plan.model} drops tokens. Put one behind PruneSteps, or pass ps=0."
        )
    return plan


def sizes_on(model: nn.Module, dstsp: DSTSP, example: Any) -> Sizes:
    """The sizes of the maps in front of each block that prunes; a copy of ``model`` runs.

    Raises:
        FamilyError: it fails on the example.
    """
    if example is None:
        return {}
    args = example if isinstance(example, tuple) else (example,)
    twin, sizes = copied(model).eval(), {}  # type: ignore[var-annotated]
    for path in _places(model, dstsp):
        twin.get_submodule(path).register_forward_pre_hook(partial(_note, sizes, path))
    try:
        with torch.no_grad():
            twin(*args)
    except Exception as error:
        shapes = [tuple(a.shape) for a in args if isinstance(a, Tensor)]
        raise FamilyError(
            f"wrap: {type(model).__name__} fails on the example input of shape {shapes}: {error}. Pass one that the "
            "unwrapped model takes."
        ) from error
    return sizes


def apply(model: nn.Module, dstsp: DSTSP, settings: DSTSPConfig, example: Any) -> None:
    """Set ``settings``, and keep those of before for `undo`."""
    handle = getattr(model, "dstsp", None) is not dstsp
    dstsp.wrapped = Wrapped(dstsp.settings, sizes_on(model, dstsp, example), handle)
    dstsp.settings = settings
    if handle:
        model.dstsp = dstsp


def undo(model: nn.Module, dstsp: DSTSP) -> None:
    """Let the settings be what they were in front of `apply`."""
    done: Wrapped = dstsp.wrapped  # type: ignore[assignment]
    if done.handle and "dstsp" in model._modules:
        del model.dstsp
    dstsp.settings, dstsp.wrapped = done.before, None


def summary(model: nn.Module, dstsp: DSTSP) -> Plan:
    """What a wrapped detector does with the settings of now."""
    done: Wrapped = dstsp.wrapped  # type: ignore[assignment]
    plan = replace(look(model, dstsp, dstsp.settings, done.sizes), memory=(f"memory {memory_of(model)}",))
    if dstsp.is_active():
        return plan
    mode = "training" if model.training else "evaluation"
    idle = f"active={dstsp.active!r}, and the model is in {mode} mode"
    return replace(
        plan, steps=(dstsp.steps, dstsp.steps), tokens=(plan.tokens[0], plan.tokens[0]), edits=(), inactive=idle
    )


def _places(model: nn.Module, dstsp: DSTSP) -> dict[str, Any]:
    """The layers that prune, in the order of their numbers; the one that drops steps first."""
    named = dict(model.named_modules())
    found = {path: part for path, part in named.items() if part._modules.get("dstsp") is dstsp}
    layers: dict[str, Any] = {path: part for path, part in found.items() if hasattr(part, "index")}
    return dict(sorted(layers.items(), key=lambda entry: entry[1].index))


def _is_block(part: Any) -> bool:
    return bool(part.index >= 0)


def _tokens(path: str, part: Any, settings: DSTSPConfig, sizes: Sizes) -> tuple[int, int] | tuple[None, None]:
    if path not in sizes:
        return None, None
    tokens = sizes[path][0] * sizes[path][1]
    return tokens, tokens_kept(tokens, rate_at(settings.ps, part.index, part.dstsp.depth or 1))


def _line(path: str, part: Any, settings: DSTSPConfig, steps: tuple[int | None, int | None], sizes: Sizes) -> str:
    if not _is_block(part):
        return f"{path}: the busiest steps stay, T {steps[0]} -> {steps[1]}"
    before, after = _tokens(path, part, settings, sizes)
    rate = rate_at(settings.ps, part.index, part.dstsp.depth or 1)
    how = (
        "run on the kept tokens only, which saves dense arithmetic too"
        if part.saves_dense
        else "dropped tokens are silent, which saves events but no dense arithmetic"
    )
    size = "" if before is None else f", tokens {before} -> {after}"
    return f"{path}: ps={rate:g}{size}: {how}"


def _note(sizes: dict[str, tuple[int, int]], path: str, part: nn.Module, args: tuple[Any, ...]) -> None:  # noqa: ARG001
    """A hook that writes the size of a map (T, B, C, H, W) down."""
    rows, columns = args[0].shape[3:]
    sizes[path] = (int(rows), int(columns))
