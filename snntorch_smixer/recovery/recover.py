"""Give a pruned net back what pruning cost it, from unlabelled inputs, in stages."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence, Sized
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from snntorch_smixer.errors import FamilyError, SettingError, check_choice
from snntorch_smixer.modes import random_state_kept, undisturbed
from snntorch_smixer.patching import built_in
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.observe import reset_copy
from snntorch_smixer.patching.unpruned import put_back, weights_of
from snntorch_smixer.patching.wrap import unwrap
from snntorch_smixer.recovery import closed_form, statistics
from snntorch_smixer.recovery.distil import distil
from snntorch_smixer.recovery.inputs import Sample, check_loader, parted, read
from snntorch_smixer.recovery.layers import find_layers
from snntorch_smixer.recovery.quality import Judge, judge
from snntorch_smixer.recovery.settings import RecoverySettings
from snntorch_smixer.rest import reset_all

STAGES = ("statistics", "layers", "head", "distillation")
"""In the order in which they make sense; the default leaves "layers" out, see `recover`."""


@dataclass(frozen=True)
class StageResult:
    """What one stage gained.

    Attributes:
        stage: of `STAGES`.
        before: the metric in front of it.
        after: behind it.
        seconds: wall-clock time.
        notes: what it did, and what it could not do.
    """

    stage: str
    before: float
    after: float
    seconds: float
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Recovery:
    """What `recover` reached; ``print`` shows a table.

    Attributes:
        metric: "accuracy" where there were labels to judge by, else "agreement" with the unpruned net.
        samples: inputs that it was judged on.
        unpruned: the metric of the unpruned net.
        pruned: of the pruned net as it came.
        stages: in their order.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1)
        >>> found = dstsp.recover(net, [torch.rand(10, 1, 28, 28)], stages=["head"])
        >>> found.metric, found.samples  # held out of the ten
        ('agreement', 2)
    """

    metric: str
    samples: int
    unpruned: float
    pruned: float
    stages: tuple[StageResult, ...] = field(default_factory=tuple)

    @property
    def recovered(self) -> float:
        """The metric behind the last stage."""
        return self.stages[-1].after if self.stages else self.pruned

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        lines = [f"{self.metric} on {self.samples:,} inputs: unpruned {self.unpruned:.1%}, pruned {self.pruned:.1%}"]
        for one in self.stages:
            gain = f"{100 * (one.after - one.before):+.1f}"
            lines.append(f"  {one.stage:<13} {one.after:6.1%}  {gain:>5} points  {one.seconds:6.1f} s")
            lines += [f"    {note}" for note in one.notes]
        return "\n".join(lines)


def recover(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    stages: Sequence[str] = ("statistics", "head", "distillation"),
    settings: RecoverySettings | None = None,
    check: Iterable[Any] | None = None,
    progress: bool | None = None,
) -> Recovery:
    """Adapt a wrapped, pruned net to its pruning without labels, in place, so that it says what the unpruned net says.

    The stages run in the order given:

    - "statistics": mean and variance of each BatchNorm that sees other values than before.
    - "layers": ``W_M`` and each pointwise layer, one after the other, by ridge regression to the input that lets the
      neuron behind it reach the unpruned net's membrane at the kept steps and tokens. Run "statistics" behind it.
    - "head": the layer that gives the logits, by ridge regression to the unpruned net's logits.
    - "distillation": all weights, by gradient, to the unpruned net's logits.

    `unwrap` restores the weights of before, bit for bit. Make optimizers afterwards.

    Args:
        model: from `wrap`, with the pruning that it will have.
        loader: batches of inputs, or of tuples whose first tensor is the input; labels are not used. A loader that
            can be gone through several times.
        stages: of `STAGES`.
        settings: see `RecoverySettings`.
        check: batches to judge by, ``(input, labels)`` for accuracy; default: held-out inputs of the loader, by
            agreement with the unpruned net.
        progress: a progress bar; None where there is a terminal.

    Returns:
        What each stage gained.

    Raises:
        FamilyError: the model is not wrapped, or is a detector.
        SettingError: an unknown stage, pruning that is not active, or a loader without inputs or for one pass only.
        MeasureError: logits or the loss are not finite. In every case the model is as before.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1)
        >>> found = dstsp.recover(net, [torch.rand(8, 1, 28, 28)], stages=["statistics", "head"])
        >>> [one.stage for one in found.stages]
        ['statistics', 'head']
    """
    _check(model, loader, check, stages)
    settings = settings or RecoverySettings()
    modes, before = {m: m.training for m in model.modules()}, weights_of(model)
    dstsp: Any = model.dstsp
    active = dstsp.active
    try:
        with undisturbed(), random_state_kept():
            torch.manual_seed(settings.seed)
            work = _Work(model, loader, settings, check, progress)
            done = work.run(stages)
    except BaseException:
        put_back(model, before)
        raise
    finally:
        dstsp.active = active
        for module, mode in modes.items():
            module.training = mode
        for parameter in model.parameters():
            parameter.grad = None
        reset_all(model)
    if dstsp.unpruned is None:
        dstsp.unpruned = before
    return done


def _check(model: nn.Module, loader: Any, check: Any, stages: Sequence[str]) -> None:
    if built_in.pruning_of(model) is not None or not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(
            f"recover: this {type(model).__name__} is no wrapped classifier, so there is no unpruned net to follow. "
            "Call dstsp.wrap(model, ps=..., t=...) first."
        )
    if any(isinstance(p, nn.UninitializedParameter) for p in model.parameters()):
        raise FamilyError("recover: a W_M has no size yet. Run the model once, or pass example_input to wrap.")
    dstsp: Any = model.dstsp
    if dstsp.active not in ("both", "eval"):
        raise SettingError(
            f"recover: active={dstsp.active!r} prunes nothing in evaluation. Set model.dstsp.active = 'both'."
        )
    if isinstance(stages, str) or not len(stages):
        raise SettingError(f"recover: stages={stages!r} must be a list of {', '.join(STAGES)}. Pass at least one.")
    for stage in stages:
        check_choice("recover", "stages", stage, STAGES)
    check_loader("recover", loader)
    if check is not None:
        check_loader("recover: check", check)


class _Work:
    """One call of `recover`."""

    def __init__(
        self, model: nn.Module, loader: Iterable[Any], settings: RecoverySettings, check: Any, progress: bool | None
    ) -> None:
        self.model, self.loader, self.settings, self.progress = model, loader, settings, progress
        self.samples = read("recover", loader, model, samples=settings.samples)
        self.count = sum(sample.count for sample in self.samples)
        held = self.samples
        if check is not None:
            held = read("recover: check", check, model, samples=2**62)
        elif self.count >= 5:
            self.samples, held = parted(self.samples, min(500, self.count // 5))
        model.eval()
        # Distillation sets modes of its own, in which the pruning has to stay active.
        model.dstsp.active = "both"  # type: ignore[union-attr]
        self.teacher = unwrap(reset_copy(model)).eval().requires_grad_(False)
        self.judge: Judge = judge(self.teacher, held)
        self.few: Sample = self.samples[0].first(min(4, self.samples[0].count))

    def run(self, stages: Sequence[str]) -> Recovery:
        """All stages, each judged."""
        known = now = self.judge(self.model)
        results = []
        for stage in stages:
            start = time.perf_counter()
            notes = getattr(self, f"_{stage}")()
            seconds = time.perf_counter() - start
            self.model.eval()
            after = self.judge(self.model)
            results.append(StageResult(stage, now, after, seconds, tuple(notes)))
            now = after
        return Recovery(self.judge.metric, self.judge.count, self.judge.unpruned, known, tuple(results))

    def _bar(self, total: int, what: str, unit: str) -> Any:
        hidden = None if self.progress is None else not self.progress
        return tqdm(total=total, desc=f"recover: {what}", unit=unit, leave=False, disable=hidden)

    def _statistics(self) -> list[str]:
        names = statistics.norms_behind(self.model, self.teacher, self.few.x)
        if not names:
            return ["no BatchNorm sees other values than before, so there is nothing to estimate"]
        with self._bar(len(self.samples), "statistics", "batch") as bar:
            statistics.estimate(self.model, names, _counted(self.samples, bar))
        return [f"{len(names)} BatchNorms, from {sum(s.count for s in self.samples):,} inputs"]

    def _head(self) -> list[str]:
        path = closed_form.find_head(self.model, self.few.x)
        if not path:
            return ["no one linear layer gives the logits, so it is left as it is"]
        with self._bar(len(self.samples), "head", "batch") as bar:
            samples = _counted(self.samples, bar)
            closed_form.fit_head(self.model, path, self.teacher, samples, self.settings.strength)
        return [path]

    def _layers(self) -> list[str]:
        found, notes = find_layers(self.model, self.few.x)
        fitted = 0
        with self._bar(len(found), "layers", "layer") as bar:
            for layer in found:
                why = closed_form.fit_layer(self.model, self.teacher, layer, self.samples, self.settings.strength)
                fitted += not why
                notes += [f"{layer.path}: {why}"] if why else []
                bar.update()
        return [f"{fitted} layers fitted", *notes]

    def _distillation(self) -> list[str]:
        size = len(self.loader) if isinstance(self.loader, Sized) else len(self.samples)
        shown = 0
        with self._bar(size * self.settings.epochs, "distillation", "batch") as bar:

            def after_step(count: int) -> None:
                nonlocal shown
                shown += count
                bar.update()

            loss = distil(
                self.model, self.teacher, self.loader, settings=self.settings, shown=after_step, batch_count=size
            )
        return [f"{shown:,} inputs shown, last loss {loss:.3f}"]


def _counted(samples: Sequence[Sample], bar: Any) -> Iterable[Sample]:
    for sample in samples:
        yield sample
        bar.update()
