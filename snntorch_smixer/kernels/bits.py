"""Binary spikes as bits: the one packing convention of the package.

Eight spikes share a byte. Spikes lie along the last axis, the first of eight in the lowest bit (LSB first); a last
axis that is no multiple of 8 is filled up with zeros. So spikes ``(..., C)`` become uint8 ``(..., ceil(C / 8))`` and
``spike[c] = bits[c // 8] >> (c % 8) & 1``. For tokens the last axis holds channels, for maps a row of pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from snntorch_smixer.errors import LayoutError


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
        raise LayoutError("bits.pack: expected spikes (..., C), got a single number; add the axis of channels")
    x = spikes.detach()
    x = x if x.is_floating_point() else x.float()
    if not trusted:
        check_binary("bits.pack", x)
    x = F.pad(x, (0, -x.shape[-1] % 8))
    places = 2 ** torch.arange(8, dtype=x.dtype, device=x.device)
    # A product with powers of two: sums up to 255 are exact even in bfloat16, and it beats shifts and ors.
    packed = torch.mv(x.reshape(-1, 8), places).to(torch.uint8)
    return packed.view(*x.shape[:-1], x.shape[-1] // 8)


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
    check_bits("bits.unpack", bits, channels)
    rows = _bytes_to_spikes(bits.device).view(torch.int64).flatten()
    spread = rows.index_select(0, bits.reshape(-1).int()).view(torch.uint8)
    spread = spread.view(*bits.shape[:-1], bits.shape[-1] * 8)
    return spread[..., :channels].to(dtype).contiguous()


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
    check_bits("bits.spike_count", bits, channels)
    axes = tuple(axis % bits.dim() for axis in axes)
    if bits.dim() - 1 not in axes:
        counts = unpack(bits, channels, torch.uint8)
    else:
        ones = _bytes_to_spikes(bits.device).sum(1, dtype=torch.uint8)
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
            f"{tuple(bits.shape)}; pass the bits that bits.pack made of these spikes"
        )


def _bytes_to_spikes(device: torch.device) -> Tensor:
    """``(256, 8)`` uint8: the eight spikes of each byte. Not cached: it costs microseconds."""
    values = torch.arange(256, device=device)[:, None]
    return ((values >> torch.arange(8, device=device)) & 1).to(torch.uint8)
