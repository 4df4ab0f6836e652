"""BatchNorm followed by a LIF, keeping only what goes in: both are computed again in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.batch_norm import (
    NormCall,
    begin_norm,
    check_norm,
    fold,
    norm_backward,
    normalise,
    renormalise,
)
from snntorch_smixer.kernels.compiled import tier
from snntorch_smixer.kernels.fire import Firing, fire_backward, fire_forward, once
from snntorch_smixer.kernels.spikes import Spikes

Fired = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
Kept = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NormGrads = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]


def norm_fire(z: Tensor, norm: nn.Module, neuron: Firing, *, steps: int | None = None) -> Spikes:
    """``lif(norm(z))`` that keeps ``z`` and two numbers per channel: same spikes bit for bit, same gradients.

    In training the statistics are taken over all steps, samples and positions, and the module's running statistics
    are updated once, as by calling it. Hooks on ``norm`` do not run.

    Args:
        z: tokens ``(T, ..., N, C)`` for BatchNorm1d, maps ``(T, B, C, H, W)`` for BatchNorm2d; kept, not copied.
        norm: the BatchNorm; affine or not, tracking or not.
        neuron: the LIF behind it.
        steps: T to show a static ``z`` of one step for, without repeating the BatchNorm; None for the steps of ``z``.

    Returns:
        Spikes of ``z``'s shape (with ``steps`` steps) and dtype. Differentiable once.

    Raises:
        LayoutError: wrong rank, channels or steps, or one value per channel in training.
        SettingError: not a plain BatchNorm.
    """
    check_norm("norm_fire", z, norm)
    shown = show("norm_fire", z, steps)
    neuron.check("norm_fire", shown)
    call = begin_norm(norm, z)
    parameters = norm.weight, norm.bias, neuron.beta, neuron.threshold
    values, bits = _NormFire.apply((call, neuron, shown.shape[0]), z, *parameters)
    return Spikes.of(values, trusted=neuron.is_analytic, bits=bits)


def norm_only(z: Tensor, norm: nn.Module) -> Tensor:
    """``norm(z)`` where no neuron follows: plain torch, which keeps ``z`` once and nothing else.

    Args:
        z: tokens ``(..., N, C)`` for BatchNorm1d, maps ``(T, B, C, H, W)`` for BatchNorm2d.
        norm: the BatchNorm.
    """
    y: Tensor = norm(fold(z))
    return y.view(z.shape)


class _NormFire(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, setup: tuple[NormCall, Firing, int], z: Tensor, *parameters: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        call, neuron, steps = setup
        spikes, bits, first, second = norm_fire_forward(z, parameters[0], parameters[1], call, neuron, steps)
        ctx.setup = call, neuron.rule
        ctx.save_for_backward(z, *parameters, first, second)
        ctx.set_materialize_grads(False)
        if bits is not None:
            ctx.mark_non_differentiable(bits)
        return spikes, bits

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
        call, rule = ctx.setup
        z, weight, bias, beta, threshold, first, second = ctx.saved_tensors
        kept = weight, bias, first, second
        return None, *norm_fire_backward(z, grad, kept, call, Firing(beta, threshold, *rule), ctx.needs_input_grad[1:])


def norm_fire_forward(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall, neuron: Firing, steps: int
) -> Fired:
    """Spikes of ``z`` without history, their bits where they come for nothing, and the pair to keep for backward.

    Args:
        z: as in `norm_fire`; of one step where it is static.
        weight: of the BatchNorm, ``(C,)`` or None.
        bias: as ``weight``.
        call: settings; its running statistics are updated in place where the batch is used.
        neuron: the LIF behind it.
        steps: of the result.
    """
    twin = _twin(z, weight, call, neuron)
    if twin is not None:
        found: Fired = twin.norm_fire_forward(z, weight, bias, call, neuron, steps)
        return found
    y, first, second = normalise(fold(z), weight, bias, call)
    return fire_forward(show("norm_fire", y.view(z.shape), steps), neuron), None, first, second


def norm_fire_backward(
    z: Tensor, grad: Tensor, kept: Kept, call: NormCall, neuron: Firing, needs: tuple[bool, ...]
) -> NormGrads:
    """Gradients of ``z``, the BatchNorm's weight and bias, beta and threshold; None for what does not need one.

    Args:
        z: as it was.
        grad: gradient of the loss by the spikes, ``(T, ...)``; it is not changed.
        kept: the BatchNorm's weight and bias, and the pair that `norm_fire_forward` returned.
        call: as it was.
        neuron: as it was.
        needs: which of the five are needed.
    """
    weight, bias, first, second = kept
    twin = _twin(z, weight, call, neuron)
    if twin is not None:
        found: NormGrads = twin.norm_fire_backward(z, grad, kept, call, neuron, needs)
        return found
    folded = fold(z)
    y = renormalise(folded, weight, bias, call, (first, second))
    shown = show("norm_fire", y.view(z.shape), grad.shape[0])
    by_y, by_beta, by_threshold = fire_backward(shown, grad, neuron, (needs[3], needs[4]), overwrite=True)
    if shown.shape != z.shape:
        by_y = by_y.sum(0, keepdim=True)
    saved = first, second, (needs[0], needs[1], needs[2])
    by_z, by_weight, by_bias = norm_backward(fold(by_y), folded, weight, call, saved)
    return None if by_z is None else by_z.view(z.shape), by_weight, by_bias, by_beta, by_threshold


def _twin(z: Tensor, weight: Tensor | None, call: NormCall, neuron: Firing) -> Any:
    """The module of faster twins of the two functions above that the chosen tier has for this call; None for none."""
    how = tier(z.device)
    if how == "eager":
        return None
    # Each of them loads a compiler, so they are imported where they are asked for.
    if how == "triton":
        from snntorch_smixer.kernels import norm_fire_triton

        return norm_fire_triton if norm_fire_triton.serves(z, call, neuron) else None
    from snntorch_smixer.kernels import norm_fire_compiled

    return norm_fire_compiled if call.by_batch and norm_fire_compiled.serves(z, weight, neuron) else None


def show(where: str, y: Tensor, steps: int | None) -> Tensor:
    """``y`` of one step as ``steps`` steps, without copying it.

    Raises:
        LayoutError: ``y`` has another number of steps, and more than one.
    """
    if steps is None or y.shape[0] == steps:
        return y
    if y.shape[0] != 1:
        raise LayoutError(
            f"{where}: expected 1 or {steps} steps, got shape {tuple(y.shape)}; only a static input is shown again"
        )
    return y.expand(steps, *y.shape[1:])
