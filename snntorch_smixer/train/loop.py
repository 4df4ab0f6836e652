"""Training loop on accelerate: mixed precision, resumable state, one line per epoch."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from snntorch_smixer.extras import need
from snntorch_smixer.models.evaluate import accuracy
from snntorch_smixer.train.data import ImageData, Split, augment
from snntorch_smixer.train.recipe import Recipe


class Progress:
    """Finished epochs and their log lines; travels with the checkpoint."""

    def __init__(self) -> None:
        self.log: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"log": self.log}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.log = list(state["log"])


def fit(
    net: nn.Module, recipe: Recipe, *, data: ImageData, out: str | Path, compile_step: bool = False
) -> list[dict[str, float]]:
    """Train ``net`` in place; continue from ``out/state`` when it exists.

    Args:
        net: classifier of normalised images ``(B, C, H, W)``.
        recipe: all numbers of the run.
        data: the test images are evaluated after each epoch; nothing is selected by them.
        out: folder for the state after each epoch and ``log.jsonl``.
        compile_step: run the training step through ``torch.compile``.

    Returns:
        One record per epoch: epoch, loss, test_accuracy (in float32), lr, seconds.

    Raises:
        MissingExtra: accelerate is not installed.
    """
    accelerator = need("accelerate", extra="train").Accelerator()
    torch.manual_seed(recipe.seed)
    steps = math.ceil(len(data.train[0]) / recipe.batch_size)
    optimizer = torch.optim.AdamW(_groups(net, recipe), lr=recipe.lr)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _Schedule(recipe, steps))
    net, optimizer = accelerator.prepare(net, optimizer)
    progress, out = Progress(), Path(out)
    accelerator.register_for_checkpointing(progress, schedule)
    _resume(accelerator, out)
    model = torch.compile(net, dynamic=False) if compile_step else net
    for epoch in range(len(progress.log), recipe.epochs):
        start, total = time.perf_counter(), 0.0
        net.train()
        for images, labels in tqdm(_batches(data, recipe), total=steps, desc=f"epoch {epoch + 1}", leave=False):
            loss = _loss(model, images.to(accelerator.device), labels.to(accelerator.device), recipe)
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.item() * len(labels)
        progress.log.append(
            {
                "epoch": epoch + 1,
                "loss": round(total / len(data.train[0]), 4),
                "test_accuracy": round(accuracy(net, data.normalise(data.test[0]), data.test[1]), 4),
                "lr": float(schedule.get_last_lr()[0]),
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
        tqdm.write(json.dumps(progress.log[-1]))
        (out / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in progress.log))
        _checkpoint(accelerator, out)
    return progress.log


def _checkpoint(accelerator: Any, out: Path) -> None:
    # Written beside the last one and then renamed, so that a stop in between leaves a whole one.
    state, fresh, old = out / "state", out / "state.new", out / "state.old"
    shutil.rmtree(fresh, ignore_errors=True)
    accelerator.save_state(str(fresh))
    shutil.rmtree(old, ignore_errors=True)
    if state.exists():
        state.rename(old)
    fresh.rename(state)
    shutil.rmtree(old, ignore_errors=True)


def _resume(accelerator: Any, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    for state in (out / "state", out / "state.old"):
        if state.exists():
            accelerator.load_state(str(state))
            return


def _loss(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = model(images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)


def _batches(data: ImageData, recipe: Recipe) -> Iterator[Split]:
    images, labels = data.train
    for chosen in torch.randperm(len(images)).split(recipe.batch_size):
        yield data.normalise(augment(images[chosen], padding=recipe.crop_padding, flip=recipe.flip)), labels[chosen]


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    return [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]


class _Schedule:
    """Learning rate over its peak at a step: linear warm-up, then cosine."""

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self.warmup = max(1, round(recipe.warmup_epochs * steps_per_epoch))
        self.total = recipe.epochs * steps_per_epoch
        self.floor = recipe.min_lr / recipe.lr

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            share = step / self.warmup
        else:
            done = (step - self.warmup) / max(1, self.total - self.warmup)
            share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        return self.floor + (1 - self.floor) * share
