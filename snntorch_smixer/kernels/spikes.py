"""Spikes that carry their bits: what the fused kernels hand to each other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.bits import check_binary, check_bits, pack, spike_count


@dataclass(frozen=True, eq=False)
class Spikes:
    """Binary spikes as numbers for the next product, and as bits for its backward pass.

    The numbers die with the forward pass, unless something else keeps them; the bits stay. Bits that are not given are
    made when they are first asked for, so what only wants numbers never pays for them.

    Attributes:
        values: ``(T, ..., C)`` zeros and ones, with autograd history.
        given: bits of ``values`` where they exist already, as packed by `bits.pack`; None to make them when needed.
        trusted: ``values`` need no check that they are binary, see `bits.pack`. Others are checked at once.
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
        """Spikes of a plain tensor ``(T, ..., C)``; ``trusted`` as in `bits.pack`, ``bits`` where they exist already.

        Raises:
            LayoutError: a value is neither 0 nor 1, or the bits are not of this shape.
        """
        return cls(values, bits, trusted)

    @cached_property
    def bits(self) -> Tensor:
        """uint8 ``(T, ..., ceil(C / 8))``, the same spikes as packed by `bits.pack`, without history."""
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
