"""Neurons at rest: `reset` at any depth, and what snnTorch needs to find a neuron that keeps a membrane."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Callable
from typing import Any

import snntorch as snn
from snntorch import utils
from torch import nn


def reset(net: nn.Module) -> None:
    """Put every spiking neuron of ``net`` at rest, at any depth, and touch no other model.

    Works for every snnTorch neuron that has ``reset_mem``. Multi-step neurons keep no state, so nothing changes there.
    A wrapped model that takes one step at a time starts a new sequence, and chooses its tokens anew.

    Examples:
        >>> import snntorch as snn, torch
        >>> from torch import nn
        >>> from snntorch_smixer import reset
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.Sequential(snn.Leaky(0.9, init_hidden=True)))
        >>> _ = net(torch.rand(2, 4))
        >>> reset(net)  # a new sequence
    """
    for module in net.modules():
        if isinstance(module, (snn.SpikingNeuron, HoldsSequence)) and hasattr(module, "reset_mem"):
            module.reset_mem()


class HoldsSequence:
    """Base of what is no neuron and keeps something from step to step of a sequence."""


RESETS = ("reset", "reset_mem", "n_reset", "reset_state", "reset_states", "reset_hidden")
"""What libraries call the method that puts a neuron into its initial state; the first that a module has is called."""


def reset_all(net: nn.Module) -> None:
    """Reset every module of ``net`` that has a reset without arguments, of whatever library, ``net`` itself too."""
    for module in net.modules():
        # snnTorch's neurons keep a tensor under the name "reset".
        found = (getattr(module, name, None) for name in RESETS)
        method = next((one for one in found if callable(one) and _needs_nothing(one)), None)
        if method is not None:
            method()


def _needs_nothing(method: Callable[..., Any]) -> bool:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return all(p.default is not p.empty or p.kind in kinds for p in inspect.signature(method).parameters.values())


def join_instances(neuron: snn.SpikingNeuron) -> None:
    """List a neuron weakly in ``SpikingNeuron.instances``, once, for what walks that list (``snntorch.backprop``)."""
    listed, proxy = snn.SpikingNeuron.instances, weakref.proxy(neuron)
    if not any(entry is proxy for entry in listed):
        listed[:] = [entry for entry in listed if entry is not None]
        listed.append(proxy)
        weakref.finalize(neuron, _forget, proxy).atexit = False


def leave_instances(neuron: snn.SpikingNeuron) -> None:
    """Take a neuron off ``SpikingNeuron.instances``, however it is listed."""
    proxy = weakref.proxy(neuron)
    snn.SpikingNeuron.instances[:] = [e for e in snn.SpikingNeuron.instances if e is not neuron and e is not proxy]


def _forget(proxy: Any) -> None:
    # Not removed: this may run while snnTorch walks the list by index.
    listed = snn.SpikingNeuron.instances
    listed[:] = [None if entry is proxy else entry for entry in listed]


class _CheckAndReset:
    """Stands in for ``snntorch.utils._layer_check``: notes the kinds of neurons as before, and puts the net at rest."""

    def __init__(self, note_kinds: Callable[[nn.Module], None]) -> None:
        self.note_kinds = note_kinds

    def __call__(self, net: nn.Module) -> None:
        self.note_kinds(net)  # snntorch.backprop reads these notes to cut the graph between truncated steps
        reset(net)


def _nothing_left_to_reset() -> None:
    """Stands in for ``snntorch.utils._layer_reset``, which clears every neuron of the process."""


def teach_snntorch_reset() -> None:
    """Make ``snntorch.utils.reset`` reset the given model at any depth, and only that, where it does not yet."""
    # snnTorch 1.0.0's utils.reset looks at direct children only and then clears every neuron of the process. It does so
    # through two helpers, so replacing those also serves code that imported `reset` by name. Later releases have no
    # such helpers and walk the model themselves.
    check = getattr(utils, "_layer_check", None)
    if check is not None and not isinstance(check, _CheckAndReset):
        utils._layer_check, utils._layer_reset = _CheckAndReset(check), _nothing_left_to_reset
