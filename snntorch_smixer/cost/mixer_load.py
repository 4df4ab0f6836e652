"""What the planner of W_M' is told: the mixers of a network, the price of moving weights."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass

from snntorch_smixer.cost.paper.published import check_within, read_data
from snntorch_smixer.cost.records import Records
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
    """The assumptions of the package: DRAM for the fetch, core SRAM for the write. Source: ``memory.toml``.

    Examples:
        >>> from snntorch_smixer import cost
        >>> prices = cost.memory_prices()
    """
    raw = tomllib.loads(read_data("memory.toml"))
    return MemoryPrices(Band(**raw["fetch"]), Band(**raw["write"]))
