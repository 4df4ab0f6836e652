"""The memory mode: how much a layer or a neuron keeps between forward and backward."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

from torch import nn

from snntorch_smixer.errors import SettingError, check_choice, check_count

_inside: WeakKeyDictionary[KeepsLess, list[int]] = WeakKeyDictionary()
"""Threads that are inside `memory_mode` of a layer."""

MODES = ("reference", "fused", "recompute")
"""reference: plain torch. fused: each map's output once, spikes as bits; BatchNorm and LIF are computed again in the
backward pass. recompute: bits and the residual stream; the maps are computed again too. Results are the same."""


class KeepsLess(nn.Module):
    """A layer, or a neuron, that has a memory mode.

    A neuron by itself has no map to compute again: of it "fused" and "recompute" mean the same.
    """

    _memory: str = "fused"
    chunks: int = 1
    """Pieces of the batch that a convolution is computed again in, for a lower peak (memory="recompute")."""

    @property
    def memory(self) -> str:
        """What is kept for the backward pass, one of `MODES`; "fused" unless told otherwise. Of this module alone."""
        return self._memory

    @memory.setter
    def memory(self, mode: str) -> None:
        check_choice(type(self).__name__, "memory", mode, MODES)
        self._memory = mode


def set_memory(model: nn.Module, mode: str, *, chunks: int = 1) -> None:
    """Choose what the layers and neurons of ``model`` keep for the backward pass. Results do not depend on it.

    Second derivatives (``create_graph=True``) need "reference".

    Args:
        model: holds layers or neurons of this package, at any depth, among whatever else.
        mode: one of `MODES`.
        chunks: pieces that a convolution takes the batch in when it is computed again.

    Raises:
        SettingError: unknown mode, or the model holds nothing that has one.

    Examples:
        >>> from snntorch_smixer import from_pretrained, set_memory
        >>> net = from_pretrained("smixer-2-64-fmnist")
        >>> set_memory(net, "recompute")
    """
    check_choice("set_memory", "mode", mode, MODES)
    layers = _layers("set_memory", model)
    check_count("set_memory", "chunks", chunks)
    for layer in layers:
        layer.memory, layer.chunks = mode, chunks


def set_checkpointing(model: nn.Module, *, enable: bool) -> None:
    """The layers of ``model`` to "recompute"; without ``enable`` those in "recompute" to "fused", the default.

    Raises:
        SettingError: the model holds nothing that has a mode.
    """
    for layer in _layers("set_grad_checkpointing", model):
        if enable:
            layer.memory = "recompute"
        elif layer.memory == "recompute":
            layer.memory = "fused"


def memory_of(model: nn.Module) -> str:
    """The mode that all layers and neurons of ``model`` have, or "mixed".

    Raises:
        SettingError: the model holds nothing that has a mode.
    """
    modes = {layer.memory for layer in _layers("memory_of", model)}
    return modes.pop() if len(modes) == 1 else "mixed"


@contextmanager
def memory_mode(model: nn.Module, mode: str, *, chunks: int = 1) -> Iterator[None]:
    """`set_memory` inside ``with``; afterwards each layer has its own mode again. The forward pass counts.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import from_pretrained, memory_mode
        >>> net = from_pretrained("smixer-2-64-fmnist")
        >>> with memory_mode(net, "recompute"):
        ...     logits = net(torch.randn(2, 1, 28, 28))
    """
    before = [(layer, layer.memory, layer.chunks) for layer in _layers("memory_mode", model)]
    here = threading.get_ident()
    if any(thread != here for layer, _, _ in before for thread in _inside.get(layer, ())):
        raise SettingError(
            f"memory_mode: another thread is inside memory_mode of this {type(model).__name__}, whose layers have one "
            "mode for all threads. Enter it around all threads, or call set_memory once."
        )
    try:
        for layer, _, _ in before:
            _inside.setdefault(layer, []).append(here)
        set_memory(model, mode, chunks=chunks)
        yield
    finally:
        for layer, old, pieces in before:
            layer.memory, layer.chunks = old, pieces
            del _inside.get(layer, [])[-1:]


def _layers(where: str, model: nn.Module) -> list[KeepsLess]:
    # A container that is wrapped holds its dstsp as a plain attribute: a child would be one more layer of it.
    parts = (part for m in model.modules() for part in (m, vars(m).get("dstsp")))
    layers = [part for part in parts if isinstance(part, KeepsLess)]
    if not layers:
        raise SettingError(
            f"{where}: {type(model).__name__} holds no layer and no neuron of this package. Pass a network of this "
            "package or a model with its layers, a model that dstsp.wrap changed, or one whose neurons are "
            "snntorch_smixer.LIF."
        )
    return layers
