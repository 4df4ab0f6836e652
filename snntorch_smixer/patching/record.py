"""What `wrap` does or did to a model, as plain data that travels with it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from snntorch_smixer.errors import SettingError
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import check_rates, rate_at
from snntorch_smixer.pruning.spatial import tokens_kept

MAX_LINES = 40
"""Lines that a plan prints at most; ``edits`` holds all of them."""
_NUMBER = re.compile(r"(?<=\.)\d+(?=[.:,]|$)|^\d+(?=[.:])|(?<= )\d+(?=\.[a-z_])")  # of a block in a dotted name


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
        fixed: why no token can be dropped, "" where they can; steps may be.
        every_step: why no step can be dropped, "" where they can; tokens may be.
        left: one line per attention or product that stays as it is, with the reason.
        memory: what the memory mode does, one line each; only `summary` tells.
        always: places of tokens that are never dropped and that nothing is merged into, as class tokens.
        inactive: why nothing is dropped now whatever the settings are, "" where it is; only `summary` tells.

    Examples:
        >>> from snntorch_smixer import dstsp, from_pretrained
        >>> dstsp.plan(from_pretrained("smixer-2-64-fmnist"), ps=0.3, t=1).tokens
        (49, 34)
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
    fixed: str = ""
    every_step: str = ""
    left: tuple[str, ...] = ()
    memory: tuple[str, ...] = ()
    inactive: str = ""
    always: tuple[int, ...] = ()

    def __str__(self) -> str:
        steps, what = self.steps, "steps" if self.levels is None else "levels"
        detector = self.family == "native" and self.keeps_grid
        unknown = "one for each place of a map" if detector and None in self.tokens else ""
        share = "" if None in self.tokens else f" ({1 - self.tokens[1] / self.tokens[0]:.1%} dropped)"  # type: ignore[operator]
        before, after = self.parameters
        lines = [
            f"{self.model}, family {self.family}, {self.depth} blocks",
            f"  tokens      {unknown or _arrow(*self.tokens)}{share}",
            f"  {what:<11} {_arrow(*steps)}",
            f"  parameters  {before:,} -> {'known after the first forward' if after is None else f'{after:,}'}",
        ]
        if self.always:
            lines.append(f"  always kept tokens {', '.join(map(str, self.always))} of 0 to {self.tokens[0] - 1}")  # type: ignore[operator]
        if self.inactive:
            lines.append(f"  pruning     off now: {self.inactive}")
        done = (*self.edits, *self.left)
        room = MAX_LINES - len(lines) - len(self.memory)
        return "\n".join([*lines, *(f"  {line}" for line in (*_shortened(done, room), *self.memory))])


def _shortened(edits: Sequence[str], room: int) -> list[str]:
    """At most ``room`` lines: one for all edits that differ in the numbers of blocks alone, and the first of them."""
    if len(edits) <= room:
        return list(edits)
    alike: dict[str, list[str]] = {}
    for edit in edits:
        alike.setdefault(_NUMBER.sub("*", edit), []).append(edit)
    lines = [same[0] if len(same) == 1 else f"{text} ({len(same)} times)" for text, same in alike.items()]
    if len(lines) <= room:
        return lines
    shown = max(0, room - 1)
    return [
        *lines[:shown],
        f"and {len(lines) - shown} more kinds of edits; plan.edits and plan.left have all {len(edits)}",
    ]


@dataclass(eq=False)
class Found:
    """What the memory mode found in a model, by dotted name.

    Attributes:
        neurons: "" for those that run again in the backward pass, for the others why they do not.
        records: what a neuron that runs again keeps of all steps for whoever asks, and does not keep now: (part, name).
        pairs: the BatchNorm in front of a neuron, "" where what it reads is kept.
        maps: linear maps that are computed again.
        refused: calls whose result could not be made again bit for bit.
        elsewhere: neurons that ran inside a checkpoint of the model, or other hooks on saved tensors, last time.
        looked: (mode, number of trained parameters) with which a forward pass was seen to its end.
        note: why the last forward pass kept everything, "" where it did not.
    """

    neurons: dict[str, str] = field(default_factory=dict)
    records: dict[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    pairs: dict[str, str] = field(default_factory=dict)
    maps: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    elsewhere: set[str] = field(default_factory=set)
    looked: set[tuple[str, int]] = field(default_factory=set)
    note: str = ""

    def lines(self, mode: str) -> tuple[str, ...]:
        """What there is to say about ``mode``, one line each."""
        if mode == "reference":
            return ("memory reference: kept as upstream does; set_memory(model, 'fused') keeps less",)
        if self.note:
            return (f"memory {mode}: everything is kept, because {self.note}",)
        if mode not in (seen for seen, _ in self.looked):
            return (f"memory {mode}: pairs of BatchNorm and neuron are looked for in the first training forward",)
        again = [neuron for neuron, reason in self.neurons.items() if not reason]
        pairs = [f"{self.pairs[neuron]} -> {neuron}" for neuron in again if self.pairs[neuron]]
        alone = [neuron for neuron in again if not self.pairs[neuron]]
        lines = [
            _listed("BatchNorm -> neuron, both computed again", pairs),
            _listed("neurons computed again, what they read is kept", alone),
            _listed("maps computed again", sorted(self.maps)) if mode == "recompute" else "",
            _listed("records of all steps that are None instead", self._records()),
            _listed("left as they are", [f"{name} ({why})" for name, why in self.neurons.items() if why]),
            _listed("left because a checkpoint or other hooks keep for them", sorted(self.elsewhere)),
            _listed("left because they do not repeat bit for bit", sorted(self.refused)),
        ]
        if not again:
            lines.insert(0, "no neuron can be computed again, so its membranes are kept; spikes are kept as bits")
        return tuple(f"memory {mode}: {line}" for line in lines if line)

    def _records(self) -> Iterator[str]:
        for neuron, held in self.records.items():
            yield from (".".join(filter(None, (neuron, part, name))) for part, name in held)


def _listed(what: str, names: Iterable[str]) -> str:
    listed = list(names)
    return f"{what}, {len(listed)}: {', '.join(listed)}" if listed else ""


def _arrow(before: int | None, after: int | None) -> str:
    told = "as they come" if before is None else str(before)
    if after is None:
        return f"{told}, fixed at the first forward" if before is None else told
    return told if before == after else f"{told} -> {after}"


def steps_after(settings: DSTSPConfig, steps: int | None) -> int | None:
    """T' of T, None where neither is known."""
    return steps if settings.t is None else settings.t


