"""Binary spikes as bits: the one packing convention of the package, and spikes that carry their bits.

Eight spikes share a byte. Spikes lie along the last axis, the first of eight in the lowest bit (LSB first); a last
axis that is no multiple of 8 is filled up with zeros. So spikes ``(..., C)`` become uint8 ``(..., ceil(C / 8))`` and
``spike[c] = bits[c // 8] >> (c % 8) & 1``. For tokens the last axis holds channels, for maps a row of pixels.
"""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.compiled import Tiered

_TABLES = {
    "places": [1 << place for place in range(8)],
    "ones": [byte.bit_count() for byte in range(256)],
    # The eight spikes of each byte, as bytes of one long number: torch gathers these faster than rows.
    "spikes": [int.from_bytes([byte >> k & 1 for k in range(8)], sys.byteorder) for byte in range(256)],
}


@dataclass(frozen=True, eq=False)
class Spikes:
    """Binary spikes as numbers for the next product, and as bits for its backward pass.

    The numbers die with the forward pass, unless something else keeps them; the bits stay. Bits that are not given are
    made when they are first asked for, so what only wants numbers never pays for them.

    Attributes:
        values: ``(T, ..., C)`` zeros and ones, with autograd history.
        given: bits of ``values`` where they exist already, as packed by `pack`; None to make them when needed.
        trusted: ``values`` need no check that they are binary, see `pack`. Others are checked at once.
    """

    values: Tensor
    given: Tensor | None = None
    trusted: bool = False

    def __post_init__(self) -> None:
        if self.given is None:
            if not self.trusted:
                check_binary("Spikes", self.values.detach())
            return
        check_bits("Spikes", self.given, self.values.shape[-1])
        if self.given.shape[:-1] != self.values.shape[:-1]:
            raise LayoutError(
                f"Spikes: bits {tuple(self.given.shape)} do not belong to values {tuple(self.values.shape)}; "
                "pass the bits of these values, or use Spikes.of"
            )

    @classmethod
    def of(cls, values: Tensor, *, trusted: bool = False, bits: Tensor | None = None) -> Spikes:
        """Spikes of a plain tensor ``(T, ..., C)``; ``trusted`` as in `pack`, ``bits`` where they exist already.

        Raises:
            LayoutError: a value is neither 0 nor 1, or the bits are not of this shape.
        """
        return cls(values, bits, trusted)

    @cached_property
    def bits(self) -> Tensor:
        """uint8 ``(T, ..., ceil(C / 8))``, the same spikes as packed by `pack`, without history."""
        return pack(self.values, trusted=True) if self.given is None else self.given

    @property
    def shape(self) -> torch.Size:
        """Shape of the spikes, not of the bits."""
        return self.values.shape

    @property
    def channels(self) -> int:
        """Length of the packed (last) axis: C of tokens ``(T, B, N, C)``, W of maps ``(T, B, C, H, W)``."""
        return self.values.shape[-1]

    def count(self, axes: tuple[int, ...]) -> Tensor:
        """Spikes summed over ``axes``, int64: the spike intensity value, counted on the bits."""
        return spike_count(self.bits, self.channels, axes)


