"""Planner of W_M': what three ways of pruning the tokens of a mixer cost on a chip, and when each of them pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from snntorch_smixer.cost.chip import Profile
from snntorch_smixer.cost.fits import fits
from snntorch_smixer.cost.mixer_load import Band as Band
from snntorch_smixer.cost.mixer_load import MemoryPrices as MemoryPrices
from snntorch_smixer.cost.mixer_load import MixerLoad as MixerLoad
from snntorch_smixer.cost.mixer_load import memory_prices as memory_prices
from snntorch_smixer.cost.paper.published import check_within
from snntorch_smixer.cost.records import Geometry

Cores = Callable[[Geometry], int | None]
"""Cores that the neurons of one layer fill, None where they do not fit; for example `cores_on` of a chip."""

IMPLEMENTATIONS: Mapping[str, str] = {
    "F": "full matrix; silent tokens are gated, weights and slots stay",
    "S": "static N' x N' matrix; tokens sit in slots by rank, and a table maps positions to slots",
    "G": "the rows and columns of the kept tokens are written into the cores for each sample",
}


def cores_on(profile: Profile) -> Cores:
    """Cores of one mixer on a chip, placed as `fits` does, whole channels together.

    Raises:
        ProfileError: when called: the profile says nothing about the neurons of a core.

    Examples:
        >>> from snntorch_smixer import cost
        >>> cores = cost.cores_on(cost.load_profile("loihi1"))
        >>> cores(cost.Geometry(fan_in=49, outputs=49, blocks=64, weight_sets=8)) > 0
        True
    """
    return lambda geometry: fits({"w_m": geometry}, profile).layers[0].cores


@dataclass(frozen=True)
class Implementation:
    """What one implementation costs per sample, over all blocks and steps.

    Attributes:
        name: a key of `IMPLEMENTATIONS`.
        resident_bytes: weights in the cores.
        off_core_bytes: weights kept elsewhere, to load from.
        slots: neurons that stay placed.
        cores_per_block: cores of one mixer, None where it does not fit or no chip is given.
        events: synaptic events.
        dropped: spikes stopped at their source.
        events_uj: energy of the events, uJ.
        reload_bytes: weights written for each sample.
        reload_uj: (low, high) energy of that, uJ.
        control_bits: mask or table of the kept tokens, sent once: the steps share one token set.
        control_bits_each_step: the same where it is sent at every step.
        barriers: times that everything waits: the ranking, and for G the reload behind it.
    """

    name: str
    resident_bytes: float
    off_core_bytes: float
    slots: int
    cores_per_block: int | None
    events: float
    dropped: float
    events_uj: float
    reload_bytes: float
    reload_uj: tuple[float, float]
    control_bits: int
    control_bits_each_step: int
    barriers: int


@dataclass(frozen=True)
class BreakEven:
    """Steps at which one implementation begins to pay.

    Attributes:
        name: the implementation.
        against: the one it is compared with.
        steps: (low, high) smallest T, as the reload is priced low or high; None: never, it saves nothing per step.
    """

    name: str
    against: str
    steps: tuple[float, float] | None


@dataclass(frozen=True)
class WPrimePlan:
    """The three implementations side by side, per sample.

    Attributes:
        load: what was planned.
        full_events: synaptic events without pruning.
        full_uj: their energy, uJ.
        source_gating_uj: saved by stopping the spikes of dropped tokens, by any of the three.
        destination_gating_uj: saved on top of that by not delivering to dropped tokens.
        reload_over_saving: (low, high) energy of G's reload over ``destination_gating_uj``; None where that is 0.
        rank_buffer_bits: spikes that the ranking holds back per pruning, ``N C T``.
        rank_counters: counters of the ranking, N.
        options: F, S, G.
        break_even: S against F, G against F, G against S.

    Examples:
        >>> from snntorch_smixer import cost
        >>> load = cost.MixerLoad(tokens=49, kept=34, channels=64, heads=8, blocks=2, steps=1, rate=0.2, held=0.8)
        >>> cost.plan_w_prime(load, event_pj=23.6, memory=cost.memory_prices()).rank_counters
        49
    """

    load: MixerLoad
    full_events: float
    full_uj: float
    source_gating_uj: float
    destination_gating_uj: float
    reload_over_saving: tuple[float, float] | None
    rank_buffer_bits: int
    rank_counters: int
    options: tuple[Implementation, ...]
    break_even: tuple[BreakEven, ...]

    def option(self, name: str) -> Implementation:
        """One implementation.

        Raises:
            KeyError: ``name`` is none of F, S, G.
        """
        return {option.name: option for option in self.options}[name]


@dataclass(frozen=True)
class CoreStep:
    """The largest N' that needs no more than this many cores per block.

    Attributes:
        kept: N'.
        pruned: share of tokens that must be dropped for it, ``1 - N'/N``.
        cores: cores of one mixer.
    """

    kept: int
    pruned: float
    cores: int


def plan_w_prime(
    load: MixerLoad,
    *,
    event_pj: float,
    memory: MemoryPrices,
    cores: Cores | None = None,
    gate_destination: bool = False,
) -> WPrimePlan:
    """Compare the three implementations of W_M' (F, S, G; see `IMPLEMENTATIONS`).

    Events per sample, with s spikes entering the mixers and phi of them in kept tokens: ``s N`` without pruning,
    ``phi s N`` for F, ``phi s N'`` for S, G and F with gated destinations. G reloads ``h N'^2`` weights per block and
    sample, F and S nothing. Break-even: ``T = extra energy once per sample / energy saved per step``, where the extra
    is the reload and the longer control table, and the saving is ``(events against - events) / T * event_pj``.

    Args:
        load: the mixers.
        event_pj: price of a synaptic event.
        memory: prices of moving weights and control bits; `memory_prices` has assumptions.
        cores: places a layer on a chip; None to leave the cores out.
        gate_destination: F also skips the delivery to dropped tokens; it then saves what S saves.

    Raises:
        SettingError: a negative price.

    Examples:
        >>> from snntorch_smixer import cost
        >>> load = cost.MixerLoad(tokens=49, kept=34, channels=64, heads=8, blocks=2, steps=1, rate=0.2, held=0.8)
        >>> plan = cost.plan_w_prime(load, event_pj=23.6, memory=cost.memory_prices())
        >>> [option.name for option in plan.options]
        ['F', 'S', 'G']
    """
    check_within("plan_w_prime", "event_pj", event_pj)
    uj = event_pj * 1e-6
    full, source = load.spikes * load.tokens, load.held * load.spikes * load.tokens
    both = load.held * load.spikes * load.kept
    options = (
        _option("F", load, events=both if gate_destination else source, uj=uj, memory=memory, cores=cores),
        _option("S", load, events=both, uj=uj, memory=memory, cores=cores),
        _option("G", load, events=both, uj=uj, memory=memory, cores=cores),
    )
    by_name = {option.name: option for option in options}
    saved = (source - both) * uj
    low, high = by_name["G"].reload_uj
    return WPrimePlan(
        load=load,
        full_events=full,
        full_uj=full * uj,
        source_gating_uj=(full - source) * uj,
        destination_gating_uj=saved,
        reload_over_saving=(low / saved, high / saved) if saved else None,
        rank_buffer_bits=load.tokens * load.channels * load.steps,
        rank_counters=load.tokens,
        options=options,
        break_even=tuple(
            _break_even(by_name[name], by_name[against], steps=load.steps, memory=memory)
            for name, against in (("S", "F"), ("G", "F"), ("G", "S"))
        ),
    )


def core_steps(load: MixerLoad, *, cores: Cores) -> tuple[CoreStep, ...]:
    """Where pruning tokens frees whole cores: one entry per count of cores, from N' = N down to 1.

    Args:
        load: the mixers; ``kept`` is not used.
        cores: places a layer on a chip.

    Returns:
        Entries by falling count; between two of them pruning frees no core. Sizes that do not fit are left out.
    """
    steps: list[CoreStep] = []
    for kept in range(load.tokens, 0, -1):
        count = cores(_geometry(load, kept))
        if count is not None and (not steps or count < steps[-1].cores):
            steps.append(CoreStep(kept, 1 - kept / load.tokens, count))
    return tuple(steps)


def _geometry(load: MixerLoad, tokens: int) -> Geometry:
    return Geometry(fan_in=tokens, outputs=tokens, blocks=load.channels, weight_sets=load.heads)


def _option(
    name: str, load: MixerLoad, *, events: float, uj: float, memory: MemoryPrices, cores: Cores | None
) -> Implementation:
    size = load.tokens if name == "F" else load.kept
    full = load.blocks * _geometry(load, load.tokens).weights * load.weight_bits / 8
    resident = load.blocks * _geometry(load, size).weights * load.weight_bits / 8
    reload = resident if name == "G" else 0.0
    # F: one bit per token. S and G: for each slot the position that feeds it.
    control = load.blocks * (load.tokens if name == "F" else load.kept * (load.tokens - 1).bit_length())
    return Implementation(
        name=name,
        resident_bytes=resident,
        off_core_bytes=full if name == "G" else 0.0,
        slots=load.blocks * load.channels * size,
        cores_per_block=cores(_geometry(load, size)) if cores is not None else None,
        events=events,
        dropped=(1 - load.held) * load.spikes,
        events_uj=events * uj,
        reload_bytes=reload,
        reload_uj=(
            reload * (memory.fetch.low + memory.write.low) * 1e-6,
            reload * (memory.fetch.high + memory.write.high) * 1e-6,
        ),
        control_bits=control,
        control_bits_each_step=control * load.steps,
        barriers=2 if name == "G" else 1,
    )


def _break_even(ours: Implementation, other: Implementation, *, steps: int, memory: MemoryPrices) -> BreakEven:
    saved = (other.events_uj - ours.events_uj) / steps
    if saved <= 0:
        return BreakEven(ours.name, other.name, None)
    control = (ours.control_bits - other.control_bits) / 8 * 1e-6
    low = ours.reload_uj[0] - other.reload_uj[0] + control * memory.write.low
    high = ours.reload_uj[1] - other.reload_uj[1] + control * memory.write.high
    return BreakEven(ours.name, other.name, (max(low, 0.0) / saved, max(high, 0.0) / saved))
