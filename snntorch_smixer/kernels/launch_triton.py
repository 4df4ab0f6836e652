"""How the kernels of `kernels.lif_triton` are launched: shapes, block sizes and the tensors they write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton.language as tl
from torch import Tensor

from snntorch_smixer.errors import SettingError
from snntorch_smixer.kernels.fire import Firing
from snntorch_smixer.kernels.lif_triton import backward_kernel, finish_kernel, forward_kernel
from snntorch_smixer.kernels.triton_tools import (
    Layout,
    Slope,
    channel_axis,
    chunks,
    launch,
    power_of_two,
    row_block,
    slope_of,
    tile,
)


@dataclass(frozen=True, eq=False)
class Norm:
    """A BatchNorm that comes before the neuron.

    Attributes:
        weight: ``(C,)`` or None.
        bias: ``(C,)`` or None.
        mean: ``(C,)``, of the batch or running.
        second: ``(C,)``, 1 / std of the batch, or the running variance.
        by_batch: which of the two ``second`` is.
        eps: added to the running variance.
    """

    weight: Tensor | None
    bias: Tensor | None
    mean: Tensor | None
    second: Tensor | None
    by_batch: bool
    eps: float


@dataclass(frozen=True, eq=False)
class Launch:
    """One LIF, with the BatchNorm before it if there is one, ready for the kernels.

    Attributes:
        x: ``(T, ...)``, contiguous; a single step where the input is static.
        neuron: the LIF.
        norm: the BatchNorm, or None.
        steps: T that the neuron sees.
        axis: along which channels lie, counted from the end; None where there are none.
        layout: one step as the kernels see it.
    """

    x: Tensor
    neuron: Firing
    norm: Norm | None
    steps: int
    axis: int | None
    layout: Layout

    @classmethod
    def alone(cls, x: Tensor, neuron: Firing) -> Launch:
        """Of a LIF without BatchNorm, for any ``x`` that is served."""
        # Strided and expanded input is copied: the kernels know one order of values.
        x, axis = x.contiguous(), channel_axis(neuron.beta, neuron.threshold)
        return cls(x, neuron, None, x.shape[0], axis, Layout.of(x, axis, x.shape[0]))

    @classmethod
    def behind(cls, norm: Norm, x: Tensor, neuron: Firing, steps: int) -> Launch:
        """Of a LIF behind a BatchNorm of tokens ``(T, ..., N, C)`` or maps ``(T, B, C, H, W)``."""
        x, axis = x.contiguous(), norm_axis(x)
        return cls(x, neuron, norm, steps, axis, Layout.of(x, axis, steps))

    def forward(self, bits: Tensor | None) -> Tensor:
        """Spikes ``(T, ...)`` in the dtype of ``x``; written into ``bits`` too, if given, as `bits.pack` packs them."""
        layout, (rows, columns) = self.layout, row_block(self.layout.last)
        spikes, total = self.x.new_empty(self.steps, *self.x.shape[1:]), layout.size // layout.last
        height, packed = max(1, layout.inner // layout.last), total * -(-layout.last // 8)
        lengths = total, layout.last, height, layout.channels, layout.size, packed
        fixed = {"IS_MAP": self.axis not in (None, -1), "ROWS": rows, "COLUMNS": columns}
        programs = -(-total // rows) * -(-layout.last // columns)
        self._run(forward_kernel, programs, (self.x, spikes, bits, *self._parameters(), *lengths), fixed)
        return spikes

    def new_sums(self) -> Tensor:
        """Memory for what `backward` adds up, ``(4, pieces, C)``: by shift, by scale, by beta, by threshold."""
        return self.x.new_empty(4, self._pieces()[0], self.layout.channels, dtype=torch.float32)

    def backward(self, grad: Tensor, *, by_x: Tensor | None, sums: Tensor | None, totals: Tensor | None = None) -> None:
        """Write the gradient of ``x`` into ``by_x`` and the pieces of the sums over each channel into ``sums``.

        Args:
            grad: gradient of the spikes, any strides.
            by_x: as ``x``, or None.
            sums: from `new_sums`, or None.
            totals: from `finish`; needed for ``by_x`` behind a BatchNorm over the batch.
        """
        layout, (pieces, tiles), block = self.layout, self._pieces(), tile(self.layout, self.steps)
        share = 1 / (layout.per_channel * self.x.shape[0])
        tensors = self.x, grad.contiguous(), by_x, sums, totals, *self._parameters(), share
        lengths = layout.per_channel, layout.inner, layout.channels, layout.size, tiles
        slope = self._slope()
        fixed = {"KIND": slope.kind, "A": slope.first, "B": slope.second, "VALUES": block[0], "CHANNELS": block[1]}
        self._run(backward_kernel, pieces * -(-layout.channels // block[1]), (*tensors, *lengths), fixed)

    def finish(self, sums: Tensor, by_weight: Tensor | None, by_bias: Tensor | None) -> Tensor:
        """Sums over each channel, ``(4, C)`` as in `new_sums`; writes the gradients of the BatchNorm's parameters."""
        pieces, channels = sums.shape[1:]
        totals, norm = sums.new_empty(4, channels), self.norm
        second, eps, by_batch = (None, 0.0, True) if norm is None else (norm.second, norm.eps, norm.by_batch)
        block = min(32, power_of_two(channels))
        arguments = sums, totals, by_weight, by_bias, second, eps, pieces, channels
        fixed = {"BY_BATCH": by_batch, "PIECES": power_of_two(pieces), "CHANNELS": block}
        launch(finish_kernel, -(-channels // block), arguments, fixed)
        return totals

    def by_parameters(self, totals: Tensor, needs: tuple[bool, bool]) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of beta and threshold, of the shapes and dtypes of these, from the sums over the channels."""
        beta, threshold = self.neuron.beta, self.neuron.threshold
        by_beta = by_threshold = None
        if needs[0]:
            by_beta = _fit(totals[2], beta).masked_fill((beta < 0) | (beta > 1), 0)
        if needs[1]:
            by_threshold = _fit(totals[3], threshold)
        return by_beta, by_threshold

    def _pieces(self) -> tuple[int, int]:
        return chunks(self.layout, tile(self.layout, self.steps))

    def _slope(self) -> Slope:
        slope = slope_of(self.neuron.spike_grad)
        if slope is None:
            raise SettingError(
                f"Triton kernels: got the surrogate {self.neuron.spike_grad!r}, which they do not know; ask `serves` "
                "first, and take the plain path where it says no"
            )
        return slope

    def _parameters(self) -> tuple[Any, ...]:
        norm = self.norm
        found = (None,) * 4 if norm is None else (norm.mean, norm.second, norm.weight, norm.bias)
        parameters = (self.neuron.beta, self.neuron.threshold, *found)
        # The kernels know no strides; one number spread over the channels, for example, has none.
        return *(None if p is None else p.contiguous() for p in parameters), 0.0 if norm is None else norm.eps

    def _run(self, kernel: Any, programs: int, arguments: tuple[Any, ...], fixed: dict[str, Any]) -> None:
        neuron, norm = self.neuron, self.norm
        shared = {
            "STEPS": self.steps,
            "STATIC": self.steps != self.x.shape[0],
            "NORM": norm is not None,
            "BY_BATCH": norm is not None and norm.by_batch,
            "RESET": neuron.reset,
            "BETA_BY_CHANNEL": neuron.beta.numel() > 1,
            "THRESHOLD_BY_CHANNEL": neuron.threshold.numel() > 1,
            "INDEX": tl.int64 if self.layout.is_wide else tl.int32,
        }
        launch(kernel, programs, arguments, {**shared, **fixed})


def norm_axis(z: Tensor) -> int:
    """Axis of the channels that a BatchNorm sees, from the end: of tokens ``(T, ..., N, C)`` or of maps."""
    return -3 if z.dim() == 5 else -1


def _fit(by_channel: Tensor, like: Tensor) -> Tensor:
    total = by_channel if like.numel() > 1 else by_channel.sum()
    return total.view(like.shape).to(like.dtype)
