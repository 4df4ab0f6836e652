"""Bytes that autograd keeps between forward and backward."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from snntorch_smixer.modes import in_mode


def saved_bytes(model: nn.Module, x: Tensor, *, batch_axis: int = 0) -> float:
    """Bytes per sample that the graph still holds for backward at the end of a training forward pass.

    Distinct storages are counted once; parameters, buffers and the input are left out, and so is what was saved for a
    node that did not survive the forward pass. The model's buffers and mode are restored.

    Args:
        model: any module.
        x: its input.
        batch_axis: axis of ``x`` that counts samples.
    """
    saved: list[weakref.ref[_Saved]] = []

    def pack(tensor: Tensor) -> _Saved:
        held = _Saved(tensor)
        saved.append(weakref.ref(held))
        return held

    buffers = {name: b.clone() for name, b in model.named_buffers()}
    try:
        with in_mode(model, training=True), torch.autograd.graph.saved_tensors_hooks(pack, _Saved.unpack):
            out = model(x)
        mine = {t.untyped_storage().data_ptr() for t in chain(model.parameters(), model.buffers(), [x])}
        kept = {s.data_ptr(): s.nbytes() for s in _storages(saved) if s.data_ptr() not in mine}
        del out
    finally:
        for name, b in model.named_buffers():
            b.copy_(buffers[name])
    return sum(kept.values()) / x.shape[batch_axis]


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
