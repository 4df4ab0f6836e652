"""Training, validation, prediction and export of a spiking detector through ultralytics.

ultralytics is AGPL-3.0 and an optional extra: this file imports it, and no other does. Who gives others a program that
uses this file must follow that licence; `SpikingDetector` and `spiking_fcos` need neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import torch
import yaml
from torch import Tensor, nn

from snntorch_smixer.cards.card import WEIGHTS
from snntorch_smixer.detect.contain import contained, import_ultralytics
from snntorch_smixer.detect.data import STRIDE, BoxFolder
from snntorch_smixer.detect.detector import SpikingDetector, from_ultralytics
from snntorch_smixer.detect.head import box_branch, class_branch
from snntorch_smixer.detect.layers import GridDSTSP, regrid
from snntorch_smixer.detect.rows import KEYS, build_rows, read_config
from snntorch_smixer.errors import SettingError, is_count
from snntorch_smixer.models.saving import note_training
from snntorch_smixer.neurons import IntegerLIF

LICENCE = "AGPL-3.0"
"""Of weights that ultralytics trained."""

import_ultralytics()
with contained():
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.nn import tasks
    from ultralytics.nn.modules import Detect
    from ultralytics.utils import LOGGER


class SpikeDetect(Detect):
    """Heads of spiking layers on maps ``(T, B, C, H, W)``; boxes, scores and losses are those of ultralytics.

    Args:
        classes: K.
        reg_max: bins of a distance.
        channels: of the maps.
        neuron: makes one neuron.
    """

    def __init__(self, classes: int, reg_max: int, channels: Sequence[int], *, neuron: Callable[[], nn.Module]) -> None:
        super().__init__(classes, reg_max, False, list(channels))
        self.cv2 = box_branch(channels, reg_max, neuron=neuron)
        self.cv3 = class_branch(channels, classes, neuron=neuron)

    def forward_head(self, x: list[Tensor], box_head: Any = None, cls_head: Any = None) -> dict[str, Any]:
        """Distances ``(B, 4 reg_max, cells)`` and scores ``(B, K, cells)`` of all maps behind each other."""
        boxes = torch.cat([branch(one).flatten(2) for branch, one in zip(box_head, x, strict=True)], 2)
        scores = torch.cat([branch(one).flatten(2) for branch, one in zip(cls_head, x, strict=True)], 2)
        return {"boxes": boxes, "scores": scores, "feats": [one[0] for one in x]}


def is_spiking(table: Mapping[str, Any]) -> bool:
    """True for a YAML table of this package: its first row makes the time steps."""
    rows = table.get("backbone") or [[]]
    return len(rows[0]) == 4 and rows[0][2] == "SpikingStem"


def parse(config: Mapping[str, Any], ch: int, verbose: bool = True) -> tuple[nn.Sequential, list[int]]:  # noqa: ARG001
    """The layers of a YAML table in the form that ultralytics runs; takes the place of its ``parse_model``."""
    neuron = partial(IntegerLIF, config.get("levels", 4))
    rows, save, _ = build_rows(config, ch, lambda k, c: SpikeDetect(k, config.get("reg_max", 16), c, neuron=neuron))
    return rows, save


class _Parser:
    """Stands in for ``parse_model`` of ultralytics: tables of ours are built here, all others there."""

    def __init__(self, theirs: Callable[..., Any]) -> None:
        self.theirs = theirs

    def __call__(self, d: dict[str, Any], ch: int, verbose: bool = True) -> Any:
        return parse(d, ch, verbose) if is_spiking(d) else self.theirs(d, ch, verbose)


def register() -> None:
    """Let plain ``ultralytics.YOLO`` build spiking detectors from YAML files of this package; others stay as they are.

    Examples:
        >>> from snntorch_smixer.detect import config_path, register
        >>> from ultralytics import YOLO  # doctest: +SKIP
        >>> register()  # doctest: +SKIP
        >>> YOLO(config_path("spike-yolo-smixer.yaml"))  # doctest: +SKIP
    """
    if not isinstance(tasks.parse_model, _Parser):
        tasks.parse_model = _Parser(tasks.parse_model)


def unregister() -> None:
    """Undo `register`."""
    if isinstance(tasks.parse_model, _Parser):
        tasks.parse_model = tasks.parse_model.theirs


class SpikeDetectionModel(tasks.DetectionModel):
    """A spiking detector as ultralytics' detection model.

    Args:
        cfg: YAML file, name of a shipped one, or its table.
        ch: channels of the picture.
        nc: classes; None for those of the table.
        verbose: print the number of layers and parameters.
    """

    def __init__(
        self, cfg: str | Path | Mapping[str, Any], ch: int = 3, nc: int | None = None, verbose: bool = False
    ) -> None:
        table = read_config(cfg) if isinstance(cfg, (str, Path)) else deepcopy(dict(cfg))
        with mock.patch.object(tasks, "parse_model", parse):
            super().__init__(table, ch, nc, verbose=False)
        if verbose:
            self.info()

    @property
    def dstsp(self) -> GridDSTSP:
        """The pruning that all layers share; its settings may be changed at any time."""
        return next(m for m in self.model.modules() if isinstance(m, GridDSTSP))

    def info(self, detailed: bool = False, verbose: bool = True, imgsz: int = 640) -> Any:  # noqa: ARG002
        """Layers and parameters. Operations are not given: ultralytics counts none of what neurons do, see `cost`."""
        layers, parameters = len(list(self.modules())), sum(p.numel() for p in self.parameters())
        gradients = sum(p.numel() for p in self.parameters() if p.requires_grad)
        if verbose:
            LOGGER.info(f"{type(self).__name__}: {layers:,} layers, {parameters:,} parameters, {gradients:,} gradients")
        return layers, parameters, gradients, 0.0

    def _predict_once(self, x: Tensor, profile: bool = False, embed: Any = None) -> Any:
        wrong = [side for side in x.shape[-2:] if side % STRIDE]
        if wrong:
            raise SettingError(
                f"detector: got a picture of {x.shape[-2]} x {x.shape[-1]}, expected multiples of {STRIDE}. Pass "
                f"imgsz={-(-max(wrong) // STRIDE) * STRIDE}."
            )
        return super()._predict_once(x, profile, embed)


class SpikeTrainer(DetectionTrainer):
    """Trains a `SpikeDetectionModel`; ``W_M`` is made for the size of the pictures."""

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> SpikeDetectionModel:
        """The detector for the classes, channels and, unless weights are given, the picture size of the training."""
        table = read_config(cfg) if isinstance(cfg, (str, Path)) else dict(cfg)
        if not weights and "grid" in table:
            table["grid"] = [-(-self.args.imgsz // STRIDE)] * 2
        model = SpikeDetectionModel(table, nc=self.data["nc"], ch=self.data["channels"], verbose=verbose)
        model = self.set_model_names_for_load(model)
        if weights:
            model.load(weights)
        return model


class SpikeYOLO(YOLO):
    """``ultralytics.YOLO`` for spiking detectors: train, val, predict and export.

    What ultralytics changes for the whole process (threads, print options, OpenCV) is restored behind each call.

    Args:
        model: a YAML file, a shipped one ("spike-yolo-n-smixer.yaml"), or a ``.pt`` of its own trainer.
        task: "detect".
        verbose: as in ultralytics.

    Attributes:
        model: the `SpikeDetectionModel`.

    Examples:
        >>> from snntorch_smixer.detect import SpikeYOLO
        >>> model = SpikeYOLO("spike-yolo-n-smixer.yaml")
        >>> model.train(data="coco8.yaml", epochs=1, ps=0.2, t=1)  # doctest: +SKIP
    """

    model: Any

    def __init__(
        self, model: str | Path = "spike-yolo-n-smixer.yaml", task: str = "detect", verbose: bool = False
    ) -> None:
        with contained():
            super().__init__(str(model), task=task, verbose=verbose)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """What "detect" stands for here."""
        detect = super().task_map["detect"]
        return {"detect": {**detect, "model": SpikeDetectionModel, "trainer": SpikeTrainer}}

    @property
    def dstsp(self) -> GridDSTSP:
        """The pruning of the detector; its settings may be changed at any time."""
        return self.model.dstsp

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        table = {**read_config(cfg), "yaml_file": cfg}  # an export lies beside it
        with mock.patch("ultralytics.engine.model.yaml_model_load", return_value=table):
            super()._new(cfg, task=task, verbose=verbose)

    def train(self, *args: Any, ps: float | None = None, t: int | None = None, **kwargs: Any) -> Any:
        """Train as ``YOLO.train`` does, with pruning.

        Args:
            args: as in ultralytics.
            ps: share of tokens to drop in each block; None leaves what the model has.
            t: steps to keep; None leaves what the model has.
            kwargs: of ultralytics: data, epochs, imgsz, batch and so on.

        Raises:
            SettingError: ps or t does not fit the model, or the pictures are no multiple of the stride.
            CardError: the data set has no pictures, no boxes, or wrong ones; nothing is written then.
        """
        now, model, named = self.dstsp.settings, self.model, self.overrides.get("model")
        settings = replace(now, ps=now.ps if ps is None else ps, t=now.t if t is None else t)
        self.dstsp.check(settings)
        data = _check_training(kwargs)
        self.dstsp.settings = settings
        self.model.yaml.update(ps=settings.ps, t=settings.t)
        # The trainer builds the model from files, in each of its processes, so what was chosen goes into some.
        with contained(), TemporaryDirectory() as scratch:
            if data is not None:
                kwargs["data"] = _written(Path(scratch) / "data.yaml", data)
            if not self.ckpt:
                self.overrides["model"] = _written(Path(scratch) / Path(self.cfg).name, plain_table(self.model.yaml))
            try:
                return super().train(*args, **kwargs)
            except BaseException:
                model.dstsp.settings, self.model = now, model
                model.yaml.update(ps=now.ps, t=now.t)
                self.overrides["model"] = named
                raise

    def val(self, *args: Any, **kwargs: Any) -> Any:
        """Validate as ``YOLO.val`` does."""
        with contained():
            return super().val(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Predict as ``YOLO.predict`` does."""
        with contained():
            return super().predict(*args, **kwargs)

    def export(self, *args: Any, **kwargs: Any) -> Any:
        """Export as ``YOLO.export`` does, without pruning; ``format="onnx"`` was tried. ``W_M`` is made for ``imgsz``.

        Raises:
            SettingError: the pruning drops something: its ranking is a sort that depends on the picture, for which the
                exporter of ultralytics has no operator.
        """
        settings = self.dstsp.settings
        if self.dstsp.is_active() and (settings.ps or settings.t not in (None, self.dstsp.steps)):
            raise SettingError(
                f"SpikeYOLO.export: got a detector with ps={settings.ps}, t={settings.t}, and the ranking of DSTSP "
                "cannot be exported. Set model.dstsp.ps = 0 and model.dstsp.t = None."
            )
        size = kwargs.get("imgsz", self.overrides.get("imgsz", 640))
        rows, columns = (size, size) if isinstance(size, int) else size
        model = self.model
        with contained():
            self.model = regrid(deepcopy(model), (-(-rows // STRIDE), -(-columns // STRIDE)))
            try:
                return super().export(*args, **kwargs)
            finally:
                self.model = model


def detector_of(
    model: SpikeYOLO, *, names: Sequence[str] = (), img_size: tuple[int, int] | None = None
) -> SpikingDetector:
    """The network that a `SpikeYOLO` has trained, to be saved, published and used without ultralytics.

    Args:
        model: trained, or loaded from a ``.pt``.
        names: of the classes; default: those of the training.
        img_size: (H, W) of the training; default: that of the grid of ``W_M``.
    """
    trained = model.model
    net = from_ultralytics(trained.state_dict(), {**trained.yaml, "nc": len(trained.names)}, img_size=img_size)
    classes = tuple(names) or tuple(trained.names[i] for i in range(len(trained.names)))
    note_training(net, name="detector", classes=classes)
    if net.card is not None:
        net.describe(replace(net.card, license=LICENCE), weights=net.card.files[WEIGHTS].sha256)
    return net


def _check_training(asked: Mapping[str, Any]) -> dict[str, Any] | None:
    """Check size and data; the data set with an absolute path, None where ultralytics finds it by its name.

    Of ``path: .`` ultralytics takes the working directory for the place, everybody else the folder of the file.
    """
    size = asked.get("imgsz", 640)
    if not is_count(size) or size % STRIDE:
        near = -(-max(int(size), 1) // STRIDE) * STRIDE if isinstance(size, (int, float)) else 640
        raise SettingError(
            f"SpikeYOLO.train: got imgsz={size!r}, expected a whole number that is a multiple of {STRIDE}. Pass {near}."
        )
    data = asked.get("data")
    if asked.get("resume") or not isinstance(data, (str, Path)) or _is_known(data):
        return None
    found = BoxFolder.read(data)
    found.check()
    splits = {split: str(place) for split, place in found.splits.items()}
    return {"path": str(found.root), **splits, "names": dict(enumerate(found.names))}


def _written(path: Path, table: Mapping[str, Any]) -> str:
    path.write_text(yaml.safe_dump(dict(table), sort_keys=False), encoding="utf-8")
    return str(path)


def _is_known(data: str | Path) -> bool:
    """True for a data set that ultralytics knows by name, "coco8.yaml": it looks for that and downloads it."""
    from ultralytics import utils

    name = Path(data).name
    return not Path(data).exists() and (utils.ROOT / "cfg" / "datasets" / name).exists()


def plain_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a YAML table of ours, without those that ultralytics adds."""
    return {key: table[key] for key in KEYS if key in table}
