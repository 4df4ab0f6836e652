"""Highest level of live tensor bytes in one training step."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Container, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, count
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from snntorch_smixer.bench.subject import training


def peak_bytes(
    model: nn.Module, x: Tensor, *, batch_axis: int = 0, fake: bool = False, autocast: torch.dtype | None = None
) -> float:
    """Highest level of live tensor bytes in one forward and backward pass, per sample.

    Parameters, their gradients, buffers and the input are left out, so what is counted is what the step needs besides
    the model and its data. Every tensor that an operator returns counts from the operator until its storage is freed,
    by its exact size; workspace inside one operator, such as that of a convolution, is not seen. The number depends on
    shapes alone; what a process or a CUDA allocator really takes is above it by that workspace and by rounding.
    Compiled code is measured uncompiled. The model's buffers, gradients and mode are restored.

    Args:
        model: any module whose output is one tensor.
        x: its input.
        batch_axis: axis of ``x`` that counts samples.
        fake: take the shapes alone and compute nothing, so that large networks need no memory.
        autocast: dtype of the forward pass under ``torch.autocast``.
    """
    with training(model, x, fake=fake, autocast=autocast) as subject:
        with _no_collection(), Ledger() as ledger:
            subject.step()
        gradients = ledger.numbers(p.grad for p in model.parameters() if p.grad is not None)
    return ledger.peak(without=gradients) / x.shape[batch_axis]


def held_bytes(
    model: nn.Module, x: Tensor, *, batch_axis: int = 0, fake: bool = False, autocast: torch.dtype | None = None
) -> float:
    """Bytes per sample that are alive behind a training forward pass, without its output.

    Whoever holds them: this also finds what a custom backward pass keeps without telling autograd, which
    `snntorch_smixer.bench.memory.saved_bytes` cannot see. For a model that hides nothing the two agree, up to the
    output where that is kept for backward too. The model's buffers, gradients and mode are restored.

    Args:
        model: any module whose output is one tensor.
        x: its input.
        batch_axis: axis of ``x`` that counts samples.
        fake: take the shapes alone and compute nothing, so that large networks need no memory.
        autocast: dtype of the forward pass under ``torch.autocast``.
    """
    with training(model, x, fake=fake, autocast=autocast) as subject, _no_collection():
        with Ledger() as ledger:
            out = subject.forward()
        level = ledger.level(without=ledger.numbers([out]))
        del out
    return level / x.shape[batch_axis]


class Ledger(TorchDispatchMode):
    """Writes down when the storage of each tensor that is made inside appears, and when it is freed.

    ``torch.distributed._tools.MemTracker`` does the same and sorts by module, but is private, needs a torch with
    distributed support, and cannot leave the gradients out before it looks for the peak.
    """

    def __init__(self) -> None:
        super().__init__()
        self._events: list[tuple[int, int]] = []
        self._count = count()
        self._alive: dict[int, tuple[int, weakref.ref[torch.UntypedStorage]]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and note the storages that it made."""
        kwargs = kwargs or {}
        for tensor in _tensors((args, kwargs)):
            self._note(tensor, made=False)
        out = func(*args, **kwargs)
        for tensor in _tensors(out):
            self._note(tensor, made=True)
        return out

    def numbers(self, tensors: Iterable[Tensor]) -> set[int]:
        """Numbers under which the storages of these tensors were written down."""
        keys = (id(t.untyped_storage()) for t in tensors)
        return {self._alive[key][0] for key in keys if key in self._alive}

    def peak(self, *, without: Container[int] = ()) -> int:
        """Highest sum of live bytes, without the storages of these numbers."""
        return max(accumulate(self._changes(without)), default=0)

    def level(self, *, without: Container[int] = ()) -> int:
        """Sum of the bytes that are alive now, without the storages of these numbers."""
        return sum(self._changes(without))

    def _changes(self, without: Container[int]) -> Iterator[int]:
        return (change for number, change in self._events if number not in without)

    def _note(self, tensor: Tensor, *, made: bool) -> None:
        storage = tensor.untyped_storage()
        key = id(storage)
        if key in self._alive:
            return
        # What an operator takes without any operator here having made it was there before.
        size, number = storage.nbytes() if made else 0, next(self._count)
        self._alive[key] = (number, weakref.ref(storage, partial(self._freed, key, number, size)))
        self._events.append((number, size))

    def _freed(self, key: int, number: int, size: int, _: weakref.ref[torch.UntypedStorage]) -> None:
        del self._alive[key]
        self._events.append((number, -size))


@contextmanager
def _no_collection() -> Iterator[None]:
    # Tensors in reference cycles live until the collector happens to run; here they always live to the end.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
