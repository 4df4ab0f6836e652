"""Triton twins of `kernels.bits`: the same packing convention, one kernel launch each."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from snntorch_smixer.kernels.bits import check_bits
from snntorch_smixer.kernels.triton_tools import launch, needs_wide, power_of_two, row_block


def serves(x: Tensor) -> bool:
    """True for a tensor with memory, at least one axis and at least one value."""
    return type(x) in (Tensor, torch.nn.Parameter) and x.dim() > 0 and x.numel() > 0


def pack(spikes: Tensor) -> Tensor:
    """As `kernels.bits.pack` of spikes that are trusted: any value but zero counts as a spike.

    Args:
        spikes: ``(..., C)`` zeros and ones of any dtype, any strides.
    """
    x = spikes.detach().contiguous()
    last = x.shape[-1]
    bits = x.new_empty(*x.shape[:-1], -(-last // 8), dtype=torch.uint8)
    rows, columns = row_block(last)
    total = x.numel() // last
    fixed = {"INDEX": _index(x), "ROWS": rows, "COLUMNS": columns}
    launch(pack_kernel, -(-total // rows) * -(-last // columns), (x, bits, total, last), fixed)
    return bits


def unpack(bits: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """As `kernels.bits.unpack`.

    Raises:
        LayoutError: ``bits`` is no uint8 tensor that holds C spikes.
    """
    check_bits("bits.unpack", bits, channels)
    bits = bits.contiguous()
    spikes = bits.new_empty(*bits.shape[:-1], channels, dtype=dtype)
    rows, columns = row_block(channels)
    total = spikes.numel() // channels
    fixed = {"INDEX": _index(spikes), "ROWS": rows, "COLUMNS": columns}
    launch(unpack_kernel, -(-total // rows) * -(-channels // columns), (bits, spikes, total, channels), fixed)
    return spikes


def spike_count(bits: Tensor, channels: int, axes: tuple[int, ...]) -> Tensor:
    """As `kernels.bits.spike_count`; spikes are made only where the last axis is not among ``axes``.

    Raises:
        LayoutError: ``bits`` is no uint8 tensor that holds C spikes.
    """
    check_bits("bits.spike_count", bits, channels)
    axes = tuple(sorted({axis % bits.dim() for axis in axes}))
    if bits.dim() - 1 not in axes:
        counts = unpack(bits, channels, torch.uint8)
        return counts.sum(axes, dtype=torch.int64) if axes else counts.to(torch.int64)
    bits = bits.contiguous()
    counts = bits.new_empty(bits.shape[:-1], dtype=torch.int64)
    width, total = bits.shape[-1], bits.numel() // bits.shape[-1]
    columns = min(128, power_of_two(width))
    rows = 1024 // columns
    fixed = {"INDEX": _index(bits), "ROWS": rows, "COLUMNS": columns}
    launch(count_kernel, -(-total // rows), (bits, counts, total, width), fixed)
    return counts.sum(axes[:-1]) if axes[:-1] else counts


def _index(x: Tensor) -> tl.dtype:
    return tl.int64 if needs_wide(x.numel()) else tl.int32


@triton.jit
def pack_kernel(x, bits, rows, last, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Bits of one block of rows and columns."""
    across, width = tl.cdiv(last, COLUMNS), tl.cdiv(last, 8)
    row = (tl.program_id(0) // across).to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    byte = (tl.program_id(0) % across) * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8)[None, :]
    fired = tl.load(x + row * last + column, mask=(row < rows) & (column < last), other=0) != 0
    ones = tl.reshape(fired.to(tl.int32), (ROWS, COLUMNS // 8, 8))
    eight = tl.sum(ones << tl.arange(0, 8)[None, None, :], axis=2)
    tl.store(bits + row * width + byte, eight.to(tl.uint8), mask=(row < rows) & (byte < width))


@triton.jit
def unpack_kernel(bits, spikes, rows, last, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Spikes of one block of rows and columns; eight neighbours read the same byte, once from memory."""
    across, width = tl.cdiv(last, COLUMNS), tl.cdiv(last, 8)
    row = (tl.program_id(0) // across).to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    column = (tl.program_id(0) % across) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    inside = (row < rows) & (column < last)
    eight = tl.load(bits + row * width + column // 8, mask=inside, other=0).to(tl.int32)
    one = ((eight >> (column % 8)) & 1).to(tl.float32)
    tl.store(spikes + row * last + column, one.to(spikes.dtype.element_ty), mask=inside)


@triton.jit
def count_kernel(bits, counts, rows, width, INDEX: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Spikes in each row of bytes; a byte is counted in three steps, pairs, fours, eight."""
    row = tl.program_id(0).to(INDEX) * ROWS + tl.arange(0, ROWS)[:, None]
    total = tl.zeros((ROWS, COLUMNS), tl.int32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        b = tl.load(bits + row * width + column, mask=(row < rows) & (column < width), other=0).to(tl.int32)
        b = b - ((b >> 1) & 0x55)
        b = (b & 0x33) + ((b >> 2) & 0x33)
        total = total + ((b + (b >> 4)) & 0x0F)
    tl.store(counts + row, tl.sum(total, 1, keep_dims=True).to(tl.int64), mask=row < rows)
