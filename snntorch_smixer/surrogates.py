"""Surrogate gradients: Dspike, and snnTorch's own in a form that pickles."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import tanh
from typing import Any

import torch
from snntorch import surrogate
from torch import Tensor

from snntorch_smixer.errors import SettingError

SpikeGrad = Callable[[Tensor], Tensor]


class _DspikeFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gamma: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gamma = gamma
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        return grad * _dspike_slope(x, ctx.gamma), None


def _dspike_slope(x: Tensor, gamma: float) -> Tensor:
    slope = gamma * (1 - torch.tanh(gamma * x).square()) / (2 * tanh(gamma))
    return slope.masked_fill(x.abs() > 1, 0)


class Dspike:
    """Dspike surrogate: ``gamma (1 - tanh(gamma x)^2) / (2 tanh(gamma))`` for ``|x| <= 1``, zero outside.

    Use as ``spike_grad`` of any snnTorch neuron. Source: STMixer, which takes gamma = 2.5; Li et al., NeurIPS 2021.
    """

    def __init__(self, gamma: float = 2.5) -> None:
        if not gamma > 0:
            raise SettingError(f"Dspike: gamma={gamma} must be positive. Pass the slope of the tanh, for example 2.5.")
        self.gamma = gamma

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of ``x = u - threshold`` in its shape and dtype."""
        return _DspikeFunction.apply(x, self.gamma)

    def derivative(self, x: Tensor) -> Tensor:
        """The surrogate ``ds/dx``: what the backward pass multiplies the gradient by, in the dtype of ``x``."""
        return _dspike_slope(x, self.gamma)

    def __repr__(self) -> str:
        return f"Dspike(gamma={self.gamma})"


class _NamedGrad:
    """A surrogate from ``snntorch.surrogate`` that remembers how it was made, so that it can be pickled."""

    def __init__(self, factory: str, settings: dict[str, Any]) -> None:
        self.factory, self.settings = factory, settings
        self.inner: SpikeGrad = getattr(surrogate, factory)(**settings)

    def __call__(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def __reduce__(self) -> tuple[Any, ...]:
        return _NamedGrad, (self.factory, self.settings)

    def __repr__(self) -> str:
        return f"{self.factory}({', '.join(f'{k}={v}' for k, v in self.settings.items())})"


def picklable(spike_grad: SpikeGrad) -> SpikeGrad:
    """Rebuild a ``snntorch.surrogate`` closure as an object that pickles; anything else is returned as it is."""
    if getattr(spike_grad, "__module__", None) != surrogate.__name__ or not inspect.isfunction(spike_grad):
        return spike_grad
    factory = spike_grad.__qualname__.split(".")[0]
    found = inspect.getclosurevars(spike_grad).nonlocals
    parameters = inspect.signature(getattr(surrogate, factory)).parameters
    if len(found) == len(parameters) == 1:  # custom_surrogate renames its only parameter
        found = dict(zip(parameters, found.values(), strict=True))
    settings = {k: v for k, v in found.items() if k in parameters}
    return _NamedGrad(factory, settings) if len(settings) == len(found) else spike_grad
