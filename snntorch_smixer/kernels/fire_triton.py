"""Triton twins of `kernels.fire`."""

from __future__ import annotations

import torch
from torch import Tensor

from snntorch_smixer.kernels.fire import Firing, Grads
from snntorch_smixer.kernels.launch_triton import Launch
from snntorch_smixer.kernels.triton_tools import served


def serves(x: Tensor, neuron: Firing) -> bool:
    """True where the two functions below give what plain torch gives, see `triton_tools.served`.

    Args:
        x: input current, ``(T, ...)``.
        neuron: beta and threshold are single numbers, or vary along one and the same axis.
    """
    return served(x, neuron, x.shape[0])


def fire_forward(x: Tensor, neuron: Firing) -> Tensor:
    """As `kernels.fire.fire_forward`: the same spikes, bit for bit."""
    return Launch.alone(x, neuron).forward(None)


def fire_backward(x: Tensor, grad: Tensor, neuron: Firing, needs: tuple[bool, bool]) -> Grads:
    """As `kernels.fire.fire_backward`: the same gradients but for rounding."""
    launch = Launch.alone(x, neuron)
    by_x = torch.empty_like(launch.x)
    sums = launch.new_sums() if any(needs) else None
    launch.backward(grad, by_x=by_x, sums=sums)
    if sums is None:
        return by_x, None, None
    return by_x, *launch.by_parameters(launch.finish(sums, None, None), needs)
