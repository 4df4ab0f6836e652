"""Put the mixer and DSTSP into a model, and take them out again."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.memory import MODES, memory_of
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.modes import random_state_kept, undisturbed
from snntorch_smixer.patching import built_in, native
from snntorch_smixer.patching.edits import LATER, Context, undo
from snntorch_smixer.patching.fit import fit
from snntorch_smixer.patching.hooks import SameGrid, picture_size
from snntorch_smixer.patching.modules import TokenMixing, WrappedDSTSP
from snntorch_smixer.patching.outputs import TryFirst, check_outputs, shapes_of, step_by_step_copy
from snntorch_smixer.patching.plan import Only, Patch, look
from snntorch_smixer.patching.record import Plan, steps_after, tokens_after
from snntorch_smixer.patching.running import unwatch, watch
from snntorch_smixer.patching.standins import InPlaceOf, SwappedAttention
from snntorch_smixer.patching.state import restored
from snntorch_smixer.patching.unpruned import put_back_unpruned
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import Rates
from snntorch_smixer.rest import teach_snntorch_reset

Model = TypeVar("Model", bound=nn.Module)


def plan(  # noqa: PLR0913 - the arguments of wrap
    model: nn.Module,
    *,
    ps: Rates = 0.3,
    t: int | None = 1,
    swap: bool | str = True,
    settings: DSTSPConfig | None = None,
    only: Only = None,
    example_input: Any = None,
) -> Plan:
    """What `wrap` with the same arguments would do; ``print`` it. Raises what `wrap` raises, touches nothing.

    The random generators stay as they were too.

    Examples:
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> print(dstsp.plan(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1).steps)
        (4, 1)
    """
    with undisturbed():
        return look(model, _settings(ps, t, settings), swap=swap, only=only, example=example_input).plan


def wrap(  # noqa: PLR0913 - the face
    model: Model,
    *,
    ps: Rates = 0.3,
    t: int | None = 1,
    swap: bool | str = True,
    settings: DSTSPConfig | None = None,
    only: Only = None,
    example_input: Any = None,
    calibrate: Iterable[Any] | None = None,
) -> Model:
    """Swap the spiking self-attention of ``model`` for ``SN(W_M X)`` and prune steps and tokens, in place.

    The model may be of any of `FAMILIES`, or of none: then its attention is found by what its forward computes on
    ``example_input``. Make the optimizer afterwards: Q and K are no parameters any more, and ``W_M`` is one.

    Afterwards every setting can be changed: ``model.dstsp.ps``, ``.t``, ``.active``, ``.merge``, ``.ranking``,
    ``.w_prime``; see `DSTSPConfig`. New state-dict keys end in ``mixer.w_m.weight``.

    Args:
        model: a spiking transformer, on any device; not compiled, not inside DataParallel.
        ps: share of tokens to drop, in [0, 1); a number, one per block, or a `Schedule`.
        t: steps to keep, 1..T; None keeps all. Where integer neurons stand for steps, the most spikes they may fire.
        swap: True: attention that is quadratic in the tokens. "all": linear attention too. False: prune only.
        settings: all settings of the pruning at once, in place of ``ps`` and ``t``.
        only: the blocks to touch: their dotted names, their numbers, or a function of name and module that says so;
            None for all. The others keep their attention, and tokens leave in front of the first one of these.
        example_input: an input, or a tuple of arguments. It tells the number of tokens where the model does not;
            without it ``W_M`` is made at the first forward.
        calibrate: batches, inputs or (input, ...) tuples, from which every ``W_M`` is fitted to the attention that it
            replaces; see `fit`. Needs swapped attention.

    Returns:
        The same model. Every ``W_M`` of N x N was drawn from torch's generator, or is drawn at the first forward.

    Raises:
        FamilyError: nothing to patch, no family and no example, or the model is wrapped, compiled, distributed or on
            the meta device.
        SettingError: a setting is out of range. In every case the model and the random generators are as before.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1)
        >>> net.dstsp.ps = 0.1  # live
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """
    with undisturbed(), random_state_kept(failed=True):
        patch = look(model, _settings(ps, t, settings), swap=swap, only=only, example=example_input)
        shared = built_in.pruning_of(model)
        if shared is not None:
            _refuse_calibration(model, calibrate)
            with restored(model, failed=True):
                built_in.apply(model, shared, patch.plan.settings, example_input)
            return model
        with restored(model, failed=True):
            _apply(model, patch, swap, example_input)
            if example_input is not None and patch.plan.family != "native":
                _try(model, patch, example_input)
            if calibrate is not None:
                fit(model, calibrate)
    return model


def _settings(ps: Rates, t: int | None, settings: DSTSPConfig | None) -> DSTSPConfig:
    if settings is None:
        return DSTSPConfig(ps=ps, t=t)
    if not isinstance(settings, DSTSPConfig):
        raise SettingError(f"wrap: got settings of type {type(settings).__name__}. Pass a dstsp.DSTSPConfig.")
    if (ps, t) not in ((0.3, 1), (settings.ps, settings.t)):
        raise SettingError(
            f"wrap: got ps={ps!r}, t={t!r} and settings with ps={settings.ps!r}, t={settings.t!r}. Pass them in "
            "settings alone."
        )
    return settings


def _refuse_calibration(model: nn.Module, calibrate: Any) -> None:
    if calibrate is not None:
        raise FamilyError(
            f"wrap: this {type(model).__name__} has no attention that is swapped, so there is no W_M to fit. Leave "
            "calibrate out."
        )


@torch.inference_mode(False)
def _apply(model: nn.Module, patch: Patch, swap: bool | str, example: Any) -> None:
    dstsp = WrappedDSTSP(patch.plan.settings, patch.plan, swap=swap, loop=patch.loop).train(model.training)
    dstsp.only = patch.only
    context = Context(dstsp, dstsp.current, dstsp.stored)
    for edit in patch.edits:
        edit.apply(model, context)
    dstsp.stored.places = tuple(_place(model, name) for name in patch.stored)
    if patch.loop is not None:
        teach_snntorch_reset()
    if patch.plan.family != "native":
        same = SameGrid(dstsp, picture_size(example))
        model.register_forward_pre_hook(same, with_kwargs=True)
        model.register_forward_hook(same, with_kwargs=True)
        model.register_forward_pre_hook(TryFirst(dstsp, dstsp.current), with_kwargs=True)
        watch(model)
    elif (mode := memory_of(model)) in MODES:
        dstsp.memory = mode  # its layers have modes of their own, and the handle agrees with them
    if _iterates(model):
        object.__setattr__(model, "dstsp", dstsp)  # a child would be one more layer
    else:
        model.dstsp = dstsp
    _forget_reset_cache(model)


def _iterates(model: nn.Module) -> bool:
    """True where the forward of ``model`` goes through its children, whichever they are."""
    code = getattr(type(model).forward, "__code__", None)
    names = set() if code is None else set(code.co_names)
    container = isinstance(model, (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return container or bool(names & {"children", "named_children", "_modules"})


def _try(model: nn.Module, patch: Patch, example: Any) -> None:
    """Run a copy once, and raise where that fails or gives results of another shape."""
    try:
        tried = TryFirst.of(model)
        tried.tried = tried.drops()
        twin = step_by_step_copy(model)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = twin(*(example if isinstance(example, tuple) else (example,)))
        check_outputs(patch.out_shapes, shapes_of(out), TryFirst.of(twin).current)
        _size_as(model, twin)
    except Exception as error:
        raise FamilyError(
            f"wrap: {type(model).__name__} does not run with its tokens pruned: {type(error).__name__}: {error}. Pass "
            "ps=0, t=None, or register a family, see dstsp.register."
        ) from error


def _size_as(model: nn.Module, twin: nn.Module) -> None:
    """Make every ``W_M`` whose tokens only a run tells, those of windows, of the size that it has in ``twin``."""
    for path, mixer in model.named_modules():
        if isinstance(mixer, TokenMixing) and not mixer.shape[1]:
            made: Any = twin.get_submodule(path)
            if made.shape[1]:
                mixer.materialize(made.shape[0], made.w_m.weight.device)


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def unwrap(model: Model) -> Model:
    """Undo `wrap`: outputs are bit-identical to those before, as long as nothing was trained in between.

    What V and the projection learnt since stays, except what `recover` changed; Q and K come back as they were.
    Afterwards ``model.dstsp`` is None in an `SMixerNet` and gone in any other model, so
    ``getattr(model, "dstsp", None) is None`` holds in both; there are no
    settings to read or set. `summary` answers in words whether a model is wrapped.

    Raises:
        FamilyError: the model was not wrapped.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.randn(2, 1, 28, 28)
        >>> before = net(x)
        >>> torch.equal(dstsp.unwrap(dstsp.wrap(net, ps=0.3, t=1))(x), before)
        True
    """
    shared = built_in.pruning_of(model)
    if shared is not None and shared.wrapped is not None:
        with restored(model, failed=True):
            built_in.undo(model, shared)
        return model
    if not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(
            f"unwrap: this {type(model).__name__} was not wrapped, so there is nothing to undo. A net built "
            "with pruning stops with model.dstsp.active = 'never'."
        )
    for path, part in model.named_modules():
        if isinstance(part, InPlaceOf) and (name := part.replaced()):
            raise FamilyError(
                f"unwrap: another module was put in the place of {path}.{name} since wrap, and what it learnt would be "
                "lost. Merge it into the original and put that back first."
            )
    with restored(model, failed=True):
        put_back_unpruned(model, model.dstsp)
        undo(model)
        unwatch(model)
        if isinstance(model, SMixerNet):
            native.undo(model)
            model.dstsp = None
        else:
            del model.dstsp
        _forget_reset_cache(model)
    return model


def summary(model: nn.Module) -> Plan:
    """What `wrap` did to ``model``, with the settings of now; ``print`` it.

    Raises:
        FamilyError: the model was not wrapped.

    Examples:
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1)
        >>> net.dstsp.ps = 0.1
        >>> dstsp.summary(net).tokens
        (49, 44)
    """
    shared = built_in.pruning_of(model)
    if shared is not None and shared.wrapped is not None:
        return built_in.summary(model, shared)
    dstsp = getattr(model, "dstsp", None)
    if not isinstance(dstsp, WrappedDSTSP):
        raise FamilyError(f"summary: this {type(model).__name__} was not wrapped. Call dstsp.wrap(model) first.")
    if "dstsp" not in model._modules:
        dstsp.training = model.training
    done, settings, active = dstsp.plan, dstsp.settings, dstsp.is_active()
    made = {path: m.mixer.shape for path, m in model.named_modules() if isinstance(m, SwappedAttention) and m.has_w_m}
    sizes = [shape for shape in made.values() if shape[0]]
    tokens = done.tokens[0] if done.tokens[0] is not None or not sizes else sizes[-1][0]
    steps = (done.steps[0], steps_after(settings, done.steps[0]) if active else done.steps[0])
    kept = (tokens, tokens_after(settings, tokens, done.depth, len(done.always)) if active else tokens)
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
    edits = tuple(_made(edit, made) for edit in done.edits)
    if done.family == "native":
        edits = (*edits[:-1], native.pruning(steps, kept))
    return replace(
        done,
        settings=settings,
        steps=steps,
        tokens=kept,
        parameters=(done.parameters[0], None if lazy else sum(p.numel() for p in model.parameters())),
        inactive="" if active else f"active={settings.active!r}, and the model is in {_mode(model)} mode",
        edits=edits,
        memory=(f"memory {memory_of(model)}",) if done.family == "native" else _memory(model, dstsp),
    )


def _mode(model: nn.Module) -> str:
    return "training" if model.training else "evaluation"


def _made(edit: str, made: Mapping[str, tuple[int, int]]) -> str:
    """The line of an edit, with the size of a ``W_M`` that was not made when the line was."""
    rows, columns = made.get(edit.partition(": ")[0], (0, 0))
    return edit.replace(LATER, f"{rows} x {columns}") if rows else edit


def _memory(model: nn.Module, dstsp: WrappedDSTSP) -> tuple[str, ...]:
    lines = dstsp.found.lines(dstsp.memory)
    if memory_of(model) == dstsp.memory:
        return lines
    return (*lines, "memory: layers or neurons of this package in it have modes of their own; set_memory sets all")


def _forget_reset_cache(model: nn.Module) -> None:
    # SpikingJelly 2 remembers the modules to reset by their net, and neurons that wrap put away live on.
    functional = sys.modules.get("spikingjelly.activation_based.functional")
    forget = getattr(functional, "invalidate_reset_cache", None)
    if forget is not None:
        for module in model.modules():
            forget(module)
