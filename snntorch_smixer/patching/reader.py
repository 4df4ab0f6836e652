"""Spikes on a stream, for SIV, without leaving a trace in the neuron that reads it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Reader:
    """Where SIV is taken on a stream.

    Args:
        neuron: reads the stream; None where the stream holds spikes.
        stateful: the neuron keeps something between calls.
    """

    def __init__(self, neuron: nn.Module | None, stateful: bool) -> None:
        self.neuron, self.stateful = neuron, stateful

    def spikes(self, x: Tensor) -> Tensor:
        """Spikes on ``x``, without gradient and without changing what the neuron remembers."""
        if self.neuron is None:
            return x
        with torch.no_grad():
            # Not called: hooks on the neuron are for the running forward.
            return _peek(self.neuron, x) if self.stateful else self.neuron.forward(x)


def _peek(neuron: nn.Module, x: Tensor) -> Tensor:
    # The dictionaries stay the same objects: handles of hooks refer to them weakly.
    saved = [(vars(m), dict(vars(m)), _contents(vars(m))) for m in neuron.modules()]
    try:
        for module in neuron.modules():
            # snnTorch's neurons keep a tensor under the name "reset".
            rests = (getattr(module, name, None) for name in ("reset", "reset_mem"))
            rest = next((rest for rest in rests if callable(rest)), None)
            if rest is not None:
                rest()
        return neuron.forward(x)
    finally:
        for state, before, contents in saved:
            state.clear()
            state.update(before)
            for table, held in contents:
                table.clear()
                table.update(held)


def _contents(state: dict[str, Any]) -> list[tuple[dict[Any, Any], dict[Any, Any]]]:
    return [(value, dict(value)) for value in state.values() if isinstance(value, dict)]


# What torch.compiler.disable sets; the decorator itself would import all of torch's compiler.
_peek._torchdynamo_disable = True  # type: ignore[attr-defined]
