"""Surrogate gradients: Dspike, and snnTorch's own in a form that pickles."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from math import inf, pi, tanh
from typing import Any

import torch
from snntorch import surrogate
from torch import Tensor, nn

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
        (x,), gamma = ctx.saved_tensors, ctx.gamma
        if not torch.is_grad_enabled():
            return grad * Dspike(gamma).derivative(x), None
        # For second derivatives: the same function up to rounding, in operators that autograd can follow.
        slope = gamma * (1 - torch.tanh(gamma * x).square()) / (2 * tanh(gamma))
        return grad * slope.masked_fill(x.abs() > 1, 0), None


class Dspike:
    """Dspike surrogate: ``gamma (1 - tanh(gamma x)^2) / (2 tanh(gamma))`` for ``|x| <= 1``, zero outside.

    Use as ``spike_grad`` of any snnTorch neuron. Source: STMixer, which takes gamma = 2.5; Li et al., NeurIPS 2021.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import LIF, Dspike
        >>> spikes = LIF(0.5, spike_grad=Dspike(3.0))(torch.rand(4, 2, 3))
    """

    def __init__(self, gamma: float = 2.5) -> None:
        if not gamma > 0:
            raise SettingError(f"Dspike: gamma={gamma} must be positive. Pass the slope of the tanh, for example 2.5.")
        self.gamma = gamma

    def __call__(self, x: Tensor) -> Tensor:
        """Spikes of ``x = u - threshold`` in its shape and dtype."""
        return _DspikeFunction.apply(x, self.gamma)

    def derivative(self, x: Tensor) -> Tensor:
        """The surrogate ``ds/dx``: what the backward pass multiplies the gradient by, in the dtype of ``x``.

        In a form that the CPU computes six times as fast as the formula, and without its cancellation: with
        ``s = sigmoid(-2 gamma |x|)``, ``1 - tanh(gamma x)^2 = 4 s (1 - s)``.
        """
        s = x.abs().neg_()
        # Beyond 1 the sigmoid is made exactly zero; NaN passes. A mask of bools costs twice as much as all the rest.
        s = torch.ops.aten.threshold_(s, -1 - torch.finfo(x.dtype).eps, -inf).mul_(2 * self.gamma).sigmoid_()
        height = s.new_full((), 2 * self.gamma / tanh(self.gamma))
        slope: Tensor = torch.ops.aten.sigmoid_backward(height.expand_as(s), s)
        return slope

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.gamma == other.gamma

    def __hash__(self) -> int:
        return hash((type(self), self.gamma))

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
        return type(self), (self.factory, self.settings)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and (self.factory, self.settings) == (other.factory, other.settings)

    def __hash__(self) -> int:
        return hash((self.factory, *self.settings))

    def __repr__(self) -> str:
        return f"{self.factory}({', '.join(f'{k}={v}' for k, v in self.settings.items())})"


class _SigmoidFunction(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x)
        ctx.slope = slope
        return (x > 0).float()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * _sigmoid(ctx.saved_tensors[0], ctx.slope), None


class _KnownGrad(_NamedGrad):
    """One that fires on ``x > 0`` and whose derivative is a function of ``x`` alone."""

    def __call__(self, x: Tensor) -> Tensor:
        # snnTorch's own backward pass divides infinity by infinity far below the threshold.
        return _SigmoidFunction.apply(x, **self.settings) if self.factory == "sigmoid" else self.inner(x)

    def derivative(self, x: Tensor) -> Tensor:
        """``ds/dx`` of snnTorch's backward pass, in the dtype of ``x``; finite wherever ``x`` is no NaN."""
        return DERIVATIVES[self.factory](x, **self.settings)


def _straight_through(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def _triangular(x: Tensor, threshold: float) -> Tensor:
    return torch.where(x >= 0, -threshold, threshold).to(x.dtype)


def _fast_sigmoid(x: Tensor, slope: float) -> Tensor:
    return x.abs().mul_(slope).add_(1).square_().reciprocal_()


def _atan(x: Tensor, alpha: float) -> Tensor:
    return alpha / 2 / (1 + (pi / 2 * alpha * x).square_())


def _heaviside(x: Tensor) -> Tensor:
    return (x > 0).to(x.dtype)


def _sigmoid(x: Tensor, slope: float) -> Tensor:
    # Even in x, so it is taken where nothing overflows; in operators that have a second derivative.
    s = torch.sigmoid(-slope * x.abs())
    return slope * s * (1 - s)


def _spike_rate_escape(x: Tensor, beta: float, slope: float) -> Tensor:
    return (x - 1).abs_().mul_(-beta).exp_().mul_(slope)


def _sparse_fast_sigmoid(x: Tensor, slope: float, B: float) -> Tensor:
    return _fast_sigmoid(x, slope) * (x > B)


DERIVATIVES: dict[str, Callable[..., Tensor]] = {
    "straight_through_estimator": _straight_through,
    "triangular": _triangular,
    "fast_sigmoid": _fast_sigmoid,
    "atan": _atan,
    "heaviside": _heaviside,
    "sigmoid": _sigmoid,
    "spike_rate_escape": _spike_rate_escape,
    "SFS": _sparse_fast_sigmoid,
}
"""Derivatives of snnTorch's surrogates, by their names in ``snntorch.surrogate``. Not of those that draw random numbers
(SSO), that raise (LSO), or whose gradient is a user's own function (custom_surrogate)."""


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
    kind = _KnownGrad if factory in DERIVATIVES else _NamedGrad
    return kind(factory, settings) if len(settings) == len(found) else spike_grad


def is_repeatable(spike_grad: SpikeGrad) -> bool:
    """True for a surrogate that may be asked again in the backward pass: same spikes, binary, nothing learned in it.

    Known of one with a method ``derivative(v)``, see `kernels.fire.Firing`, as `Dspike` and the surrogates of snnTorch
    have (not SSO, which draws random numbers, nor custom_surrogate). Of any other function it is unknown.
    """
    learns = isinstance(spike_grad, nn.Module) and any(p.requires_grad for p in spike_grad.parameters())
    return hasattr(spike_grad, "derivative") and not learns
