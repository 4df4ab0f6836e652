"""Training loop on accelerate, for images and event frames: mixed precision, resumable state, one line per epoch."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from snntorch_smixer.errors import MeasureError, SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.kernels.compiled import tier
from snntorch_smixer.memory import KeepsLess, memory_of
from snntorch_smixer.models.evaluate import evaluate
from snntorch_smixer.models.network import Network
from snntorch_smixer.models.saving import check_made, note_training
from snntorch_smixer.train.augment import check_installed, mix
from snntorch_smixer.train.data import Data, check_fits
from snntorch_smixer.train.identity import describe
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.train.state import (
    Record,
    check_room,
    check_same,
    last_checkpoint,
    repair,
    restore,
    run_folder,
    write_checkpoint,
)

LINE_EVERY = 100
"""Steps between two lines on an error stream that is no terminal."""

_ADVICE = "The last checkpoint stays. Train again in another folder with a lower lr or a longer warm-up."


def fit(
    net: nn.Module, recipe: Recipe, *, data: Data, out: str | Path, compile_net: bool = False, progress: bool = True
) -> list[Record]:
    """Train ``net`` in place; continue from ``out/state`` when it exists.

    What is kept for the backward pass and the tier of the kernels are taken as they are found and left so: choose them
    before, with `set_memory` and `kernels.compiled.set_impl`. A continued run may have others, results do not change.

    A network of this package gets a card of its own: the classes, mean and deviation of ``data``, and nothing of what
    the card of its weights said before.

    Args:
        net: classifier of normalised images ``(B, C, H, W)`` or of event frames ``(T, B, C, H, W)``.
        recipe: all numbers of the run.
        data: see `load_data`; its test inputs are evaluated after each epoch, and nothing is selected by them.
        out: folder for the checkpoints of the last two epochs and ``log.jsonl``; one run at a time. A checkpoint is
            read without unpickling code, and checked by size and SHA-256.
        compile_net: train through ``torch.compile``.
        progress: draw bars on the error stream, or, where that is no terminal, write a line every 100 steps.

    Returns:
        One record per epoch: epoch, loss, test_accuracy (in float32), lr, seconds, and how it ran: the memory mode and
        the tier of the kernels.

    Raises:
        MissingExtra: accelerate is not installed, or torchvision where the recipe needs it.
        SettingError: ``out`` holds a run of another model, recipe or data, is in use, or cannot be written; the data
            do not fit the net; or there is more than one process.
        CardError: every checkpoint in ``out`` is damaged.
        MeasureError: the loss, a logit or a weight is not finite; the last checkpoint stays.
    """
    accelerator = _accelerator()
    check_installed(recipe)
    check_fits(net, data)
    check_made("fit", net)
    _check_weights("before training", net)
    out, about = Path(out), describe(net, data)
    with run_folder(out):
        checkpoint = last_checkpoint(out)
        if checkpoint is not None:
            check_same(out, checkpoint, about, recipe)
        log = [] if checkpoint is None else checkpoint.log
        repair(out, checkpoint, finished=len(log) == recipe.total_epochs)
        torch.manual_seed(recipe.seed)
        optimizer = torch.optim.AdamW(_groups(net, recipe), lr=recipe.lr)
        net, optimizer = accelerator.prepare(net, optimizer)
        if checkpoint is not None:
            restore(checkpoint, net, optimizer, accelerator.device)
        # The last batch is smaller; a graph of its own is faster than one graph for any size.
        model = torch.compile(net, dynamic=False) if compile_net else net
        run = _Run(net, model, recipe, data, optimizer, accelerator, _Progress(progress))
        if len(log) < recipe.total_epochs:
            check_room(out, net, recipe.total_epochs - len(log))
            run.begin(out, len(log))
        for epoch in range(len(log), recipe.total_epochs):
            log.append(run.epoch(epoch))
            tqdm.write(json.dumps(log[-1]))
            write_checkpoint(out, accelerator, net, about=about, recipe=recipe, log=log)
    _describe(net, data, out)
    return log


def _accelerator() -> Any:
    """Of accelerate, unless it would train otherwise than the recipe says, as its environment variables can ask for."""
    accelerator = need("accelerate", extra="train").Accelerator()
    if accelerator.num_processes > 1:
        raise SettingError(f"fit: got {accelerator.num_processes} processes, expected 1. Start it without a launcher.")
    own = {"mixed_precision": "no", "gradient_accumulation_steps": 1}
    for name, wanted in own.items():
        if (got := getattr(accelerator, name)) != wanted:
            raise SettingError(
                f"fit: accelerate has {name}={got!r}, expected {wanted!r}: precision and parts of a batch are those of "
                f"the recipe. Unset ACCELERATE_{name.upper()}."
            )
    return accelerator


@dataclass(frozen=True)
class _Run:
    """What every epoch of a run needs; ``model`` is ``net``, or what torch.compile made of it."""

    net: nn.Module
    model: Callable[[Tensor], Tensor]
    recipe: Recipe
    data: Data
    optimizer: Any
    accelerator: Any
    progress: _Progress

    @property
    def steps(self) -> int:
        """Of an epoch."""
        return math.ceil(self.data.train_count / self.recipe.batch_size)

    def begin(self, out: Path, done: int) -> None:
        """Say what is about to be trained."""
        self.progress.line(
            f"training epoch {done + 1} to {self.recipe.total_epochs}: {self.data.train_count:,} inputs, "
            f"{self.steps:,} steps an epoch, on {self.accelerator.device}; checkpoints in {out}"
        )

    def epoch(self, epoch: int) -> Record:
        """Train one epoch, counted from 0, and evaluate.

        Raises:
            MeasureError: a loss, a logit or a weight is not finite.
        """
        start = time.perf_counter()
        self.net.train()
        loss = self._train(epoch)
        # A spiking net hides NaN: a membrane that is NaN never fires.
        _check_weights(f"after epoch {epoch + 1}", self.net)
        # Evaluated without torch.compile, which would trace the net once more for another mode and batch size.
        bar = self.data.test_count if self.progress.bars else None
        accuracy = evaluate(self.net, self.data.test_batches(), progress=bar)
        return {
            "epoch": epoch + 1,
            "loss": round(loss, 4),
            "test_accuracy": round(accuracy.top1, 4),
            "lr": learning_rate(self.recipe, (epoch + 1) * self.steps, self.steps),
            "seconds": round(time.perf_counter() - start, 1),
            **_ran_as(self.net, self.accelerator.device, self.model is not self.net),
        }

    def _train(self, epoch: int) -> float:
        """One pass over the training set; the mean loss over its inputs."""
        total, count, recipe = 0.0, 0, self.recipe
        for step, (images, targets) in enumerate(self._batches(epoch)):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(recipe, epoch * self.steps + step, self.steps)
            for x, y in _parts(images, targets, recipe.accumulate):
                loss = _loss(self.model, x.to(self.accelerator.device), y.to(self.accelerator.device), recipe)
                if not math.isfinite(value := loss.item()):
                    raise MeasureError(
                        f"fit: the loss is {value} at step {step + 1} of {self.steps} of epoch {epoch + 1}, expected "
                        f"a finite number. {_ADVICE}"
                    )
                self.accelerator.backward(loss * (len(y) / len(targets)))
                total += value * len(y)
            self.optimizer.step()
            self.optimizer.zero_grad()
            count += len(targets)
            if (step + 1) % LINE_EVERY == 0:
                where = f"epoch {epoch + 1} of {recipe.total_epochs}, step {step + 1:,} of {self.steps:,}"
                self.progress.line(f"{where}: loss {total / count:.4f}")
        return total / count

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets of one pass over the training set, mixed where the recipe says so."""
        batches, recipe = self.data.train_batches(self.recipe), self.recipe
        shown = not self.progress.bars
        bar = tqdm(batches, total=self.steps, desc=f"epoch {epoch + 1}", leave=False, disable=shown)
        for images, labels in bar:
            mixes = recipe.mixes_in(epoch)
            yield mix(images, labels, recipe, classes=len(self.data.classes)) if mixes else (images, labels)


