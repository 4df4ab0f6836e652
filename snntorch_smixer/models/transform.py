"""From one picture, or several, to what a network takes: its size, normalised as its card says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.cards.card import Card
from snntorch_smixer.errors import CardError, LayoutError, SettingError
from snntorch_smixer.models.network import Network
from snntorch_smixer.pictures import upright

_MODES = {1: "L", 3: "RGB"}
"""Mode of a PIL image by channels."""

_EIGHT_BITS = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
"""Modes of PIL that convert to eight bits per channel without clipping."""


@dataclass(frozen=True)
class Transform:
    """Resizes, crops and normalises; see `create_transform`. It can be pickled, for the workers of a ``DataLoader``.

    Attributes:
        size: (H, W) of the result.
        card: with the mean and standard deviation per channel.
        crop: share of the resized picture's shorter side that the centre crop takes.
    """

    size: tuple[int, int]
    card: Card
    crop: float

    def __call__(self, image: Any) -> Tensor:
        """One image to ``(C, H, W)``, a batch of them to ``(B, C, H, W)``, float32.

        Args:
            image: a PIL image; an array ``(H, W)``, ``(H, W, C)`` or ``(B, H, W, C)``; or a tensor ``(C, H, W)`` or
                ``(B, C, H, W)``. Arrays and tensors are uint8, or floating point in [0, 1].

        Raises:
            LayoutError: another kind, rank, number of channels or range of values.
        """
        channels = len(self.card.mean)
        pixels = _pixels(image, channels)
        if pixels.dim() not in (3, 4) or pixels.shape[-3] != channels or not pixels.numel():
            raise LayoutError(
                f"create_transform: got an image of shape {tuple(pixels.shape)} with channels first, expected "
                f"({channels}, H, W), with or without a batch. Convert it to {channels} channels."
            )
        return self.card.preprocess(self._sized(_unit_range(pixels)))

    def _sized(self, pixels: Tensor) -> Tensor:
        """The size of the network; what has it already stays as it is."""
        height, width = pixels.shape[-2:]
        if (height, width) == self.size:
            return pixels
        short, wanted = min(height, width), round(max(self.size) / self.crop)
        resized = (int(wanted * height / short), int(wanted * width / short))
        batch = pixels if pixels.dim() == 4 else pixels[None]
        large = F.interpolate(batch, resized, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
        top, left = (round((have - want) / 2) for have, want in zip(resized, self.size, strict=True))
        cut = large[..., top : top + self.size[0], left : left + self.size[1]]
        return cut if pixels.dim() == 4 else cut[0]


def create_transform(net: nn.Module, *, crop: float = 0.875) -> Transform:
    """What makes images into the input of ``net``: resized, cropped to the centre, normalised as its card says.

    An image that has the size of the network is only normalised. Any other one is resized, bicubically and
    antialiased, so that ``crop`` of its shorter side is the longer side of the network's input, and the centre is
    taken, as evaluation on picture folders does. A PIL image is first turned the way that its EXIF data say.

    Args:
        net: a network of this package with a card; size and card are those of now.
        crop: share of the shorter side, in (0, 1]; 1 keeps all of it.

    Raises:
        CardError: no card, or one without mean and standard deviation.
        SettingError: no network of this package, one for event frames, or ``crop`` is out of range.

    Examples:
        >>> import numpy as np
        >>> from snntorch_smixer import create_transform, from_pretrained
        >>> net = from_pretrained("smixer-2-64-fmnist")
        >>> create_transform(net)(np.zeros((40, 60, 1), np.uint8)).shape
        torch.Size([1, 28, 28])
    """
    if not isinstance(net, Network):
        raise SettingError(f"create_transform: got {type(net).__name__}, expected a network of this package. Pass one.")
    if isinstance(crop, bool) or not isinstance(crop, (int, float)) or not 0 < crop <= 1:
        raise SettingError(f"create_transform: crop={crop!r} is outside (0, 1]. Pass 0.875, or 1 for the whole.")
    if net.config.takes_frames:
        raise SettingError(
            f"create_transform: this {type(net).__name__} takes event frames (T, B, 2, H, W), not images. Pass the "
            "frames to it as they are."
        )
    card, channels = net.card, net.config.in_channels
    if card is None:
        raise CardError(
            f"create_transform: this {type(net).__name__} has no card, so mean and std of its inputs are not known. "
            "Load it with from_pretrained, or set net.card to a Card with mean and std."
        )
    if len(card.mean) != channels:
        raise CardError(
            f"create_transform: the card of {card.name} names mean and std of {len(card.mean)} channels, expected "
            f"{channels}. Set net.card = dataclasses.replace(net.card, mean=..., std=...)."
        )
    height, width = net.config.img_size
    return Transform((height, width), card, float(crop))


def _pixels(image: Any, channels: int) -> Tensor:
    """The values with channels first."""
    if isinstance(image, Tensor):
        return image
    if hasattr(image, "convert") and hasattr(image, "mode"):  # a PIL image, without importing Pillow
        if image.mode not in _EIGHT_BITS:
            raise LayoutError(
                f"create_transform: got a picture of mode {image.mode!r}, expected eight bits per channel. Rescale its "
                "values to 0..255 first."
            )
        image = np.array(upright(image).convert(_MODES[channels]))
    if not isinstance(image, np.ndarray):
        raise LayoutError(
            f"create_transform: got {type(image).__name__}, expected a PIL image, a numpy array (H, W, C) or a tensor "
            "(C, H, W). Convert it."
        )
    if image.dtype != np.uint8 and image.dtype.kind != "f":
        raise LayoutError(f"create_transform: got values of {image.dtype}, expected uint8 or floats. Convert them.")
    values = torch.from_numpy(np.ascontiguousarray(image[..., None] if image.ndim == 2 else image))
    return values.movedim(-1, -3) if values.dim() > 2 else values


def _unit_range(pixels: Tensor) -> Tensor:
    """Float32 values in [0, 1]."""
    if pixels.dtype == torch.uint8:
        return pixels.float() / 255
    if not pixels.is_floating_point():
        raise LayoutError(f"create_transform: got values of {pixels.dtype}, expected uint8 or floats. Convert them.")
    low, high = pixels.amin().item(), pixels.amax().item()
    if not 0 <= low <= high <= 1:
        raise LayoutError(
            f"create_transform: got floating-point values from {low:g} to {high:g}, expected [0, 1]. Divide by 255, "
            "and do not normalise before."
        )
    return pixels.float()
