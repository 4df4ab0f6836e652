"""Several networks on the same images, side by side."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor

from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.bench.memory import saved_bytes
from snntorch_smixer.bench.throughput import throughput
from snntorch_smixer.models.evaluate import accuracy
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.modes import in_mode


@dataclass(frozen=True)
class Row:
    """One network of a comparison.

    Attributes:
        net: name.
        accuracy: share of the images classified correctly.
        tokens: N' that reach the blocks.
        steps: T' that reach the blocks.
        dense_macs: multiply-accumulates per image of one forward pass.
        saved_bytes: per image, kept between forward and backward.
        images_per_s: forward pass, measured side by side; the only entry that changes from run to run.
    """

    net: str
    accuracy: float
    tokens: int
    steps: int
    dense_macs: float
    saved_bytes: float
    images_per_s: float


def compare(nets: Mapping[str, SMixerNet], x: Tensor, labels: Tensor) -> list[Row]:
    """One `Row` per network, in evaluation mode (bytes: in training mode); the networks are left as they were.

    Args:
        nets: by name.
        x: normalised images ``(n, C, H, W)``; the first 64 are used for bytes and the first 100 for speed.
        labels: int64 ``(n,)``.
    """
    with ExitStack() as modes:
        for net in nets.values():
            modes.enter_context(in_mode(net, training=False))
        speed = throughput(nets, x[:100])
        rows = []
        for name, net in nets.items():
            with torch.no_grad():
                steps, _, tokens, _ = net.features_and_kept(x[:1])[0].shape
            kept = saved_bytes(net, x[:64])
            rows.append(Row(name, accuracy(net, x, labels), tokens, steps, dense_macs(net, x[:1]), kept, speed[name]))
    return rows