class _Progress:
    """Bars on a terminal, lines on any other error stream, nothing where nobody asked."""

    def __init__(self, wanted: bool) -> None:
        terminal = sys.stderr.isatty()
        self.bars, self.lines = wanted and terminal, wanted and not terminal

    def line(self, text: str) -> None:
        """Write a line, where there are no bars."""
        if self.lines:
            tqdm.write(text, file=sys.stderr)


def _check_weights(when: str, net: nn.Module) -> None:
    """Raise `MeasureError` where a weight is not finite."""
    for name, parameter in net.named_parameters():
        if not parameter.isfinite().all():
            raise MeasureError(f"fit: {name} holds NaN or infinity {when}, expected finite weights. {_ADVICE}")


def _describe(net: nn.Module, data: Data, out: Path) -> None:
    """The card of a network of this package speaks of what it has been trained on now."""
    if isinstance(net, Network):
        dataset = getattr(data, "name", "")
        note_training(net, name=out.resolve().name, dataset=dataset, classes=data.classes, norm=(data.mean, data.std))


def _ran_as(net: nn.Module, device: torch.device, compile_net: bool) -> dict[str, str]:
    """Memory mode and tier. A net without such layers keeps what plain torch does; ``torch.compile`` decides itself."""
    if compile_net:
        return {"memory": "torch.compile", "tier": "torch.compile"}
    has_mode = any(isinstance(module, KeepsLess) for module in net.modules())
    return {"memory": memory_of(net) if has_mode else "reference", "tier": tier(device)}


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


def _loss(model: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, recipe: Recipe) -> Tensor:
    with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
        logits = model(images)
    return F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)


def _groups(net: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    weights = [p for p in net.parameters() if p.dim() > 1]
    others = [p for p in net.parameters() if p.dim() <= 1]
    return [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
