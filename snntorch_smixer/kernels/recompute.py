"""Units that keep bits only: the map, its BatchNorm and the LIF are all computed again in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer import shapes
from snntorch_smixer.errors import check_count
from snntorch_smixer.kernels.batch_norm import (
    NormCall,
    begin_norm,
    check_norm,
    fold,
    norm_backward,
    normalise,
    renormalise,
)
from snntorch_smixer.kernels.fire import Firing, Grads, fire_backward, fire_forward, once
from snntorch_smixer.kernels.norm_fire import Fired, norm_fire_backward, norm_fire_forward, show
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
    in_autocast,
    recast,
)
from snntorch_smixer.kernels.spikes import Spikes, unpack
from snntorch_smixer.selection import Selection

_FINER = 4
"""BatchNorm's pieces are smaller than the LIF's: they cost nothing, and each of them is there three times over."""


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
        chunks: pieces that the backward pass works in for a lower peak: a convolution takes some of the folded batch at
            a time, the LIF some of the samples, BatchNorm some of the channels. The output does not depend on it;
            gradients are summed in another order.
        steps: T to show a static input of one step to the neuron for; map and BatchNorm run once.

    Returns:
        `Spikes`, or the normalised tensor where there is no neuron. Differentiable once.

    Raises:
        LayoutError: shapes that do not belong together, or a dtype that is not real-valued.
        SettingError: chunks below 1, an unusual padding, or not a plain BatchNorm.
    """
    check_count("recompute_unit", "chunks", chunks)
    values = spikes.values if isinstance(spikes, Spikes) else spikes
    op: SpikeMap
    if isinstance(linear, nn.Conv2d):
        check_maps("recompute_unit", values, linear)
        op = Conv.of(linear, values)
    else:
        check_width("recompute_unit", values, -1, linear.in_features)
        op = Dense()
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
        LayoutError: wrong number of tokens, or dtype.
    """
    check_width("recompute_mix", spikes.values, -2, weight.shape[1] if kept is None else kept.num_tokens)
    plan = _Plan(Mix(kept, autocast_dtype(spikes.values)), 1, None, None, neuron)
    mixed: Spikes = _run(plan, spikes, (weight, None, None, None))
    return mixed


def _run(plan: _Plan, spikes: Spikes | Tensor, parameters: tuple[Tensor | None, ...]) -> Any:
    bits, values = (spikes.bits, spikes.values) if isinstance(spikes, Spikes) else (None, spikes)
    neuron = plan.neuron
    if neuron is None:
        return _Unit.apply(plan, bits, values, *parameters, None, None)[0]
    out, packed = _Unit.apply(plan, bits, values, *parameters, neuron.beta, neuron.threshold)
    return Spikes.of(out, trusted=neuron.is_analytic, bits=packed)


class _Unit(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, bits: Tensor | None, values: Tensor, *rest: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        weight, bias = rest[:2]
        # Unpacked bits are contiguous, so the spikes are too; what is kept as it is keeps its memory format.
        stored = values if bits is None else values.contiguous()
        given = _Input(plan, stored, None, cast(values, plan.dtype).dtype)
        ctx.plan, ctx.shape, ctx.dtypes = plan, values.shape, (values.dtype, given.dtype)
        ctx.packed = bits is not None
        out, packed, first, second = _fire(ctx, _apply(plan, given, weight, bias), rest[2:])
        ctx.save_for_backward(values if bits is None else bits, *rest, first, second)
        ctx.set_materialize_grads(False)
        if packed is not None:
            ctx.mark_non_differentiable(packed)
        return out, packed

    @staticmethod
    @once
    def backward(ctx: Any, grad: Tensor, _: None) -> tuple[Tensor | None, ...]:
        stored, weight, bias, *rest = ctx.saved_tensors
        plan, wanted = ctx.plan, ctx.needs_input_grad[2:]
        given = _Input(plan, stored, ctx.shape[-1] if ctx.packed else None, ctx.dtypes[1])
        if not isinstance(plan.op, Conv):  # tokens are few enough to be unpacked once for both products
            given = _Input(plan, given.piece(slice(None)), None, ctx.dtypes[1])
        with in_autocast(grad, None):
            by_z, *own = _back_to_map(ctx, _apply(plan, given, weight, bias), grad, rest)
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
        # A linear map of tokens has no transient worth the smaller products.
        pieces = self.plan.chunks if isinstance(self.plan.op, Conv) else 1
        return spans(self.fold(self.stored).shape[0], pieces)

    def piece(self, span: slice) -> Tensor:
        part = self.fold(self.stored)[span]
        return part.to(self.dtype) if self.channels is None else unpack(part, self.channels, self.dtype)


def _fire(ctx: Any, z: Tensor, parameters: tuple[Tensor | None, ...]) -> Fired:
    """Output of the unit, bits where they come for nothing, and the pair that BatchNorm's backward pass needs."""
    plan, neuron, weight, bias = ctx.plan, ctx.plan.neuron, parameters[0], parameters[1]
    _check(plan, z)
    ctx.call = None if plan.norm is None else begin_norm(plan.norm, z)
    if ctx.call is None:
        return (z if neuron is None else fire_forward(z, neuron)), None, None, None
    steps = z.shape[0] if plan.steps is None else plan.steps
    if neuron is not None and plan.chunks == 1:
        return norm_fire_forward(z, weight, bias, ctx.call, neuron, steps)
    y, first, second = normalise(fold(z), weight, bias, ctx.call)
    y = y.view(z.shape)
    del z
    return (y if neuron is None else fire_in_pieces(y, neuron, steps, plan.chunks)), None, first, second


