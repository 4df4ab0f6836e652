"""One forward of a wrapped model: what it begins, it ends, also where Ctrl-C ends it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.modes import undisturbed
from snntorch_smixer.patching.lean import Lean, why_nothing
from snntorch_smixer.patching.loop import sequence_of
from snntorch_smixer.patching.modules import Call, WrappedDSTSP
from snntorch_smixer.patching.observe import ByValue


def watch(model: nn.Module) -> None:
    """Let each call of a wrapped model run inside `_run`: hooks of torch are not called when Ctrl-C ends a forward.

    Its class becomes a subclass of the same name, so that copies, pickles and replicas are watched too.

    Raises:
        FamilyError: its class cannot have a subclass.
    """
    try:
        kind: Any = type(model)
        model.__class__ = watched(kind)
    except TypeError as error:
        raise FamilyError(
            f"wrap: {type(model).__name__} cannot be extended: {error}. Expected a plain class that derives from "
            "torch.nn.Module."
        ) from error


def unwatch(model: nn.Module) -> None:
    """Undo `watch`."""
    kind = vars(type(model)).get("_unwatched")
    if kind is not None:
        model.__class__ = kind


@functools.cache
def watched(kind: Any) -> Any:
    """The subclass of ``kind`` that `watch` gives."""

    class Watched(kind):
        _unwatched = kind

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            dstsp = self.dstsp
            if not torch.compiler.is_compiling():
                return _run(self, dstsp, functools.partial(kind.__call__, self), (args, kwargs))
            if dstsp.loop is not None:
                return _run_uncompiled(self, dstsp, functools.partial(kind.__call__, self), (args, kwargs))
            dstsp.current.begin_compiled()
            dstsp.stored.restore()
            out = kind.__call__(self, *args, **kwargs)
            dstsp.stored.restore()
            return out

        def __reduce_ex__(self, protocol: Any) -> Any:
            # By the plain class, which has a name that can be imported.
            function, args, *rest = super().__reduce_ex__(protocol)
            return _remade, (function, tuple(kind if arg is Watched else arg for arg in args)), *rest

        def __deepcopy__(self, memo: dict[int, Any]) -> Any:
            with ByValue():
                if hasattr(kind, "__deepcopy__"):
                    return kind.__deepcopy__(self, memo)
                function, args, state = self.__reduce_ex__(4)[:3]
                twin = memo[id(self)] = function(*args)
                twin.__setstate__(copy.deepcopy(state, memo))
                return twin

    for name in ("__module__", "__name__", "__qualname__", "__doc__"):
        setattr(Watched, name, getattr(kind, name))
    return Watched


def _remade(function: Callable[..., nn.Module], args: tuple[Any, ...]) -> nn.Module:
    model = function(*args)
    kind: Any = type(model)
    model.__class__ = watched(kind)
    return model


def _run(model: nn.Module, dstsp: WrappedDSTSP, forward: Callable[..., Any], inputs: tuple[Any, Any]) -> Any:
    running = _Running(model, dstsp)
    with undisturbed():
        try:
            try:
                running.begin(inputs[0])
                out = _sequenced(model, dstsp, forward, inputs)
                running.done = True
                return out
            finally:
                running.end()
        except BaseException:
            running.end()  # once more, where Ctrl-C came in the first
            raise


def _run_uncompiled(*args: Any) -> Any:
    """`_run`, and all that it calls, without a compiler: a loop over the steps looks ahead and goes back."""
    from torch.compiler import disable  # imports all of torch's compiler, which runs already

    return disable(_run)(*args)


# Not inlined either.
_run_uncompiled._torchdynamo_disable = True  # type: ignore[attr-defined]


def _sequenced(model: nn.Module, dstsp: WrappedDSTSP, forward: Callable[..., Any], inputs: tuple[Any, Any]) -> Any:
    with sequence_of(model, dstsp, inputs) as args:
        return forward(*args, **inputs[1])


class _Running:
    """What one call of a wrapped model begins and ends.

    Args:
        model: the root, or a replica of it.
        dstsp: its pruning.
    """

    def __init__(self, model: nn.Module, dstsp: WrappedDSTSP) -> None:
        self.model, self.dstsp, self.call = model, dstsp, Call()
        self.is_replica = bool(getattr(model, "_is_replica", False))  # of nn.DataParallel, each in a thread
        self.outer: int | None = None
        self.lean: Lean | None = None
        self.done = False

    def begin(self, inputs: Any) -> None:
        """Nothing is kept yet, T is whole, and less is saved for the backward pass where the memory mode says so."""
        dstsp = self.dstsp
        stored = dstsp.stored
        if stored.places and (self.is_replica or (stored.before is not None and dstsp.current.others())):
            stored.refuse()
        dstsp.current.begin(self.call)
        if stored.before is not None:
            self.outer = stored.get()
            stored.restore()
        if dstsp.memory != "reference" and torch.is_grad_enabled() and torch._C._get_tracing_state() is None:
            self._save_less(inputs)

    def _save_less(self, inputs: Any) -> None:
        dstsp, current = self.dstsp, self.dstsp.current
        if current.saves_less and current.others():
            raise SettingError(
                f"wrapped model: a forward runs in another thread, and memory={dstsp.memory!r} works in one at a time. "
                "Call it from one thread, or set_memory(model, 'reference')."
            )
        if current.saves_less:  # a call inside a call
            return
        dstsp.found.note = why_nothing(self.model)
        if not dstsp.found.note:
            self.lean, current.saves_less = Lean(self.model, dstsp.memory, dstsp.found), True
            self.lean.start(inputs)

    def end(self) -> None:
        """All of that is as before; may be called again."""
        lean, stored = self.lean, self.dstsp.stored
        if lean is not None:
            lean.stop(done=self.done)
            self.lean, self.dstsp.current.saves_less = None, False
        if self.dstsp.current.is_running(self.call):
            stored.restore()
            if self.outer is not None:
                stored.set(self.outer)
        self.dstsp.current.end(self.call, keep=self.done and torch.is_grad_enabled() and not self.is_replica)
