"""Which modules are spiking neurons by their type, and what they keep."""

from __future__ import annotations

from typing import Any

import snntorch as snn
from torch import Tensor, nn

from snntorch_smixer.neurons import IntegerLIF

_WITH_GATES = ("SLSTM", "SConv2dLSTM")
_STATES = ("mem", "syn", "syn_exc", "syn_inh", "v", "i")


def is_neuron(module: nn.Module) -> bool:
    """True for neurons of snnTorch, SpikingJelly and this package. snnTorch's LSTMs are none: they gate."""
    if isinstance(module, snn.SpikingNeuron):
        return type(module).__name__ not in _WITH_GATES
    if isinstance(module, IntegerLIF):
        return True
    return any(c.__name__ == "BaseNode" and c.__module__.startswith("spikingjelly") for c in type(module).__mro__)


def state_variables(module: nn.Module) -> int:
    """Numbers that one neuron keeps between steps; 1 where that cannot be seen."""
    names = set(module.__dict__) | set(module._buffers) | set(module.__dict__.get("_memories", {}))
    return max(1, sum(name in names for name in _STATES))


def first_tensor(x: Any) -> Tensor | None:
    """The first tensor of a module's output."""
    if isinstance(x, Tensor):
        return x
    if isinstance(x, dict):
        x = tuple(x.values())
    if isinstance(x, list | tuple):
        return next((found for found in map(first_tensor, x) if found is not None), None)
    return None
