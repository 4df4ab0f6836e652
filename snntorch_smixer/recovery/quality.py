"""How good a pruned net is: accuracy where there are labels, else agreement with the unpruned net."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from snntorch_smixer.errors import MeasureError
from snntorch_smixer.patching.observe import first_tensor
from snntorch_smixer.recovery.inputs import Sample
from snntorch_smixer.rest import reset_all


def logits(net: nn.Module, x: Tensor) -> Tensor:
    """Logits ``(B, K)`` of a net whose neurons are at rest; one that gives ``(T, B, K)`` is averaged over its steps.

    Raises:
        MeasureError: it gives something else, or values that are not finite.
    """
    reset_all(net)
    out = first_tensor(net(x))
    if out is not None and out.dim() == 3:
        out = out.mean(0)
    if out is None or out.dim() != 2:
        shape = None if out is None else tuple(out.shape)
        raise MeasureError(f"recover: the net gives {shape}, expected logits (B, K). Pass a classifier.")
    if not bool(out.isfinite().all()):
        raise MeasureError("recover: got NaN or infinity among the logits. Check the input and the weights.")
    return out


@dataclass(frozen=True)
class Judge:
    """Inputs with the answers that count as right.

    Attributes:
        samples: the inputs.
        answers: of each batch, ``(B,)``.
        metric: "accuracy" or "agreement" with the unpruned net.
        unpruned: what the unpruned net reaches, 1 for agreement.
    """

    samples: tuple[Sample, ...]
    answers: tuple[Tensor, ...]
    metric: str
    unpruned: float

    @property
    def count(self) -> int:
        """Inputs in all."""
        return sum(len(answer) for answer in self.answers)

    @torch.no_grad()
    def right(self, net: nn.Module) -> Tensor:
        """Which inputs ``net`` gets right, bool ``(n,)``, in evaluation mode; the mode is the caller's."""
        found = [logits(net, s.x).argmax(1) == a for s, a in zip(self.samples, self.answers, strict=True)]
        return torch.cat(found)

    def __call__(self, net: nn.Module) -> float:
        """Share of inputs that ``net`` gets right."""
        return float(self.right(net).double().mean())


@torch.no_grad()
def judge(teacher: nn.Module, samples: Sequence[Sample]) -> Judge:
    """A `Judge` by the labels of ``samples``, or, where a batch has none, by what ``teacher`` says.

    Warns:
        UserWarning: the teacher does not look trained.
    """
    said = [logits(teacher, sample.x) for sample in samples]
    labels = [sample.labels for sample in samples if sample.labels is not None]
    guesses = torch.cat([one.argmax(1) for one in said])
    classes = said[0].shape[1]
    if len(labels) < len(said):
        answers, metric, unpruned = tuple(one.argmax(1) for one in said), "agreement", 1.0
        sure = float(torch.cat(said).softmax(1).amax(1).double().mean())
        untrained = sure < 2 / classes
    else:
        answers, metric = tuple(labels), "accuracy"
        unpruned = float((guesses == torch.cat(labels)).double().mean())
        untrained = unpruned < 2 / classes
    if untrained and classes > 2:
        warnings.warn(
            "recover: the unpruned net does not look trained: its answers are near chance. Train it first; what is "
            "recovered is what it says.",
            stacklevel=3,
        )
    return Judge(tuple(samples), answers, metric, unpruned)
