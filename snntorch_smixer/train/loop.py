"""Training loop on accelerate: mixed precision, resumable state, one line per epoch."""

from __future__ import annotations

import dataclasses
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

from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.models.evaluate import accuracy
from snntorch_smixer.train.data import ImageData, Split, augment
from snntorch_smixer.train.recipe import Recipe

Record = dict[str, float]


def fit(net: nn.Module, recipe: Recipe, *, data: ImageData, out: str | Path, compile_net: bool = False) -> list[Record]:
    """Train ``net`` in place; continue from ``out/state`` when it exists.

    Args:
        net: classifier of normalised images ``(B, C, H, W)``.
        recipe: all numbers of the run.
        data: the test images are evaluated after each epoch; nothing is selected by them.
        out: folder for the state after each epoch and ``log.jsonl``. Continue only what you wrote yourself: accelerate
            restores the optimizer and the random generators from pickles.
        compile_net: train through ``torch.compile``.

    Returns:
        One record per epoch: epoch, loss, test_accuracy (in float32), lr, seconds.

    Raises:
        MissingExtra: accelerate is not installed.
        SettingError: ``out`` holds a run of another recipe, or there is more than one process.
    """
    accelerator = need("accelerate", extra="train").Accelerator()
    if accelerator.num_processes > 1:
        raise SettingError(f"fit: got {accelerator.num_processes} processes, expected 1. Start it without a launcher.")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    log = _finished_epochs(out, recipe)
    torch.manual_seed(recipe.seed)
    steps = math.ceil(len(data.train[0]) / recipe.batch_size)
    optimizer = torch.optim.AdamW(_groups(net, recipe), lr=recipe.lr)
    net, optimizer = accelerator.prepare(net, optimizer)
    if log:
        accelerator.load_state(str(_state(out)))
    # The last batch is smaller; a graph of its own is faster than one graph for any size.
    model = torch.compile(net, dynamic=False) if compile_net else net
    test = data.normalise(data.test[0])
    for epoch in range(len(log), recipe.epochs):
        start, total = time.perf_counter(), 0.0
        net.train()
        batches = tqdm(_batches(data, recipe), total=steps, desc=f"epoch {epoch + 1}", leave=False)
        for step, (images, labels) in enumerate(batches, epoch * steps):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, step, steps)
            loss = _loss(model, images.to(accelerator.device), labels.to(accelerator.device), recipe)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(labels)
        log.append(
            {
                "epoch": epoch + 1,
                "loss": round(total / len(data.train[0]), 4),
                "test_accuracy": round(accuracy(net, test, data.test[1]), 4),
                "lr": learning_rate(recipe, (epoch + 1) * steps, steps),
                "seconds": round(time.perf_counter() - start, 1),
            }
        )
        tqdm.write(json.dumps(log[-1]))
        _checkpoint(accelerator, out, recipe, log)
    return log


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up from ``min_lr``, then cosine down to ``min_lr``."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        share = step / warmup
    else:
        done = (step - warmup) / max(1, recipe.epochs * steps_per_epoch - warmup)
        share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
    return recipe.min_lr + (recipe.lr - recipe.min_lr) * share


def _state(out: Path) -> Path:
    # "state.old" is there alone only where a stop fell between the two renames of _checkpoint.
    return out / "state" if (out / "state").exists() else out / "state.old"


def _finished_epochs(out: Path, recipe: Recipe) -> list[Record]:
    state = _state(out)
    if not state.exists():
        return []
    before, now = json.loads((state / "recipe.json").read_text()), dataclasses.asdict(recipe)
    differ = [key for key in now if before.get(key) != now[key]]
    if differ:
        key = differ[0]
        raise SettingError(
            f"fit: {out} holds a run with {key}={before.get(key)!r}, got {key}={now[key]!r}. Pass another folder, or "
            "delete this one to start again."
        )
    return [json.loads(line) for line in (state / "log.jsonl").read_text().splitlines()]


def _checkpoint(accelerator: Any, out: Path, recipe: Recipe, log: list[Record]) -> None:
    # Written beside the last one and then renamed, so that a stop in between leaves a whole one.
    state, fresh, old = out / "state", out / "state.new", out / "state.old"
    shutil.rmtree(fresh, ignore_errors=True)
    accelerator.save_state(str(fresh))
    (fresh / "recipe.json").write_text(json.dumps(dataclasses.asdict(recipe)))
    (fresh / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in log))
    if state.exists():
        shutil.rmtree(old, ignore_errors=True)
        state.rename(old)
    fresh.rename(state)
    shutil.rmtree(old, ignore_errors=True)
    shutil.copy(state / "log.jsonl", out / "log.jsonl")


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
