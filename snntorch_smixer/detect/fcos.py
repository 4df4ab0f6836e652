"""FCOS of torchvision on spiking maps, with a spiking head: a detector without AGPL code."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from snntorch_smixer import extras
from snntorch_smixer.detect.backbone import SpikingBackbone
from snntorch_smixer.detect.head import MeanOverSteps
from snntorch_smixer.detect.layers import SpikingConv
from snntorch_smixer.detect.rows import SpikingPyramid
from snntorch_smixer.errors import SettingError, check_count
from snntorch_smixer.neurons import IntegerLIF

if TYPE_CHECKING:
    from torchvision.models.detection import FCOS

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def spiking_fcos(
    backbone: SpikingBackbone | SpikingPyramid,
    num_classes: int,
    *,
    min_size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    neuron: Callable[[], nn.Module] = IntegerLIF,
) -> FCOS:
    """The FCOS of torchvision with spiking maps and a `SpikingFCOSHead`.

    It is called as every detector of torchvision: a list of pictures ``(C, H, W)`` in [0, 1] gives, in training with a
    list of targets (``boxes`` in pixels as left, top, right, bottom; ``labels`` from 0), its losses; in evaluation
    a list of dicts ``boxes``, ``scores``, ``labels``. Pictures are normalised inside, and padded at the right and the
    bottom to a multiple of 32. Everything in front of the boxes is spiking but the first convolution of the backbone,
    which reads the picture; anchors, losses and suppression of double boxes are torchvision's.

    Args:
        backbone: its maps; the strides are those of its anchors.
        num_classes: K, without a background.
        min_size: pixels that the shorter edge is resized to, the longer one to at most twice that; None: pictures keep
            their size.
        mean: per channel, for pixels in [0, 1]; default: that of the card of the backbone's network, else ImageNet's.
        std: per channel, likewise.
        neuron: makes one neuron of the head.

    Returns:
        A ``torchvision.models.detection.FCOS``; set ``score_thresh``, ``nms_thresh``, ``detections_per_img`` on it.

    Raises:
        MissingExtra: torchvision is not installed.
        SettingError: ``num_classes`` or ``min_size`` is no count, or mean and std do not fit the picture's channels.

    Source:
        Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", 2019; torchvision (BSD-3-Clause).

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import SpikingPyramid, spiking_fcos
        >>> model = spiking_fcos(SpikingPyramid("spike-yolo-n-smixer.yaml"), num_classes=3).eval()
        >>> sorted(model([torch.rand(3, 64, 96)])[0])
        ['boxes', 'labels', 'scores']
    """
    extras.torchvision_ready()
    detection = extras.need("torchvision.models.detection", extra="vision")
    anchors = extras.need("torchvision.models.detection.anchor_utils", extra="vision")
    check_count("spiking_fcos", "num_classes", num_classes)
    if min_size is not None:
        check_count("spiking_fcos", "min_size", min_size)
    mean, std = _statistics(backbone, mean, std)
    strides = backbone.strides
    model = detection.FCOS(
        _StepsInChannels(backbone),
        num_classes,
        min_size=min_size or 1,
        max_size=2 * (min_size or 1),
        image_mean=list(mean),
        image_std=list(std),
        anchor_generator=anchors.AnchorGenerator(tuple((s,) for s in strides), ((1.0,),) * len(strides)),
        head=SpikingFCOSHead(backbone.channels, num_classes, neuron=neuron),
        size_divisible=max(strides),
    )
    if min_size is None:
        model.transform = _KeepSize(model.transform)
    return model


def _statistics(
    backbone: nn.Module, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    card = getattr(getattr(backbone, "net", None), "card", None)
    known = (card.mean, card.std) if card is not None and card.mean else (IMAGENET_MEAN, IMAGENET_STD)
    mean, std = (own if given is None else given for own, given in zip(known, (mean, std), strict=True))
    first = next(p for p in backbone.parameters() if p.dim() == 4)
    if {len(mean), len(std)} != {first.shape[1]} or not all(math.isfinite(v) for v in (*mean, *std)) or min(std) <= 0:
        raise SettingError(
            f"spiking_fcos: got mean={tuple(mean)} and std={tuple(std)} for pictures of {first.shape[1]} channels. "
            "Pass one finite value per channel, std above 0."
        )
    return mean, std


class _KeepSize(nn.Module):
    """The transform of torchvision without its resizing, which it does in evaluation whatever it is set to."""

    def __init__(self, transform: nn.Module) -> None:
        super().__init__()
        self.inner: Any = transform

    def forward(
        self, images: Sequence[Tensor], targets: list[dict[str, Tensor]] | None = None
    ) -> tuple[Any, list[dict[str, Tensor]] | None]:
        """Normalised pictures, padded to one size, and the targets as they are."""
        sizes = [(one.shape[-2], one.shape[-1]) for one in images]
        batch = self.inner.batch_images([self.inner.normalize(one) for one in images], self.inner.size_divisible)
        lists = extras.need("torchvision.models.detection.image_list", extra="vision")
        return lists.ImageList(batch, sizes), targets

    def postprocess(
        self, result: list[dict[str, Tensor]], _sizes: list[tuple[int, int]], _original: list[tuple[int, int]]
    ) -> list[dict[str, Tensor]]:
        """Boxes in the pixels of the pictures, which are those of the network."""
        return result


class _StepsInChannels(nn.Module):
    """Maps ``(T, B, C, H, W)`` as ``(B, T * C, H, W)``: FCOS looks at four axes only, and the head takes them apart."""

    def __init__(self, backbone: SpikingBackbone | SpikingPyramid) -> None:
        super().__init__()
        self.spiking, self.out_channels = backbone, max(backbone.channels)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """One map per stride."""
        return OrderedDict((f"p{i}", one.transpose(0, 1).flatten(1, 2)) for i, one in enumerate(self.spiking(x), 3))


class SpikingFCOSHead(nn.Module):
    """Scores, distances and centredness of FCOS from spiking maps; each map has layers of its own.

    Time is averaged in the last layers, `MeanOverSteps`. Layers are not shared between maps as in the analog head, for
    BatchNorm, unlike GroupNorm, would mix their statistics.

    Args:
        channels: C of each map.
        classes: K.
        neuron: makes one neuron.

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import SpikingFCOSHead
        >>> out = SpikingFCOSHead((16,), 3)([torch.rand(1, 2 * 16, 4, 4)])  # (B, T * C, H, W)
        >>> [tuple(out[name].shape) for name in ("cls_logits", "bbox_regression", "bbox_ctrness")]
        [(1, 16, 3), (1, 16, 4), (1, 16, 1)]
    """

    def __init__(self, channels: Sequence[int], classes: int, *, neuron: Callable[[], nn.Module] = IntegerLIF) -> None:
        super().__init__()
        extras.torchvision_ready()
        coder = extras.need("torchvision.models.detection._utils", extra="vision").BoxLinearCoder
        self.channels, self.classes = tuple(channels), classes
        self.box_coder = coder(normalize_by_size=True)
        self.class_towers = nn.ModuleList(_tower(c, neuron) for c in channels)
        self.box_towers = nn.ModuleList(_tower(c, neuron) for c in channels)
        self.cls_logits = nn.ModuleList(MeanOverSteps(c, classes, neuron=neuron) for c in channels)
        self.bbox_reg = nn.ModuleList(MeanOverSteps(c, 4, neuron=neuron) for c in channels)
        self.bbox_ctrness = nn.ModuleList(MeanOverSteps(c, 1, neuron=neuron) for c in channels)
        for scores, sides in zip(self.cls_logits, self.bbox_reg, strict=True):
            _begin(scores, -math.log(99))  # one cell in a hundred holds an object
            _begin(sides, 2.0)  # in cells; distances begin above the zero of the ReLU

    def forward(self, maps: Sequence[Tensor]) -> dict[str, Tensor]:
        """Maps ``(B, T' * C, H, W)`` to ``cls_logits`` ``(B, cells, K)``, ``bbox_regression`` and ``bbox_ctrness``."""
        out: dict[str, list[Tensor]] = {"cls_logits": [], "bbox_regression": [], "bbox_ctrness": []}
        for i, (one, channels) in enumerate(zip(maps, self.channels, strict=True)):
            steps = one.unflatten(1, (-1, channels)).transpose(0, 1)  # (T', B, C, H, W)
            boxes = self.box_towers[i](steps)
            out["cls_logits"].append(self.cls_logits[i](self.class_towers[i](steps)))
            out["bbox_regression"].append(self.bbox_reg[i](boxes).relu())
            out["bbox_ctrness"].append(self.bbox_ctrness[i](boxes))
        return {name: torch.cat([one.flatten(2).transpose(1, 2) for one in parts], 1) for name, parts in out.items()}

    def compute_loss(
        self,
        targets: list[dict[str, Tensor]],
        head_outputs: dict[str, Tensor],
        anchors: list[Tensor],
        matched_idxs: list[Tensor],
    ) -> dict[str, Tensor]:
        """Focal, GIoU and centredness losses, as torchvision computes them."""
        head: Any = extras.need("torchvision.models.detection.fcos", extra="vision").FCOSHead
        return head.compute_loss(self, targets, head_outputs, anchors, matched_idxs)


def _begin(layer: Any, bias: float) -> None:
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.constant_(layer.bias, bias)


def _tower(channels: int, neuron: Callable[[], nn.Module]) -> nn.Sequential:
    return nn.Sequential(*(SpikingConv(channels, channels, 3, neuron=neuron) for _ in range(2)))


class FCOSMaps(nn.Module):
    """What of an FCOS needs no data-dependent shapes, for ONNX: normalised pictures to the outputs of the head.

    Args:
        model: see `spiking_fcos`; its layers are shared.

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import FCOSMaps, SpikingPyramid, spiking_fcos
        >>> model = spiking_fcos(SpikingPyramid("spike-yolo-n-smixer.yaml"), num_classes=3)
        >>> scores, distances, centred = FCOSMaps(model).eval()(torch.rand(1, 3, 64, 64))
        >>> scores.shape  # (B, cells, K), the cells of P3, P4, P5 behind each other
        torch.Size([1, 84, 3])
    """

    def __init__(self, model: FCOS) -> None:
        super().__init__()
        self.backbone, self.head = model.backbone, model.head

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``(B, C, H, W)`` to scores ``(B, cells, K)``, distances ``(B, cells, 4)`` in cells, centredness."""
        out = self.head(list(self.backbone(x).values()))
        return out["cls_logits"], out["bbox_regression"], out["bbox_ctrness"]


def export_onnx(maps: nn.Module, x: Tensor, path: str | Path) -> None:
    """Write `FCOSMaps`, or another module of one input, as ONNX, pruned or not.

    Args:
        maps: in evaluation mode.
        x: an input; the file is for this shape.
        path: written, or replaced.

    Raises:
        MissingExtra: onnx or onnxscript is not installed.
        SettingError: ``maps`` is in training mode.

    Examples:
        >>> import torch
        >>> from snntorch_smixer.detect import FCOSMaps, export_onnx
        >>> export_onnx(FCOSMaps(model).eval(), torch.rand(1, 3, 64, 64), "maps.onnx")  # doctest: +SKIP
    """
    if maps.training:
        raise SettingError("export_onnx: the model is in training mode. Call model.eval() first.")
    extras.need("onnx", extra="onnx")
    extras.need("onnxscript", extra="onnx")
    sort = torch.ops.aten.sort.stable
    torch.onnx.export(maps, (x,), Path(path), dynamo=True, custom_translation_table={sort: _stable_sort})


def _stable_sort(values: Any, stable: bool = True, dim: int = -1, descending: bool = False) -> Any:  # noqa: ARG001
    """The exporter of torch knows no stable sort; TopK of ONNX is one, for it takes the lower index on a tie."""
    op = extras.need("onnxscript", extra="onnx").opset18
    every = op.Gather(op.Shape(values), op.Constant(value_ints=[dim]))
    return op.TopK(values, every, axis=dim, largest=int(descending), sorted=1)
