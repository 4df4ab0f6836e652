"""Planner of W_M': what three ways of pruning the tokens of a mixer cost on a chip, and when each of them pays."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from snntorch_smixer.cost.fits import fits
from snntorch_smixer.cost.profile import Profile
from snntorch_smixer.cost.published import check_within, read_data
from snntorch_smixer.cost.records import Geometry, Records
from snntorch_smixer.errors import SettingError, check_count


@dataclass(frozen=True)
class MixerLoad:
    """What the token mixers of a network do for one sample.

    Attributes:
        tokens: N.
        kept: N', tokens that survive pruning.
        channels: C.
        heads: h, matrices per block.
        blocks: mixers in the network.
        steps: T, steps that the mixers run.
        rate: mean firing rate of what enters a mixer before pruning, 0..1.
        held: phi, share of those spikes that the kept tokens hold; N'/N where the tokens spike alike.
        weight_bits: bits of a weight on the chip.

    Examples:
        >>> from snntorch_smixer import cost
        >>> load = cost.MixerLoad(tokens=49, kept=34, channels=64, heads=8, blocks=2, steps=1, rate=0.2, held=0.8)
        >>> load.kept
        34
    """

    tokens: int
    kept: int
    channels: int
    heads: int
    blocks: int
    steps: int
    rate: float
    held: float
    weight_bits: int = 8

    def __post_init__(self) -> None:
        for name in ("tokens", "kept", "channels", "heads", "blocks", "steps", "weight_bits"):
            check_count("MixerLoad", name, getattr(self, name))
        if self.kept > self.tokens:
            raise SettingError(f"MixerLoad: kept={self.kept} is outside 1..{self.tokens} tokens. Keep fewer.")
        if self.channels % self.heads:
            raise SettingError(f"MixerLoad: channels={self.channels} is no multiple of heads={self.heads}. Change one.")
        for name in ("rate", "held"):
            check_within("MixerLoad", name, getattr(self, name), 0.0, 1.0)

    @property
    def spikes(self) -> float:
        """s: spikes that enter all mixers before pruning, summed over blocks and steps: ``rate N C blocks T``."""
        return self.rate * self.tokens * self.channels * self.blocks * self.steps

    @classmethod
    def from_records(cls, records: Records, *, layers: Sequence[str], kept: int, held: float) -> MixerLoad:
        """The load of these mixers in a run without pruning, with 8-bit weights.

        Args:
            records: from a measurement.
            layers: dotted paths of the mixers; all of one shape.
            kept: N'.
            held: phi.

        Raises:
            SettingError: no layers, layers of several shapes, or one that is no mixer of tokens.
        """
        mixers = [records.layer(layer) for layer in layers]
        shapes = {mixer.geometry for mixer in mixers}
        shape = shapes.pop() if len(shapes) == 1 else None
        if shape is None or shape.fan_in != shape.outputs:
            raise SettingError(
                f"MixerLoad: layers={tuple(layers)!r} are no token mixers of one shape. "
                "Expected N inputs, N outputs each. Name the mixers of one stage."
            )
        inputs = sum(mixer["inputs"] for mixer in mixers)
        rate = sum(mixer["packets"] for mixer in mixers) / inputs if inputs else 0.0
        blocks, heads = len(mixers), shape.weight_sets
        return cls(shape.fan_in, kept, shape.blocks, heads, blocks, records.steps, rate, held)


@dataclass(frozen=True)
class Band:
    """A price that is known as a range, in pJ per byte."""

    low: float  # lower end
    high: float  # upper end
    grade: str  # "published", "recalled" (quoted from memory) or "assumed" (chosen by us)
    source: str  # what it is taken from

    def __post_init__(self) -> None:
        check_within("Band", "low", self.low)
        check_within("Band", "high", self.high, self.low)


@dataclass(frozen=True)
class MemoryPrices:
    """What moving weights costs: reading a byte from off-core memory, and writing one into a core."""

    fetch: Band
    write: Band


def memory_prices() -> MemoryPrices:
    """The assumptions of the package: DRAM for the fetch, core SRAM for the write. Source: ``memory.toml``.

    Examples:
        >>> from snntorch_smixer import cost
        >>> prices = cost.memory_prices()
    """
    raw = tomllib.loads(read_data("memory.toml"))
    return MemoryPrices(Band(**raw["fetch"]), Band(**raw["write"]))


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
    """What one implementation costs per sample, over all blocks and steps."""

    name: str  # a key of `IMPLEMENTATIONS`
    resident_bytes: float  # weights in the cores
    off_core_bytes: float  # weights kept elsewhere, to load from
    slots: int  # neurons that stay placed
    cores_per_block: int | None  # cores of one mixer, None where it does not fit or no chip is given
    events: float  # synaptic events
    dropped: float  # spikes stopped at their source
    events_uj: float  # energy of the events, uJ
    reload_bytes: float  # weights written for each sample
    reload_uj: tuple[float, float]  # (low, high) energy of that, uJ
    control_bits: int  # mask or table of the kept tokens, sent once: the steps share one token set
    control_bits_each_step: int  # the same where it is sent at every step
    barriers: int  # times that everything waits: the ranking, and for G the reload behind it


@dataclass(frozen=True)
class BreakEven:
    """Steps at which one implementation begins to pay."""

    name: str  # the implementation
    against: str  # the one it is compared with
    # (low, high) smallest T, as the reload is priced low or high; None: never, it saves nothing per step
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
    """The largest N' that needs no more than this many cores per block."""

    kept: int  # N'
    pruned: float  # share of tokens that must be dropped for it, ``1 - N'/N``
    cores: int  # cores of one mixer


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
    events = {"F": both if gate_destination else source, "S": both, "G": both}
    by_name = {name: _option(name, load, events=n, uj=uj, memory=memory, cores=cores) for name, n in events.items()}
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
        options=tuple(by_name.values()),
        break_even=tuple(
            _break_even(by_name[name], by_name[against], steps=load.steps, memory=memory)
            for name, against in (("S", "F"), ("G", "F"), ("G", "S"))
        ),
    )


def core_steps(load: MixerLoad, *, cores: Cores) -> tuple[CoreStep, ...]:
    """Where pruning tokens frees whole cores: one entry per count of cores, from N' = N down to 1.

    Entries go by falling count; between two of them pruning frees no core. Sizes that do not fit are left out, and
    ``load.kept`` is not used.
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
    low, high = memory.fetch.low + memory.write.low, memory.fetch.high + memory.write.high
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
        reload_uj=(reload * low * 1e-6, reload * high * 1e-6),
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
