"""Spikes that carry their bits: what the fused kernels hand to each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.bits import check_bits, pack, spike_count


@dataclass(frozen=True, eq=False)
class Spikes:
    """Binary spikes as numbers for the next product, and as bits for its backward pass.

    The numbers die with the forward pass, unless something else keeps them; the bits stay.

    Attributes:
        values: ``(T, ..., C)`` zeros and ones, with autograd history.
        bits: uint8 ``(T, ..., ceil(C / 8))``, the same spikes as packed by `bits.pack`, without history.
    """

    values: Tensor
    bits: Tensor

    def __post_init__(self) -> None:
        check_bits("Spikes", self.bits, self.values.shape[-1])
        if self.bits.shape[:-1] != self.values.shape[:-1]:
            raise LayoutError(
                f"Spikes: bits {tuple(self.bits.shape)} do not belong to values {tuple(self.values.shape)}; "
                "pass the bits of these values, or use Spikes.of"
            )

    @classmethod
    def of(cls, values: Tensor, *, trusted: bool = False) -> Spikes:
        """Spikes of a plain tensor ``(T, ..., C)``; ``trusted`` as in `bits.pack`.

        Raises:
            LayoutError: a value is neither 0 nor 1.
        """
        return cls(values, pack(values, trusted=trusted))

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
