"""``smixer cost MODEL w-prime``: three ways of pruning the tokens of a mixer on a chip."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

from snntorch_smixer.cost.profile import Profile
from snntorch_smixer.cost.records import Records
from snntorch_smixer.cost.w_prime import (
    IMPLEMENTATIONS,
    CoreStep,
    MixerLoad,
    WPrimePlan,
    core_steps,
    cores_on,
    memory_prices,
    plan_w_prime,
)
from snntorch_smixer.errors import ProfileError, SettingError


@dataclass(frozen=True)
class Planned:
    """The three ways for all mixers of a network on a chip.

    Attributes:
        mixers: how many.
        profile: the chip.
        price: pJ per event.
        assumed: True where nobody told the share of spikes that the kept tokens hold.
        plan: the comparison.
        steps: cores per block by what is dropped; empty where the chip's cores are not published.
    """

    mixers: int
    profile: Profile
    price: float
    assumed: bool
    plan: WPrimePlan
    steps: tuple[CoreStep, ...]

    def to_dict(self) -> dict[str, object]:
        """For JSON."""
        told = {"mixers": self.mixers, "chip": self.profile.name, "event_pj": self.price, "held_assumed": self.assumed}
        return {**told, "plan": asdict(self.plan), "core_steps": [asdict(step) for step in self.steps]}


def plan(records: Records, profile: Profile, ps: float | None, *, rate: float | None, held: float | None) -> Planned:
    """The plan for every mixer of a measured network; ``rate`` and ``held`` (phi) replace what was measured.

    Raises:
        SettingError: no rate, or no token mixers.
        ProfileError: the chip has no price of an event.
    """
    if ps is None or not 0 <= ps < 1:
        raise SettingError(f"w-prime: --ps {ps} is outside [0, 1). Pass the share of tokens to drop.")
    price = profile.price("ac_pj")
    if price is None or price.value is None:
        raise ProfileError(f"w-prime: {profile.name} has no ac_pj, the price of a synaptic event. Choose another chip.")
    layers = [r.layer for r in records.layers if r.layer.endswith("w_m") and r.geometry is not None]
    if not layers:
        raise SettingError("w-prime: the model has no token mixers (layers called w_m). Wrap or build one with them.")
    shape = records.layer(layers[0]).geometry
    tokens = shape.fan_in if shape is not None else 0
    kept = max(1, round(tokens * (1 - ps)))
    load = MixerLoad.from_records(records, layers=layers, kept=kept, held=kept / tokens if held is None else held)
    load = replace(load, weight_bits=profile.weight_bits, rate=load.rate if rate is None else rate)
    cores = cores_on(profile) if profile.capacity.neurons_per_core else None
    found = plan_w_prime(load, event_pj=price.value, memory=memory_prices(), cores=cores)
    steps = () if cores is None else tuple(core_steps(load, cores=cores))
    return Planned(len(layers), profile, price.value, held is None, found, steps)


def text(planned: Planned) -> str:
    """The plan for people."""
    plan, load, profile = planned.plan, planned.plan.load, planned.profile
    lines = [
        f"{planned.mixers} mixers, N = {load.tokens} to N' = {load.kept}, C = {load.channels}, h = {load.heads}, "
        f"T = {load.steps}, firing {load.rate:.1%}; {profile.title}, {planned.price:g} pJ per event",
        f"kept tokens hold {load.held:.0%} of the spikes"
        + (", as if they spiked like the others" if planned.assumed else ""),
        f"without pruning: {plan.full_events / 1e6:.3g} M events, {plan.full_uj:.3g} uJ",
        "",
        _line(("", "resident", "cores/block", "events", "uJ", "reload", "reload uJ", "control", "barriers")),
    ]
    for o in plan.options:
        cores_per_block = "-" if o.cores_per_block is None else str(o.cores_per_block)
        reload_uj = f"{o.reload_uj[0]:.3g} to {o.reload_uj[1]:.3g}" if o.reload_bytes else "0"
        events = (f"{o.events / 1e6:.3g} M", f"{o.events_uj:.3g}")
        moved = (_kib(o.reload_bytes), reload_uj, f"{o.control_bits / 8:.4g} B", str(o.barriers))
        lines.append(_line((o.name, _kib(o.resident_bytes), cores_per_block, *events, *moved)))
    lines += ["", *(f"{name}: {meaning}" for name, meaning in IMPLEMENTATIONS.items()), ""]
    for pair in plan.break_even:
        when = "never" if pair.steps is None else "from the first step" if pair.steps[1] <= 1 else _from(pair.steps)
        lines.append(f"{pair.name} pays against {pair.against}: {when}")
    if planned.steps:
        steps = ", ".join(f"{s.cores} cores from ps = {s.pruned:.3f}" for s in planned.steps[:6])
        lines.append(f"cores per block: {steps}")
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    widths = (3, 12, 13, 11, 9, 12, 16, 10, 10)
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _kib(count: float) -> str:
    return f"{count / 1024:.4g} KiB"


def _from(steps: tuple[float, float]) -> str:
    return f"from T = {steps[0]:.3g} to {steps[1]:.3g}, as memory is priced"
