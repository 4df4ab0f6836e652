"""Reading a picture file into eight bits and three colours, without clipping what has more."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from snntorch_smixer.errors import CardError
from snntorch_smixer.extras import need

_EIGHT_BITS = ("1", "L", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("P", "PA", "LA", "La", "RGBA", "RGBa")
_SIXTEEN_BITS_AS_32 = ("PNG", "PPM")
"""Formats whose deep pictures Pillow opens as 32-bit numbers in some releases, though they hold at most 16 bits."""

_ORIENTATION = 0x0112
_TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
"""What brings a picture of an EXIF orientation upright."""


def read_picture(path: Path) -> Any:
    """A PIL image, RGB of eight bits, turned the way that its EXIF data say.

    Sixteen bits are rescaled to eight. Transparency is dropped and the colours below it are taken, as torchvision
    does.

    Raises:
        CardError: no readable picture, or one of 32-bit or floating-point values, whose range no file states.
        MissingExtra: Pillow is not installed.
    """
    pillow = need("PIL.Image", extra="vision")
    try:
        with pillow.open(path) as image:
            image.load()
            return _rgb(path, upright(image), image.format)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, pillow.DecompressionBombError) as error:
        raise CardError(f"{path}: no readable picture ({error}). Get it again, or remove it.") from error


def eight_bits(image: Any) -> Any:
    """A PIL image that is open already, as `read_picture` gives it."""
    return _rgb(Path("picture"), upright(image), getattr(image, "format", None))


def upright(image: Any) -> Any:
    """A PIL image turned the way that its EXIF data say; the same object where they say nothing."""
    try:
        turn = _TURNS.get(image.getexif().get(_ORIENTATION))
    except (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error):
        # EXIF data that cannot be read say nothing about the picture.
        return image
    return image if turn is None else image.transpose(getattr(need("PIL.Image", extra="vision").Transpose, turn))


def _rgb(path: Path, image: Any, file_format: str | None) -> Any:
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and file_format in _SIXTEEN_BITS_AS_32):
        image = _eight_bits(image)
    elif mode in _ALPHA:
        # Palettes with partial transparency warn when they are converted in one step.
        image = image.convert("RGBA")
    elif mode not in _EIGHT_BITS:
        raise CardError(
            f"{path}: a picture of mode {mode!r} has no stated range of values, expected 8 or 16 bits per channel. "
            "Convert it to an 8-bit PNG."
        )
    return image.convert("RGB")


def _eight_bits(image: Any) -> Any:
    # 65,535 becomes 255, so 257 steps are one.
    pixels = np.asarray(image).astype(np.uint32)
    return need("PIL.Image", extra="vision").fromarray(((pixels + 128) // 257).astype(np.uint8))
