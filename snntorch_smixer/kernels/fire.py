"""LIF over all steps that keeps its input and nothing else: the membrane is computed again in the backward pass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError, SettingError, check_choice
from snntorch_smixer.kernels.compiled import Tiered
from snntorch_smixer.kernels.lif import RESETS as RESETS
from snntorch_smixer.kernels.spikes import Spikes

SpikeGrad = Callable[[Tensor], Tensor]
Grads = tuple[Tensor, Tensor | None, Tensor | None]


@dataclass(frozen=True, eq=False)
class Firing:
    """What makes a LIF fire.

    Attributes:
        beta: membrane decay per step, clipped to [0, 1]; a single number, or one per neuron (broadcast).
        threshold: firing threshold; as ``beta``.
        spike_grad: maps ``u - threshold`` to binary spikes and carries the surrogate gradient, element by element. An
            optional method ``derivative(v)`` says that the spikes are ``v > 0`` and that their derivative is its value;
            without it, torch's autograd is asked, one step at a time. Gradients of parameters that ``spike_grad``
            itself may hold are not computed.
        reset: "zero", "subtract" or "none", as in `kernels.lif.lif`.
    """

    beta: Tensor
    threshold: Tensor
    spike_grad: SpikeGrad
    reset: str = "zero"

    def __post_init__(self) -> None:
        check_choice("Firing", "reset", self.reset, RESETS)

    @property
    def is_analytic(self) -> bool:
        """True when the surrogate states its derivative, and so that it fires on ``v > 0``."""
        return hasattr(self.spike_grad, "derivative")

    def work_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """Of a membrane for input of ``dtype``: at least float32, and that of parameters with axes of their own."""
        for parameter in (self.beta, self.threshold):
            dtype = torch.promote_types(dtype, parameter.dtype) if parameter.dim() else dtype
        return torch.promote_types(dtype, torch.float32)

    def check(self, where: str, x: Tensor) -> None:
        """Raise `LayoutError` unless ``x`` is ``(T, ...)`` and beta and threshold spread over one step of it."""
        shapes.check_steps(where, x)
        for name in ("beta", "threshold"):
            got, step = getattr(self, name).shape, x.shape[1:]
            short = len(got) <= len(step)
            if not short or any(a not in (1, b) for a, b in zip(got[::-1], step[::-1], strict=False)):
                raise LayoutError(
                    f"{where}: {name} of shape {tuple(got)} does not spread over one step {tuple(step)}; pass one "
                    "number, or one per channel: (C,) for tokens, (C, 1, 1) for maps"
                )


def fire(x: Tensor, beta: Tensor, threshold: Tensor, spike_grad: SpikeGrad, *, reset: str = "zero") -> Spikes:
    """`kernels.lif.lif` that keeps only ``x``: same spikes bit for bit, same gradients.

    Args:
        x: input current, ``(T, ...)``; kept as it is, not copied.
        beta: membrane decay per step, clipped to [0, 1].
        threshold: firing threshold.
        spike_grad: surrogate, see `Firing`.
        reset: "zero", "subtract" or "none", as in `kernels.lif.lif`.

    Returns:
        Spikes ``(T, ...)`` in the dtype of ``x``. Differentiable once.

    Raises:
        LayoutError: no steps, or the surrogate makes spikes that are not binary.
        SettingError: unknown reset.
    """
    neuron = Firing(beta, threshold, spike_grad, reset)
    neuron.check("fire", x)
    return Spikes.of(_Fire.apply(x, beta, threshold, neuron), trusted=neuron.is_analytic)


def once(backward: Callable[[Any, Tensor], Any]) -> Callable[[Any, Tensor], Any]:
    """Backward of a function that has no second derivative: refuses ``create_graph=True``.

    torch's ``once_differentiable`` lets it pass, with wrong results, where the incoming gradient is a constant.
    """

    @functools.wraps(backward)
    def checked(ctx: Any, grad: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise SettingError(
                "backward: got create_graph=True, but the fused and recomputing kernels have a first derivative only; "
                "use the plain path for second derivatives"
            )
        return backward(ctx, grad)

    return checked


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: Tensor, threshold: Tensor, neuron: Firing) -> Tensor:
        ctx.save_for_backward(x, beta, threshold)
        ctx.rule = neuron.spike_grad, neuron.reset
        return fire_forward(x, neuron)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, beta, threshold = ctx.saved_tensors
        neuron = Firing(beta, threshold, *ctx.rule)
        return (*fire_backward(x, grad, neuron, ctx.needs_input_grad[1:3]), None)


def fire_forward(x: Tensor, neuron: Firing) -> Tensor:
    """Spikes ``(T, ...)`` of currents ``x`` as numbers, without history."""
    run = _spikes if neuron.is_analytic else _spikes.function
    return run(x, neuron)


def fire_backward(
    x: Tensor, grad: Tensor, neuron: Firing, needs: tuple[bool, bool], *, overwrite: bool = False
) -> Grads:
    """Gradients of ``x``, beta and threshold for the gradient ``grad`` of the spikes, both ``(T, ...)``.

    Args:
        x: input current.
        grad: gradient of the loss by the spikes.
        neuron: as in the forward pass.
        needs: whether beta and threshold need one; None is returned for what does not.
        overwrite: ``x`` is not needed any more, so its memory may take the result.
    """
    run = _gradients if neuron.is_analytic else _gradients.function
    dtype = neuron.work_dtype(x.dtype)
    work = x if overwrite and x.dtype == dtype and x.is_contiguous() else x.new_empty(x.shape, dtype=dtype)
    by_x, by_beta, by_threshold = run(x, grad, neuron, needs, work)
    return by_x.to(x.dtype), by_beta, by_threshold


@Tiered
def _spikes(x: Tensor, neuron: Firing) -> Tensor:
    spikes = x.new_empty(x.shape)
    rows = list(spikes.unbind(0))
    mem = _first_membrane(x[0], neuron)
    rows[0] = _fire_into(rows[0], mem, neuron)
    for step in range(1, x.shape[0]):
        mem = _membrane(mem, rows[step - 1], x[step], neuron)
        rows[step] = _fire_into(rows[step], mem, neuron)
    return _whole(spikes, rows)


def _fire_into(row: Tensor, mem: Tensor, neuron: Firing) -> Tensor:
    if not neuron.is_analytic:
        return _put(row, neuron.spike_grad(mem - neuron.threshold))
    if torch.compiler.is_compiling():
        return (mem > neuron.threshold).to(row.dtype)
    # Many times faster than making a mask and then numbers of it.
    return torch.gt(mem, neuron.threshold, out=row)


def _put(row: Tensor, value: Tensor) -> Tensor:
    """Eager code writes into one tensor row by row, which keeps its peak low; a compiler fuses new tensors better."""
    return value.to(row.dtype) if torch.compiler.is_compiling() else row.copy_(value)


def _whole(tensor: Tensor, rows: list[Tensor]) -> Tensor:
    return torch.stack(rows) if torch.compiler.is_compiling() else tensor


def _membrane(mem: Tensor, fired: Tensor, current: Tensor, neuron: Firing) -> Tensor:
    """One step; in the order of operations of `lif`, so that not one bit differs."""
    decay, current = neuron.beta.clamp(0, 1), current.to(mem.dtype)
    if neuron.reset == "zero":
        mem = _silence(mem, fired)
    mem = (decay * mem).add_(current)
    return mem - fired.to(mem.dtype) * neuron.threshold if neuron.reset == "subtract" else mem


def _first_membrane(current: Tensor, neuron: Firing) -> Tensor:
    mem = current.to(torch.promote_types(current.dtype, torch.float32))
    return mem - _at_rest(neuron, mem) * neuron.threshold if neuron.reset == "subtract" else mem


def _at_rest(neuron: Firing, like: Tensor) -> Tensor:
    # A negative threshold lies below the resting membrane, which then counts as having fired before the first step.
    return (neuron.threshold < 0).to(like.dtype)


def _silence(x: Tensor, fired: Tensor) -> Tensor:
    """``x.masked_fill(fired > 0, 0)``, ten times as fast on the CPU; a product would make NaN of an infinite ``x``."""
    return torch.ops.aten.threshold_backward(x, 1 - fired.to(x.dtype), 0.0)


@Tiered
def _gradients(x: Tensor, grad: Tensor, neuron: Firing, needs: tuple[bool, bool], work: Tensor) -> Grads:
    """Leaves the gradient of ``x`` in ``work``, which first holds ``v = u - threshold`` of every step."""
    beta, threshold, decay = neuron.beta, neuron.threshold, neuron.beta.clamp(0, 1)
    rows = list(work.unbind(0))
    silent = _replay(x, neuron, needs[0], rows)
    by_beta = torch.zeros_like(beta) if needs[0] else None
    by_threshold = torch.zeros_like(threshold) if needs[1] else None
    carry: Tensor | None = None
    for step in range(x.shape[0] - 1, -1, -1):
        by_v = _through_surrogate(neuron.spike_grad, rows[step], grad[step]).to(work.dtype)
        by_mem = by_v if carry is None else carry.add_(by_v)
        rows[step] = _put(rows[step], by_mem)
        fired = _fired(rows[step - 1], neuron) if step else _at_rest(neuron, work)
        if by_threshold is not None:
            by_threshold = by_threshold - _fit(by_v, threshold)
            if neuron.reset == "subtract":
                by_threshold = by_threshold - _fit(by_mem * fired, threshold)
        if by_beta is not None and step:
            by_beta = by_beta + _fit(by_mem * silent.pop(), beta)
        carry = decay * by_mem
        carry = _silence(carry, fired) if step and neuron.reset == "zero" else carry
    if by_beta is not None:
        by_beta = by_beta.masked_fill((beta < 0) | (beta > 1), 0)
    return _whole(work, rows), by_beta, by_threshold


def _replay(x: Tensor, neuron: Firing, keep_silent: bool, rows: list[Tensor]) -> list[Tensor]:
    """Writes ``v`` of every step by the very operations of the forward pass; returns what beta multiplied, if asked."""
    silent: list[Tensor] = []
    mem = _first_membrane(x[0], neuron).clone()  # the first row may be the memory of the first current
    for step in range(x.shape[0]):
        if step:
            fired = _fired(rows[step - 1], neuron)
            if keep_silent:
                silent.append(_silence(mem, fired) if neuron.reset == "zero" else mem)
            mem = _membrane(mem, fired, x[step], neuron)
        rows[step] = _put(rows[step], mem - neuron.threshold)
    return silent


def _fired(v: Tensor, neuron: Firing) -> Tensor:
    if not neuron.is_analytic:
        return neuron.spike_grad(v).to(v.dtype)
    return (v > 0).to(v.dtype) if torch.compiler.is_compiling() else torch.gt(v, 0, out=torch.empty_like(v))


def _through_surrogate(spike_grad: SpikeGrad, v: Tensor, grad: Tensor) -> Tensor:
    """Gradient of ``v = u - threshold`` for the gradient of its spikes."""
    derivative = getattr(spike_grad, "derivative", None)
    if derivative is not None:
        slope: Tensor = derivative(v)
        return grad.to(v.dtype) * slope
    with torch.enable_grad():
        v = v.detach().requires_grad_()
        spikes = spike_grad(v)
        if not spikes.requires_grad:  # snnTorch's surrogate_disable
            return torch.zeros_like(v)
        (by_v,) = torch.autograd.grad(spikes, v, grad.to(spikes.dtype))
    return by_v


def _fit(grad: Tensor, like: Tensor) -> Tensor:
    """Sum a gradient over the axes along which ``like`` was spread."""
    return grad.sum_to_size(like.shape).to(like)
