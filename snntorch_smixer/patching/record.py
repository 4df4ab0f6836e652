"""What `wrap` does or did to a model, as plain data that travels with it."""

from __future__ import annotations

from dataclasses import dataclass

from snntorch_smixer.errors import SettingError
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import check_rates, rate_at
from snntorch_smixer.pruning.spatial import tokens_kept


@dataclass(frozen=True)
class Plan:
    """Every edit of `wrap`; ``print(plan)`` shows them.

    Attributes:
        model: class of the model.
        family: name of the family, or "probe".
        settings: of the pruning.
        steps: (T, T'); T is None where neither the model nor an example tells it.
        tokens: (N, N') in the last block; None where not known yet, ``W_M`` is then made at the first forward.
        parameters: (before, after); None after where ``W_M`` is not made yet.
        depth: blocks behind the pruning.
        levels: D, where T counts levels of integer neurons instead of steps; else None.
        keeps_grid: True where dropped tokens keep their place.
        has_spikes: False where the stream holds real values that no neuron reads: nothing can be ranked there.
        refusal: why nothing can be dropped, "" where it can.
        edits: one line per edit.
    """

    model: str
    family: str
    settings: DSTSPConfig
    steps: tuple[int | None, int | None]
    tokens: tuple[int | None, int | None]
    parameters: tuple[int, int | None]
    depth: int
    levels: int | None
    keeps_grid: bool
    has_spikes: bool
    refusal: str
    edits: tuple[str, ...]

    def __str__(self) -> str:
        steps, what = self.steps, "steps" if self.levels is None else "levels"
        share = "" if None in self.tokens else f" ({1 - self.tokens[1] / self.tokens[0]:.1%} dropped)"  # type: ignore[operator]
        before, after = self.parameters
        lines = [
            f"{self.model}, family {self.family}, {self.depth} blocks",
            f"  tokens      {_arrow(*self.tokens)}{share}",
            f"  {what:<11} {_arrow(*steps)}",
            f"  parameters  {before:,} -> {'known after the first forward' if after is None else f'{after:,}'}",
        ]
        return "\n".join([*lines, *(f"  {edit}" for edit in self.edits)])


def _arrow(before: int | None, after: int | None) -> str:
    told = "as they come" if before is None else str(before)
    if after is None:
        return f"{told}, fixed at the first forward" if before is None else told
    return told if before == after else f"{told} -> {after}"


def steps_after(settings: DSTSPConfig, steps: int | None) -> int | None:
    """T' of T, None where neither is known."""
    return steps if settings.t is None else settings.t


def tokens_after(settings: DSTSPConfig, tokens: int | None, depth: int) -> int | None:
    """N' of N in the last block, None where N is not known."""
    return None if tokens is None else tokens_kept(tokens, rate_at(settings.ps, depth - 1, depth))


def check_fits(plan: Plan, settings: DSTSPConfig) -> None:
    """Raise `SettingError` where ``settings`` do not fit the model of ``plan``."""
    check_rates(settings.ps, depth=plan.depth, may_fall=plan.keeps_grid)
    steps, what = plan.steps[0], "steps" if plan.levels is None else "spike levels"
    if steps is not None and settings.t is not None and settings.t > steps:
        raise SettingError(f"wrap: t={settings.t} is outside 1..{steps}, the {what} of this {plan.model}. Keep fewer.")
    if plan.family == "native":
        return
    prunes = settings.t not in (None, steps) or any(rate_at(settings.ps, i, plan.depth) for i in range(plan.depth))
    if prunes and plan.refusal:
        raise SettingError(f"wrap: this {plan.model} cannot be pruned: {plan.refusal}. Pass ps=0, t=None to swap only.")
    if prunes and not plan.has_spikes:
        raise SettingError(
            f"wrap: the stream of this {plan.model} holds real values and no neuron module reads it, so there are no "
            "spikes to rank steps and tokens by. Pass ps=0, t=None to swap only, or make its spike function a module."
        )
    if settings.spike_cap is not None:
        raise SettingError(
            "wrap: spike_cap is for networks of this package. In a wrapped model with integer neurons t caps their "
            "spikes; binary neurons fire at most once per kept step already."
        )
    if plan.keeps_grid and settings.merge in ("sum", "fuse"):
        raise SettingError(
            f"wrap: merge={settings.merge!r} needs tokens that leave, but those of this {plan.model} keep their place "
            "and value. Pass 'softmatch' or 'drop'; nothing is merged with either."
        )
