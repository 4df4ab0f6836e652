"""Training loop on accelerate, for images and event frames: mixed precision, resumable state, one line per epoch."""

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
from snntorch_smixer.kernels.compiled import tier
from snntorch_smixer.memory import KeepsLess, memory_of
from snntorch_smixer.models.evaluate import evaluate
from snntorch_smixer.train.augment import check_installed, mix
from snntorch_smixer.train.data import Data, check_fits
from snntorch_smixer.train.recipe import Recipe

Record = dict[str, Any]
Batch = tuple[int, Tensor, Tensor]


def fit(
    net: nn.Module, recipe: Recipe, *, data: Data, out: str | Path, compile_net: bool = False, progress: bool = True
) -> list[Record]:
    """Train ``net`` in place; continue from ``out/state`` when it exists.

    What is kept for the backward pass and the tier of the kernels are taken as they are found and left so: choose them
    before, with `set_memory` and `kernels.compiled.set_impl`. A continued run may have others, results do not change.

    Args:
        net: classifier of normalised images ``(B, C, H, W)`` or of event frames ``(T, B, C, H, W)``.
        recipe: all numbers of the run.
        data: see `load_data`; its test inputs are evaluated after each epoch, and nothing is selected by them.
        out: folder for the state after each epoch and ``log.jsonl``. Continue only what you wrote yourself: accelerate
            restores the optimizer and the random generators from pickles.
        compile_net: train through ``torch.compile``.
        progress: draw bars on the error stream.

    Returns:
        One record per epoch: epoch, loss, test_accuracy (in float32), lr, seconds, and how it ran: the memory mode and
        the tier of the kernels.

    Raises:
        MissingExtra: accelerate is not installed, or torchvision where the recipe needs it.
        SettingError: ``out`` holds a run of another recipe, the data do not fit the net, or there is more than one
            process.
    """
    accelerator = need("accelerate", extra="train").Accelerator()
    if accelerator.num_processes > 1:
        raise SettingError(f"fit: got {accelerator.num_processes} processes, expected 1. Start it without a launcher.")
    check_installed(recipe)
    check_fits(net, data)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    log = _finished_epochs(out, recipe)
    torch.manual_seed(recipe.seed)
    steps = math.ceil(data.train_count / recipe.batch_size)
    optimizer = torch.optim.AdamW(_groups(net, recipe), lr=recipe.lr)
    net, optimizer = accelerator.prepare(net, optimizer)
    if log:
        accelerator.load_state(str(_state(out)))
    # The last batch is smaller; a graph of its own is faster than one graph for any size.
    model = torch.compile(net, dynamic=False) if compile_net else net
    for epoch in range(len(log), recipe.total_epochs):
        start = time.perf_counter()
        net.train()
        batches = _batches(recipe, data, epoch, progress=progress)
        loss = _epoch(model, optimizer, recipe, batches=batches, steps=steps, accelerator=accelerator)
        # Evaluated without torch.compile, which would trace the net once more for another mode and batch size.
        accuracy = evaluate(net, data.test_batches(), progress=data.test_count if progress else None)
        log.append(
            {
                "epoch": epoch + 1,
                "loss": round(loss, 4),
                "test_accuracy": round(accuracy.top1, 4),
                "lr": learning_rate(recipe, (epoch + 1) * steps, steps),
                "seconds": round(time.perf_counter() - start, 1),
                **_ran_as(net, accelerator.device, compile_net),
            }
        )
        tqdm.write(json.dumps(log[-1]))
        _checkpoint(accelerator, out, recipe, log)
    return log


def _ran_as(net: nn.Module, device: torch.device, compile_net: bool) -> dict[str, str]:
    """Memory mode and tier. A net without such layers keeps what plain torch does; ``torch.compile`` decides itself."""
    if compile_net:
        return {"memory": "torch.compile", "tier": "torch.compile"}
    has_mode = any(isinstance(module, KeepsLess) for module in net.modules())
    return {"memory": memory_of(net) if has_mode else "reference", "tier": tier(device)}


def _batches(recipe: Recipe, data: Data, epoch: int, *, progress: bool) -> Iterator[Batch]:
    """(step, images, targets) of one pass over the training set, mixed where the recipe says so."""
    steps = math.ceil(data.train_count / recipe.batch_size)
    batches = data.train_batches(recipe)
    bar = tqdm(batches, total=steps, desc=f"epoch {epoch + 1}", leave=False, disable=not progress)
    for step, (images, labels) in enumerate(bar, epoch * steps):
        if recipe.mixes_in(epoch):
            yield step, *mix(images, labels, recipe, classes=len(data.classes))
        else:
            yield step, images, labels


def _epoch(
    model: Callable[[Tensor], Tensor],
    optimizer: Any,
    recipe: Recipe,
    *,
    batches: Iterator[Batch],
    steps: int,
    accelerator: Any,
) -> float:
    """One pass over the training set; the mean loss over its inputs."""
    total, count = 0.0, 0
    for step, images, targets in batches:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, steps)
        for x, y in _parts(images, targets, recipe.accumulate):
            loss = _loss(model, x.to(accelerator.device), y.to(accelerator.device), recipe)
            accelerator.backward(loss * (len(y) / len(targets)))
            total += loss.item() * len(y)
        optimizer.step()
        optimizer.zero_grad()
        count += len(targets)
    return total / count


def _parts(images: Tensor, labels: Tensor, parts: int) -> Iterator[tuple[Tensor, Tensor]]:
    size = math.ceil(len(labels) / parts)
    # Frames have the steps first and the batch second.
    return zip(images.split(size, 1 if images.dim() == 5 else 0), labels.split(size), strict=True)


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step, counted from 0: linear warm-up, cosine down to ``min_lr``, which the cool-down keeps."""
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        first = recipe.min_lr if recipe.warmup_lr is None else recipe.warmup_lr
        return first + (recipe.lr - first) * (step / warmup)
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
    # A run of an older release lacks the settings that came later; it ran with their defaults.
    before = {**dataclasses.asdict(Recipe()), **json.loads((state / "recipe.json").read_text())}
    now = dataclasses.asdict(recipe)
    differ = [key for key in now if before[key] != now[key]]
    if differ:
        key = differ[0]
        raise SettingError(
            f"fit: {out} holds a run with {key}={before[key]!r}, got {key}={now[key]!r}. Pass another folder, or "
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


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    return [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
