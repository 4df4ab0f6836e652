"""Optional dependencies in one place: importing them, and making torchvision work beside a CPU build of torch."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType

import torch
from torch import Tensor

from snntorch_smixer.errors import MissingExtra, check_choice

EXTRAS = {
    "vision": "image data sets and transforms",
    "viz": "pictures and tables",
    "train": "training",
    "detect": "detection",
    "onnx": "export to ONNX",
}
"""What each optional extra of the distribution is for."""


def need(module: str, *, extra: str) -> ModuleType:
    """Import an optional module, or say which extra brings it.

    Args:
        module: Dotted name, for example ``"matplotlib.pyplot"``.
        extra: The key of `EXTRAS` whose packages hold it.

    Returns:
        The imported module.

    Raises:
        MissingExtra: The module, or one that it imports itself, is not installed.
        SettingError: ``extra`` is unknown.
    """
    check_choice("need", "extra", extra, tuple(EXTRAS))
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        asked = "" if error.name == module else f" (imported for {module})"
        raise MissingExtra(
            f"need: {error.name}{asked} is not installed. Expected it for {EXTRAS[extra]}. "
            f'Run pip install "snntorch-smixer[{extra}]".',
            name=error.name,
        ) from error


def torchvision_ready() -> ModuleType:
    """Import torchvision, repairing it where its compiled operators do not fit the installed torch.

    A torchvision built for CUDA cannot load its operators beside a CPU torch, and then fails to import at all. The
    two operators that its import asks for are defined here instead, with non-maximum suppression in Python. Models,
    data sets, transforms, ``nms``, ``batched_nms`` and ``roi_align`` work afterwards; ``deform_conv2d`` and the image
    codecs of ``torchvision.io`` do not. Safe to call again, and after an import that failed.

    Returns:
        The imported torchvision.

    Raises:
        MissingExtra: torchvision is not installed.
        RuntimeError: torchvision fails to import for any other reason.

    Warns:
        RuntimeWarning: Once, when the repair was needed.

    Source:
        The import-time registrations in torchvision/_meta_registrations.py, release 0.28.0.
    """
    try:
        return need("torchvision", extra="vision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    _define_operators()
    torchvision = need("torchvision", extra="vision")
    # Only the guard of this one file: operators that stay missing keep torchvision's own clear error.
    torchvision.ops.boxes._assert_has_ops = lambda: None
    _warn_once()
    return torchvision


@functools.cache
def _define_operators() -> torch.library.Library:
    """Define torchvision's two import-time operators; the cache keeps the registration alive and single."""
    # FRAGMENT adds to the namespace; DEF would claim it, and only one library in a process may do that.
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    for device in ("CPU", "CUDA"):
        library.impl("nms", nms, device)
    return library


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        "torchvision's compiled operators do not fit the installed torch; a slow non-maximum suppression in Python is "
        "used. Expected a torchvision built for this torch. Install torch and torchvision together, from one index.",
        RuntimeWarning,
        stacklevel=3,
    )


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """Greedy non-maximum suppression: keep the best box, drop what overlaps it too much, repeat.

    Args:
        boxes: Corners ``(x1, y1, x2, y2)``, shape (K, 4).
        scores: One score per box, shape (K,). On a tie the lower index goes first.
        iou_threshold: A box is dropped when its intersection over union with a kept one is above this.

    Returns:
        Indices of the kept boxes, best score first, int64.
    """
    left, top, right, bottom = boxes.unbind(1)
    area = (right - left) * (bottom - top)
    queue = scores.argsort(descending=True, stable=True)
    keep = []
    while queue.numel():
        best, rest = queue[0], queue[1:]
        keep.append(best)
        width = (right[best].minimum(right[rest]) - left[best].maximum(left[rest])).clamp(min=0)
        height = (bottom[best].minimum(bottom[rest]) - top[best].maximum(top[rest])).clamp(min=0)
        overlap = width * height
        # Two empty boxes give 0/0; "not above" keeps them, as the compiled operator does.
        queue = rest[~(overlap / (area[best] + area[rest] - overlap) > iou_threshold)]
    return torch.stack(keep) if keep else queue
