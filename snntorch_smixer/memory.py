"""The memory mode: how much a layer or a neuron keeps between forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from snntorch_smixer.errors import SettingError, check_choice, check_count

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
    """
    check_choice("set_memory", "mode", mode, MODES)
    layers = _layers("set_memory", model)
    check_count("set_memory", "chunks", chunks)
    for layer in layers:
        layer.memory, layer.chunks = mode, chunks


def memory_of(model: nn.Module) -> str:
    """The mode that all layers and neurons of ``model`` have, or "mixed".

    Raises:
        SettingError: the model holds nothing that has a mode.
    """
    modes = {layer.memory for layer in _layers("memory_of", model)}
    return modes.pop() if len(modes) == 1 else "mixed"


@contextmanager
def memory_mode(model: nn.Module, mode: str, *, chunks: int = 1) -> Iterator[None]:
    """`set_memory` inside ``with``; afterwards each layer has its own mode again. The forward pass counts."""
    before = [(layer, layer.memory, layer.chunks) for layer in _layers("memory_mode", model)]
    set_memory(model, mode, chunks=chunks)
    try:
        yield
    finally:
        for layer, old, pieces in before:
            layer.memory, layer.chunks = old, pieces


def _layers(where: str, model: nn.Module) -> list[KeepsLess]:
    layers = [m for m in model.modules() if isinstance(m, KeepsLess)]
    if not layers:
        raise SettingError(
            f"{where}: {type(model).__name__} holds no layer and no neuron of this package. Pass a network of this "
            "package or a model with its layers, a model that dstsp.wrap changed, or one whose neurons are "
            "snntorch_smixer.LIF."
        )
    return layers
