"""How many cores and chips a network needs, and which layers a chip refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from snntorch_smixer.cost.chip import Capacity, Profile
from snntorch_smixer.cost.cores import LayerFit as LayerFit
from snntorch_smixer.cost.cores import match_cores, tile_cores
from snntorch_smixer.cost.records import Geometry, Records
from snntorch_smixer.errors import ProfileError


@dataclass(frozen=True)
class Fit:
    """A network on a chip. `cores` and `chips` are None unless `ok`: a part of a network has no total.

    Attributes:
        profile: name of the chip.
        layers: one entry per layer with weights, and per product of two activations that the chip cannot do.
        neurons: accumulators of all layers with weights.
        cores: cores of all layers; a core holds one layer, or a part of one.
        chips: chips that have these cores; None, too, where the cores of a chip are not published.
        least_cores: lower bound: all neurons, packed without regard to their connections; None on unequal cores.
        least_chips: the same in chips.
        unchecked: what could not be checked, for want of a published number or of the information.
    """

    profile: str
    layers: tuple[LayerFit, ...]
    neurons: int
    cores: int | None
    chips: int | None
    least_cores: int | None
    least_chips: int | None
    unchecked: tuple[str, ...]

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not fit, each entry with the layer before it."""
        return tuple(f"{entry.layer}: {entry.problem}" for entry in self.layers if entry.problem)

    @property
    def ok(self) -> bool:
        """True where every layer fits."""
        return not self.problems


def fits(records: Records | Mapping[str, Geometry], profile: Profile, *, whole_blocks: bool = True) -> Fit:
    """How many cores and chips a network needs.

    A core holds p blocks x q outputs of one layer, as few cores as possible: ``p * q`` neurons, ``p * fan_in`` axons,
    and the weights. Where the chip shares weights, a core stores a weight matrix once for all its blocks that use it;
    blocks lie in the order of their weight sets, p in a row, so a core at the border of two heads stores both matrices.
    Else each block has its own copy. All steps run on the same cores.

    Upper bounds: positions of a convolution overlap, yet each counts as a block with inputs of its own; no core holds
    two layers. Not checked: fan-out and routing tables, delays, accuracy at ``profile.weight_bits``.

    On a chip with unequal cores (Speck) each weight set of a layer takes one core whole, memory rounded up to powers of
    two, and the layers are matched with the cores; a token mixer counts as 1 x 1 convolution with tokens for channels.

    Args:
        records: what `measure` returned; entries without geometry hold no synapses and are skipped. Or the connections
            by the name of the layer.
        profile: the chip.
        whole_blocks: a block that a core can hold is not cut, so a spike is one packet to one core. False cuts wherever
            that saves cores; blocks that no core can hold are always cut. Without effect on unequal cores.

    Raises:
        ProfileError: the profile says nothing about the neurons of a core.
    """
    capacity = profile.capacity
    layers = list(_layers(records))
    if capacity.power_of_two:
        placed = match_cores(layers, capacity)
    else:
        _need_neurons(profile)
        placed = [tile_cores(name, geometry, profile, whole_blocks=whole_blocks) for name, geometry in layers]
    neurons = sum(geometry.neurons for _, geometry in layers)
    placed += _products(records, profile)
    cores = None if any(entry.problem for entry in placed) else sum(entry.cores or 0 for entry in placed)
    chips = None if cores is None or capacity.cores_per_chip is None else -(-cores // capacity.cores_per_chip)
    equal = capacity.neurons_per_core is not None
    return Fit(
        profile=profile.name,
        layers=tuple(placed),
        neurons=neurons,
        cores=cores,
        chips=chips,
        least_cores=least_cores(neurons, profile) if equal else None,
        least_chips=least_chips(neurons, profile) if equal and capacity.cores_per_chip else None,
        unchecked=_unchecked(capacity),
    )


def least_cores(neurons: int, profile: Profile) -> int:
    """Cores that hold so many neurons, whatever their connections: a lower bound.

    Raises:
        ProfileError: the neurons of a core are not published.
    """
    return -(-neurons // _need_neurons(profile))


def least_chips(neurons: int, profile: Profile) -> int:
    """Chips that hold so many neurons, whatever their connections: a lower bound.

    Raises:
        ProfileError: the neurons of a chip are not published.
    """
    capacity = profile.capacity
    if capacity.neurons_per_core and capacity.cores_per_chip:
        return -(-least_cores(neurons, profile) // capacity.cores_per_chip)
    if capacity.neurons_per_chip:
        return -(-neurons // capacity.neurons_per_chip)
    raise ProfileError(
        f"least_chips: the neurons of a {profile.name} chip are not published. Wanted neurons_per_chip, or "
        "neurons_per_core and cores_per_chip, under [capacity]. Add them to a profile of your own."
    )


def _need_neurons(profile: Profile) -> int:
    count = profile.capacity.neurons_per_core
    if count is None:
        whole = profile.capacity.neurons_per_chip
        hint = f"Only those of a chip are, {whole}: use least_chips. " if whole else ""
        raise ProfileError(
            f"fits: the neurons of a {profile.name} core are not published. {hint}Wanted neurons_per_core under "
            "[capacity]. Choose another chip, or add it to a profile of your own."
        )
    return count


def _unchecked(capacity: Capacity) -> tuple[str, ...]:
    if capacity.power_of_two:
        return ("fan-out", "transposition of tokens and channels")
    memory = capacity.synapses_per_core or capacity.synapse_bits_per_core
    known = {"axons": capacity.fan_in, "synapse memory": memory}
    return ("fan-out", *(name for name, limit in known.items() if limit is None))


def _layers(records: Records | Mapping[str, Geometry]) -> Iterator[tuple[str, Geometry]]:
    if isinstance(records, Records):
        yield from ((entry.layer, entry.geometry) for entry in records.layers if entry.geometry is not None)
    else:
        yield from records.items()


def _products(records: Records | Mapping[str, Geometry], profile: Profile) -> list[LayerFit]:
    if profile.act_act or not isinstance(records, Records):
        return []
    names = [entry.layer for entry in records.layers if entry.op == "act_act" or entry["act_act"]]
    problem = "activation x activation: the chip cannot multiply two activations"
    return [LayerFit(name, None, None, problem=problem) for name in dict.fromkeys(names)]
