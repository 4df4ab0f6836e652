"""How many cores and chips a network needs, and which layers a chip refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import inf, prod

from snntorch_smixer.cost.profile import Capacity, Profile
from snntorch_smixer.cost.records import Geometry, Records
from snntorch_smixer.cost.text import aligned
from snntorch_smixer.errors import ProfileError


@dataclass(frozen=True)
class LayerFit:
    """One layer on the chip.

    ``limit`` is what keeps it from taking fewer cores: "neurons", "axons" (inputs of a core), "synapses" (of a
    crossbar), "synapse memory", "fan-in", "fan-out", "synapses of a chip", "neurons of a chip", on unequal cores
    "kernel memory", "neuron memory", "biases", "cores"; several joined by "+"; "" where nothing does.
    """

    layer: str
    geometry: Geometry | None  # None for a product of two activations
    cores: int | None  # that it takes, None where it does not fit
    blocks_per_core: int = 0  # at most
    outputs_per_core: int = 0  # of one block, at most
    limit: str = ""
    problem: str | None = None  # why it does not fit, None where it does
    core_ids: tuple[int, ...] = ()  # from 0, on a chip whose cores differ; else empty
    synapses: int = field(default=0, compare=False)  # most weights that one of its cores stores
    edges: int = field(default=0, compare=False)  # most cores that one spike of its neurons is sent to

    @property
    def fan_in_edges(self) -> int:
        """Most of its cores that read one input: the parts of its outputs, and the positions of a convolution.

        An input of a convolution reaches neighbours along the last axis and whole lines apart along the others.
        """
        if self.geometry is None or not self.cores:
            return 0
        kernel = self.geometry.kernel or (1,)
        rows = -(-self.geometry.blocks // self.blocks_per_core)
        lines = prod(kernel[:-1]) * (1 + -(-(kernel[-1] - 1) // self.blocks_per_core))
        return self.cores // rows * min(rows, lines)


@dataclass(frozen=True)
class _Core:
    """A core with p blocks x q outputs of one layer."""

    capacity: Capacity
    bits: int  # of a weight
    edges: int = 0  # cores that each neuron sends to

    def loads(self, p: int, q: int, geometry: Geometry) -> tuple[tuple[str, int, int | None], ...]:
        """(resource, used, limit)."""
        weights = self.synapses(p, q, geometry)
        return (
            ("neurons", p * q, self.capacity.neurons_per_core),
            ("axons", p * geometry.fan_in, self.capacity.fan_in),
            ("synapses", weights, self.capacity.synapses_per_core),
            ("synapse memory", weights * self.bits, self.capacity.synapse_bits_per_core),
            ("fan-out", p * q * self.edges, self.capacity.fan_out),
            ("synapses of a chip", weights, self.capacity.synapses_per_chip),
            ("neurons of a chip", p * q, self.capacity.neurons_per_chip),
        )

    def synapses(self, p: int, q: int, geometry: Geometry) -> int:
        """Weights that it stores."""
        return (_sets(p, geometry) if self.capacity.shares_weights else p) * q * geometry.fan_in

    def overfull(self, p: int, q: int, geometry: Geometry) -> list[str]:
        """Resources that are too small."""
        return [name for name, used, limit in self.loads(p, q, geometry) if limit is not None and used > limit]

    def most_outputs(self, p: int, geometry: Geometry) -> int:
        """Largest q beside p blocks, 0 where not even one output fits."""
        if "axons" in self.overfull(p, 1, geometry):
            return 0
        loads = self.loads(p, 1, geometry)
        most = [limit // used for name, used, limit in loads if limit and used and name != "axons"]
        return min([geometry.outputs, *most])


def tile_cores(name: str, geometry: Geometry, profile: Profile, *, whole_blocks: bool, edges: int = 0) -> LayerFit:
    """A layer on equal cores: p blocks x q outputs in each, with the fewest cores; ``edges`` cores read each neuron."""
    core, inputs = _Core(profile.capacity, profile.weight_bits, edges), profile.capacity.fan_in
    if inputs is not None and geometry.fan_in > inputs:
        problem = f"fan-in {geometry.fan_in} > {inputs} inputs of a core"
        return LayerFit(name, geometry, None, limit="fan-in", problem=problem)
    tile = _tile(geometry, core, whole_blocks)
    if tile is None:
        limit = "+".join(core.overfull(1, 1, geometry))
        problem = f"one neuron with {geometry.fan_in} weights of {core.bits} bits exceeds the {limit}"
        problem += "" if limit.endswith("chip") else " of a core"
        if limit == "fan-out":
            problem = f"one neuron sends to {edges} cores > {core.capacity.fan_out} outgoing edges of a core"
        return LayerFit(name, geometry, None, limit=limit, problem=problem, edges=edges)
    p, columns = tile
    cores, q = -(-geometry.blocks // p) * columns, -(-geometry.outputs // columns)
    limit, synapses = _limit(p, q, geometry, core), core.synapses(p, q, geometry)
    return LayerFit(name, geometry, cores, p, q, limit, synapses=synapses, edges=edges)


@lru_cache(maxsize=1024)
def _tile(geometry: Geometry, core: _Core, whole_blocks: bool) -> tuple[int, int] | None:
    """(p, parts that the outputs are cut into) with the fewest cores, then the fewest parts; None: nothing fits."""
    options = []
    for p in _candidates(geometry, core.capacity):
        q = core.most_outputs(p, geometry)
        if q:
            columns = -(-geometry.outputs // q)
            options.append((-(-geometry.blocks // p) * columns, columns, p))
    if not options:
        return None
    whole = [option for option in options if option[1] == 1]
    _, columns, p = min(whole if whole and whole_blocks else options)
    return p, columns


def _candidates(geometry: Geometry, capacity: Capacity) -> set[int]:
    """Every p worth a trial: the smallest for each number of parts, and those that end where a weight set ends."""
    limits = [geometry.blocks, capacity.neurons_per_core, capacity.fan_in and capacity.fan_in // geometry.fan_in]
    p = most = min(limit for limit in limits if limit is not None)
    found = set()
    while p:
        smallest = -(-geometry.blocks // -(-geometry.blocks // p))
        found.add(smallest)
        p = smallest - 1
    per_set = -(-geometry.blocks // geometry.weight_sets)
    found.update(p for p in range(1, min(most, per_set) + 1) if per_set % p == 0)
    found.update(range(per_set, most + 1, per_set))
    return found


def _sets(p: int, geometry: Geometry) -> int:
    """Most weight sets that p blocks in a row use, when the blocks lie in the order of their sets."""
    per_set = -(-geometry.blocks // geometry.weight_sets)
    if per_set % p == 0:
        return 1
    if p % per_set == 0:
        return p // per_set
    return min(geometry.weight_sets, (p - 2) // per_set + 2)


def _limit(p: int, q: int, geometry: Geometry, core: _Core) -> str:
    """Resources that forbid one core less, in blocks or in outputs."""
    names: list[str] = []
    rows, columns = -(-geometry.blocks // p), -(-geometry.outputs // q)
    if rows > 1:
        names += core.overfull(-(-geometry.blocks // (rows - 1)), q, geometry)
    if columns > 1:
        names += core.overfull(p, -(-geometry.outputs // (columns - 1)), geometry)
    return "+".join(dict.fromkeys(names))


def match_cores(layers: Sequence[tuple[str, Geometry]], capacity: Capacity) -> list[LayerFit]:
    """Layers on unequal cores: each weight set takes one core whole; a matching finds the cores."""
    pieces = [index for index, (_, geometry) in enumerate(layers) for _ in range(geometry.weight_sets)]
    options = [_holders(layers[index][1], capacity) for index in pieces]
    owners = _matching(options)
    placed = []
    for index, (name, geometry) in enumerate(layers):
        mine = tuple(sorted(core for core, piece in owners.items() if pieces[piece] == index))
        p = geometry.blocks // geometry.weight_sets
        if len(mine) == geometry.weight_sets:
            placed.append(LayerFit(name, geometry, len(mine), p, geometry.outputs, core_ids=mine))
        else:
            limit, problem = _why_not(geometry, capacity, len(pieces))
            placed.append(LayerFit(name, geometry, None, limit=limit, problem=problem))
    return placed


def memory_words(geometry: Geometry) -> tuple[int, int]:
    """(kernel words, neuron words) of one weight set on DYNAP-CNN or Speck.

    K = c * 2^(ceil lb(kx ky) + ceil lb f), N = f * 2^(ceil lb fy + ceil lb fx), with c input and f output channels and
    an output of fy x fx. Source: sinabs 3.1.3. A linear layer is a 1 x 1 convolution over its blocks.
    """
    sets = geometry.weight_sets
    inputs, outputs = geometry.channels or (geometry.fan_in * sets, geometry.outputs * sets)
    grid = geometry.grid or (geometry.blocks // sets,)

    def log2(number: int) -> int:
        return (number - 1).bit_length()  # rounded up

    kernel = log2(prod(geometry.kernel)) + log2(outputs // sets)
    return inputs // sets << kernel, outputs // sets << sum(map(log2, grid))


def _holders(geometry: Geometry, capacity: Capacity) -> list[int]:
    """Cores that can hold one weight set."""
    kernel, neurons = memory_words(geometry)
    if geometry.outputs > _biases(capacity):
        return []
    sizes = zip(capacity.kernel_words, capacity.neuron_words, strict=True)
    return [core for core, (most, many) in enumerate(sizes) if kernel <= most and neurons <= many]


def _biases(capacity: Capacity) -> float:
    return inf if capacity.bias_words is None else capacity.bias_words


def _matching(options: Sequence[Sequence[int]]) -> dict[int, int]:
    """Core -> piece, as many pieces as possible; an early piece is never dropped for a later one."""
    owners: dict[int, int] = {}

    def place(piece: int, seen: set[int]) -> bool:
        for core in options[piece]:
            if core in seen:
                continue
            seen.add(core)
            if core not in owners or place(owners[core], seen):
                owners[core] = piece
                return True
        return False

    for piece in range(len(options)):
        place(piece, set())
    return owners


def _why_not(geometry: Geometry, capacity: Capacity, pieces: int) -> tuple[str, str]:
    """(limit, problem) of a layer that found no core."""
    words = memory_words(geometry)
    sizes = (capacity.kernel_words, capacity.neuron_words)
    for name, words_needed, most in zip(("kernel memory", "neuron memory"), words, map(max, sizes), strict=True):
        if words_needed > most:
            return name, f"{name} of {words_needed} words > {most} of the largest core"
    if geometry.outputs > _biases(capacity):
        return "biases", f"{geometry.outputs} biases > {capacity.bias_words} of a core"
    if not _holders(geometry, capacity):
        return "kernel memory+neuron memory", f"no core has {words[0]} kernel words and {words[1]} neuron words at once"
    return "cores", f"every core that could hold it is taken: the chip has {len(sizes[0])}, the network needs {pieces}"


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
    layers = _layers(records)
    if capacity.power_of_two:
        placed = match_cores(layers, capacity)
    else:
        _need_neurons(profile)
        placed = _tiled(layers, profile, _readers(records, layers), whole_blocks=whole_blocks)
    neurons = sum(geometry.neurons for _, geometry in layers)
    products = _products(records, profile)
    good = not products and not any(entry.problem for entry in placed)
    equal = capacity.neurons_per_core is not None
    return Fit(
        profile=profile.name,
        layers=(*placed, *products),
        neurons=neurons,
        cores=sum(entry.cores or 0 for entry in placed) if good else None,
        chips=_chips(placed, capacity) if good else None,
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
    entries = records.layers if isinstance(records, Records) else ()
    known = [entry.sources for entry in entries if entry.geometry is not None]
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
    chips, left = 0, [0, 0, 0]
    for entry in placed:
        loads, cores = (1, entry.blocks_per_core * entry.outputs_per_core, entry.synapses), entry.cores or 0
        while cores:
            three = list(zip(left, loads, limits, strict=True))
            room = min(cores, *(have // load if limit else cores for have, load, limit in three if load))
            cores -= room
            left = [have - room * load for have, load, _ in three]
            if not room:
                chips, left = chips + 1, [limit or 0 for limit in limits]
    return chips


def _fewest_chips(layers: Sequence[tuple[str, Geometry]], profile: Profile) -> int:
    """Chips for so many neurons and distinct weights, whatever their connections."""
    synapses, weights = profile.capacity.synapses_per_chip, sum(geometry.weights for _, geometry in layers)
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


def _layers(records: Records | Mapping[str, Geometry]) -> list[tuple[str, Geometry]]:
    if isinstance(records, Records):
        return [(entry.layer, entry.geometry) for entry in records.layers if entry.geometry is not None]
    return list(records.items())


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
    lines = [f"{fit.profile}: " + (f"DOES NOT FIT, {bad} layer{'s' if bad > 1 else ''}" if bad else fitting)]
    lines += [f"NOT CHECKED, though in the profile: {', '.join(fit.skipped)}"] if fit.skipped else []
    bound = f"{fit.least_cores} cores" + _and_chips(fit.least_chips)
    lines.append(f"{fit.neurons} neurons" + (f"; by neurons alone {bound}" if fit.least_cores else ""))
    lines += [f"not checked, for want of a figure: {', '.join(fit.unchecked)}"] if fit.unchecked else []
    cells = [["layer", "limit", "blocks/core", "neurons/block", "cores"]]
    for layer in fit.layers:
        sizes = ["", ""] if layer.problem else [str(layer.blocks_per_core), str(layer.outputs_per_core)]
        cores = "-" if layer.cores is None else str(layer.cores)
        cells.append([layer.layer, layer.problem or layer.limit, *sizes, cores])
    cells.append(["total", "", "", "", "-" if fit.problems else str(fit.cores)])
    return "\n".join([*lines, "", *aligned(cells, 2)])


def _and_chips(count: int | None) -> str:
    return "" if not count else f", {count} chip{'s' if count > 1 else ''}"
