"""What the planner of W_M' is told: the mixers of a network, the limits of a core, the price of moving weights."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

from snntorch_smixer.cost.chip import Profile
from snntorch_smixer.cost.paper.published import check_within, read_data
from snntorch_smixer.cost.records import Geometry, Records
from snntorch_smixer.errors import ProfileError, SettingError, check_count


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
class CoreLimits:
    """What one core holds, enough to place a token mixer channel by channel.

    Attributes:
        neurons: neurons of a core.
        axons: inputs of a core, None for no limit.
        fan_in: inputs of one neuron, None for no limit.
        synapse_bits: weight memory of a core in bits, None for no limit (a crossbar is limited by axons and neurons).
        weight_bits: bits of a weight.
        shares_weights: channels of one head use one copy of their matrix.
    """

    neurons: int
    axons: int | None = None
    fan_in: int | None = None
    synapse_bits: int | None = None
    weight_bits: int = 8
    shares_weights: bool = False

    def __post_init__(self) -> None:
        for name in ("neurons", "axons", "fan_in", "synapse_bits", "weight_bits"):
            if getattr(self, name) is not None or name in ("neurons", "weight_bits"):
                check_count("CoreLimits", name, getattr(self, name))

    @classmethod
    def from_profile(cls, profile: Profile) -> CoreLimits:
        """The limits of a chip's core; a crossbar is limited by its rows and columns, not by its memory.

        Raises:
            ProfileError: neurons per core are not published.
        """
        capacity = profile.capacity
        if capacity.neurons_per_core is None:
            raise ProfileError(
                f"CoreLimits: {profile.name} gives no neurons_per_core. Wanted a whole number. "
                "Choose another chip, or pass CoreLimits of your own."
            )
        return cls(
            neurons=capacity.neurons_per_core,
            axons=capacity.fan_in,
            synapse_bits=None if capacity.synapses_per_core is not None else capacity.synapse_bits_per_core,
            weight_bits=profile.weight_bits,
            shares_weights=capacity.shares_weights,
        )

    def cores(self, geometry: Geometry) -> int | None:
        """Cores for one mixer, whole channels side by side; None where one neuron's inputs do not fit a core."""
        reach = [limit for limit in (self.axons, self.fan_in) if limit is not None]
        if any(geometry.fan_in > limit for limit in reach):
            return None
        channels = self.neurons // geometry.outputs
        if self.axons is not None:
            channels = min(channels, self.axons // geometry.fan_in)
        channels = min(channels, geometry.blocks)
        while channels and not self._stores(geometry, channels):
            channels -= 1
        return ceil(geometry.blocks / channels) if channels else self._split(geometry)

    def _stores(self, geometry: Geometry, channels: int) -> bool:
        """True where the weights of so many neighbouring channels fit; they may straddle heads."""
        if self.synapse_bits is None:
            return True
        per_set = max(1, geometry.blocks // geometry.weight_sets)
        copies = min(ceil((channels - 1) / per_set) + 1, geometry.weight_sets) if self.shares_weights else channels
        return copies * geometry.fan_in * geometry.outputs * self.weight_bits <= self.synapse_bits

    def _split(self, geometry: Geometry) -> int | None:
        """Cores where one channel takes several."""
        rows = self.neurons
        if self.synapse_bits is not None:
            rows = min(rows, self.synapse_bits // (geometry.fan_in * self.weight_bits))
        return geometry.blocks * ceil(geometry.outputs / rows) if rows else None


@dataclass(frozen=True)
class Band:
    """A price that is known as a range, in pJ per byte.

    Attributes:
        low: lower end.
        high: upper end.
        grade: "published", "recalled" (quoted from memory) or "assumed" (chosen by us).
        source: what it is taken from.
    """

    low: float
    high: float
    grade: str
    source: str

    def __post_init__(self) -> None:
        check_within("Band", "low", self.low)
        check_within("Band", "high", self.high, self.low)


@dataclass(frozen=True)
class MemoryPrices:
    """What moving weights costs.

    Attributes:
        fetch: reading a byte from off-core memory.
        write: writing a byte into a core.
    """

    fetch: Band
    write: Band


def memory_prices() -> MemoryPrices:
    """The assumptions of the package: DRAM for the fetch, core SRAM for the write. Source: ``memory.toml``."""
    raw = tomllib.loads(read_data("memory.toml"))
    return MemoryPrices(Band(**raw["fetch"]), Band(**raw["write"]))
