"""Look at a model, list every edit, touch nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, SettingError, check_choice
from snntorch_smixer.families import Sites, detect, nearest
from snntorch_smixer.layouts import Layout
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.modes import random_state_kept
from snntorch_smixer.patching import built_in, native, probe
from snntorch_smixer.patching.behaviour import levels_of
from snntorch_smixer.patching.edits import CapEdit, Edit, PruneEdit, SwapEdit, UnitEdit, WholeGridEdit
from snntorch_smixer.patching.hooks import ONLY_STEPS
from snntorch_smixer.patching.loop import find_loop
from snntorch_smixer.patching.observe import Observation, copied, given_in, observe
from snntorch_smixer.patching.outputs import shapes_of
from snntorch_smixer.patching.places import always_kept, refuse_streams, unknown_tokens
from snntorch_smixer.patching.probe import Subject
from snntorch_smixer.patching.record import Plan, check_fits, steps_after, tokens_after
from snntorch_smixer.patching.refuse import (
    loops_itself,
    no_pruning,
    refuse_left,
    refuse_shared,
    refuse_shared_attention,
    refuse_wrapped,
    tied_tokens,
)
from snntorch_smixer.patching.sequence import Loop
from snntorch_smixer.patching.survey import Survey, survey
from snntorch_smixer.patching.swap import Swap, matrices
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import check_rates

MAX_LEVELS = 64
"""Sums of spikes over the residual stream have few levels: 0..2 behind a stem, and 2 more with each block."""
SWAPS = (True, False, "all")


@dataclass(frozen=True, eq=False)
class Patch:
    """A checked plan and the edits that carry it out.

    Attributes:
        plan: as the user sees it.
        edits: in the order in which they are applied.
        stored: dotted attributes that store T.
        loop: how a model that takes one step at a time is called.
        out_shapes: of all outputs on the example; empty without one.
    """

    plan: Plan
    edits: tuple[Edit, ...]
    stored: tuple[str, ...] = ()
    loop: Loop | None = None
    out_shapes: tuple[tuple[int, ...], ...] = ()
    only: tuple[str, ...] | None = None


Only = Sequence[str] | Sequence[int] | Callable[[str, nn.Module], bool] | None
"""Blocks: by dotted name, by number, or by what a function of name and module says."""


def look(
    model: nn.Module, settings: DSTSPConfig, *, swap: bool | str = True, only: Only = None, example: Any = None
) -> Patch:
    """Everything that wrapping ``model`` needs; the model is not touched.

    Raises:
        FamilyError: nothing to patch, or it cannot be patched.
        SettingError: a setting does not fit.
    """
    if not isinstance(swap, (bool, str)) or swap not in SWAPS:
        check_choice("wrap", "swap", swap, tuple(map(repr, SWAPS)))
    refuse_wrapped(model)
    with random_state_kept(), torch.inference_mode(False):
        return _look(model, settings, swap, only, example)


def _look(model: nn.Module, settings: DSTSPConfig, swap: bool | str, only: Only, example: Any) -> Patch:
    if only is not None and (isinstance(model, SMixerNet) or built_in.pruning_of(model) is not None):
        raise SettingError(
            f"wrap: only={only!r} is for third-party models, and this is a {type(model).__name__}. Leave it out."
        )
    if isinstance(model, SMixerNet):
        native_plan, native_swaps = native.look(model, settings, swap)
        return Patch(native_plan, native_swaps)
    shared = built_in.pruning_of(model)
    if shared is not None:
        settings = replace(shared.settings, ps=settings.ps, t=settings.t)
        return Patch(built_in.look(model, shared, settings, built_in.sizes_on(model, shared, example)), ())
    inside = next((path for path, m in model.named_modules() if isinstance(m, SMixerNet)), None)
    if inside is not None:
        raise FamilyError(f"wrap: got a SMixerNet inside {type(model).__name__}. Wrap the net itself, at {inside!r}.")
    family = detect(model)
    seen = None if example is None else _run(model, example)
    if family is None:
        if seen is None:
            raise FamilyError(_no_family(model, "Pass example_input=..., so that its forward can be looked at"))
        subject = probe.find_sites(model, seen, swap=swap)
        if subject is None:
            raise FamilyError(_no_family(model, probe.why_nothing(model, seen)))
    else:
        subject = Subject(family.name, family.sites(model), tuple(family.stored_steps(model)))
    return _plan(model, subject, settings, (swap, only), _Seen(seen, _arguments(example)))


def _arguments(example: Any) -> tuple[Any, ...]:
    return example if isinstance(example, tuple) else (example,)


@dataclass(frozen=True, eq=False)
class _Seen:
    """The model on an example; both are empty without one."""

    run: Observation | None
    args: tuple[Any, ...]


def _no_family(model: nn.Module, why: str) -> str:
    found = nearest(model)
    near = "" if found is None else f"Nearest is {found[0].name}, which needs {', '.join(found[1])}. "
    return (
        f"wrap: no family matches {type(model).__name__}. {near}{why}; or register a family of your own, see "
        "dstsp.register."
    )


def _run(model: nn.Module, example: Any) -> Observation:
    args = _arguments(example)
    if any(isinstance(a, Tensor) and not a.numel() for a in args):
        shapes = [tuple(a.shape) for a in args if isinstance(a, Tensor)]
        raise SettingError(f"wrap: example_input is empty, its shape is {shapes}. Pass at least one sample.")
    twin = copied(model)
    try:
        return observe(twin, args)
    except Exception as error:
        shapes = [tuple(a.shape) for a in args if isinstance(a, Tensor)]
        raise FamilyError(
            f"wrap: {type(model).__name__} fails on the example input of shape {shapes}: {error}. Pass one that the "
            "unwrapped model takes; several arguments as a tuple."
        ) from error


def _plan(
    model: nn.Module, subject: Subject, settings: DSTSPConfig, wanted: tuple[bool | str, Only], example: _Seen
) -> Patch:
    """One plan for families and for probed models."""
    seen, (swap, only) = example.run, wanted
    refuse_shared(model, subject.sites)
    sites, surveys = _surveyed(model, subject, example, swap)
    loop = _loop(model, sites, surveys, example)
    chosen = _chosen(model, sites, only, movable=loop is None and subject.stem is None)
    refuse_left({path: surveys[path] for path in chosen}, swap)
    tokens, steps = _sizes(sites, surveys, seen)
    swaps = _swap_edits(model, replace(sites, blocks=chosen), surveys, swap, tokens)
    swaps += _swap_edits(model, _without(sites, chosen), surveys, False, tokens)
    refuse_shared_attention(model, swaps)
    swapped = {edit.path: edit.swap for edit in swaps}
    caps = tuple(_cap_edits(model, sites, swapped)) if sites.virtual_steps else ()
    planned = _prune_edits(model, replace(sites, blocks=chosen), subject.stem, surveys)
    units = _unit_edits(sites, surveys, swapped) if sites.keeps_grid else ()
    edits: list[Edit] = [*swaps, *_whole_grid_edits(surveys, swap), *_first_marked(planned), *caps, *units]
    edits = [_renamed(edit, swapped, loop=loop) if isinstance(edit, PruneEdit) else edit for edit in edits]
    fixed, always = _special(model, replace(subject, sites=sites), surveys, example)
    plan = Plan(
        model=type(model).__name__,
        family=subject.name,
        settings=settings,
        steps=(steps, None),
        tokens=(tokens[sites.blocks[-1]], None),
        parameters=_parameters(model, swaps),
        depth=0,
        levels=max((cap.levels for cap in caps), default=None),
        keeps_grid=sites.keeps_grid,
        has_spikes=True,
        refusal=no_pruning(surveys),
        every_step="" if loop is None else loop.cannot_drop(),
        fixed=tied_tokens(sites, surveys, tokens, swapped) or fixed,
        always=always,
        left=tuple(_left(sites, surveys, swapped, swap)),
        edits=(),
    )
    shapes, plan = () if seen is None else shapes_of(seen.out), _with_edits(plan, edits, seen)
    return Patch(plan, tuple(edits), tuple(_stored(subject, swapped)), loop, shapes, None if only is None else chosen)


def _with_edits(plan: Plan, edits: Sequence[Edit], seen: Observation | None) -> Plan:
    """``plan`` with its edits in words and what they leave of steps and tokens, checked."""
    settings, steps, tokens = plan.settings, plan.levels or plan.steps[0], plan.tokens[0]
    pruned = [edit for edit in edits if isinstance(edit, PruneEdit) and edit.block >= 0]
    check_rates(settings.ps, depth=len(pruned), may_fall=plan.keeps_grid)
    plan = replace(
        plan,
        steps=(steps, steps_after(settings, steps)),
        tokens=(tokens, tokens_after(settings, tokens, len(pruned), len(plan.always))),
        depth=len(pruned),
        has_spikes=all(edit.neuron is not None or _holds_spikes(edit, seen) for edit in pruned),
        edits=tuple(edit.describe() for edit in edits),
    )
    check_fits(plan, settings)
    return plan


def _without(sites: Sites, chosen: tuple[str, ...]) -> Sites:
    return replace(sites, blocks=tuple(path for path in sites.blocks if path not in chosen))


def _chosen(model: nn.Module, sites: Sites, only: Only, *, movable: bool) -> tuple[str, ...]:
    """The blocks that ``only`` means, in their order; with ``movable`` the first block may be missing.

    Raises:
        SettingError: it means none, or something else.
    """
    blocks = sites.blocks
    if only is None:
        return blocks
    if callable(only):
        found = {path for path in blocks if only(path, model.get_submodule(path))}
    else:
        asked: list[Any] = [only] if isinstance(only, (str, int)) else list(only)
        numbered = {i - by: path for by in (0, len(blocks)) for i, path in enumerate(blocks)}
        found = {str(numbered.get(one, one)) for one in asked}
    wrong = sorted(found - set(blocks))
    if wrong or not found:
        got = repr(wrong[0]) if wrong else "no block"
        raise SettingError(f"wrap: only={only!r} means {got}, expected some of {', '.join(blocks)}, or their numbers.")
    if blocks[0] not in found and not movable:
        raise SettingError(
            f"wrap: only={only!r} leaves {blocks[0]} out, but tokens of this {type(model).__name__} can leave in front "
            "of that block alone. Name it too."
        )
    return tuple(path for path in blocks if path in found)


def _surveyed(model: nn.Module, subject: Subject, example: _Seen, swap: bool | str) -> tuple[Sites, dict[str, Survey]]:
    """What every block is; without those of a model of no family that do not attend."""
    sites, seen = subject.sites, example.run
    surveys = {path: _survey(model, path, sites, seen) for path in sites.blocks}
    if subject.name == "probe" and any(f.swaps or f.left or f.others for f in surveys.values()):
        sites, surveys = _attending(model, sites, surveys, swap)
    if seen is not None and subject.name == "probe":
        refuse_streams(model, example.args, seen, surveys, sites.steps)
    spatial = any(found.spatial for found in surveys.values())
    return replace(sites, keeps_grid=sites.keeps_grid or spatial), surveys


def _loop(model: nn.Module, sites: Sites, surveys: dict[str, Survey], example: _Seen) -> Loop | None:
    """How the model is called where its blocks take one step at a time, None where they take all.

    Raises:
        FamilyError: some blocks do and others do not, or it cannot be told without an example.
    """
    single = [path for path in sites.blocks if loops_itself(surveys[path], sites)]
    if not single:
        return None
    other = next((path for path in sites.blocks if path not in single), None)
    if other is not None:
        raise FamilyError(
            f"wrap: {single[0]} takes one step at a time and {other} takes all, so they are of two streams. Wrap the "
            "parts apart, or register a family, see dstsp.register."
        )
    return find_loop(model, tuple(single), example.run, example.args)


def _attending(
    model: nn.Module, sites: Sites, surveys: dict[str, Survey], swap: bool | str
) -> tuple[Sites, dict[str, Survey]]:
    """Without the places at which chained products are no attention; all where none is, and none is to be swapped.

    Raises:
        FamilyError: nothing else is left.
    """
    kept = {path: found for path, found in surveys.items() if found.swaps or found.left}
    if not kept and swap is False:
        return sites, surveys
    if not kept:
        others = [(path, inner, why) for path, found in surveys.items() for inner, why in found.others.items()]
        reason = "Its products of activations are not two in a row over its tokens"
        if others:
            path, inner, why = others[0]
            where = ".".join(filter(None, (path, inner)))
            reason = f"The products of {where} are no attention: {why}; swap=False prunes it alone"
        raise FamilyError(_no_family(model, reason))
    return replace(sites, blocks=tuple(kept)), kept


def _special(
    model: nn.Module, subject: Subject, surveys: dict[str, Survey], example: _Seen
) -> tuple[str, tuple[int, ...]]:
    """Why no token of the stream can be dropped, "" where they can; and those that mean more and are always kept."""
    if example.run is None:
        return unknown_tokens(model, subject.sites, surveys[subject.sites.blocks[0]].channels), ()
    return always_kept(model, example.args, example.run, subject.sites, surveys, subject.stem)


def _renamed(edit: PruneEdit, swapped: dict[str, Swap], *, loop: Loop | None) -> PruneEdit:
    """The edit with the name that its neuron has once the swaps are done, for a model that takes one step, or all."""
    name = None if edit.neuron is None else _after_swap(edit.neuron, swapped)
    stateful = edit.stateful and name is not None
    return replace(edit, neuron=name, stateful=stateful, loop=loop is not None)


def _stored(subject: Subject, swapped: dict[str, Swap]) -> Iterator[str]:
    """Where T is stored once the swaps are done."""
    for name in subject.stored:
        path, _, attribute = name.rpartition(".")
        after = _after_swap(path, swapped)
        reads = [node.target for swap in (swapped.get(path),) if swap for node in swap.graph.nodes]
        if after is not None and (path not in swapped or attribute in reads):
            yield f"{after}.{attribute}" if after else attribute


def _parameters(model: nn.Module, swaps: list[SwapEdit]) -> tuple[int, int | None]:
    before, new = sum(p.numel() for p in model.parameters()), [edit.weights() for edit in swaps]
    gone = sum(edit.swap.dropped for edit in swaps)
    return before, None if None in new else before + sum(w for w in new if w) - gone


def _survey(model: nn.Module, path: str, sites: Sites, seen: Observation | None) -> Survey:
    call = None if seen is None else seen.first_call(path)
    shape = () if call is None or call.x is None else tuple(call.x.shape)
    block = model.get_submodule(path)
    fixed = sites.tokens if any(hasattr(m, "linear_mix") for m in block.modules()) else None
    return survey(block, tokens=fixed, shape=shape, given=None if seen is None else given_in(seen, path))


def _sizes(
    sites: Sites, surveys: dict[str, Survey], seen: Observation | None
) -> tuple[dict[str, int | None], int | None]:
    """N in front of each block, and T."""
    tokens: dict[str, int | None] = dict.fromkeys(sites.blocks, sites.tokens)
    steps = sites.steps
    for path in sites.blocks if seen is not None else ():
        call = seen.first_call(path)  # type: ignore[union-attr]
        if call is None or call.x is None:
            continue
        layout = Layout(surveys[path].layout)
        if loops_itself(surveys[path], sites):
            times = sum(one.path == path for one in seen.calls)  # type: ignore[union-attr]
            steps = times if times > 1 else None  # one call each step by the model, or by whoever calls the model
        known = {} if steps is None else {"t": steps}
        stream = layout.to_tokens(call.x, known)
        tokens[path] = stream.shape[2]
        if "t" in layout or (steps is None and not loops_itself(surveys[path], sites)):
            steps = stream.shape[0]
    return tokens, steps


def _left(sites: Sites, surveys: dict[str, Survey], swapped: dict[str, Swap], swap: bool | str) -> Iterator[str]:
    """What is not touched, and why, one line each."""
    for path, found in surveys.items():
        for inner, attention in found.swaps.items():
            name = ".".join(filter(None, (path, inner)))
            if name not in swapped and attention.kind != "mixer":
                kept = "not in only=" if swap else "swap=False"
                why = "linear in the tokens; swap='all' swaps it" if swap and attention.kind == "linear" else kept
                yield f"{name}: its attention is kept, {why}"
        for inner, why in found.left.items():
            what = why.removeprefix("wrap: ").partition(". ")[0].rstrip(".")
            yield f"{'.'.join(filter(None, (path, inner)))}: stays: {what}"
        for inner, why in found.others.items():
            yield f"{'.'.join(filter(None, (path, inner)))}: stays, it is no attention: {why}"
    for why in dict.fromkeys(sites.left.values()):
        yield f"{', '.join(path for path, other in sites.left.items() if other == why)}: not pruned, {why}"


def _swap_edits(
    model: nn.Module, sites: Sites, surveys: dict[str, Survey], swap: bool | str, tokens: dict[str, int | None]
) -> list[SwapEdit]:
    wanted = {False: (), True: ("ssa", "mixer"), "all": ("ssa", "linear", "mixer")}[swap]
    edits = [
        SwapEdit(".".join(filter(None, (path, inner))), found, tokens[path])
        for path in sites.blocks
        for inner, found in surveys[path].swaps.items()
        if found.kind in wanted or found.reshapes
    ]
    edits += _mixers_beside(model, surveys) if "mixer" in wanted else []
    keep = [edit for edit in edits if edit.swap.kind not in wanted]
    return [edit if edit not in keep else SwapEdit(edit.path, edit.swap.as_is(), None) for edit in edits]


def _whole_grid_edits(surveys: dict[str, Survey], swap: bool | str) -> Iterator[WholeGridEdit]:
    if swap:
        return
    for path, found in surveys.items():
        for inner, attention in found.swaps.items():
            if attention.kind == "mixer":
                yield WholeGridEdit(".".join(filter(None, (path, inner))), attention.value_layout)


def _mixers_beside(model: nn.Module, blocks: Iterable[str]) -> list[SwapEdit]:
    """Matrices over the tokens outside the blocks, as in STMixer's surrogate modules: they read the same stream."""
    inside = tuple(f"{path}." for path in blocks)
    return [
        SwapEdit(path, matrices(module, "b c n"), module.linear_mix[0].in_features)
        for path, module in model.named_modules()
        if isinstance(getattr(module, "linear_mix", None), nn.ModuleList) and not path.startswith(inside)
    ]