def pack(spikes: Tensor, *, trusted: bool = False) -> Tensor:
    """Bits of binary spikes.

    Args:
        spikes: ``(..., C)`` zeros and ones of any dtype, any strides.
        trusted: skip the check that all values are 0 or 1 (on a GPU it waits for the result). Only for what is binary
            by construction, such as the result of a comparison; anything else would be packed as nonsense.

    Returns:
        uint8 ``(..., ceil(C / 8))``, contiguous, without autograd history.

    Raises:
        LayoutError: no axis, or a value that is neither 0 nor 1 (2, 0.5, NaN, infinity, -1).
    """
    if spikes.dim() == 0:
        raise LayoutError("spikes.pack: expected spikes (..., C), got a single number; add the axis of channels")
    x = spikes.detach()
    x = x if x.is_floating_point() else x.float()
    if not trusted:
        check_binary("spikes.pack", x)
    short = -x.shape[-1] % 8
    x = F.pad(x, (0, short)) if short else x  # it copies even where there is nothing to add
    return _bytes(x.reshape(-1, 8)).view(*x.shape[:-1], x.shape[-1] // 8)


def unpack(bits: Tensor, channels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Spikes of bits: the inverse of `pack`.

    Args:
        bits: uint8 ``(..., ceil(C / 8))``.
        channels: C.
        dtype: of the result.

    Returns:
        ``(..., C)``, contiguous.

    Raises:
        LayoutError: ``bits`` is no uint8 tensor that holds C spikes.
    """
    check_bits("spikes.unpack", bits, channels)
    spikes = _spread(bits.reshape(-1), dtype).view(*bits.shape[:-1], bits.shape[-1] * 8)
    return spikes if channels % 8 == 0 else spikes[..., :channels].contiguous()


def spike_count(bits: Tensor, channels: int, axes: tuple[int, ...]) -> Tensor:
    """Spikes summed over axes, without making floats of them: SIV on bits.

    Args:
        bits: uint8 ``(..., ceil(C / 8))``.
        channels: C.
        axes: axes of the spikes ``(..., C)`` to sum over; with the last axis among them only bytes are counted.

    Returns:
        int64 counts of the axes that are left.

    Raises:
        LayoutError: ``bits`` is no uint8 tensor that holds C spikes.
    """
    check_bits("spikes.spike_count", bits, channels)
    axes = tuple(axis % bits.dim() for axis in axes)
    if bits.dim() - 1 not in axes:
        counts = unpack(bits, channels, torch.uint8)
    else:
        ones = _table("ones", torch.uint8, bits)
        counts = ones.index_select(0, bits.reshape(-1).int()).view(bits.shape)
    return counts.sum(axes, dtype=torch.int64) if axes else counts.to(torch.int64)


def check_binary(where: str, x: Tensor) -> None:
    """Raise `LayoutError` unless every value is 0 or 1; one pass over ``x`` and one over its result."""
    # x - x * x is zero for 0 and 1 only; NaN and infinity stay NaN or infinite, which counts as true.
    if bool(torch.addcmul(x, x, x, value=-1).any()):
        odd = x[(x != 0) & (x != 1)].flatten()[0].item()
        raise LayoutError(
            f"{where}: expected binary spikes, got the value {odd:g} in shape {tuple(x.shape)}; "
            "only 0 and 1 fit into bits, so keep integer or real values in the plain path"
        )


def check_bits(where: str, bits: Tensor, channels: int) -> None:
    """Raise `LayoutError` unless ``bits`` is uint8 with ``ceil(channels / 8)`` bytes on its last axis."""
    if bits.dtype != torch.uint8 or bits.dim() == 0 or bits.shape[-1] != -(-channels // 8):
        raise LayoutError(
            f"{where}: expected uint8 (..., {-(-channels // 8)}) for {channels} channels, got {bits.dtype} "
            f"{tuple(bits.shape)}; pass the bits that spikes.pack made of these spikes"
        )


def _bytes_eagerly(x: Tensor) -> Tensor:
    """Bytes of ``(M, 8)`` spikes."""
    # A product with powers of two: sums up to 255 are exact even in bfloat16, and it beats shifts and ors.
    return torch.mv(x, _table("places", x.dtype, x)).to(torch.uint8)


def _bytes_traced(x: Tensor) -> Tensor:
    total = x[:, 0]
    for place in range(1, 8):
        total = total + x[:, place] * (1 << place)
    return total.to(torch.uint8)


def _spread_eagerly(bits: Tensor, dtype: torch.dtype) -> Tensor:
    """``(8 M,)`` spikes of ``(M,)`` bytes."""
    return _table("spikes", torch.int64, bits).index_select(0, bits.int()).view(torch.uint8).to(dtype)


def _spread_traced(bits: Tensor, dtype: torch.dtype) -> Tensor:
    places = torch.arange(8, dtype=torch.uint8, device=bits.device)
    return ((bits[:, None] >> places) & 1).to(dtype).flatten()


_bytes = Tiered(_bytes_eagerly, _bytes_traced)
_spread = Tiered(_spread_eagerly, _spread_traced)


def _table(name: str, dtype: torch.dtype, like: Tensor) -> Tensor:
    # Those on shapes alone (fake tensors) belong to one mode, so they are made anew.
    make = _kept_table if type(like) is Tensor else _kept_table.__wrapped__
    return make(name, dtype, like.device)


@functools.cache
def _kept_table(name: str, dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(_TABLES[name], dtype=dtype, device=device)
