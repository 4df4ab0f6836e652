"""Who reaches whom along one axis of a linear map: groups of neighbours, or a kernel."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


@dataclass(frozen=True)
class Blocks:
    """Connections along one axis: groups of neighbours, in which every input reaches every output."""

    inputs: int
    outputs: int
    groups: int


@dataclass(frozen=True)
class Window:
    """A kernel along one axis: ``size`` inputs, ``out`` outputs."""

    size: int
    out: int
    kernel: int
    stride: int
    padding: int
    dilation: int
    transposed: bool

    def reach(self) -> Tensor:
        """Per input position, the taps of the kernel that end at an output."""
        return _reach(self)

    def matrix(self) -> Tensor | None:
        """Who reaches whom, as 0 and 1: ``(size, out)``; None where that takes more than 64 MiB."""
        return _matrix(self) if self.size * self.out <= _LARGEST_MATRIX else None


_LARGEST_MATRIX = 2**24


@lru_cache(maxsize=4096)
def _reach(w: Window) -> Tensor:
    return torch.bincount(_meeting(w)[0], minlength=w.size).double()


@lru_cache(maxsize=64)
def _matrix(w: Window) -> Tensor:
    matrix = torch.zeros(w.size, w.out)
    matrix[_meeting(w)] = 1.0
    return matrix


def _meeting(w: Window) -> tuple[Tensor, Tensor]:
    """Inputs and outputs that meet, one pair for each tap of the kernel."""
    starts, most = (w.size, w.out) if w.transposed else (w.out, w.size)
    ends = (torch.arange(starts)[:, None] * w.stride + torch.arange(w.kernel) * w.dilation - w.padding).flatten()
    real = (ends >= 0) & (ends < most)
    begins = torch.arange(starts).repeat_interleave(w.kernel)
    return (begins[real], ends[real]) if w.transposed else (ends[real], begins[real])


Connections = Blocks | Window | Tensor
"""Along one axis: groups in which every input reaches every output, a kernel, or who reaches whom as 0 and 1."""