def _first_marked(edits: Iterator[PruneEdit]) -> Iterator[PruneEdit]:
    for number, edit in enumerate(edits):
        yield replace(edit, first=number == 0)


def _prune_edits(
    model: nn.Module, sites: Sites, stem: tuple[str, str] | None, surveys: dict[str, Survey]
) -> Iterator[PruneEdit]:
    if sites.time is not None and sites.time != sites.blocks[0]:
        found = surveys.get(sites.time) or survey(model.get_submodule(sites.time))
        yield PruneEdit(sites.time, found.layout, ONLY_STEPS, _joined(sites.time, found.neuron), found.stateful)
    for number, path in enumerate(sites.blocks):
        found = surveys[path]
        if number == 0 and stem is not None:
            yield PruneEdit(*stem, 0, None, at_output=True)
        elif number == 0 or found.residual:
            yield PruneEdit(path, found.layout, number, _joined(path, found.neuron), found.stateful)


def _holds_spikes(edit: PruneEdit, seen: Observation | None) -> bool:
    """True where the stream was seen to hold a few non-negative levels, or was not seen."""
    call = None if seen is None else seen.first_call(edit.path)
    x = None if call is None else call.out if edit.at_output else call.x
    if x is None:
        return True
    levels = x.unique()
    return len(levels) <= MAX_LEVELS and bool(levels.min() >= 0)


