"""Fashion-MNIST of a few images, in torchvision's layout."""

import gzip
import struct
from pathlib import Path

import numpy as np

TRAIN, TEST = 64, 32


def write_few_images(root: Path) -> Path:
    """Writes noise with random labels below ``root`` and returns it."""
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    draw = np.random.default_rng(0)
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        _write_idx(raw / f"{part}-images-idx3-ubyte.gz", draw.integers(256, size=(count, 28, 28), dtype=np.uint8))
        _write_idx(raw / f"{part}-labels-idx1-ubyte.gz", draw.integers(10, size=count, dtype=np.uint8))
    return root


def _write_idx(path: Path, values: np.ndarray) -> None:
    head = b"\0\0\x08" + bytes([values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(head + values.tobytes()))