def tokens_after(settings: DSTSPConfig, tokens: int | None, depth: int, always: int = 0) -> int | None:
    """N' of N in the last block with ``always`` tokens that stay, None where N is not known."""
    return None if tokens is None else tokens_kept(tokens, rate_at(settings.ps, depth - 1, depth), always)


def check_fits(plan: Plan, settings: DSTSPConfig) -> None:
    """Raise `SettingError` where ``settings`` do not fit the model of ``plan``."""
    check_rates(settings.ps, depth=plan.depth, may_fall=plan.keeps_grid)
    steps, what = plan.steps[0], "steps" if plan.levels is None else "spike levels"
    if steps is not None and settings.t is not None and settings.t > steps:
        raise SettingError(f"wrap: t={settings.t} is outside 1..{steps}, the {what} of this {plan.model}. Keep fewer.")
    if plan.family == "native":
        return
    drops = any(rate_at(settings.ps, i, plan.depth) for i in range(plan.depth))
    prunes = settings.t not in (None, steps) or drops
    if prunes and plan.refusal:
        raise SettingError(f"wrap: this {plan.model} cannot be pruned: {plan.refusal}. Pass ps=0, t=None to swap only.")
    if plan.every_step and settings.t not in (None, steps):
        raise SettingError(f"wrap: no step of this {plan.model} can be dropped: {plan.every_step}.")
    if drops and plan.fixed:
        raise SettingError(
            f"wrap: the tokens of this {plan.model} cannot be pruned: {plan.fixed}. Pass ps=0 to keep all of them."
        )
    if prunes and not plan.has_spikes:
        raise SettingError(
            f"wrap: the stream of this {plan.model} holds real values and no neuron module reads it, so there are no "
            "spikes to rank steps and tokens by. Pass ps=0, t=None to swap only, or make its spike function a module."
        )
    _check_always(plan, settings)
    if settings.place != "stem":
        raise SettingError(
            f"wrap: place={settings.place!r} is inside the stem of a network of this package; in a wrapped model steps "
            "are dropped behind the stem. Pass place='stem'."
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


def _check_always(plan: Plan, settings: DSTSPConfig) -> None:
    """Raise `SettingError` where tokens that are always kept would lie at other places, which the head may read."""
    if not plan.always or plan.tokens[0] is None:
        return
    first = plan.always == tuple(range(len(plan.always)))
    last = plan.always == tuple(range(plan.tokens[0] - len(plan.always), plan.tokens[0]))
    for setting, wrong in {
        "w_prime='crop'": settings.w_prime == "crop" and not first,
        "w_prime='shared'": settings.w_prime == "shared" and not (first or last),
        "merge='fuse'": settings.merge == "fuse" and not first,
    }.items():
        if wrong:
            raise SettingError(
                f"wrap: {setting} moves tokens {plan.always} of this {plan.model}, which are no image tokens and have "
                "to stay where they are. Pass w_prime='gather' and merge='softmatch', 'sum' or 'drop'."
            )
