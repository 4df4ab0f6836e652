"""Put the mixer and DSTSP into a model, and take them out again."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import FamilyError, LayoutError
from snntorch_smixer.memory import MODES, memory_of
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.patching import native
from snntorch_smixer.patching.edits import Context, undo
from snntorch_smixer.patching.fit import fit, reset_all
from snntorch_smixer.patching.hooks import EndForward, StartForward, StoredSteps
from snntorch_smixer.patching.lean import EndLean, StartLean
from snntorch_smixer.patching.modules import Current, WrappedDSTSP
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.patching.plan import Patch, look
from snntorch_smixer.patching.record import Plan, steps_after, tokens_after
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import Rates

Model = TypeVar("Model", bound=nn.Module)


def plan(
    model: nn.Module, *, ps: Rates = 0.3, t: int | None = 1, swap: bool | str = True, example_input: Any = None
) -> Plan:
    """What `wrap` with the same arguments would do; ``print`` it. Raises what `wrap` raises, touches nothing."""
    return look(model, DSTSPConfig(ps=ps, t=t), swap=swap, example=example_input).plan


def wrap(
    model: Model,
    *,
    ps: Rates = 0.3,
    t: int | None = 1,
    swap: bool | str = True,
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
        example_input: an input, or a tuple of arguments. It tells the number of tokens where the model does not;
            without it ``W_M`` is made at the first forward.
        calibrate: batches, inputs or (input, ...) tuples, from which every ``W_M`` is fitted to the attention that it
            replaces; see `fit`. Needs swapped attention.

    Returns:
        The same model.

    Raises:
        FamilyError: nothing to patch, no family and no example, or the model is wrapped, compiled or distributed.
        SettingError: a setting is out of range. In every case the model is as before.
    """
    patch = look(model, DSTSPConfig(ps=ps, t=t), swap=swap, example=example_input)
    with torch.inference_mode(False):
        _apply(model, patch, swap)
    if example_input is not None and patch.plan.family != "native":
        _try(model, patch, example_input)
    if calibrate is not None:
        try:
            fit(model, calibrate)
        except BaseException:
            unwrap(model)
            raise
    return model


def _apply(model: nn.Module, patch: Patch, swap: bool | str) -> None:
    dstsp = WrappedDSTSP(patch.plan.settings, patch.plan, swap=swap).train(model.training)
    stored = StoredSteps()
    context = Context(dstsp, Current(), stored)
    try:
        for edit in patch.edits:
            edit.apply(model, context)
        stored.places = tuple(_place(model, name) for name in patch.stored)
        if patch.plan.family != "native":
            model.register_forward_pre_hook(StartForward(context.current, stored))
            model.register_forward_hook(EndForward(context.current, stored), always_call=True)
            lean = StartLean(dstsp)
            model.register_forward_pre_hook(lean)
            model.register_forward_hook(EndLean(lean), always_call=True)
    except BaseException:
        undo(model)
        raise
    if patch.plan.family == "native" and (mode := memory_of(model)) in MODES:
        dstsp.memory = mode  # its layers have modes of their own, and the handle agrees with them
    model.dstsp = dstsp
    _forget_reset_cache(model)


def _try(model: nn.Module, patch: Patch, example: Any) -> None:
    """Run a copy once, and take everything out again where that fails or gives results of another shape."""
    try:
        twin = copy.deepcopy(model).eval()
        reset_all(twin)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            out = first_tensor(twin(*(example if isinstance(example, tuple) else (example,))))
        _check_shape(out, patch)
    except Exception as error:
        unwrap(model)
        raise FamilyError(
            f"wrap: {type(model).__name__} does not run with its tokens pruned: {type(error).__name__}: {error}. Pass "
            "ps=0, t=None, or register a family, see dstsp.register."
        ) from error


def _check_shape(out: Tensor | None, patch: Patch) -> None:
    before, (steps, kept) = patch.out_shape, patch.plan.steps
    after = None if out is None else tuple(out.shape)
    if before is None or after is None or after == before:
        return
    if len(after) == len(before) and after[1:] == before[1:] and (before[0], after[0]) == (steps, kept):
        return  # logits of each step
    raise LayoutError(f"the output has shape {after}, before it had {before}")


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, attribute = name.rpartition(".")
    return model.get_submodule(path), attribute


def unwrap(model: Model) -> Model:
    """Undo `wrap`: outputs are bit-identical to those before, as long as nothing was trained in between.

    What V and the projection learnt since stays; Q and K come back as they were.

    Raises:
        FamilyError: the model was not wrapped.
    """
    if not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(
            f"unwrap: this {type(model).__name__} was not wrapped, so there is nothing to undo. A net built "
            "with pruning stops with model.dstsp.active = 'never'."
        )
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, StartLean):
            hook.stop()  # a forward that Ctrl-C ended did not reach its end
    undo(model)
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
    """
    dstsp = getattr(model, "dstsp", None)
    if not isinstance(dstsp, WrappedDSTSP):
        raise FamilyError(f"summary: this {type(model).__name__} was not wrapped. Call dstsp.wrap(model) first.")
    done, settings = dstsp.plan, dstsp.settings
    tokens = done.tokens[0]
    lazy = any(isinstance(p, nn.UninitializedParameter) for p in model.parameters())
    after = None if lazy else sum(p.numel() for p in model.parameters())
    return replace(
        done,
        settings=settings,
        steps=(done.steps[0], steps_after(settings, done.steps[0])),
        tokens=(tokens, tokens_after(settings, tokens, done.depth)),
        parameters=(done.parameters[0], after),
        memory=() if done.family == "native" else dstsp.found.lines(dstsp.memory),
    )


def _forget_reset_cache(model: nn.Module) -> None:
    # SpikingJelly 2 remembers the modules to reset by their net, and neurons that wrap put away live on.
    functional = sys.modules.get("spikingjelly.activation_based.functional")
    forget = getattr(functional, "invalidate_reset_cache", None)
    if forget is not None:
        for module in model.modules():
            forget(module)