def _joined(path: str, inner: str | None) -> str | None:
    return None if inner is None else f"{path}.{inner}"


def _unit_edits(sites: Sites, surveys: dict[str, Survey], swapped: dict[str, Swap]) -> Iterator[UnitEdit]:
    for path in sites.blocks:
        found = surveys[path]
        for unit in found.units:
            whole = ".".join(filter(None, (path, unit.path)))
            yield UnitEdit(whole, unit.layout, unit.pointwise, unit.residual)
        for inner, layout in found.silenced.items():
            name = _after_swap(f"{path}.{inner}", swapped)
            if name is not None:
                yield UnitEdit(name, layout, pointwise=False, residual=False, silences=True)


def _after_swap(path: str, swapped: dict[str, Swap]) -> str | None:
    """Name of a module once the swaps are done, None where it is gone."""
    for attention, swap in swapped.items():
        if path.startswith(f"{attention}."):
            inner = swap.new_name(path.removeprefix(f"{attention}."))
            return None if inner is None else f"{attention}.{inner}"
    return path


def _cap_edits(model: nn.Module, sites: Sites, swapped: dict[str, Swap]) -> Iterator[CapEdit]:
    started = False
    for path, module in model.named_modules():
        started = started or path == sites.blocks[0]
        name = _after_swap(path, swapped) if started else None
        if name is not None and (found := levels_of(module)) is not None:
            yield CapEdit(name, *found)
