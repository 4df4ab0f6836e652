"""Choose ps, t and merge of a wrapped net under a budget of energy or multiply-accumulates."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from snntorch_smixer.bench.macs import dense_macs
from snntorch_smixer.cost.estimate import estimate
from snntorch_smixer.cost.profile import Profile
from snntorch_smixer.errors import FamilyError, SettingError
from snntorch_smixer.modes import random_state_kept, undisturbed
from snntorch_smixer.patching import built_in
from snntorch_smixer.patching.modules import WrappedDSTSP
from snntorch_smixer.patching.observe import reset_copy
from snntorch_smixer.patching.wrap import unwrap
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.recovery.inputs import batch_axis, check_loader, read
from snntorch_smixer.recovery.quality import Judge, judge
from snntorch_smixer.rest import reset_all

_BUDGET = re.compile(r"(energy|macs)\s*<=\s*([0-9]+\.?[0-9]*)\s*(%|mJ|uJ|M|G)?")
_UNITS = {("energy", "mJ"): 1.0, ("energy", "uJ"): 1e-3, ("macs", "M"): 1e6, ("macs", "G"): 1e9, ("macs", None): 1.0}
SAMPLES_PRICED = 8
"""Inputs on which the cost of a setting is measured."""


@dataclass(frozen=True)
class Budget:
    """What a setting may cost.

    Attributes:
        kind: "energy" in mJ per sample, or "macs" per sample.
        limit: in these units, or as a share of the unpruned net.
        relative: True for a share.
    """

    kind: str
    limit: float
    relative: bool

    @classmethod
    def parse(cls, text: object) -> Budget:
        """Read ``"energy<=50%"``, ``"energy<=0.02mJ"``, ``"energy<=20uJ"``, ``"macs<=20M"``, ``"macs<=70%"``.

        Raises:
            SettingError: anything else, and a limit of 0.
        """
        found = _BUDGET.fullmatch(text.strip()) if isinstance(text, str) else None
        relative = found is not None and found[3] == "%"
        scale = None if found is None else 0.01 if relative else _UNITS.get((found[1], found[3]))
        if found is None or scale is None or not float(found[2]):
            raise SettingError(
                f"search: budget={text!r} is none. Expected energy or macs, <=, and a number with its unit. Pass "
                "'energy<=50%', 'energy<=0.02mJ' or 'macs<=20M'."
            )
        return cls(found[1], float(found[2]) * scale, relative)


@dataclass(frozen=True)
class Candidate:
    """One setting with what it costs and how good it is.

    Attributes:
        settings: of the pruning.
        cost: per sample, in mJ or multiply-accumulates.
        quality: see `Search.metric`; on the inputs of the last round that it was in.
        inputs: how many these were.
    """

    settings: DSTSPConfig
    cost: float
    quality: float = 0.0
    inputs: int = 0


@dataclass(frozen=True)
class Search:
    """What `search` found; ``print`` shows the Pareto front.

    Attributes:
        kind: of the cost, "energy" in mJ or "macs".
        limit: of the budget, in these units.
        unpruned_cost: of the net without pruning.
        metric: "accuracy", or "agreement" with the unpruned net.
        unpruned: the metric of the net without pruning.
        front: settings that no other one beats in both, cheapest first, all judged on all inputs.
        chosen: the best one within the budget, which the model has now; None where there is none.
        closest: without a chosen one, what comes closest.
        tried: settings in all.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=0, t=None)
        >>> found = dstsp.search(net, [torch.rand(4, 1, 28, 28)], budget="macs<=1%", samples=4)
        >>> found.chosen is None, found.closest is None
        (True, False)
    """

    kind: str
    limit: float
    unpruned_cost: float
    metric: str
    unpruned: float
    front: tuple[Candidate, ...]
    chosen: Candidate | None
    closest: Candidate | None
    tried: int

    def to_json(self) -> str:
        """Everything as JSON."""
        return json.dumps(asdict(self), indent=2)

    def __str__(self) -> str:
        unit = "mJ" if self.kind == "energy" else "MACs"
        lines = [
            f"{self.tried} settings, {self.kind} <= {self.limit:.4g} {unit}; unpruned {self.unpruned_cost:.4g} {unit}, "
            f"{self.metric} {self.unpruned:.1%}"
        ]
        for one in self.front:
            mark = " <- chosen" if one == self.chosen else ""
            lines.append(f"  {_text(one, unit, self.metric)}{mark}")
        if self.chosen is None and self.closest is not None:
            lines.append(f"No setting meets the budget; closest: {_text(self.closest, unit, self.metric)}")
        return "\n".join(lines)


def _text(one: Candidate, unit: str, metric: str) -> str:
    s = one.settings
    kept = "all steps" if s.t is None else f"t={s.t}"
    return f"ps={s.ps}, {kept}, merge={s.merge}: {one.cost:.4g} {unit}, {metric} {one.quality:.1%}"


def search(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    budget: str,
    chip: Profile | str | Path | None = None,
    min_accuracy: float | None = None,
    samples: int = 1000,
) -> Search:
    """Find the pruning that keeps the most under a budget, and set it; ps, t and merge are tried, without training.

    Every setting is priced once on few inputs. Then they are judged by successive halving: on few inputs first, where
    the half that is farthest behind the Pareto front of cost and quality leaves, then on twice as many. The result does
    not depend on chance. Source of the rounds: Jamieson and Talwalkar, 2016.

    Args:
        model: from `wrap`.
        loader: batches; ``(input, labels)`` for accuracy, inputs for agreement with the unpruned net. Use inputs that
            nothing was trained on. A loader that can be gone through several times.
        budget: "energy<=50%" of the unpruned net, "energy<=0.02mJ" per sample, "macs<=20M" or "macs<=70%".
        chip: prices of energy, see `snntorch_smixer.cost.estimate`.
        min_accuracy: least quality of the chosen setting, as a share.
        samples: inputs of the last round.

    Returns:
        The front, and what was chosen. Where nothing meets the budget, the model keeps its settings.

    Raises:
        FamilyError: the model is not wrapped, or is a detector.
        SettingError: no budget, or a loader without inputs or for one pass only.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> net = dstsp.wrap(from_pretrained("smixer-2-64-fmnist"), ps=0, t=None)
        >>> found = dstsp.search(net, [torch.rand(8, 1, 28, 28)], budget="macs<=70%", samples=8)
        >>> found.chosen.cost <= 0.7 * found.unpruned_cost
        True
    """
    wanted = Budget.parse(budget)
    _check(model, loader, min_accuracy)
    dstsp: Any = model.dstsp
    before, modes = dstsp.settings, {m: m.training for m in model.modules()}
    chosen = None
    try:
        with undisturbed(), random_state_kept():
            torch.manual_seed(0)
            held = read("search", loader, model, samples=samples)
            teacher = unwrap(reset_copy(model)).eval()
            by = judge(teacher, held)
            few = held[0].first(min(SAMPLES_PRICED, held[0].count)).x
            whole = _cost(teacher, few, wanted.kind, chip)
            steps = dstsp.plan.steps[0] or 1
            found = _priced(model.eval(), _settings(before, steps), lambda: _cost(model, few, wanted.kind, chip))
            front = _halving(model, found, by)
        limit = wanted.limit * (whole if wanted.relative else 1)
        fit = [c for c in front if c.cost <= limit and c.quality >= (min_accuracy or 0.0)]
        chosen = max(fit, key=lambda c: (c.quality, -c.cost), default=None)
        near = None if fit else min(front, key=lambda c: (max(c.cost - limit, 0.0), -c.quality))
    finally:
        dstsp.settings = before if chosen is None else chosen.settings
        for module, mode in modes.items():
            module.training = mode
        reset_all(model)
    return Search(wanted.kind, limit, whole, by.metric, by.unpruned, tuple(front), chosen, near, len(found))


def _check(model: nn.Module, loader: Any, least: float | None) -> None:
    if built_in.pruning_of(model) is not None or not isinstance(getattr(model, "dstsp", None), WrappedDSTSP):
        raise FamilyError(
            f"search: this {type(model).__name__} is no wrapped classifier. Call dstsp.wrap(model, ps=0, t=None) first."
        )
    if least is not None and not (isinstance(least, (int, float)) and 0 <= least <= 1):
        raise SettingError(f"search: min_accuracy={least!r} is no share. Pass one in [0, 1], for example 0.9.")
    check_loader("search", loader)


def _settings(now: DSTSPConfig, steps: int) -> list[DSTSPConfig]:
    """All combinations that are tried."""
    kept = [None, *(t for t in (8, 4, 2, 1) if t < steps)]
    return [
        replace(now, ps=ps, t=t, merge=merge, active="both")
        for ps in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)
        for t in kept
        for merge in (("softmatch", "drop") if ps else ("softmatch",))
    ]


def _cost(model: nn.Module, x: Tensor, kind: str, chip: Any) -> float:
    if kind == "energy":
        return estimate(model, x, chip=chip).energy_mj
    reset_all(model)
    return dense_macs(model, x, batch_axis=batch_axis(x))


def _priced(model: Any, settings: Sequence[DSTSPConfig], cost: Any) -> list[Candidate]:
    found = []
    for one in tqdm(settings, desc="search: cost", unit="setting", leave=False, disable=None):
        model.dstsp.settings = one
        found.append(Candidate(one, cost()))
    return found


def _halving(model: Any, found: Sequence[Candidate], by: Judge) -> list[Candidate]:
    """The Pareto front on all inputs, cheapest first."""
    rounds = [len(by.samples)]
    while rounds[0] > 1 and len(rounds) < 3:
        rounds.insert(0, max(1, rounds[0] // 2))
    left = list(found)
    for count in rounds:
        part = Judge(by.samples[:count], by.answers[:count], by.metric, by.unpruned)
        judged = []
        for one in tqdm(left, desc=f"search: {part.count} inputs", unit="setting", leave=False, disable=None):
            model.dstsp.settings = one.settings
            judged.append(replace(one, quality=part(model), inputs=part.count))
        left = judged if count == rounds[-1] else best_half(judged)
    return pareto(left)


def pareto(found: Sequence[Candidate]) -> list[Candidate]:
    """Candidates that no other one beats, cheapest first: dearer ones are strictly better."""
    front: list[Candidate] = []
    for one in sorted(found, key=lambda c: (c.cost, -c.quality)):
        if not front or one.quality > front[-1].quality:
            front.append(one)
    return front


def best_half(found: Sequence[Candidate]) -> list[Candidate]:
    """The Pareto front, then the front of the rest, and so on, until at least half of them are in."""
    left, kept = list(found), list[Candidate]()
    while len(kept) < len(found) / 2:
        front = pareto(left)
        kept += front
        left = [one for one in left if one not in front]
    return kept
