"""BatchNorm followed by a LIF, keeping only what goes in: both are computed again in the backward pass."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
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
from snntorch_smixer.kernels.compiled import Tiered, tier
from snntorch_smixer.kernels.fire import (
    Firing,
    Grads,
    Rule,
    added,
    fire_backward,
    fire_forward,
    once,
    total,
    unrolled_gradients,
    unrolled_spikes,
)
from snntorch_smixer.kernels.spikes import Spikes

Fired = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]
Kept = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
NormGrads = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]

Affine = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Mean, 1 / std, weight and bias, the last two may be None."""

Pair = tuple[Tensor, Tensor]


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
    if tier(z.device) == "compile" and call.by_batch and fits_one_pass(z, weight, neuron):
        return _one_pass(z, weight, bias, call, neuron, steps)
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
    if tier(z.device) == "compile" and call.by_batch and fits_one_pass(z, weight, neuron):
        return _one_pass_backward(z, grad, kept, call, neuron, needs)
    folded = fold(z)
    y = renormalise(folded, weight, bias, call, (first, second))
    shown = show("norm_fire", y.view(z.shape), grad.shape[0])
    by_y, by_beta, by_threshold = fire_backward(shown, grad, neuron, (needs[3], needs[4]), overwrite=True)
    if shown.shape != z.shape:
        by_y = by_y.sum(0, keepdim=True)
    saved = first, second, (needs[0], needs[1], needs[2])
    by_z, by_weight, by_bias = norm_backward(fold(by_y), folded, weight, call, saved)
    return None if by_z is None else by_z.view(z.shape), by_weight, by_bias, by_beta, by_threshold


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


# BatchNorm and LIF as one compiled function each way, on the CPU. The forward pass takes torch's own statistics, then
# normalises and fires in one pass over z; the backward pass does both again and leaves the gradient of the normalised
# values. Spikes are those of torch's BatchNorm bit for bit.


def fits_one_pass(z: Tensor, weight: Tensor | None, neuron: Firing) -> bool:
    """Whether one compiled pass gives the very spikes of torch's BatchNorm followed by the LIF.

    Args:
        z: tokens ``(T, ..., N, C)`` or maps ``(T, B, C, H, W)``, to be normalised by their own statistics.
        weight: of the BatchNorm.
        neuron: the LIF behind it.
    """
    channels = (z.shape[2], 1, 1) if z.dim() == 5 else (z.shape[-1],)
    parameters = (neuron.beta, neuron.threshold)
    is_plain = (
        type(z) is Tensor
        and z.device.type == "cpu"
        and z.dtype == torch.float32
        and z.is_contiguous()
        and z.numel() > 0
    )
    fits = all(p.dim() == 0 or p.shape == channels for p in parameters)
    same = all(p is None or p.dtype == torch.float32 for p in (*parameters, weight))
    return is_plain and fits and same and neuron.is_analytic and rounding() is not None


def statistics(folded: Tensor, call: NormCall) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std of each channel of ``(M, C)`` or ``(M, C, H, W)``, as ``native_batch_norm`` gives them.

    Updates the running statistics as it does.
    """
    mean, var = torch.batch_norm_update_stats(folded, call.running_mean, call.running_var, call.momentum)
    # In double, as torch's kernel does, before it rounds the result.
    return mean, (var.double() + call.eps).sqrt_().reciprocal_().to(mean.dtype)


def _one_pass(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall, neuron: Firing, steps: int
) -> Fired:
    """`norm_fire_forward` of what `fits_one_pass` takes."""
    mean, invstd = statistics(fold(z), call)
    affine, pair = _per_channel(z, (mean, invstd, weight, bias), neuron)
    spikes = _spikes(_flat(z), affine, pair, neuron.rule, steps, rounding())
    return spikes.view(steps, *z.shape[1:]), None, mean, invstd


def _one_pass_backward(
    z: Tensor, grad: Tensor, kept: Kept, call: NormCall, neuron: Firing, needs: tuple[bool, ...]
) -> NormGrads:
    """`norm_fire_backward` of what `fits_one_pass` takes."""
    weight, bias, mean, invstd = kept
    affine, pair = _per_channel(z, (mean, invstd, weight, bias), neuron)
    setup = needs[3], needs[4], grad.shape[0], rounding()
    by_y, by_beta, by_threshold = _gradients(_flat(z), _flat(grad.contiguous()), affine, pair, neuron.rule, setup)
    wanted = needs[0], needs[1], needs[2]
    by_z, by_weight, by_bias = norm_backward(fold(by_y.view(z.shape)), fold(z), weight, call, (mean, invstd, wanted))
    by_z = None if by_z is None else by_z.view(z.shape)
    by_beta = None if by_beta is None else by_beta.view(neuron.beta.shape)
    return (
        by_z,
        by_weight,
        by_bias,
        by_beta,
        None if by_threshold is None else by_threshold.view(neuron.threshold.shape),
    )


def _flat(z: Tensor) -> Tensor:
    """Tokens as ``(T, M, C)``, maps as ``(T, B, C, P)``: few shapes to compile for."""
    return z.flatten(3) if z.dim() == 5 else z.flatten(1, -2)


def _per_channel(z: Tensor, affine: Affine, neuron: Firing) -> tuple[Affine, Pair]:
    """``(C,)`` for tokens, ``(C, 1)`` for maps; single numbers as they are."""
    ends = (-1, 1) if z.dim() == 5 else (-1,)
    mean, second, weight, bias = (None if p is None else p.detach().view(ends) for p in affine)
    beta, threshold = (p.detach().view(ends) if p.dim() else p.detach() for p in (neuron.beta, neuron.threshold))
    return (mean, second, weight, bias), (beta, threshold)


@functools.cache
def rounding() -> str | None:
    """How torch's CPU kernel rounds ``z * scale + (bias - mean * scale)``.

    "fused" is as two fused multiply-adds, "plain" after each operation, as on processors without that instruction, and
    None neither, or with other statistics than `statistics` gives.
    """
    generator = torch.Generator().manual_seed(0)
    channels, found = 257, {"fused", "plain"} if _has_fma() else {"plain"}
    for shape in ((7, channels), (3, channels, 3, 5)):
        z = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        weight, bias = torch.randn(2, channels, generator=generator, dtype=torch.float32, device="cpu")
        y, mean, second = torch.native_batch_norm(z, weight, bias, None, None, True, 0.0, 1e-5)
        exact = all(map(torch.equal, statistics(z, NormCall(None, None, True, 0.0, 1e-5)), (mean, second)))
        ends = (-1, 1, 1) if z.dim() == 4 else (-1,)
        numbers = [p.view(ends) for p in (mean, second, weight, bias)]
        found &= {how for how in found if exact and torch.equal(_by_hand(z, numbers, how), y)}
    return found.pop() if len(found) == 1 else None


def _has_fma() -> bool:
    """Whether torch's compiler has a fused multiply-add; importing it takes seconds, so it is asked when needed."""
    try:
        return hasattr(importlib.import_module("torch._inductor.inductor_prims"), "fma")
    except ImportError:  # an older torch
        return False


