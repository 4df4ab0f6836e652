"""Lossless small forms of a tensor: spikes as bits, few levels as bytes, indices as short integers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snntorch_smixer.kernels.spikes import pack, unpack

SAMPLE = 512
"""Values that are looked at before all of them are."""
FEW = 32
"""Different values in the sample up to which a tensor is worth a look at all of it."""
SHORT = (torch.uint8, torch.int16, torch.int32)


@dataclass(frozen=True, eq=False)
class Packed:
    """Values ``unit * code``.

    Attributes:
        codes: bits of the codes, see `kernels.spikes`, or the codes as integers.
        numel: how many values.
        dtype: of the values.
        unit: what one stands for; 1.0 for plain spikes and for integers.
        in_bits: whether ``codes`` are bits.
    """

    codes: Tensor
    numel: int
    dtype: torch.dtype
    unit: float
    in_bits: bool

    def whole(self) -> Tensor:
        """The values ``(numel,)`` that went in."""
        values = unpack(self.codes, self.numel, self.dtype) if self.in_bits else self.codes.to(self.dtype)
        return values if self.unit == 1.0 else values * self.unit


def packed(x: Tensor) -> Packed | None:
    """A form of ``x`` that takes a half to a 32nd of its bytes and gives the same values again, or None.

    Spikes of any height, sums of a few spikes, levels of integer neurons, masks and small indices have one. It is
    found by looking at the values, all of them, so on a GPU it waits for them.

    Args:
        x: ``(M,)``, dense.
    """
    if x.dtype == torch.bool:
        return Packed(pack(x, trusted=True), x.numel(), x.dtype, 1.0, True)
    if x.dtype in (torch.int64, torch.int32):
        return _short(x)
    if not x.is_floating_point():
        return None
    seen = set(x[:: max(1, x.numel() // SAMPLE)].tolist())  # NaN differs from itself, so many of them are many values
    if len(seen) > FEW or not all(0 <= value < torch.inf for value in seen):
        return None
    if seen <= {0.0, 1.0} and _is_binary(x):
        return Packed(pack(x, trusted=True), x.numel(), x.dtype, 1.0, True)
    unit = min(seen - {0.0}, default=0.0)
    # The sample may have missed the lowest level.
    return _levels(x, unit) or _levels(x, x.masked_fill(x <= 0, torch.inf).min().item())


def _is_binary(x: Tensor) -> bool:
    # x - x * x is zero for 0 and 1 only, NaN for NaN and infinity.
    return _is_zero(torch.addcmul(x, x, x, value=-1))


def _is_zero(x: Tensor) -> bool:
    low, high = x.aminmax()  # NaN where there is one, which equals nothing; several times faster than any()
    return bool((low == 0) & (high == 0))


def _levels(x: Tensor, unit: float) -> Packed | None:
    if not 0 < unit < torch.inf:
        return None
    # What does not fit into a byte comes back as something else, and so does what is no multiple.
    codes = (x if unit == 1.0 else (x / unit).round_()).to(torch.uint8)
    if not _is_zero(codes.to(x.dtype).mul_(unit).sub_(x)):
        return None
    in_bits = bool(codes.max() <= 1)
    return Packed(pack(codes, trusted=True) if in_bits else codes, x.numel(), x.dtype, unit, in_bits)


def _short(x: Tensor) -> Packed | None:
    low, high = (bound.item() for bound in x.aminmax())
    for dtype in SHORT:
        bounds = torch.iinfo(dtype)
        if dtype.itemsize < x.dtype.itemsize and bounds.min <= low and high <= bounds.max:
            return Packed(x.to(dtype), x.numel(), x.dtype, 1.0, False)
    return None
