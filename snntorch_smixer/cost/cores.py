"""One layer on the cores of a chip: tiles on equal cores, a matching on unequal ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from snntorch_smixer.cost.chip import Capacity, Profile
from snntorch_smixer.cost.records import Geometry


@dataclass(frozen=True)
class LayerFit:
    """One layer on the chip.

    Attributes:
        layer: dotted path.
        geometry: its connections; None for a product of two activations.
        cores: cores that it takes, None where it does not fit.
        blocks_per_core: largest number of its blocks in a core.
        outputs_per_core: largest number of neurons of one block in a core.
        limit: what keeps it from taking fewer cores: "neurons", "axons" (inputs of a core), "synapses" (of a crossbar),
            "synapse memory", "fan-in", "fan-out", "synapses of a chip", "neurons of a chip", on unequal cores "kernel
            memory", "neuron memory", "biases", "cores"; several joined by "+"; "" where nothing does.
        problem: why it does not fit, None where it does.
        core_ids: the cores, from 0, on a chip whose cores differ; else empty.
        synapses: most weights that one of its cores stores.
        edges: most cores that one spike of its neurons is sent to.
    """

    layer: str
    geometry: Geometry | None
    cores: int | None
    blocks_per_core: int = 0
    outputs_per_core: int = 0
    limit: str = ""
    problem: str | None = None
    core_ids: tuple[int, ...] = ()
    synapses: int = field(default=0, compare=False)
    edges: int = field(default=0, compare=False)

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
    """What a core holds, the bits of a weight in it, and the cores that each of its neurons sends to."""

    capacity: Capacity
    bits: int
    edges: int = 0

    def loads(self, p: int, q: int, geometry: Geometry) -> tuple[tuple[str, int, int | None], ...]:
        """(resource, used, limit) of a core with p blocks x q outputs of a layer."""
        sets = _sets(p, geometry) if self.capacity.shares_weights else p
        weights = sets * q * geometry.fan_in
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
        """Weights that a core with p blocks x q outputs stores."""
        return next(used for name, used, _ in self.loads(p, q, geometry) if name == "synapses")

    def overfull(self, p: int, q: int, geometry: Geometry) -> list[str]:
        """Resources that p blocks x q outputs exceed."""
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
    core = _Core(profile.capacity, profile.weight_bits, edges)
    inputs = core.capacity.fan_in
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
    kernel = _log2(prod(geometry.kernel)) + _log2(outputs // sets)
    return inputs // sets << kernel, outputs // sets << sum(map(_log2, grid))


def _log2(number: int) -> int:
    """Binary logarithm, rounded up."""
    return (number - 1).bit_length()


def _holders(geometry: Geometry, capacity: Capacity) -> list[int]:
    """Cores that can hold one weight set."""
    kernel, neurons = memory_words(geometry)
    if capacity.bias_words is not None and geometry.outputs > capacity.bias_words:
        return []
    sizes = zip(capacity.kernel_words, capacity.neuron_words, strict=True)
    return [core for core, (most, many) in enumerate(sizes) if kernel <= most and neurons <= many]


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
    if capacity.bias_words is not None and geometry.outputs > capacity.bias_words:
        return "biases", f"{geometry.outputs} biases > {capacity.bias_words} of a core"
    if not _holders(geometry, capacity):
        return "kernel memory+neuron memory", f"no core has {words[0]} kernel words and {words[1]} neuron words at once"
    return "cores", f"every core that could hold it is taken: the chip has {len(sizes[0])}, the network needs {pieces}"
