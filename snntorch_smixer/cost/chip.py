"""Chip profiles as values: what an event costs and what a core holds. Read from TOML by `profile`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from snntorch_smixer.cost.prices import PRICES, Figure, OperatingPoint, check_key, is_positive, need, unit_of
from snntorch_smixer.errors import is_count

_RULES = ("event", "papers")
_UPDATES = ("clocked", "triggered", "free")


@dataclass(frozen=True)
class Capacity:
    """What a chip holds: it is made of cores. None (in TOML: left out) where nothing is published.

    Attributes:
        cores_per_chip: cores.
        neurons_per_core: neurons of a core.
        neurons_per_chip: neurons of a chip, where that is all that is published.
        synapses_per_chip: synapses of a chip.
        fan_in: inputs of a core (axons, rows of a crossbar), hence the largest fan-in.
        fan_out: outgoing edges of a core.
        synapses_per_core: cells of a crossbar.
        synapse_bits_per_core: weight memory of a core in bits.
        weight_bits: widest weight.
        bias_words: biases of a core.
        kernel_words: weight words of each core of a chip with unequal convolution cores.
        neuron_words: neuron words of each such core.
        shares_weights: blocks of one layer may use the same weights in a core.
        power_of_two: kernels, output channels and grids are rounded up to powers of two in memory.
        sources: publications, and how we know them.
    """

    cores_per_chip: int | None = None
    neurons_per_core: int | None = None
    neurons_per_chip: int | None = None
    synapses_per_chip: int | None = None
    fan_in: int | None = None
    fan_out: int | None = None
    synapses_per_core: int | None = None
    synapse_bits_per_core: int | None = None
    weight_bits: int | None = None
    bias_words: int | None = None
    kernel_words: tuple[int, ...] = ()
    neuron_words: tuple[int, ...] = ()
    shares_weights: bool = False
    power_of_two: bool = False
    sources: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, default = getattr(self, field.name), field.default
            if default is None:
                good, wanted = value is None or is_count(value), "a whole number of at least 1"
            elif isinstance(default, bool):
                good, wanted = isinstance(value, bool), "true or false"
            elif field.name == "sources":
                good, wanted = _is_list(value, lambda entry: isinstance(entry, str) and entry), "a list of texts"
            else:
                good, wanted = _is_list(value, is_count), "a list of whole numbers of at least 1"
            need(good, f"capacity: {field.name}={value!r}", wanted, "Correct it, or leave it out where unpublished.")
        pair = (len(self.kernel_words), len(self.neuron_words))
        need(pair[0] == pair[1], f"capacity: {pair} entries in kernel_words, neuron_words", "one per core", "Add them.")
        empty = all(getattr(self, field.name) == field.default for field in dataclasses.fields(self))
        need(self.sources or empty, "capacity: no sources", "where the numbers come from", "Name them.")


@dataclass(frozen=True)
class Profile:
    """A chip, or a table of operations, as the estimator sees it.

    Attributes:
        name: stem of its file.
        title: for people.
        node: process, for example "14 nm".
        voltage_v: supply of the prices in volt, None if unpublished.
        rule: "event" (counts x prices) or "papers" (dense count x firing rate, as the literature does).
        updates: "clocked" (every neuron at every step), "triggered" (those that an event reached) or "free".
        graded_spikes: a spike may carry a whole number.
        act_act: can multiply two activations.
        weight_bits: bits of a weight to count memory and traffic with; an assumption where the chip offers more.
        state_bits: the same for the state of a neuron.
        activation_bits: the same for an activation that is no spike.
        prices: figures by the keys of `PRICES`.
        power: figures by the keys of `POWER`.
        includes: price key to the reason why it costs nothing extra here.
        operating_points: published averages, never used as prices.
        capacity: what a core and a chip hold.
        notes: caveats for people.

    Examples:
        >>> from snntorch_smixer import cost
        >>> cost.load_profile("horowitz45-fp32").title
        '45 nm arithmetic, fp32'
    """

    name: str
    title: str
    node: str
    voltage_v: float | None
    rule: str
    updates: str
    graded_spikes: bool
    act_act: bool
    weight_bits: int
    state_bits: int
    activation_bits: int
    prices: Mapping[str, Figure]
    power: Mapping[str, Figure]
    includes: Mapping[str, str]
    operating_points: tuple[OperatingPoint, ...]
    capacity: Capacity
    notes: str = ""

    def __post_init__(self) -> None:
        _check_settings(self)
        for key in PRICES:
            where = [name for name in ("prices", "includes") if key in getattr(self, name)]
            got = f"[prices] {key} is {'in both tables' if where else 'missing'}"
            wanted = f'a figure in {unit_of(key)}, "unknown", or a reason under [includes]'
            need(len(where) == 1, got, wanted, "Give it exactly once: nothing is free by silence.")
        for key, figure in self.prices.items():
            hint = "Move it to [[operating_points]] and give the price of one more event."
            need(figure.scope != "operating-point", f"[prices] {key} is an operating-point average", "a price", hint)
        for name in ("prices", "power", "includes"):
            object.__setattr__(self, name, MappingProxyType(dict(getattr(self, name))))

    # A MappingProxyType cannot be pickled or copied.
    def __reduce__(self) -> tuple[Callable[[dict[str, Any]], Profile], tuple[dict[str, Any]]]:
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return _restore, ({k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in values.items()},)

    def price(self, key: str) -> Figure | None:
        """The figure of a price, its value None where unpublished; None itself where [includes] says why it is free.

        Raises:
            ProfileError: ``key`` is no price.
        """
        check_key("prices", key, PRICES)
        return self.prices.get(key)

    @property
    def unpriced(self) -> tuple[str, ...]:
        """Keys of the prices that are unpublished."""
        return tuple(key for key in PRICES if key in self.prices and self.prices[key].value is None)


def _is_list(value: object, test: Callable[[Any], object]) -> bool:
    return isinstance(value, tuple) and all(map(test, value))


def _check_settings(profile: Profile) -> None:
    for name in ("title", "node"):
        value = getattr(profile, name)
        need(isinstance(value, str) and value, f"{name}={value!r}", "text", "Name the chip and its process.")
    need(isinstance(profile.notes, str), f"notes={profile.notes!r}", "text", "Put it in quotes.")
    good = profile.voltage_v is None or is_positive(profile.voltage_v)
    need(good, f"voltage_v={profile.voltage_v!r}", "volts above 0", "Leave it out where unpublished.")
    for name, choices in (("rule", _RULES), ("updates", _UPDATES)):
        value = getattr(profile, name)
        need(value in choices, f"{name}={value!r}", f"one of {', '.join(choices)}", "Pass one of these.")
    for name in ("graded_spikes", "act_act"):
        value = getattr(profile, name)
        need(isinstance(value, bool), f"{name}={value!r}", "true or false", "Say whether the chip can.")
    for name in ("weight_bits", "state_bits", "activation_bits"):
        value = getattr(profile, name)
        need(is_count(value), f"{name}={value!r}", "a whole number of bits, at least 1", "Say what to count with.")
    widest = profile.capacity.weight_bits or profile.weight_bits
    got = f"weight_bits={profile.weight_bits}"
    need(profile.weight_bits <= widest, got, f"at most the {widest} of [capacity]", "Count with fewer bits.")


def _restore(values: dict[str, Any]) -> Profile:
    return Profile(**values)
