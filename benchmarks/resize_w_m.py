"""Accuracy of a trained net at other resolutions, with W_M resized over its token grid.

    python benchmarks/resize_w_m.py

The 1,000 shipped test images, resized bicubically; no training. Deterministic up to float rounding.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from snntorch_smixer import from_pretrained
from snntorch_smixer.models.evaluate import accuracy

NAME = "smixer-2-64-fmnist"
SIZES = (20, 24, 28, 32, 36, 40, 56)
DATA = Path(__file__).parents[1] / "examples" / "data" / "fashion_mnist_test_1000.npz"


def measure(size: int, *, limit: int = 1000) -> float:
    """Share of the images that the net classifies correctly at ``size`` x ``size`` pixels."""
    with np.load(DATA) as data:
        images, labels = torch.from_numpy(data["images"][:limit]), torch.from_numpy(data["labels"][:limit]).long()
    net = from_pretrained(NAME, img_size=(size, size))
    x = net.card.preprocess(images.unsqueeze(1))
    return accuracy(net, F.interpolate(x, (size, size), mode="bicubic", antialias=True), labels)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in SIZES:
        print(f"{size} x {size}: {measure(size):.1%}")
