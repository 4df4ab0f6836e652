"""`SpikingDetector`: rows of a YAML file and heads as one network, published and loaded without ultralytics."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, cast

import torch
import yaml
from torch import Tensor, nn

from snntorch_smixer.detect.data import STRIDE, letterbox, open_picture
from snntorch_smixer.detect.head import SpikingHead, detections
from snntorch_smixer.detect.layers import GridDSTSP
from snntorch_smixer.detect.rows import FOLDER, SpikingPyramid, read_config
from snntorch_smixer.errors import LayoutError, SettingError, check_choice, check_count, is_count
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.spec import NetworkConfig, architecture, named
from snntorch_smixer.neurons import IntegerLIF
from snntorch_smixer.pruning.pruner import DSTSPConfig

Found = list[dict[str, Tensor]]
"""For each picture ``boxes`` ``(M, 4)``, ``scores`` ``(M,)`` and ``labels`` ``(M,)``."""

KINDS = ("smixer", "conv")
EPSILON, MOMENTUM = 1e-3, 0.03
"""Of BatchNorm on maps, as ultralytics sets them when it trains: the weights belong to them."""
SCALES: Mapping[str, tuple[float, float, int]] = {
    key: (value[0], value[1], int(value[2]))
    for key, value in read_config(FOLDER / "spike-yolo-smixer.yaml")["scales"].items()
}
"""Depth, width and most channels by letter, as in the YAML files."""


@dataclass(frozen=True)
class DetectorConfig(NetworkConfig):
    """Everything that defines a `SpikingDetector`.

    Attributes:
        img_size: (H, W) of the training; pictures of any multiple of 32 are taken.
        in_channels: of a picture.
        num_classes: K.
        T: time steps.
        kind: "smixer", or "conv" for convolution blocks in the place of the SMixer blocks.
        depth_scale: repeats of the YAML file are multiplied with it.
        width_scale: channels are.
        most_channels: before scaling.
        levels: D, spikes that a neuron may fire in one step.
        heads: h, matrices ``W_M`` of a mixer block.
        grid: (rows, columns) that ``W_M`` is made for.
        prune: DSTSP settings, or None for no pruning.
    """

    architecture: ClassVar[str] = "spike-yolo"
    adjustable: ClassVar[tuple[str, ...]] = ("T", "prune")

    img_size: tuple[int, int] = (320, 320)
    in_channels: int = 3
    num_classes: int = 80
    T: int = 2
    kind: str = "smixer"
    depth_scale: float = 0.33
    width_scale: float = 0.25
    most_channels: int = 1024
    levels: int = 4
    heads: int = 8
    grid: tuple[int, int] = (10, 10)
    prune: DSTSPConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("in_channels", "num_classes", "T", "most_channels", "levels", "heads"):
            check_count("DetectorConfig", name, getattr(self, name))
        for name in ("img_size", "grid"):
            value = getattr(self, name)
            if not isinstance(value, (tuple, list)) or len(value) != 2 or not all(map(is_count, value)):
                raise SettingError(f"DetectorConfig: {name}={value!r} must be two whole numbers of at least 1.")
        for name in ("depth_scale", "width_scale"):
            if not isinstance(getattr(self, name), (int, float)) or not 0 < getattr(self, name) <= 4:
                raise SettingError(f"DetectorConfig: {name}={getattr(self, name)!r} is outside (0, 4]. Pass 0.25.")
        check_choice("DetectorConfig", "kind", self.kind, KINDS)
        if any(side % STRIDE for side in self.img_size):
            raise SettingError(f"DetectorConfig: img_size={self.img_size} must be multiples of {STRIDE}. Pass 320.")
        if self.prune is not None and not isinstance(self.prune, DSTSPConfig):
            raise SettingError(f"DetectorConfig: got prune of type {type(self.prune).__name__}. Pass a DSTSPConfig.")

    @classmethod
    def of_table(cls, table: Mapping[str, Any], *, img_size: tuple[int, int] | None = None) -> DetectorConfig:
        """The configuration of a YAML table.

        Raises:
            SettingError: its rows are not those of a shipped file, which a configuration cannot hold.
        """
        kind = next((k for k in KINDS if all(table.get(p) == _shipped(k)[p] for p in ("backbone", "head"))), None)
        if kind is None:
            raise SettingError(
                f"DetectorConfig: the rows are those of no shipped file ({', '.join(KINDS)}), so they cannot be "
                "published. Use SpikingPyramid and keep the YAML file with the weights."
            )
        depth, width, most = table["scales"][table["scale"]]
        grid = tuple(table.get("grid", (10, 10)))
        ps, t = table.get("ps") or 0.0, table.get("t")
        return cls(
            img_size=img_size or (grid[0] * STRIDE, grid[1] * STRIDE),
            num_classes=table["nc"],
            T=table.get("T", 1),
            kind=kind,
            depth_scale=depth,
            width_scale=width,
            most_channels=most,
            levels=table.get("levels", 4),
            heads=table.get("heads", 8),
            grid=grid,
            prune=DSTSPConfig(ps=ps, t=t, merge="drop") if ps or t is not None else None,
        )

    def table(self) -> dict[str, Any]:
        """The YAML table that builds it."""
        prune = self.prune or DSTSPConfig(ps=0.0, t=None)
        own = {
            "nc": self.num_classes,
            "T": self.T,
            "levels": self.levels,
            "heads": self.heads,
            "grid": list(self.grid),
            "ps": prune.ps if isinstance(prune.ps, (int, float)) else 0.0,
            "t": prune.t,
            "scales": {"x": [self.depth_scale, self.width_scale, self.most_channels]},
            "scale": "x",
        }
        return {**_shipped(self.kind), **own}


def _shipped(kind: str) -> dict[str, Any]:
    return read_config(FOLDER / f"spike-yolo-{kind}.yaml")


@architecture(DetectorConfig)
class SpikingDetector(Network):
    """A spiking detector: pictures in, boxes out; with ``train()`` the raw values that a loss takes.

    Pictures ``(B, C, H, W)`` of any multiple of 32 and frames ``(T, B, C, H, W)``. Its weights are those that
    `SpikeYOLO` trains, see `from_ultralytics`.

    Attributes:
        config: the `DetectorConfig` it was built from.
        dstsp: the pruning; its settings may be changed at any time, ``net.dstsp.ps = 0.2``.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import create_model
        >>> net = create_model("spike-yolo-n-smixer-dstsp").eval()
        >>> found = net(torch.rand(1, 3, 64, 96))
        >>> sorted(found[0])
        ['boxes', 'labels', 'scores']
    """

    config: DetectorConfig
    input_weights = ("pyramid.rows.0.unit.linear.weight",)
    head_path = "head.cv3"

    def __init__(self, config: DetectorConfig | None = None) -> None:
        super().__init__()
        self.config = DetectorConfig() if config is None else config
        self.pyramid = SpikingPyramid(self.config.table(), channels=self.config.in_channels)
        self.head = self.fresh_head()
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps, module.momentum = EPSILON, MOMENTUM
        if self.config.prune is not None:
            self.dstsp.settings = self.config.prune

    @property
    def dstsp(self) -> GridDSTSP:
        """The pruning that all layers share."""
        return self.pyramid.dstsp

    @property
    def num_features(self) -> int:
        """Channels of the coarsest map."""
        return self.pyramid.channels[-1]

    def live_config(self) -> DetectorConfig:
        """The configuration with the pruning settings of now."""
        now = self.dstsp.settings
        return dataclasses.replace(self.config, prune=now if now.ps or now.t is not None else None)

    def fresh_head(self) -> SpikingHead:
        """Randomly initialised heads for the classes of ``config``."""
        pyramid, levels = self.pyramid, self.config.levels
        head = SpikingHead(
            pyramid.channels, self.config.num_classes, strides=pyramid.strides, neuron=partial(IntegerLIF, levels)
        )
        head.start(self.config.img_size)
        return head

    def stream(self, x: Tensor) -> Iterator[Tensor]:
        """The picture, then the maps P3, P4, P5 ``(T', B, C, H, W)``."""
        yield x
        yield from self.maps(x)

    def maps(self, x: Tensor) -> list[Tensor]:
        """P3, P4, P5, ``(T', B, C, H, W)``.

        Raises:
            LayoutError: a side is no multiple of 32.
        """
        wrong = [side for side in x.shape[-2:] if side % STRIDE]
        if wrong:
            raise LayoutError(
                f"SpikingDetector: got a picture of {x.shape[-2]} x {x.shape[-1]}, expected multiples of {STRIDE}. Pad "
                f"it, {wrong[0]} to {-(-wrong[0] // STRIDE) * STRIDE}, or pass pictures to predict, which does."
            )
        return self.pyramid(x)

    def raw(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distances ``(B, 4 bins, cells)`` and scores ``(B, K, cells)`` before decoding: what a loss takes."""
        return self.head(self.maps(x))

    def decoded(self, x: Tensor) -> Tensor:
        """Boxes in pixels and scores of every cell, ``(B, 4 + K, cells)``; no box is left out yet. For export."""
        maps = self.maps(x)
        sizes = [(one.shape[3], one.shape[4]) for one in maps]
        head = cast(SpikingHead, self.head)
        boxes, scores = head(maps)
        return head.decode(boxes, scores, sizes)

    def forward(self, x: Tensor | Sequence[Tensor]) -> Any:
        """In evaluation mode the boxes of each picture, in training mode `raw`.

        Boxes are those that average precision asks for: every class of a cell with a score above 0.001, the 300 best of
        a picture. `predict` gives those that are worth a look.

        Args:
            x: pictures ``(B, C, H, W)``, or a list of ``(C, H, W)`` of one size, as torchvision's detectors take them.
        """
        x = x if isinstance(x, Tensor) else torch.stack(list(x))
        return self.raw(x) if self.training else detections(self.decoded(x), score=0.001, one_class=False)

    def forward_head(self, x: Tensor, *, pre_logits: bool = False) -> Tensor:  # noqa: ARG002
        """Refused: the heads of a detector take three maps. Call `raw`."""
        raise SettingError("SpikingDetector.forward_head: the heads take three maps. Call net.head(net.maps(x)).")

    @torch.no_grad()
    def predict(self, pictures: Sequence[Any], *, score: float = 0.25, size: int | None = None) -> Found:
        """The boxes in pictures of any size, in their own pixels.

        Args:
            pictures: files, PIL images, arrays ``(H, W, 3)`` of bytes or tensors ``(3, H, W)`` in [0, 1].
            score: least score of a box.
            size: pixels of the longer side that they are brought to; default: that of the training.

        Raises:
            CardError: what is no picture.
            SettingError: ``size`` is no multiple of 32.
        """
        size = max(self.config.img_size) if size is None else size
        if not is_count(size) or size % STRIDE:
            raise SettingError(f"predict: size={size!r} must be a multiple of {STRIDE}. Pass {10 * STRIDE}.")
        opened = [open_picture(picture) for picture in pictures]
        weight, training, found = next(self.parameters()), self.training, []
        self.eval()
        try:
            for picture in opened:
                x, how = letterbox(picture, size, square=False)
                one = detections(self.decoded(x[None].to(weight)), score=score)[0]
                found.append({**one, "boxes": how.back(one["boxes"])})
        finally:
            self.train(training)
        return found

    def more_files(self) -> dict[str, bytes]:
        """``detector.yaml``, which `SpikeYOLO` reads."""
        text = yaml.safe_dump(self.live_config().table(), sort_keys=False)
        return {"detector.yaml": text.encode()}


def from_ultralytics(
    state: Mapping[str, Tensor], table: Mapping[str, Any], *, img_size: tuple[int, int] | None = None
) -> SpikingDetector:
    """The detector whose weights ultralytics trained, from ``model.state_dict()`` and ``model.yaml`` of `SpikeYOLO`.

    Args:
        state: names such as "model.0.unit.linear.weight".
        table: the YAML table.
        img_size: (H, W) of the training; default: that of the grid of ``W_M``.

    Raises:
        SettingError: weights of another network.
    """
    net = SpikingDetector(DetectorConfig.of_table(table, img_size=img_size))
    last = len(net.pyramid.rows) - 1
    names = {}
    for name in state:
        row, _, inner = name.removeprefix("model.").partition(".")
        names[name] = f"head.{inner}" if row == str(last) else f"pyramid.rows.{row}.{inner}"
    # The decoding of ultralytics holds whole numbers, 0 to bins, as weights.
    kept = {names[name]: value.float() for name, value in state.items() if not name.startswith(f"model.{last}.dfl.")}
    wrong = sorted(set(kept) ^ set(net.state_dict()))
    if wrong:
        raise SettingError(f"from_ultralytics: {wrong[0]} is in weights or in table only. Pass those of one model.")
    net.load_state_dict(kept)
    return net.eval()


CONFIGS: Mapping[str, DetectorConfig] = named(
    {
        f"spike-yolo-{letter}-{kind}": DetectorConfig(
            kind=kind, depth_scale=depth, width_scale=width, most_channels=most
        )
        for letter, (depth, width, most) in SCALES.items()
        for kind in KINDS
    }
)
"""Named configurations: "spike-yolo-n-smixer" and so on."""
