"""How many cores and chips a network needs, and which layers a chip refuses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from snntorch_smixer.cost.chip import Capacity, Profile
from snntorch_smixer.cost.cores import LayerFit as LayerFit
from snntorch_smixer.cost.cores import match_cores, tile_cores
from snntorch_smixer.cost.records import Geometry, Records
from snntorch_smixer.cost.text import aligned
from snntorch_smixer.errors import ProfileError


@dataclass(frozen=True)
class Fit:
    """A network on a chip. `cores` and `chips` are None where something does not fit: a part has no total.

    Attributes:
        profile: name of the chip.
        layers: one entry per layer with weights, and per product of two activations that the chip cannot do.
        neurons: accumulators of all layers with weights.
        cores: cores of all layers; a core holds one layer, or a part of one.
        chips: chips that have these cores and hold their neurons and synapses; None, too, where the cores of a chip are
            not published.
        least_cores: lower bound: all neurons, packed without regard to their connections; None on unequal cores.
        least_chips: the same in chips; the distinct weights count, too, where the synapses of a chip are published.
        unchecked: what could not be checked, for want of a published number.
        skipped: limits that the profile holds and that were not checked all the same.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> fit = cost.fits(cost.measure(net, x), cost.load_profile("loihi1"))
        >>> fit.problems
        ()
    """

    profile: str
    layers: tuple[LayerFit, ...]
    neurons: int
    cores: int | None
    chips: int | None
    least_cores: int | None
    least_chips: int | None
    unchecked: tuple[str, ...]
    skipped: tuple[str, ...] = ()

    @property
    def problems(self) -> tuple[str, ...]:
        """What does not fit, each entry with the layer before it."""
        return tuple(f"{entry.layer}: {entry.problem}" for entry in self.layers if entry.problem)

    @property
    def ok(self) -> bool:
        """True where every layer fits and every limit of the profile was checked."""
        return not self.problems and not self.skipped


def fits(records: Records | Mapping[str, Geometry], profile: Profile, *, whole_blocks: bool = True) -> Fit:
    """How many cores and chips a network needs.

    A core holds p blocks x q outputs of one layer, as few cores as possible: ``p * q`` neurons, ``p * fan_in`` axons,
    and the weights. Where the chip shares weights, a core stores a weight matrix once for all its blocks that use it;
    blocks lie in the order of their weight sets, p in a row, so a core at the border of two heads stores both matrices.
    Else each block has its own copy. All steps run on the same cores. Cores fill chips one after the other, as far as
    the cores, neurons and synapses (stored weights) of a chip go.

    Fan-out: a spike is one outgoing edge for each core that reads it. Where a core would need more edges than it has,
    its layer takes more cores. Who reads whom is `Record.sources`; without it each layer feeds the one after it.

    Upper bounds: positions of a convolution overlap, yet each counts as a block with inputs of its own; no core holds
    two layers. Not modelled: routing tables, delays, accuracy at ``profile.weight_bits``.

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

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> cost.fits(cost.measure(net, x), cost.load_profile("loihi1")).chips
        1
    """
    capacity = profile.capacity
    layers = list(_layers(records))
    if capacity.power_of_two:
        placed = match_cores(layers, capacity)
    else:
        _need_neurons(profile)
        placed = _tiled(layers, profile, _readers(records, layers), whole_blocks=whole_blocks)
    neurons = sum(geometry.neurons for _, geometry in layers)
    cores = chips = None
    products = _products(records, profile)
    if not products and not any(entry.problem for entry in placed):
        cores = sum(entry.cores or 0 for entry in placed)
        chips = _chips(placed, capacity)
    equal = capacity.neurons_per_core is not None
    return Fit(
        profile=profile.name,
        layers=(*placed, *products),
        neurons=neurons,
        cores=cores,
        chips=chips,
        least_cores=least_cores(neurons, profile) if equal else None,
        least_chips=_fewest_chips(layers, profile) if equal and capacity.cores_per_chip else None,
        unchecked=_unchecked(capacity),
        skipped=_skipped(capacity),
    )


def _tiled(
    layers: Sequence[tuple[str, Geometry]], profile: Profile, readers: Sequence[Sequence[int]], *, whole_blocks: bool
) -> list[LayerFit]:
    """Every layer on equal cores, the last one first: into how many cores it is cut is the fan-out of those before."""
    placed = [tile_cores(name, geometry, profile, whole_blocks=whole_blocks) for name, geometry in layers]
    if profile.capacity.fan_out is None:
        return placed
    for i in reversed(range(len(layers))):
        edges = sum(placed[k].fan_in_edges for k in readers[i])
        if placed[i].problem is None and edges:
            placed[i] = tile_cores(*layers[i], profile, whole_blocks=whole_blocks, edges=edges)
    return [
        _with_edges(entry, sum(placed[k].fan_in_edges for k in mine), profile)
        for entry, mine in zip(placed, readers, strict=True)
    ]


def _with_edges(entry: LayerFit, edges: int, profile: Profile) -> LayerFit:
    """The layer with the edges of its final readers, refused where a loop of layers has made them too many."""
    limit, used = profile.capacity.fan_out or 0, edges * entry.blocks_per_core * entry.outputs_per_core
    if entry.problem is not None or used <= limit:
        return entry
    problem = f"{used} outgoing edges of a core > {limit}, in a loop of layers"
    return LayerFit(entry.layer, entry.geometry, None, limit="fan-out", problem=problem, edges=edges)


def _readers(records: Records | Mapping[str, Geometry], layers: Sequence[tuple[str, Geometry]]) -> list[list[int]]:
    """Per layer, those that read what it sends."""
    known = (
        [entry.sources for entry in records.layers if entry.geometry is not None]
        if isinstance(records, Records)
        else []
    )
    if not known or any(sources is None for sources in known):
        return [[i + 1] if i + 1 < len(layers) else [] for i in range(len(layers))]
    return [[k for k, sources in enumerate(known) if name in (sources or ())] for name, _ in layers]


def _chips(placed: Sequence[LayerFit], capacity: Capacity) -> int | None:
    """Chips that are filled core by core, in the order of the layers; each core counts as the fullest of its layer."""
    limits = (capacity.cores_per_chip, capacity.neurons_per_chip, capacity.synapses_per_chip)
    if limits[0] is None:
        return None
    if capacity.power_of_two:
        return 1 if placed else 0
    chips, left = 0, (0, 0, 0)
    for entry in placed:
        loads, cores = (1, entry.blocks_per_core * entry.outputs_per_core, entry.synapses), entry.cores or 0
        while cores:
            room = min(
                have // load if limit else cores for have, load, limit in zip(left, loads, limits, strict=True) if load
            )
            if not room:
                chips, left = chips + 1, tuple(limit or 0 for limit in limits)  # type: ignore[assignment]
                continue
            taken = min(room, cores)
            cores -= taken
            left = tuple(have - taken * load for have, load in zip(left, loads, strict=True))  # type: ignore[assignment]
    return chips


def _fewest_chips(layers: Sequence[tuple[str, Geometry]], profile: Profile) -> int:
    """Chips for so many neurons and distinct weights, whatever their connections."""
    synapses = profile.capacity.synapses_per_chip
    weights = sum(geometry.weights for _, geometry in layers)
    neurons = least_chips(sum(geometry.neurons for _, geometry in layers), profile)
    return max(neurons, -(-weights // synapses) if synapses else 0)


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
    """Limits that chips have and the profile has no number for."""
    if capacity.power_of_two:
        return ("fan-out", "transposition of tokens and channels")
    memory = capacity.synapses_per_core or capacity.synapse_bits_per_core
    known = {"fan-out": capacity.fan_out, "axons": capacity.fan_in, "synapse memory": memory}
    return tuple(name for name, limit in known.items() if limit is None)


def _skipped(capacity: Capacity) -> tuple[str, ...]:
    """Limits of the profile that this kind of cores is not checked against."""
    unequal = ("bias_words", "kernel_words", "neuron_words")
    equal = ("neurons_per_core", "neurons_per_chip", "synapses_per_chip", "synapses_per_core", "synapse_bits_per_core")
    others = (*equal, "fan_in", "fan_out") if capacity.power_of_two else unequal
    return tuple(name for name in others if getattr(capacity, name))


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


def fit_to_text(fit: Fit) -> str:
    """Cores and chips, what binds in each layer, and what does not fit."""
    fitting = f"{fit.cores} cores" + _and_chips(fit.chips)
    bad = len(fit.problems)
    lines = [
        f"{fit.profile}: DOES NOT FIT, {bad} layer{'s' if bad > 1 else ''}" if bad else f"{fit.profile}: {fitting}"
    ]
    lines += [f"NOT CHECKED, though in the profile: {', '.join(fit.skipped)}"] if fit.skipped else []
    bound = f"{fit.least_cores} cores" + _and_chips(fit.least_chips)
    lines.append(f"{fit.neurons} neurons" + (f"; by neurons alone {bound}" if fit.least_cores else ""))
    lines += [f"not checked, for want of a figure: {', '.join(fit.unchecked)}"] if fit.unchecked else []
    cells = [["layer", "limit", "blocks/core", "neurons/block", "cores"]]
    for layer in fit.layers:
        sizes = ["", "", "-"] if layer.problem else [str(layer.blocks_per_core), str(layer.outputs_per_core), ""]
        sizes[2] = "-" if layer.cores is None else str(layer.cores)
        cells.append([layer.layer, layer.problem or layer.limit, *sizes])
    return "\n".join(
        [*lines, "", *aligned([*cells, ["total", "", "", "", "-" if fit.problems else str(fit.cores)]], 2)]
    )


def _and_chips(count: int | None) -> str:
    return "" if not count else f", {count} chip{'s' if count > 1 else ''}"
