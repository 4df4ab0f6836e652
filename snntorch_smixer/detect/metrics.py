"""Mean average precision of a detector, as COCO defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snntorch_smixer import extras
from snntorch_smixer.detect.data import BoxData, batches
from snntorch_smixer.errors import LayoutError, SettingError, check_count
from snntorch_smixer.modes import in_mode

Boxes = Mapping[str, Tensor]


@dataclass(frozen=True)
class Precision:
    """Mean average precision over the classes that have objects, in [0, 1]; at most 100 boxes a picture count.

    Attributes:
        map50: a box counts from an overlap (intersection over union) of 0.5.
        map50_95: the mean over the overlaps 0.5, 0.55, ..., 0.95.
        per_class: map50_95 of each class that has objects.

    Examples:
        >>> from snntorch_smixer.detect import Precision
        >>> print(Precision(0.5, 0.25, {"person": 0.25}))
        mAP50 0.500, mAP50-95 0.250 over 1 class
    """

    map50: float
    map50_95: float
    per_class: dict[str, float]

    def __str__(self) -> str:
        count = len(self.per_class)
        return f"mAP50 {self.map50:.3f}, mAP50-95 {self.map50_95:.3f} over {count} class{'es' if count != 1 else ''}"


def average_precision(
    found: Sequence[Boxes], wanted: Sequence[Boxes], *, names: Sequence[str] | None = None
) -> Precision:
    """Precision of found boxes, by torchmetrics with faster-coco-eval.

    Args:
        found: of each picture ``boxes`` ``(M, 4)`` as left, top, right, bottom, ``scores`` ``(M,)``, ``labels``
            ``(M,)``.
        wanted: of each picture ``boxes`` and ``labels``.
        names: of the labels, for the table per class; default: the labels themselves.

    Raises:
        MissingExtra: torchmetrics or faster-coco-eval is not installed.
        LayoutError: lists of other lengths or tensors of other shapes.
        SettingError: no picture has a box, so that there is nothing to find.

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import average_precision
        >>> box = {"boxes": torch.tensor([[2.0, 2.0, 8.0, 8.0]]), "labels": torch.tensor([0])}
        >>> print(average_precision([{**box, "scores": torch.tensor([0.9])}], [box]))
        mAP50 1.000, mAP50-95 1.000 over 1 class
    """
    _check(found, wanted)
    extras.torchvision_ready()
    extras.need("faster_coco_eval", extra="detect")
    metrics = extras.need("torchmetrics.detection.mean_ap", extra="detect")
    metric = metrics.MeanAveragePrecision(class_metrics=True, backend="faster_coco_eval")
    metric.warn_on_many_detections = False  # the 100 best are what COCO counts
    with torch.no_grad():
        metric.update([_plain(one, "scores") for one in found], [_plain(one) for one in wanted])
        result = metric.compute()
    labels, values = result["classes"].reshape(-1).tolist(), result["map_per_class"].reshape(-1).tolist()
    named = {(str(label) if names is None else names[label]): v for label, v in zip(labels, values, strict=True)}
    # -1 stands for a class that was found and never wanted.
    per_class = {name: value for name, value in named.items() if value >= 0}
    return Precision(float(result["map_50"]), float(result["map"]), per_class)


def evaluate(
    model: nn.Module | Callable[[list[Tensor]], list[dict[str, Tensor]]], data: BoxData, *, batch_size: int = 8
) -> Precision:
    """Precision of a detector on a data set, in evaluation mode; afterwards it is in the mode in which it was.

    Args:
        model: a list of pictures ``(3, H, W)`` in [0, 1] to a list of ``boxes``, ``scores``, ``labels``, as
            `spiking_fcos` and all detectors of torchvision.
        data: letterboxed pictures with their boxes.
        batch_size: pictures in one call.

    Raises:
        SettingError: no picture has a box, or ``batch_size`` is no count.
    """
    check_count("evaluate", "batch_size", batch_size)
    if isinstance(model, nn.Module):
        with in_mode(model, training=False):
            return _evaluate(model, data, batch_size)
    return _evaluate(model, data, batch_size)


def _evaluate(model: Callable[[list[Tensor]], list[dict[str, Tensor]]], data: BoxData, size: int) -> Precision:
    weight = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device = torch.device("cpu") if weight is None else weight.device
    found: list[Boxes] = []
    wanted: list[Boxes] = []
    with torch.no_grad():
        for pictures, targets in batches(data, size):
            found += [{k: v.cpu() for k, v in one.items()} for one in model(list(pictures.to(device)))]
            wanted += targets
    return average_precision(found, wanted, names=data.data.names)


def _plain(one: Boxes, *more: str) -> dict[str, Tensor]:
    return {name: one[name].detach().cpu() for name in ("boxes", "labels", *more)}


def _check(found: Sequence[Boxes], wanted: Sequence[Boxes]) -> None:
    if len(found) != len(wanted):
        raise LayoutError(f"average_precision: got boxes found in {len(found)} pictures, and wanted in {len(wanted)}.")
    for i, (one, other) in enumerate(zip(found, wanted, strict=True)):
        for boxes, keys in ((one, ("boxes", "scores", "labels")), (other, ("boxes", "labels"))):
            got = {key: tuple(boxes[key].shape) if key in boxes else () for key in keys}
            if got["boxes"][1:] != (4,) or any(shape[:1] != got["boxes"][:1] for shape in got.values()):
                raise LayoutError(
                    f"average_precision: picture {i} has {got}, expected boxes (M, 4), labels (M,) and, where found, "
                    "scores (M,)."
                )
    if not any(len(one["labels"]) for one in wanted):
        raise SettingError("average_precision: no picture has a box, so there is nothing to find. Pass labelled ones.")