def _by_hand(z: Tensor, numbers: list[Tensor], how: str) -> Tensor:
    # In float64 the product of two float32 numbers is exact, so the sum is rounded as by a fused multiply-add.
    wide = torch.float64 if how == "fused" else torch.float32
    mean, second, weight, bias = numbers
    scale = second * weight
    shift = (bias.to(wide) - mean.to(wide) * scale.to(wide)).float()
    return (z.to(wide) * scale.to(wide) + shift.to(wide)).float()


def _normalised(z: Tensor, affine: Affine, steps: int, how: str | None) -> Iterator[Tensor]:
    """Normalised ``z`` of each step, as torch rounds it; that of one step again and again where it is static."""
    mean, second, weight, bias = affine
    if mean is None or second is None:
        raise LayoutError("norm_fire: got no statistics of the batch")
    scale = second if weight is None else second * weight
    bias = torch.zeros_like(mean) if bias is None else bias
    fma = torch.ops.prims.fma.default if how == "fused" else None
    shift = fma(-mean, scale, bias) if fma else bias - mean * scale
    y = z[0]
    for step in range(steps):
        if step < z.shape[0]:
            y = fma(z[step], scale, shift) if fma else z[step] * scale + shift
        yield y


def _fire_two_pass(z: Tensor, affine: Affine, pair: Pair, rule: Rule, steps: int, how: str | None) -> Tensor:  # noqa: ARG001
    y = _by_torch(z, affine)
    return fire_forward(y.expand(steps, *y.shape[1:]), Firing(*pair, *rule))


def _traced_spikes(z: Tensor, affine: Affine, pair: Pair, rule: Rule, steps: int, how: str | None) -> Tensor:
    rows = unrolled_spikes(_normalised(z, affine, steps, how), *pair, rule[1])
    return torch.stack([row.to(z.dtype) for row in rows])


_spikes = Tiered(_fire_two_pass, _traced_spikes)


def _two_pass_gradients(
    z: Tensor, grad: Tensor, affine: Affine, pair: Pair, rule: Rule, setup: tuple[bool, bool, int, str | None]
) -> Grads:
    y = _by_torch(z, affine)
    shown = y.expand(grad.shape)
    by_y, by_beta, by_threshold = fire_backward(shown, grad, Firing(*pair, *rule), setup[:2], overwrite=True)
    return by_y if shown.shape == z.shape else by_y.sum(0, keepdim=True), by_beta, by_threshold


def _traced_gradients(
    z: Tensor, grad: Tensor, affine: Affine, pair: Pair, rule: Rule, setup: tuple[bool, bool, int, str | None]
) -> Grads:
    needs_beta, needs_threshold, steps, how = setup
    beta, threshold = pair
    currents = _normalised(z, affine, steps, how)
    rows, for_beta, for_threshold = unrolled_gradients(currents, lambda step: grad[step], beta, threshold, rule)
    by_beta = total(for_beta, beta).masked_fill((beta < 0) | (beta > 1), 0) if needs_beta else None
    by_threshold = total(for_threshold, threshold) if needs_threshold else None
    if z.shape[0] != steps:
        return added(rows)[None], by_beta, by_threshold
    return torch.stack(rows), by_beta, by_threshold


_gradients = Tiered(_two_pass_gradients, _traced_gradients)


def _by_torch(z: Tensor, affine: Affine) -> Tensor:
    """Normalised ``z`` by torch's own kernel."""
    mean, second, weight, bias = (None if p is None else p.flatten() for p in affine)
    folded = z.flatten(0, 1)
    folded = folded if z.dim() == 3 else folded.unsqueeze(-1)  # torch wants maps (M, C, H, W)
    call = NormCall(None, None, True, 0.0, 0.0)
    return renormalise(folded, weight, bias, call, (mean, second)).view(z.shape)