def _check(plan: _Plan, z: Tensor) -> None:
    """All that can be wrong with the map's result, before BatchNorm's statistics change."""
    if plan.norm is not None:
        check_norm("recompute_unit", z, plan.norm)
    if plan.neuron is not None:
        plan.neuron.check("recompute_unit", show("recompute_unit", z, plan.steps))


def _apply(plan: _Plan, given: _Input, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """The map, on the whole batch at once: what torch gives for a piece of it may be rounded in other places."""
    return given.unfold(plan.op.forward(given.piece(slice(None)), cast(weight, plan.dtype), cast(bias, plan.dtype)))


def _back_to_map(ctx: Any, z: Tensor, grad: Tensor, saved: list[Tensor]) -> tuple[Any, ...]:
    """Gradients of ``z``, of BatchNorm's weight and bias, and of the neuron's beta and threshold."""
    norm_weight, norm_bias, beta, threshold, first, second = saved
    plan, call, needs = ctx.plan, ctx.call, (True, *ctx.needs_input_grad[5:])
    neuron = None if plan.neuron is None else Firing(beta, threshold, *plan.neuron.rule)
    if neuron is not None and call is not None and plan.chunks == 1:
        return norm_fire_backward(z, grad, (norm_weight, norm_bias, first, second), call, neuron, needs)
    by_beta = by_threshold = by_weight = by_bias = None
    if neuron is not None:
        y = z if call is None else renormalise(fold(z), norm_weight, norm_bias, call, (first, second)).view(z.shape)
        grad, by_beta, by_threshold = fire_backward_in_pieces(y, grad, neuron, needs[3:], plan.chunks)
        del y
    if call is not None:
        kept = first, second, needs[:3]
        by_z, by_weight, by_bias = norm_backward_in_pieces(fold(grad), fold(z), norm_weight, call, kept, plan.chunks)
        grad = grad if by_z is None else by_z.view(z.shape)
    return grad, by_weight, by_bias, by_beta, by_threshold


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
            sums[at] = _add(sums[at], new)
    return by_x, sums[0], sums[1]


def _add(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    if total is None or new is None:  # half precision would round after each piece
        return None if new is None else new.to(torch.promote_types(new.dtype, torch.float32))
    return total.add_(new)


def spans(total: int, pieces: int) -> list[slice]:
    """At most ``pieces`` slices of nearly equal length that cover ``range(total)``; one empty slice where it is 0."""
    size = max(1, -(-total // pieces))
    return [slice(start, min(start + size, total)) for start in range(0, max(1, total), size)]


def fire_in_pieces(y: Tensor, neuron: Firing, steps: int, pieces: int) -> Tensor:
    """`fire.fire_forward` of ``y`` shown for ``steps`` steps, on a few samples at a time.

    Args:
        y: input current, ``(T, B, ...)``, or of one step; its memory takes the spikes where they fit.
        neuron: as there.
        steps: of the result.
        pieces: how many to make, at most one per sample; 1 leaves ``y`` alone.
    """
    shown = show("recompute_unit", y, steps)
    if pieces == 1:
        return fire_forward(shown, neuron)
    out = y if steps == y.shape[0] else y.new_empty(shown.shape)
    for span in _samples(y, neuron, pieces):
        out[:, span] = fire_forward(shown[:, span], neuron)
    return out


def fire_backward_in_pieces(y: Tensor, grad: Tensor, neuron: Firing, needs: tuple[bool, bool], pieces: int) -> Grads:
    """`fire.fire_backward` of ``y`` shown for the steps of ``grad``, on a few samples at a time.

    Args:
        y: input current, ``(T, B, ...)``, or of one step; its memory takes its gradient.
        grad: as there.
        neuron: as there.
        needs: as there.
        pieces: how many to make, at most one per sample.
    """
    shown = show("recompute_unit", y, grad.shape[0])
    if pieces == 1 and shown.shape == y.shape:
        return fire_backward(y, grad, neuron, needs, overwrite=True)
    by_beta: Tensor | None = None
    by_threshold: Tensor | None = None
    for span in _samples(y, neuron, pieces):
        by_y, of_beta, of_threshold = fire_backward(shown[:, span], grad[:, span], neuron, needs)
        by_beta, by_threshold = _sum(by_beta, of_beta), _sum(by_threshold, of_threshold)
        y[:, span] = by_y if shown.shape == y.shape else by_y.sum(0, keepdim=True)
        del by_y  # or it would lie beside the next one
    return y, by_beta, by_threshold


def norm_backward_in_pieces(
    grad: Tensor,
    z: Tensor,
    weight: Tensor | None,
    call: NormCall,
    kept: tuple[Tensor | None, Tensor | None, tuple[bool, bool, bool]],
    pieces: int,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """`norm_fire.norm_backward` on a few channels at a time: the same sums in the same order for each of them.

    Args:
        grad: as there.
        z: as there; its memory takes its gradient.
        weight: as there.
        call: as there.
        kept: as there.
        pieces: how many to make, at most one per channel; 1 leaves ``z`` alone.
    """
    if pieces == 1:
        return norm_backward(grad, z, weight, call, kept)
    first, second, wanted = kept
    found: list[list[Tensor]] = [[], []]
    for span in spans(z.shape[1], _FINER * pieces):
        own, mean, scale = (None if t is None else t[span] for t in (weight, first, second))
        mine = grad[:, span].contiguous() if grad.is_contiguous() else grad[:, span]
        part = norm_backward(mine, z[:, span].contiguous(), own, call, (mean, scale, wanted))
        for sums, new in zip(found, part[1:], strict=True):
            sums += [] if new is None else [new]
        if part[0] is not None:
            z[:, span] = part[0]
        del part  # or it would lie beside the next one
    by_weight, by_bias = (torch.cat(sums) if sums else None for sums in found)
    return z if wanted[0] else None, by_weight, by_bias


def _sum(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    return new if total is None or new is None else total + new


def _samples(y: Tensor, neuron: Firing, pieces: int) -> list[slice]:
    # Parameters of each sample's own are not cut up.
    own = any(p.dim() == y.dim() - 1 and p.shape[0] > 1 for p in (neuron.beta, neuron.threshold))
    return spans(y.shape[1], 1 if own else pieces)
