"""Training, validation, prediction and export of a spiking detector through ultralytics.

ultralytics is AGPL-3.0 and an optional extra: this file imports it, and nothing else in the package does. Who gives
others a program that uses this file must follow that licence; `snntorch_smixer.detect.fcos` needs neither.
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

from snntorch_smixer import extras
from snntorch_smixer.detect.head import box_branch, class_branch
from snntorch_smixer.detect.layers import GridDSTSP
from snntorch_smixer.detect.rows import KEYS, build_rows, read_config
from snntorch_smixer.neurons import IntegerLIF

extras.torchvision_ready()
from ultralytics import YOLO  # noqa: E402
from ultralytics.models.yolo.detect import DetectionTrainer  # noqa: E402
from ultralytics.nn import tasks  # noqa: E402
from ultralytics.nn.modules import Detect  # noqa: E402


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


def parse(config: Mapping[str, Any], ch: int, verbose: bool = True) -> tuple[nn.Sequential, list[int]]:  # noqa: ARG001
    """The layers of a YAML table in the form that ultralytics runs; takes the place of its ``parse_model``."""
    neuron = partial(IntegerLIF, config.get("levels", 4))
    rows, save, _ = build_rows(config, ch, lambda k, c: SpikeDetect(k, config.get("reg_max", 16), c, neuron=neuron))
    return rows, save


class SpikeDetectionModel(tasks.DetectionModel):
    """A spiking detector as ultralytics' detection model.

    Attributes:
        dstsp: the pruning; its settings may be changed at any time.
    """

    def __init__(
        self, cfg: str | Path | Mapping[str, Any], ch: int = 3, nc: int | None = None, verbose: bool = False
    ) -> None:
        table = read_config(cfg) if isinstance(cfg, (str, Path)) else deepcopy(dict(cfg))
        with mock.patch.object(tasks, "parse_model", parse):
            super().__init__(table, ch, nc, verbose=False)

    @property
    def dstsp(self) -> GridDSTSP:
        """The pruning that all layers share."""
        return next(m for m in self.model.modules() if isinstance(m, GridDSTSP))


LARGEST_STRIDE = 32
"""Pixels per cell of the coarse map, P5."""


class SpikeTrainer(DetectionTrainer):
    """Trains a `SpikeDetectionModel`."""

    def get_model(self, cfg: Any = None, weights: nn.Module | None = None, verbose: bool = True) -> SpikeDetectionModel:
        """The detector for the classes, channels and, unless weights are given, the picture size of the training."""
        table = read_config(cfg) if isinstance(cfg, (str, Path)) else dict(cfg)
        if not weights and "grid" in table:
            table["grid"] = [-(-self.args.imgsz // LARGEST_STRIDE)] * 2
        model = SpikeDetectionModel(table, nc=self.data["nc"], ch=self.data["channels"], verbose=verbose)
        model = self.set_model_names_for_load(model)
        if weights:
            model.load(weights)
        return model


class SpikeYOLO(YOLO):
    """``YOLO`` for spiking detectors: train, val, predict and export.

    Args:
        model: a YAML file, a shipped one ("spike-yolo-n-smixer.yaml"), or a ``.pt`` of its own trainer.
        task: "detect".
        verbose: as in ultralytics.
    """

    def __init__(self, model: str | Path = "spike-yolo-n-smixer.yaml", task: str = "detect", verbose: bool = False):
        super().__init__(str(model), task=task, verbose=verbose)

    @property
    def task_map(self) -> dict[str, dict[str, Any]]:
        """What "detect" stands for here."""
        detect = super().task_map["detect"]
        return {"detect": {**detect, "model": SpikeDetectionModel, "trainer": SpikeTrainer}}

    def _new(self, cfg: str, task: str | None = None, verbose: bool = False) -> None:
        table = read_config(cfg)
        with mock.patch("ultralytics.engine.model.yaml_model_load", lambda _: table):
            super()._new(cfg, task=task, verbose=verbose)

    def train(self, trainer: Any = None, *, ps: float | None = None, t: int | None = None, **kwargs: Any) -> Any:
        """Train as ``YOLO.train`` does, with pruning.

        Args:
            trainer: as in ultralytics.
            ps: share of tokens to drop in each block; None leaves what the model has.
            t: steps to keep; None leaves what the model has.
            kwargs: of ultralytics: data, epochs, imgsz, batch and so on.

        Raises:
            SettingError: ps or t does not fit the model.
        """
        model = self.model
        before = model.dstsp.settings
        model.dstsp.settings = replace(before, **{k: v for k, v in {"ps": ps, "t": t}.items() if v is not None})
        model.yaml.update(ps=model.dstsp.ps, t=model.dstsp.t)
        if self.ckpt:
            return super().train(trainer, **kwargs)
        # The trainer builds the model from a file, in each of its processes, so what was chosen goes into one.
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / Path(self.cfg).name
            path.write_text(yaml.safe_dump(plain_table(model.yaml), sort_keys=False), encoding="utf-8")
            self.overrides["model"] = str(path)
            return super().train(trainer, **kwargs)


def plain_table(table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a YAML table of ours, without those that ultralytics adds."""
    return {key: table[key] for key in KEYS if key in table}
