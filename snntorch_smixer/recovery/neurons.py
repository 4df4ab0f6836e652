"""The input that lets a neuron without history reach the membrane of one that had all steps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.neurons import LIF
from snntorch_smixer.selection import take_steps


def target_current(neuron: nn.Module, current: Tensor, steps: Tensor | None) -> Tensor | None:
    """What a pruned net's neuron has to be given at its kept steps, for the membrane of the unpruned net's neuron.

    The pruned net's neuron starts at its first kept step without history, so there the target is the whole membrane;
    at a later one it is the membrane less what the membrane of the kept step before leaves behind.

    Args:
        neuron: of the unpruned net: `LIF`, or an integrate-and-fire or leaky neuron of SpikingJelly.
        current: its input at all steps, ``(T, B, ...)``.
        steps: ``(B, T')`` kept steps; None for all, where the target is ``current``.

    Returns:
        ``(T', B, ...)``; None for a neuron whose membrane is not known.
    """
    if steps is None or steps.shape[1] == current.shape[0]:
        return current
    if isinstance(neuron, LIF):
        with torch.no_grad():
            spikes, mems = neuron.spikes_and_membranes(current)
        left = _left_of_lif(neuron, mems, spikes)
        gain = 1.0
    elif hasattr(neuron, "v_threshold") and hasattr(neuron, "v_reset") and type(neuron).__name__ in _SPIKINGJELLY:
        gain, mems, left = _spikingjelly(neuron, current)
    else:
        return None
    kept, behind = take_steps(mems, steps), take_steps(left, steps)
    carried = torch.cat([torch.zeros_like(behind[:1]), behind[:-1]])
    return (kept - carried) / gain


def _left_of_lif(neuron: LIF, mems: Tensor, spikes: Tensor) -> Tensor:
    """What the membrane of each step adds to that of the next."""
    decay = neuron.beta.clamp(0, 1)
    if neuron.reset_mechanism == "zero":
        return decay * mems * (1 - spikes)
    return decay * mems - (spikes * neuron.threshold if neuron.reset_mechanism == "subtract" else 0)


_SPIKINGJELLY = ("IFNode", "LIFNode")


def _spikingjelly(neuron: Any, current: Tensor) -> tuple[float, Tensor, Tensor]:
    """(what one unit of current adds to the membrane, membranes before the reset, what each leaves to the next).

    Membranes are counted from the reset potential. Source: the equations in SpikingJelly's documentation of the two.
    """
    leaky = type(neuron).__name__ == "LIFNode"
    keep = 1 - 1 / neuron.tau if leaky else 1.0
    gain = 1 / neuron.tau if leaky and neuron.decay_input else 1.0
    rest = neuron.v_reset or 0.0
    v, mems, left = torch.zeros_like(current[0]), [], []
    for x in current.unbind(0):
        mems.append(v + gain * x)
        fired = (mems[-1] + rest >= neuron.v_threshold).to(x.dtype)
        after = mems[-1] - fired * neuron.v_threshold if neuron.v_reset is None else mems[-1] * (1 - fired)
        v = keep * after
        left.append(v)
    return gain, torch.stack(mems), torch.stack(left)
