"""Measuring costs little more than a forward."""

import statistics
import time

import torch

from snntorch_smixer import create_model
from snntorch_smixer.cost import measure


def test_measuring_is_cheap():
    """1.2 alone on a machine (benchmarks/cost_overhead.py); the slack is for what else runs there."""
    net, x = create_model("smixer-4-384").eval(), torch.randn(2, 3, 32, 32)
    ratios = []
    for _ in range(4):
        start = time.perf_counter()
        with torch.inference_mode():
            net(x)
        middle = time.perf_counter()
        measure(net, x)
        ratios.append((time.perf_counter() - middle) / (middle - start))
    assert statistics.median(ratios) < 2.5
