"""Units that keep bits only: the map, its BatchNorm and the LIF are all computed again in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import check_count
from snntorch_smixer.kernels.bits import unpack
from snntorch_smixer.kernels.fire import Firing, fire_backward, fire_forward, once
from snntorch_smixer.kernels.norm_fire import (
    begin_norm,
    check_norm,
    fold,
    norm_backward,
    normalise,
    renormalise,
    show,
)
from snntorch_smixer.kernels.spike_linear import (
    Conv,
    Dense,
    Mix,
    Needs,
    SpikeMap,
    Three,
    autocast_dtype,
    cast,
    check_maps,
    check_width,
    recast,
)
from snntorch_smixer.kernels.spikes import Spikes
from snntorch_smixer.selection import Selection


@dataclass(frozen=True, eq=False)
class _Plan:
    """Everything about one unit but its tensors; ``dtype`` is that of autocast, None where there is none."""

    op: SpikeMap
    chunks: int
    dtype: torch.dtype | None
    norm: nn.Module | None
    neuron: Firing | None
    steps: int | None = None


def recompute_unit(
    spikes: Spikes | Tensor,
    linear: nn.Linear | nn.Conv2d,
    norm: Any,
    neuron: Firing | None,
    *,
    chunks: int = 1,
    steps: int | None = None,
) -> Any:
    """``lif(norm(linear(spikes)))`` that keeps the bits of its input and two numbers per channel.

    The backward pass repeats the map, then goes on as `norm_fire` and `spike_linear` do. Forward and backward make the
    same calls, so the spikes are rebuilt bit for bit. Hooks on ``linear`` and ``norm`` do not run.

    Args:
        spikes: ``(T, B, N, C)`` for a linear map, ``(T, B, C, H, W)`` for a convolution. A plain tensor, such as the
            image, need not be binary and is kept as it is.
        linear: the map.
        norm: BatchNorm1d behind a linear map, BatchNorm2d behind a convolution.
        neuron: the LIF behind it; None for a unit that ends at BatchNorm.
        chunks: pieces of the folded batch that a convolution takes one after the other, for a lower peak. BatchNorm
            sees the whole batch all the same. With more than one, results may differ from the plain unit by rounding.
        steps: T to show a static input of one step to the neuron for; map and BatchNorm run once.

    Returns:
        `Spikes`, or the normalised tensor where there is no neuron. Differentiable once.

    Raises:
        LayoutError: shapes that do not belong together.
        SettingError: chunks below 1, an unusual padding, or not a plain BatchNorm.
    """
    check_count("recompute_unit", "chunks", chunks)
    values = spikes.values if isinstance(spikes, Spikes) else spikes
    op: SpikeMap
    if isinstance(linear, nn.Conv2d):
        check_maps("recompute_unit", values.shape, linear)
        op = Conv.of(linear, values)
    else:
        check_width("recompute_unit", values.shape, -1, linear.in_features)
        op, chunks = Dense(), 1
    plan = _Plan(op, chunks, autocast_dtype(values), norm, neuron, None if neuron is None else steps)
    return _run(plan, spikes, (linear.weight, linear.bias, norm.weight, norm.bias))


def recompute_mix(spikes: Spikes, weight: Tensor, kept: Selection | None, neuron: Firing) -> Spikes:
    """``lif(W_M' X')`` that keeps the bits of its input and the indices: the mixer's own neuron, with no BatchNorm.

    Args:
        spikes: tokens, ``(T', B, N', C)``.
        weight: ``W_M`` as ``(h, N, N)``.
        kept: what pruning kept of the N tokens, or None.
        neuron: the LIF behind the product.

    Returns:
        Spikes of the same shape. Differentiable once.

    Raises:
        LayoutError: wrong number of tokens.
    """
    check_width("recompute_mix", spikes.shape, -2, weight.shape[1] if kept is None else kept.num_tokens)
    plan = _Plan(Mix(kept, autocast_dtype(spikes.values)), 1, None, None, neuron)
    mixed: Spikes = _run(plan, spikes, (weight, None, None, None))
    return mixed


def _run(plan: _Plan, spikes: Spikes | Tensor, parameters: tuple[Tensor | None, ...]) -> Any:
    bits, values = (spikes.bits, spikes.values) if isinstance(spikes, Spikes) else (None, spikes)
    neuron = plan.neuron
    if neuron is None:
        return _Unit.apply(plan, bits, values, *parameters, None, None)
    out = _Unit.apply(plan, bits, values, *parameters, neuron.beta, neuron.threshold)
    return Spikes.of(out, trusted=neuron.is_analytic)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, bits: Tensor | None, values: Tensor, *rest: Tensor | None) -> Tensor:
        weight, bias, norm_weight, norm_bias = rest[:4]
        # Unpacked bits are contiguous, so the spikes are too; what is kept as it is keeps its memory format.
        stored = values if bits is None else values.contiguous()
        given = _Input(plan, stored, None, cast(values, plan.dtype).dtype)
        z = given.unfold(_apply(plan, given, weight, bias))
        _check(plan, z)
        ctx.call, first, second, y = None, None, None, z
        if plan.norm is not None:
            ctx.call = begin_norm(plan.norm, z)
            y, first, second = normalise(fold(z), norm_weight, norm_bias, ctx.call)
            y = y.view(z.shape)
        ctx.plan, ctx.shape, ctx.dtypes = plan, values.shape, (values.dtype, given.dtype)
        ctx.save_for_backward(values if bits is None else bits, *rest, first, second)
        ctx.packed = bits is not None
        return y if plan.neuron is None else fire_forward(show("recompute_unit", y, plan.steps), plan.neuron)

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        stored, weight, bias, *rest = ctx.saved_tensors
        plan, wanted = ctx.plan, ctx.needs_input_grad[2:]
        given = _Input(plan, stored, ctx.shape[-1] if ctx.packed else None, ctx.dtypes[1])
        with torch.autocast(grad.device.type, enabled=False):
            z = given.unfold(_apply(plan, given, weight, bias))
            by_z, own = _back_to_map(ctx, z, grad, rest)
            del z
            by_x, by_weight, by_bias = _apply_backward(plan, by_z, given, weight, wanted[:3])
        grads = None if by_x is None else by_x.view(ctx.shape), by_weight, by_bias
        dtypes = ctx.dtypes[0], weight.dtype, None if bias is None else bias.dtype
        return None, None, *recast(grads, dtypes), *own


@dataclass(frozen=True, eq=False)
class _Input:
    """The input of the map, as it is or as bits, in pieces of the folded batch that are made when they are needed."""

    plan: _Plan
    stored: Tensor
    channels: int | None
    dtype: torch.dtype

    def fold(self, x: Tensor) -> Tensor:
        return shapes.fold_steps(x) if isinstance(self.plan.op, Conv) else x

    def unfold(self, z: Tensor) -> Tensor:
        return shapes.unfold_steps(z, self.stored.shape[0]) if isinstance(self.plan.op, Conv) else z

    def spans(self) -> list[slice]:
        total = self.fold(self.stored).shape[0]
        size = max(1, -(-total // self.plan.chunks))
        return [slice(start, min(start + size, total)) for start in range(0, max(1, total), size)]

    def piece(self, span: slice) -> Tensor:
        part = self.fold(self.stored)[span]
        return part.to(self.dtype) if self.channels is None else unpack(part, self.channels, self.dtype)


def _check(plan: _Plan, z: Tensor) -> None:
    """All that can be wrong with the map's result, before BatchNorm's statistics change."""
    if plan.norm is not None:
        check_norm("recompute_unit", z, plan.norm)
    if plan.neuron is not None:
        plan.neuron.check("recompute_unit", show("recompute_unit", z, plan.steps))


def _apply(plan: _Plan, given: _Input, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The map, piece by piece; the same calls in the forward and in the backward pass."""
    kernel, offset = cast(weight, plan.dtype), cast(bias, plan.dtype)
    spans = given.spans()
    first = plan.op.forward(given.piece(spans[0]), kernel, offset)
    if len(spans) == 1:
        return first
    z = first.new_empty(spans[-1].stop, *first.shape[1:])
    z[spans[0]] = first
    for span in spans[1:]:
        z[span] = plan.op.forward(given.piece(span), kernel, offset)
    return z


