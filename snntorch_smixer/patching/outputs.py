"""Every output of a pruned model against that of the same model unpruned: is it still one row per sample?"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from snntorch_smixer.errors import FamilyError, LayoutError
from snntorch_smixer.patching.hooks import Hook
from snntorch_smixer.patching.modules import Current, WrappedDSTSP
from snntorch_smixer.patching.observe import HOOKS, reset_copy, tensors
from snntorch_smixer.pruning.rates import rate_at
from snntorch_smixer.rest import reset_all

Shape = tuple[int, ...]


def shapes_of(out: Any) -> tuple[Shape, ...]:
    """Shapes of all tensors in a result, in their order."""
    return tuple(tuple(x.shape) for x in tensors(out))


def step_by_step_copy(model: nn.Module) -> nn.Module:
    """A reset copy to be tried out; where the caller loops over the steps, it takes every one."""
    twin = reset_copy(model)
    pruning: WrappedDSTSP = twin.dstsp  # type: ignore[assignment]
    if pruning.loop is not None and not pruning.loop.own:
        pruning.t = None
    return twin


def check_outputs(before: tuple[Shape, ...], after: tuple[Shape, ...], current: Current) -> None:
    """Raise `LayoutError` for an output that lost more than the steps and tokens that were dropped.

    Args:
        before: shapes of all outputs, unpruned.
        after: the same, pruned.
        current: of the pruned forward.
    """
    if len(before) != len(after):
        raise LayoutError(f"there are {len(after)} outputs, before there were {len(before)}")
    for number, (old, new) in enumerate(zip(before, after, strict=True)):
        if not _only_dropped(old, new, current):
            raise LayoutError(f"output {number} has shape {new}, before it had {old}")


def _only_dropped(old: Shape, new: Shape, current: Current) -> bool:
    if old == new:
        return True
    if len(old) != len(new) or current.stream is None or current.left is None:
        return False
    (steps, samples, tokens), (kept, fewer) = current.stream, current.left
    moved = [i for i, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    allowed = {(tokens, fewer), (steps * samples, kept * samples)}
    # An axis as long as T is that of the steps only where another one is left for the samples.
    beside = any(size == samples for i, size in enumerate(new) if i not in moved)
    allowed |= {(steps, kept)} if beside else set()
    return all((old[i], new[i]) in allowed for i in moved)


class TryFirst(Hook):
    """Forward pre-hook of the root: the first forward that drops something is tried out on a copy.

    A part that reads the stream beside the blocks, with a number of steps or tokens of its own, would take samples for
    steps; where `wrap` got an example, it was tried then.
    """

    def __init__(self, dstsp: WrappedDSTSP, current: Current) -> None:
        self.dstsp, self.current, self.tried = dstsp, current, False

    @classmethod
    def of(cls, model: nn.Module) -> TryFirst:
        """The hook of a wrapped model."""
        return next(hook for hook in model._forward_pre_hooks.values() if isinstance(hook, cls))

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Try once.

        Raises:
            LayoutError: pruned, the model fails, or an output has another shape.
        """
        if self.tried or not self.drops() or torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None:
            return
        try:
            twin = step_by_step_copy(module)
        except FamilyError:
            return  # it cannot be copied now: tried the next time
        _keep_only_ours(twin)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            try:
                before = _run(twin, "never", args, kwargs)
            except Exception:  # noqa: BLE001 - a wrong input fails in the forward itself
                return
            self._compare(twin, before, args, kwargs)
        self.tried = True

    def drops(self) -> bool:
        """True where the settings of now drop steps or tokens."""
        settings, plan = self.dstsp.settings, self.dstsp.plan
        steps = settings.t is not None and plan.levels is None
        return self.dstsp.is_active() and (steps or any(rate_at(settings.ps, i, plan.depth) for i in range(plan.depth)))

    @staticmethod
    def _compare(twin: nn.Module, before: tuple[Shape, ...], args: Any, kwargs: Any) -> None:
        try:
            check_outputs(before, _run(twin, "both", args, kwargs), TryFirst.of(twin).current)
        except Exception as error:
            raise LayoutError(
                f"wrapped {type(twin).__name__}: does not run with its tokens pruned: {error}. A part beside its "
                "blocks may count steps or tokens by itself. Set model.dstsp.ps = 0 and model.dstsp.t = None."
            ) from error


def _run(twin: nn.Module, active: str, args: Any, kwargs: Any) -> tuple[Shape, ...]:
    reset_all(twin)
    twin.dstsp.active = active  # type: ignore[union-attr]
    TryFirst.of(twin).tried = True
    return shapes_of(twin(*args, **kwargs))


def _keep_only_ours(twin: nn.Module) -> None:
    # Hooks of a user are for real data.
    for module in twin.modules():
        for table in HOOKS:
            hooks = getattr(module, table)
            for key in [key for key, hook in hooks.items() if hook is not True and not isinstance(hook, Hook)]:
                hooks.pop(key)
