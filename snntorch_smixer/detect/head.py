"""Detection heads of spiking layers, and the way from their values to boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from snntorch_smixer import extras, shapes
from snntorch_smixer.detect.layers import SpikingConv
from snntorch_smixer.layers.unit import fire
from snntorch_smixer.neurons import IntegerLIF


class MeanOverSteps(nn.Conv2d):
    """The last layer of a head, a neuron and a 1 x 1 convolution: ``(T, B, C, H, W)`` to the mean over T.

    Here, and nowhere else, a detector leaves time: ``(B, C', H, W)``.

    Args:
        inside: C.
        outside: C'.
        neuron: makes one neuron.
    """

    def __init__(self, inside: int, outside: int, *, neuron: Callable[[], nn.Module] = IntegerLIF) -> None:
        super().__init__(inside, outside, 1)
        self.neuron = neuron()

    def forward(self, x: Tensor) -> Tensor:
        """See the class."""
        y = super().forward(shapes.fold_steps(fire(self.neuron, x)))
        return shapes.unfold_steps(y, x.shape[0]).mean(0)


def box_branch(channels: Sequence[int], bins: int, *, neuron: Callable[[], nn.Module] = IntegerLIF) -> nn.ModuleList:
    """For each map the layers that give the distances to the four sides, ``bins`` values a side."""
    width = max(16, channels[0] // 4, 4 * bins)
    return nn.ModuleList(
        nn.Sequential(SpikingConv(c, width, 3, neuron=neuron), MeanOverSteps(width, 4 * bins, neuron=neuron))
        for c in channels
    )


def class_branch(
    channels: Sequence[int], classes: int, *, neuron: Callable[[], nn.Module] = IntegerLIF
) -> nn.ModuleList:
    """For each map the layers that give a score per class."""
    width = max(channels[0], min(classes, 100))
    conv = partial(SpikingConv, neuron=neuron)
    return nn.ModuleList(
        nn.Sequential(conv(c, c, 3, groups=c), conv(c, width), MeanOverSteps(width, classes, neuron=neuron))
        for c in channels
    )


class SpikingHead(nn.Module):
    """Boxes and scores from maps ``(T, B, C, H, W)``: one box and K scores per cell, without anchors.

    The distance from the middle of a cell to each side of its box is the mean of a distribution over ``bins`` cells.
    Source: generalized focal loss (Li et al., 2020).

    Args:
        channels: of each map.
        classes: K.
        strides: pixels per cell of each map.
        bins: of a distance.
        neuron: makes one neuron.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        strides: Sequence[int],
        bins: int = 16,
        neuron: Callable[[], nn.Module] = IntegerLIF,
    ) -> None:
        super().__init__()
        self.classes, self.bins, self.strides = classes, bins, tuple(strides)
        self.cv2 = box_branch(channels, bins, neuron=neuron)
        self.cv3 = class_branch(channels, classes, neuron=neuron)

    def start(self, size: tuple[int, int]) -> None:
        """Let untrained scores say that objects are rare: about 5 in a picture of ``size``, (H, W) in pixels."""
        for branch, stride in zip(self.cv3, self.strides, strict=True):
            share = 5 / self.classes / (size[0] * size[1] / stride**2)
            last = cast(nn.Conv2d, cast(nn.Sequential, branch)[-1])
            nn.init.constant_(cast(Tensor, last.bias), math.log(share))

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Raw distances ``(B, 4 bins, cells)`` and scores ``(B, K, cells)``, all maps behind each other."""
        boxes = torch.cat([branch(one).flatten(2) for branch, one in zip(self.cv2, maps, strict=True)], 2)
        scores = torch.cat([branch(one).flatten(2) for branch, one in zip(self.cv3, maps, strict=True)], 2)
        return boxes, scores

    def decode(self, boxes: Tensor, scores: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
        """Boxes (left, top, right, bottom) in pixels and scores in [0, 1], ``(B, 4 + K, cells)``.

        Args:
            boxes: raw distances.
            scores: raw scores.
            sizes: (rows, columns) of each map.
        """
        middle, stride = cells(sizes, self.strides, like=boxes)
        bins = torch.arange(self.bins, device=boxes.device, dtype=boxes.dtype)
        sides = boxes.unflatten(1, (4, self.bins)).softmax(2).transpose(2, 3) @ bins  # (B, 4, cells)
        corners = torch.cat([middle - sides[:, :2], middle + sides[:, 2:]], 1)
        return torch.cat([corners * stride, scores.sigmoid()], 1)


def cells(sizes: Sequence[tuple[int, int]], strides: Sequence[int], *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Middles ``(2, cells)`` as (x, y) in cells, and pixels per cell ``(1, cells)``, of maps behind each other."""
    middles, pixels = [], []
    for (rows, columns), stride in zip(sizes, strides, strict=True):
        y = torch.arange(rows, device=like.device, dtype=like.dtype) + 0.5
        x = torch.arange(columns, device=like.device, dtype=like.dtype) + 0.5
        middles.append(torch.stack([x.repeat(rows), y.repeat_interleave(columns)]))
        pixels.append(torch.full((1, rows * columns), float(stride), device=like.device, dtype=like.dtype))
    return torch.cat(middles, 1), torch.cat(pixels, 1)


MOST_CANDIDATES = 3000
"""Boxes of a picture that are compared with each other; those with the highest scores."""


def detections(
    decoded: Tensor, *, score: float = 0.25, overlap: float = 0.7, most: int = 300, one_class: bool = True
) -> list[dict[str, Tensor]]:
    """The boxes of each picture after non-maximum suppression, in torchvision's form.

    Args:
        decoded: ``(B, 4 + K, cells)`` of `SpikingHead.decode`.
        score: least score of a box.
        overlap: boxes of one class that overlap more are one; intersection over union.
        most: boxes per picture.
        one_class: a cell gives its best class only; False: each whose score is high enough, for average precision.

    Returns:
        For each picture ``boxes`` ``(M, 4)`` in pixels, ``scores`` ``(M,)`` and ``labels`` ``(M,)``, best first.
    """
    ops = extras.torchvision_ready().ops
    found = []
    for one in decoded:
        best, label = one[4:].max(0)
        where = (best > score).nonzero()[:, 0]
        what = label[where]
        if not one_class:
            what, where = (one[4:] > score).nonzero().T
        scores, order = one[4 + what, where].sort(descending=True, stable=True)
        scores, order = scores[:MOST_CANDIDATES], order[:MOST_CANDIDATES]
        boxes, labels = one[:4, where[order]].T, what[order]
        chosen = ops.batched_nms(boxes, scores, labels, overlap)[:most]
        found.append({"boxes": boxes[chosen], "scores": scores[chosen], "labels": labels[chosen]})
    return found
