"""Triton twins of `kernels.norm_fire`: BatchNorm and LIF in one kernel each way, and two for statistics and sums.

Forward, the batch is read twice (statistics, then spikes); backward, input and gradient are read twice and the gradient
of the input is written: nothing else of that size is made. All sums are taken in pieces of a fixed size, so results do
not change from run to run or from device to device. Given the same statistics, the spikes are those of plain torch on
the CPU bit for bit. The statistics themselves are summed in another order, and so differ in the last bits.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from snntorch_smixer.kernels.batch_norm import NormCall
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.launch_triton import Launch, Norm, norm_axis
from snntorch_smixer.kernels.norm_fire import Kept, NormGrads
from snntorch_smixer.kernels.triton_tools import DTYPES, Layout, chunks, launch, power_of_two, served, tile

Forward = tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]


def serves(z: Tensor, call: NormCall, neuron: Firing) -> bool:
    """True where the two functions below give what plain torch gives, see `triton_tools.served`.

    Args:
        z: tokens ``(T, ..., N, C)`` or maps ``(T, B, C, H, W)``.
        call: its running statistics are in a dtype and on the device that the kernels can take.
        neuron: beta and threshold are single numbers, or one per channel.
    """
    running = [t for t in (call.running_mean, call.running_var) if t is not None]
    if not all(t.dtype in DTYPES and t.device == z.device and t.is_contiguous() for t in running):
        return False
    return z.dim() >= 3 and served(z, neuron, z.shape[0], axis=norm_axis(z))


def norm_fire_forward(
    z: Tensor, weight: Tensor | None, bias: Tensor | None, call: NormCall, neuron: Firing, steps: int
) -> Forward:
    """As `kernels.norm_fire.norm_fire_forward`: spikes, their bits, and the pair to keep for backward."""
    z = z.contiguous()
    first, second = batch_statistics(z, call) if call.by_batch else (call.running_mean, call.running_var)
    lif = Launch.behind(Norm(weight, bias, first, second, call.by_batch, call.eps), z, neuron, steps)
    bits = z.new_empty(steps, *z.shape[1:-1], -(-z.shape[-1] // 8), dtype=torch.uint8)
    return lif.forward(bits), bits, first, second


def norm_fire_backward(
    z: Tensor,
    grad: Tensor,
    kept: Kept,
    call: NormCall,
    neuron: Firing,
    needs: tuple[bool, bool, bool, bool, bool],
) -> NormGrads:
    """As `kernels.norm_fire.norm_fire_backward`: the same gradients but for rounding."""
    weight, bias, first, second = kept
    lif = Launch.behind(Norm(weight, bias, first, second, call.by_batch, call.eps), z, neuron, grad.shape[0])
    grad = grad.contiguous()
    by_z = torch.empty_like(lif.x) if needs[0] else None
    by_weight = (
        torch.empty_like(weight, memory_format=torch.contiguous_format) if needs[1] and weight is not None else None
    )
    by_bias = torch.empty_like(bias, memory_format=torch.contiguous_format) if needs[2] and bias is not None else None
    if not call.by_batch:
        sums = lif.new_sums() if any(needs[1:]) else None
        lif.backward(grad, by_x=by_z, sums=sums)
        totals = None if sums is None else lif.finish(sums, by_weight, by_bias)
    else:  # the gradient of the input contains sums over the batch
        sums = lif.new_sums()
        lif.backward(grad, by_x=None, sums=sums)
        totals = lif.finish(sums, by_weight, by_bias)
        if by_z is not None:
            lif.backward(grad, by_x=by_z, sums=None, totals=totals)
    by_beta, by_threshold = (None, None) if totals is None else lif.by_parameters(totals, needs[3:])
    return by_z, by_weight, by_bias, by_beta, by_threshold


def batch_statistics(z: Tensor, call: NormCall) -> tuple[Tensor, Tensor]:
    """Mean and 1 / std of each channel, ``(C,)`` float32; updates the running statistics of ``call`` as torch does.

    Args:
        z: contiguous tokens ``(T, ..., N, C)`` or maps ``(T, B, C, H, W)``.
        call: settings.
    """
    # The steps are more samples: as one step of T times the batch the values lie in the same order.
    layout = Layout.of(z.flatten(0, 1)[None], norm_axis(z), 1)
    block = tile(layout, 1)
    pieces, tiles = chunks(layout, block)
    parts = z.new_empty(2, pieces, layout.channels, dtype=torch.float32)
    mean, inverse = z.new_empty(2, layout.channels, dtype=torch.float32)
    index, width = tl.int64 if layout.is_wide else tl.int32, min(32, power_of_two(layout.channels))
    sizes = layout.per_channel, layout.inner, layout.channels, tiles
    fixed = {"INDEX": index, "VALUES": block[0], "CHANNELS": block[1]}
    launch(statistics_kernel, pieces * -(-layout.channels // block[1]), (z, parts, *sizes), fixed)
    rule = call.running_mean, call.running_var, call.momentum, call.eps
    counts = layout.per_channel, tiles * block[0], layout.inner, pieces, layout.channels
    fixed = {"PIECES": power_of_two(pieces), "CHANNELS": width}
    launch(merge_kernel, -(-layout.channels // width), (z, parts, mean, inverse, *rule, *counts), fixed)
    return mean, inverse


@triton.jit
def statistics_kernel(
    z, parts, per_channel, inner, channels, tiles,
    INDEX: tl.constexpr, VALUES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean, less the channel's first value, and sum of squared deviations, of each channel in one piece.

    By Welford's rule, and seen from a value among the others: a mean that is large beside the spread costs no digits.
    """
    across = tl.cdiv(channels, CHANNELS)
    piece = tl.program_id(0) // across
    channel = (tl.program_id(0) % across) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    pivot = tl.load(z + channel.to(INDEX) * inner, mask=channel < channels, other=0.0).to(tl.float32)
    mean = tl.zeros((VALUES, CHANNELS), tl.float32)
    count, square = mean, mean
    for index in range(tiles):
        value = (piece.to(INDEX) * tiles + index) * VALUES + tl.arange(0, VALUES)[:, None]
        inside = (value < per_channel) & (channel < channels)
        at = (value // inner) * inner * channels + channel.to(INDEX) * inner + value % inner
        x = tl.load(z + at, mask=inside, other=0.0).to(tl.float32) - pivot
        off = tl.where(inside, x - mean, 0.0)
        count = count + inside.to(tl.float32)
        mean = mean + off * (1.0 / (index + 1))
        square = square + off * tl.where(inside, x - mean, 0.0)
    total = tl.maximum(tl.sum(count, 0, keep_dims=True), 1.0)
    middle = tl.sum(mean * count, 0, keep_dims=True) / total
    off = mean - middle
    spread = tl.sum(square + count * off * off, 0, keep_dims=True)
    place, known = parts + piece * channels + channel, channel < channels
    tl.store(place, middle, mask=known)
    tl.store(place + (tl.num_programs(0) // across) * channels, spread, mask=known)


@triton.jit
def merge_kernel(
    z, parts, mean, inverse, running_mean, running_var, momentum, eps, per_channel, per_piece, inner, pieces, channels,
    PIECES: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / std of all pieces together, in float64, which is few numbers; and the running statistics."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    piece, known = tl.arange(0, PIECES)[:, None], channel < channels
    place, inside = parts + piece * channels + channel, known & (piece < pieces)
    middles = tl.load(place, mask=inside, other=0.0).to(tl.float64)
    spreads = tl.load(place + pieces * channels, mask=inside, other=0.0).to(tl.float64)
    left = per_channel - piece.to(tl.int64) * per_piece
    count = tl.minimum(tl.maximum(left, 0), per_piece).to(tl.float64)
    total = tl.sum(count, 0, keep_dims=True)
    middle = tl.sum(middles * count, 0, keep_dims=True) / total
    off = middles - middle
    middle = middle + tl.load(z + channel.to(tl.int64) * inner, mask=known, other=0.0).to(tl.float64)
    spread = tl.sum(spreads + count * off * off, 0, keep_dims=True)
    tl.store(mean + channel, middle.to(tl.float32), mask=known)
    tl.store(inverse + channel, (1.0 / tl.sqrt(spread / total + eps)).to(tl.float32), mask=known)
    if running_mean is not None:
        old = tl.load(running_mean + channel, mask=known, other=0.0).to(tl.float32)
        new = momentum * middle.to(tl.float32) + (1.0 - momentum) * old
        tl.store(running_mean + channel, new.to(running_mean.dtype.element_ty), mask=known)
    if running_var is not None:
        old = tl.load(running_var + channel, mask=known, other=0.0).to(tl.float32)
        new = momentum * (spread / (total - 1.0)).to(tl.float32) + (1.0 - momentum) * old
        tl.store(running_var + channel, new.to(running_var.dtype.element_ty), mask=known)
