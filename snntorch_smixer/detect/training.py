"""Training of a detector that gives its losses, such as those of torchvision: short, exact to resume."""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snntorch_smixer.detect.data import BoxData, batches
from snntorch_smixer.errors import CardError, MeasureError, SettingError, check_count
from snntorch_smixer.modes import random_state_kept

STATE, LOG = "state.pt", "log.jsonl"


@dataclass(frozen=True)
class DetectorRecipe:
    """All numbers of a training run; checks itself.

    Attributes:
        epochs: passes over the data.
        batch_size: pictures in one step.
        lr: of AdamW, at the end of the warm-up; it falls to zero as a half cosine.
        weight_decay: of AdamW.
        warmup: share of the steps over which lr grows.
        frozen: share of the steps, the last ones, in which BatchNorm keeps its running statistics, so that the network
            is trained as it will be evaluated. Small batches need it: a spike that falls otherwise changes all behind.
        seed: of the order of the pictures and their mirroring.

    Examples:
        >>> from snntorch_smixer.detect import DetectorRecipe
        >>> DetectorRecipe(epochs=30).batch_size
        4
    """

    epochs: int = 100
    batch_size: int = 4
    lr: float = 2e-3
    weight_decay: float = 0.01
    warmup: float = 0.05
    frozen: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        check_count("DetectorRecipe", "epochs", self.epochs)
        check_count("DetectorRecipe", "batch_size", self.batch_size)
        check_count("DetectorRecipe", "seed", self.seed, least=0)
        for name, most in (("lr", math.inf), ("weight_decay", math.inf), ("warmup", 1.0), ("frozen", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < most:
                raise SettingError(f"DetectorRecipe: {name}={value!r} must be a number in [0, {most}).")

    def lr_at(self, done: float) -> float:
        """Learning rate where a share ``done`` of all steps is done."""
        if done < self.warmup:
            return self.lr * done / self.warmup
        return self.lr * 0.5 * (1 + math.cos(math.pi * (done - self.warmup) / (1 - self.warmup)))


def fit_detector(
    model: nn.Module, data: BoxData, recipe: DetectorRecipe, *, out: str | Path | None = None
) -> list[dict[str, float]]:
    """Train ``model`` in place; continue from ``out/state.pt`` where it exists.

    A run that was stopped and continued gives the weights of one that was not, on the same machine.

    Args:
        model: in training mode a list of pictures and a list of targets to a dict of losses, as `spiking_fcos`.
        data: see `BoxData`.
        recipe: all numbers of the run.
        out: folder for the state after each epoch and ``log.jsonl``, the losses; None: nothing is written.

    Returns:
        Of each epoch its number, the loss, each part of it, the learning rate and the seconds.

    Raises:
        SettingError: ``out`` holds a run of another model, recipe or number of pictures, or no picture has a box.
        CardError: ``out/state.pt`` cannot be read.
        MeasureError: the loss is not finite; the state of the epoch before stays.

    Examples:
        >>> from snntorch_smixer.detect import BoxData, BoxFolder, DetectorRecipe, fit_detector
        >>> data = BoxData(BoxFolder.read("data"), "train")  # doctest: +SKIP
        >>> fit_detector(model, data, DetectorRecipe(epochs=100), out="runs/fcos")  # doctest: +SKIP
    """
    if not any(len(boxes) for boxes in data.boxes):
        raise SettingError(f"fit_detector: none of the {len(data)} pictures has a box. Pass labelled pictures.")
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
    about = {**asdict(recipe), "pictures": len(data), "size": data.size}
    folder = None if out is None else Path(out)
    log = [] if folder is None else _restore(folder, model, optimizer, about)
    for epoch in range(len(log), recipe.epochs):
        with random_state_kept():
            torch.manual_seed(recipe.seed + epoch)
            log.append(_epoch(model, data, recipe, optimizer, epoch))
        if folder is not None:
            _write(
                folder, {"about": about, "log": log, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            )
    return log


def _epoch(
    model: nn.Module, data: BoxData, recipe: DetectorRecipe, optimizer: torch.optim.Optimizer, epoch: int
) -> dict[str, float]:
    start, device = time.perf_counter(), next(model.parameters()).device
    steps = math.ceil(len(data) / recipe.batch_size)
    sums: dict[str, float] = {}
    for step, (pictures, targets) in enumerate(batches(data, recipe.batch_size, seed=recipe.seed + epoch)):
        done = (epoch + step / steps) / recipe.epochs
        _train_mode(model, frozen=done >= 1 - recipe.frozen)
        for group in optimizer.param_groups:
            group["lr"] = recipe.lr_at(done)
        parts = model(list(pictures.to(device)), [{k: v.to(device) for k, v in one.items()} for one in targets])
        loss = torch.stack(list(parts.values())).sum()
        if not bool(loss.isfinite()):
            raise MeasureError(
                f"fit_detector: the loss is {float(loss.detach())} in epoch {epoch}. Train with a lower lr."
            )
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 10.0)
        optimizer.step()
        for name, value in (("loss", loss), *parts.items()):
            sums[name] = sums.get(name, 0.0) + float(value.detach()) / steps
    rate, seconds = optimizer.param_groups[0]["lr"], time.perf_counter() - start
    return {"epoch": epoch, **{k: round(v, 6) for k, v in sums.items()}, "lr": rate, "seconds": round(seconds, 2)}


def _train_mode(model: nn.Module, *, frozen: bool) -> None:
    model.train()
    for module in model.modules():
        if frozen and isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _restore(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, about: dict[str, Any]
) -> list[dict[str, float]]:
    path = folder / STATE
    if not path.exists():
        return []
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        found, log, weights = state["about"], state["log"], state["model"]
    except Exception as error:
        raise CardError(f"fit_detector: {path} cannot be read: {error}. Train in another folder.") from error
    other = [key for key in about if found.get(key) != about[key]]
    if other:
        key = other[0]
        raise SettingError(
            f"fit_detector: {folder} holds a run with {key}={found.get(key)!r}, got {about[key]!r}. Use another folder."
        )
    own = {name: value.shape for name, value in model.state_dict().items()}
    if own != {name: value.shape for name, value in weights.items() if isinstance(value, Tensor)}:
        raise SettingError(f"fit_detector: {folder} holds a run of another model. Use another folder.")
    model.load_state_dict(weights)
    optimizer.load_state_dict(state["optimizer"])
    return list(log)


def _write(folder: Path, state: dict[str, Any]) -> None:
    """State and losses, each complete or as before."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / f"{STATE}.part")
    (folder / f"{STATE}.part").replace(folder / STATE)
    (folder / f"{LOG}.part").write_text("".join(json.dumps(one) + "\n" for one in state["log"]), encoding="utf-8")
    (folder / f"{LOG}.part").replace(folder / LOG)
