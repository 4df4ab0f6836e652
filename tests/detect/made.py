"""A made data set in the YOLO layout: coloured rectangles on noise."""

from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = ((220, 40, 40), (40, 60, 220))


def rectangles(root: Path, *, pictures: int = 4, size: int = 64) -> Path:
    """Two rectangles a picture, one of each class, in train and in val."""
    draw = np.random.default_rng(0)
    for split in ("train", "val"):
        images, labels = root / "images" / split, root / "labels" / split
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(pictures):
            pixels = draw.integers(90, 150, (size, size, 3), dtype=np.uint8)
            rows = []
            for kind, colour in enumerate(COLOURS):
                w, h = draw.integers(size // 4, size // 2, 2)
                x, y = draw.integers(0, size - w), draw.integers(0, size - h)
                pixels[y : y + h, x : x + w] = colour
                rows.append(f"{kind} {(x + w / 2) / size} {(y + h / 2) / size} {w / size} {h / size}")
            Image.fromarray(pixels).save(images / f"{number}.png")
            (labels / f"{number}.txt").write_text("\n".join(rows))
    text = f"path: {root}\ntrain: images/train\nval: images/val\nnames: {{0: red, 1: blue}}\n"
    (root / "data.yaml").write_text(text)
    return root