def _back_to_map(ctx: Any, z: Tensor, grad: Tensor, saved: list[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Gradient of ``z``, and those of BatchNorm's and the neuron's parameters."""
    norm_weight, norm_bias, beta, threshold, first, second = saved
    plan, call, wanted = ctx.plan, ctx.call, ctx.needs_input_grad[5:]
    by_beta = by_threshold = by_norm_weight = by_norm_bias = None
    folded = fold(z)
    if plan.neuron is not None:
        y = z if call is None else renormalise(folded, norm_weight, norm_bias, call, (first, second)).view(z.shape)
        neuron = Firing(beta, threshold, plan.neuron.spike_grad, plan.neuron.reset)
        shown = show("recompute_unit", y, plan.steps)
        grad, by_beta, by_threshold = fire_backward(shown, grad, neuron, wanted[2:], overwrite=True)
        grad = grad if shown.shape == z.shape else grad.sum(0, keepdim=True)
        del y, shown
    if call is not None:
        kept = first, second, (True, *wanted[:2])
        by_z, by_norm_weight, by_norm_bias = norm_backward(fold(grad), folded, norm_weight, call, kept)
        grad = grad if by_z is None else by_z.view(z.shape)
    return grad, (by_norm_weight, by_norm_bias, by_beta, by_threshold)


def _apply_backward(plan: _Plan, by_z: Tensor, given: _Input, weight: Tensor, needs: Needs) -> Three:
    """Gradients of the map's input, weight and bias, piece by piece."""
    kernel, by_z, spans = cast(weight, plan.dtype), given.fold(by_z), given.spans()
    if len(spans) == 1:
        return plan.op.backward(by_z, partial(given.piece, spans[0]), kernel, needs)
    by_x: Tensor | None = None
    sums: list[Tensor | None] = [None, None]
    for span in spans:
        part = plan.op.backward(by_z[span], partial(given.piece, span), kernel, needs)
        if part[0] is not None:
            by_x = part[0].new_empty(spans[-1].stop, *part[0].shape[1:]) if by_x is None else by_x
            by_x[span] = part[0]
        for at, new in enumerate(part[1:]):
            old = sums[at]
            sums[at] = new if new is None or old is None else old.add_(new)
    return by_x, sums[0], sums[1]
