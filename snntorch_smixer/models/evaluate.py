"""Classification accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from tqdm import tqdm

from snntorch_smixer.errors import MeasureError
from snntorch_smixer.modes import in_mode
from snntorch_smixer.rest import reset_all


@dataclass(frozen=True)
class Accuracy:
    """How many inputs a classifier gets right.

    Attributes:
        correct: inputs whose highest logit is the label's; the lowest class on a tie.
        count: inputs in all.
        correct5: inputs whose label is among the five highest logits; None for five classes or fewer.
    """

    correct: int
    count: int
    correct5: int | None = None

    @property
    def top1(self) -> float:
        """Share of the inputs that are classified correctly."""
        return self.correct / self.count

    @property
    def top5(self) -> float | None:
        """Share of the inputs whose label is among the five highest logits; None for five classes or fewer."""
        return None if self.correct5 is None else self.correct5 / self.count

    @property
    def standard_error(self) -> float:
        """Of `top1`, from the number of inputs alone: the spread over other test sets, not over seeds."""
        return (self.top1 * (1 - self.top1) / self.count) ** 0.5


def evaluate(
    net: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    device: str | torch.device | None = None,
    progress: int | None = None,
) -> Accuracy:
    """Classify every batch in evaluation mode and without gradients; the mode is restored.

    Neurons that keep their membranes between calls are reset before each batch.

    Args:
        net: classifier, images ``(B, C, H, W)`` or frames ``(T, B, C, H, W)`` to logits ``(B, K)``.
        batches: normalised floating-point input with its labels, int64 ``(B,)``.
        device: the net is moved there, and stays; None for where its first parameter is.
        progress: inputs to expect, for a progress bar; None for no bar.

    Raises:
        MeasureError: there is no input, a label is outside the classes of the net, or a logit is not finite.
    """
    if device is not None:
        net.to(device)
    first = next(net.parameters(), None)
    device = device or (torch.device("cpu") if first is None else first.device)
    correct = correct5 = count = classes = 0
    bar = tqdm(total=progress, disable=progress is None, desc="evaluate", unit="image", leave=False)
    with bar, in_mode(net, training=False), torch.no_grad():
        for x, labels in batches:
            reset_all(net)
            logits, labels = net(x.to(device)), labels.to(device)
            classes = logits.shape[1]
            _check_labels(labels, classes)
            _check_finite(logits, count)
            correct += int((logits.argmax(1) == labels).sum())
            correct5 += int((logits.topk(min(5, classes), 1).indices == labels[:, None]).sum())
            count += len(labels)
            bar.update(len(labels))
    if not count:
        raise MeasureError(
            "evaluate: got no batches, expected at least one input. Pass an iterable that is not used up."
        )
    return Accuracy(correct, count, correct5 if classes > 5 else None)


def accuracy(net: nn.Module, images: Tensor, labels: Tensor, *, batch_size: int = 250) -> float:
    """Share of normalised ``images`` that ``net`` classifies correctly, in evaluation mode; the mode is restored.

    Args:
        net: classifier, images ``(B, C, H, W)`` to logits ``(B, K)``.
        images: ``(n, C, H, W)``.
        labels: int64 ``(n,)``.
        batch_size: images per call.

    Raises:
        MeasureError: there is no image, a label is outside the classes of the net, or a logit is not finite.
    """
    return evaluate(net, zip(images.split(batch_size), labels.split(batch_size), strict=True)).top1


def _check_labels(labels: Tensor, classes: int) -> None:
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise MeasureError(
            f"evaluate: got labels from {int(labels.min())} to {int(labels.max())}, the net has {classes} classes. "
            "Pass the data set that it was trained on."
        )


def _check_finite(logits: Tensor, before: int) -> None:
    wrong = (~logits.isfinite()).any(1).nonzero()
    if len(wrong):
        raise MeasureError(
            f"evaluate: got NaN or infinity among the logits of input {before + int(wrong[0])}, expected finite "
            "values. Check the input and the weights; the net may have diverged in training."
        )
