"""Boxes and dropped tokens on a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from snntorch_smixer.detect.data import STRIDE, Letterbox, letterbox, open_picture
from snntorch_smixer.detect.detector import SpikingDetector
from snntorch_smixer.detect.layers import SpikingMixerBlocks
from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.modes import in_mode

COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7", "#0072B2", "#FFFFFF")
"""Okabe and Ito's palette, in the order in which classes take them."""


@torch.no_grad()
def dropped_tokens(net: SpikingDetector, picture: Any, *, size: int | None = None) -> np.ndarray:
    """Which pixels of a picture lie in tokens that the SMixer blocks drop: bool ``(H, W)``.

    Args:
        net: a detector that prunes tokens.
        picture: as `SpikingDetector.predict` takes one.
        size: pixels of the longer side that it is brought to; default: that of the training.

    Raises:
        SettingError: the detector drops no tokens, or has no SMixer blocks.
    """
    blocks = next((m for m in net.modules() if isinstance(m, SpikingMixerBlocks)), None)
    seen: list[Tensor] = []
    opened = open_picture(picture)
    x, how = letterbox(opened, max(net.config.img_size) if size is None else size, square=False)

    def note(_module: Any, args: Any, out: Any) -> None:
        if blocks is not None and args[3] == blocks.index and out[1] is not None:
            seen.append(out[1].keep_mask())

    hook = net.dstsp.register_forward_hook(note)
    try:
        with in_mode(net, training=False):
            net.raw(x[None])
    finally:
        hook.remove()
    if not seen or bool(seen[0].all()):
        raise SettingError("dropped_tokens: this detector drops no tokens. Set net.dstsp.ps = 0.2.")
    rows, columns = x.shape[1] // STRIDE, x.shape[2] // STRIDE
    cells = (~seen[0][0]).view(rows, columns).cpu().numpy()
    large = np.kron(cells, np.ones((STRIDE, STRIDE), bool))
    return _in_picture(large, how)


def _in_picture(mask: np.ndarray, how: Letterbox) -> np.ndarray:
    height, width = how.size
    y = np.minimum((np.arange(height) * how.scale).astype(int) + how.top, mask.shape[0] - 1)
    x = np.minimum((np.arange(width) * how.scale).astype(int) + how.left, mask.shape[1] - 1)
    return mask[y][:, x]


def draw_boxes(
    picture: Any, found: Mapping[str, Tensor], *, names: Sequence[str] = (), dropped: np.ndarray | None = None
) -> Any:
    """A picture with its boxes, classes and scores; pixels of dropped tokens are dimmed.

    Args:
        picture: as `SpikingDetector.predict` takes one.
        found: its result for this picture.
        names: of the classes, by label.
        dropped: see `dropped_tokens`.

    Returns:
        A PIL image of the size of the picture.

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import draw_boxes
        >>> one = torch.ones(1)
        >>> found = {"boxes": torch.tensor([[4.0, 4, 40, 30]]), "scores": one, "labels": one.long() - 1}
        >>> draw_boxes(torch.rand(3, 48, 64), found, names=["person"]).size
        (64, 48)
    """
    image, drawing, fonts = (need(f"PIL.{name}", extra="vision") for name in ("Image", "ImageDraw", "ImageFont"))
    pixels = (open_picture(picture) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
    if dropped is not None:
        dim = (0.35 * pixels + 0.65 * 235).astype(np.uint8)
        pixels = np.where(dropped[..., None], dim, pixels)
    canvas = image.fromarray(pixels)
    pen, unit = drawing.Draw(canvas), max(canvas.size) / 320
    font = fonts.load_default(size=max(9.0, 9 * unit))
    for box, score, label in zip(found["boxes"], found["scores"], found["labels"], strict=True):
        kind = int(label)
        colour = COLOURS[kind % len(COLOURS)]
        left, top, right, bottom = map(float, box)
        pen.rectangle((left, top, max(right, left), max(bottom, top)), outline=colour, width=max(2, round(1.5 * unit)))
        text = f"{names[kind] if kind < len(names) else kind} {float(score):.2f}"
        edges = pen.textbbox((left, top), text, font=font)
        up = min(top, edges[3] - edges[1] + 4) if top >= edges[3] - edges[1] + 4 else 0
        area = pen.textbbox((left + 2, top - up), text, font=font)
        pen.rectangle((area[0] - 2, area[1] - 1, area[2] + 2, area[3] + 1), fill=colour)
        pen.text((left + 2, top - up), text, font=font, fill="#000000")
    return canvas
