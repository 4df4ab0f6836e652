"""Bytes that autograd keeps between forward and backward."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from snntorch_smixer.bench.subject import training


def saved_bytes(
    model: nn.Module, x: Tensor, *, batch_axis: int = 0, fake: bool = False, autocast: torch.dtype | None = None
) -> float:
    """Bytes per sample that the graph still holds for backward at the end of a training forward pass.

    Distinct storages are counted once; parameters, buffers and the input are left out, and so is what was saved for a
    node that did not survive the forward pass. The model's buffers, gradients and mode are restored.

    Args:
        model: any module.
        x: its input.
        batch_axis: axis of ``x`` that counts samples.
        fake: take the shapes alone and compute nothing, so that large networks need no memory.
        autocast: dtype of the forward pass under ``torch.autocast``; the casts of the weights are counted.
    """
    saved: list[weakref.ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        held = _Saved(tensor)
        saved.append(weakref.ref(held))
        return held

    with training(model, x, fake=fake, autocast=autocast) as subject:
        with torch.autograd.graph.saved_tensors_hooks(pack, _Saved.unpack):
            out = subject.forward()
        mine = {_key(t.untyped_storage()) for t in chain(model.parameters(), model.buffers(), [subject.x])}
        kept = {_key(s): s.nbytes() for s in _storages(saved)}
        del out
    return sum(nbytes for key, nbytes in kept.items() if key not in mine) / x.shape[batch_axis]


class _Saved:
    """Holds one tensor of the graph; dies with its node, which a weak reference then shows."""

    def __init__(self, tensor: Tensor) -> None:
        # Detached: a node's own output holds the node, which would hold this and never die.
        self.tensor = tensor.detach()

    def unpack(self) -> Tensor:
        return self.tensor


def _storages(saved: list[weakref.ref[_Saved]]) -> Iterator[torch.UntypedStorage]:
    for ref in saved:
        held = ref()
        if held is not None:
            yield held.tensor.untyped_storage()


def _key(storage: torch.UntypedStorage) -> int:
    # A fake storage has no address, so what names a storage is the object itself.
    return storage._cdata
