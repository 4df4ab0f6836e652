"""Spikes on a stream, for SIV, without leaving a trace in the neuron that reads it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from snntorch_smixer.patching.state import State
from snntorch_smixer.rest import reset_all


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
    before = State(neuron)
    try:
        reset_all(neuron)
        return neuron.forward(x)
    finally:
        before.put_back()


# What torch.compiler.disable sets; the decorator itself would import all of torch's compiler.
_peek._torchdynamo_disable = True  # type: ignore[attr-defined]
