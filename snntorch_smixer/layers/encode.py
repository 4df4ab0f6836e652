"""Direct coding: what enters the stem, an image shown for T steps or T event frames."""

from __future__ import annotations

from torch import Tensor

from snntorch_smixer.errors import LayoutError


def encode(x: Tensor, *, steps: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Bring network input to ``(T, B, C, H, W)``, or to ``(1, B, C, H, W)`` for a static image.

    A static image is the same in every step, so what comes before the first neuron is computed once; the stem repeats
    it where the first neuron starts to differ between steps.

    Args:
        x: image ``(B, C, H, W)`` or event frames ``(T, B, C, H, W)``.
        steps: T.
        channels: C.
        size: ``(H, W)``.

    Raises:
        LayoutError: wrong rank, number of steps, channels, size or dtype.
    """
    if x.dim() not in (4, 5):
        raise LayoutError(
            f"encode: expected an image batch (B, {channels}, {size[0]}, {size[1]}) or event frames "
            f"({steps}, B, {channels}, {size[0]}, {size[1]}), got shape {tuple(x.shape)}; add the batch axis"
        )
    if x.dim() == 5 and x.shape[0] != steps:
        raise LayoutError(
            f"encode: expected {steps} steps on the first axis, got shape {tuple(x.shape)}; "
            "time comes first, so transpose batch-first frames, or build the network with this T"
        )
    if x.shape[-3] != channels or tuple(x.shape[-2:]) != tuple(size):
        raise LayoutError(
            f"encode: expected {channels} channels of {size[0]} x {size[1]}, got shape {tuple(x.shape)}; "
            "resize the input, or build the network with this img_size and in_channels"
        )
    if not x.is_floating_point():
        raise LayoutError(f"encode: expected floating-point input, got {x.dtype}; normalise the images first")
    return x.unsqueeze(0) if x.dim() == 4 else x
