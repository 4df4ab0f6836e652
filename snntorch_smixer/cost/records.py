"""What one run of a model did, layer by layer: exact counts, no energy. Plain data, made by `measure`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from snntorch_smixer.errors import MeasureError

COUNTS: Mapping[str, str] = {
    "dense": "multiply-accumulates as FLOP counters count them: every position, zero padding included",
    "synapses": "multiply-accumulates whose input exists: no padding; what would run if every input were nonzero",
    "ac": "synaptic events: one binary spike reaching one synapse",
    "graded": "synaptic events of spikes that carry a whole number, one event each",
    "graded_ac": "the same delivered as unit spikes: a spike of value 3 is three events",
    "mac": "multiply-accumulates of real-valued inputs, zeros included",
    "effective_mac": "those of them whose input is nonzero",
    "static_mac": "those of `mac` that repeat, on the same static image, what an earlier step has computed",
    "static_once": "those of `mac` that ran once on a static image for all steps; papers count them at every step",
    "act_act": "activation x activation: events delivered to every partner (fan-out of both operands)",
    "act_act_units": "the same with whole numbers delivered as unit spikes",
    "rate_sop": "operations of spikes as papers count them: dense count times firing rate, rounded per call; of two "
    "activations the lower rate",
    "coincidences": "activation x activation: pairs where both operands are nonzero",
    "updates": "neuron updates of a clocked chip: every neuron at every step",
    "triggered": "neuron updates of an event-triggered chip: neurons that at least one event reached in a step",
    "spikes": "spikes sent by neurons; a spike of value 3 is one",
    "packets": "nonzero activations that enter a layer: messages, before any fan-out",
    "units": "the same as unit spikes: the sum of their absolute whole values (`packets` where they are not whole)",
    "inputs": "activations that enter a layer, zeros included",
    "outputs": "activations that leave a layer, zeros included",
    "batch_norm": "scale-and-shift of a BatchNorm that folds into the linear map before it",
    "adds": "elementwise additions and sums outside neurons",
    "muls": "elementwise multiplications by numbers that do not depend on the input",
    "gates": "elementwise products of two activations (masks, gates): nonzero entries of both, each to its partner",
    "compares": "comparisons outside neurons: max-pooling, sorting, ranking",
    "special": "divisions by activations, exponentials, roots, normalisations that do not fold",
}
"""Every count and what it counts. All are whole numbers, summed over the samples, the steps and the calls."""


@dataclass(frozen=True)
class Geometry:
    """The connections of a layer on a chip, for one sample and one step.

    The layer is ``blocks`` independent groups; in each, ``outputs`` neurons read the same ``fan_in`` inputs.

    Attributes:
        fan_in: inputs of one neuron.
        outputs: neurons of a block.
        blocks: blocks, for example tokens of a linear layer, channels of a token mixer, positions of a convolution.
        weight_sets: distinct weight matrices among the blocks: 1 for a linear layer, h for a mixer of h heads.
        kernel: kernel size of a convolution, else empty.
        grid: output size of a convolution, else empty.
        channels: input and output channels of a convolution, else empty.

    Examples:
        >>> from snntorch_smixer import cost
        >>> cost.Geometry(fan_in=64, outputs=10, blocks=49).neurons
        490
    """

    fan_in: int
    outputs: int
    blocks: int
    weight_sets: int = 1
    kernel: tuple[int, ...] = ()
    grid: tuple[int, ...] = ()
    channels: tuple[int, ...] = ()

    @property
    def neurons(self) -> int:
        """Accumulators of the layer: ``blocks * outputs``."""
        return self.blocks * self.outputs

    @property
    def weights(self) -> int:
        """Distinct weights: ``weight_sets * fan_in * outputs``."""
        return self.weight_sets * self.fan_in * self.outputs


@dataclass(frozen=True)
class Record:
    """What one layer did in the run.

    Attributes:
        layer: dotted path of the module or parameter; "" is the model itself.
        op: "conv2d", "linear", "matmul", "act_act", "neuron", "batch_norm", "elementwise" and so on.
        operand: what came in: "spikes", "graded", "analog", several joined by "+"; "" where it does not matter.
        calls: times that the operation ran.
        counts: non-zero counts by the names of `COUNTS`.
        levels: `graded` events by the absolute whole value that they carry.
        events: events by step and sample, ``events[t][b]``: ``ac + graded + mac + act_act`` of a product, spikes of a
            neuron; None where the run does not tell which axis is time or sample.
        steps: time steps that it ran, as far as its axes or calls tell; 1 where there is no time.
        geometry: connections, for operations with weights.
        weight_bytes: parameters of the layer in memory, as stored in the model.
        state_bytes: membranes of the layer in memory, per sample, as stored in the model.
        activation_bytes: activations that enter and leave, as stored in the model, summed like `counts`.
        parameters: parameters of the layer, its bias included.
        sources: layers with weights whose results it reads, by way of their neurons; None where that was not seen.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> record = cost.measure(net, x).layer("stem.units.0.linear")
        >>> record.op, record.operand
        ('conv2d', 'analog')
    """

    layer: str
    op: str
    operand: str = ""
    calls: int = 1
    counts: Mapping[str, int] = field(default_factory=dict)
    levels: Mapping[int, int] = field(default_factory=dict)
    events: tuple[tuple[int, ...], ...] | None = None
    steps: int = 1
    geometry: Geometry | None = None
    weight_bytes: int = 0
    state_bytes: int = 0
    activation_bytes: int = 0
    parameters: int = 0
    sources: tuple[str, ...] | None = None

    def __getitem__(self, name: str) -> int:
        """One count, 0 where it did not occur.

        Raises:
            KeyError: ``name`` is no count at all.
        """
        if name not in COUNTS:
            raise KeyError(f"no count {name!r}; there are {', '.join(COUNTS)}")
        return self.counts.get(name, 0)


@dataclass(frozen=True)
class Uncounted:
    """An operation that ran and that no rule covers.

    Attributes:
        layer: dotted path of the module that ran it.
        op: its name in torch, for example "aten.cumsum.default".
        calls: times that it ran.
        elements: numbers that it wrote.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> cost.measure(net, x).uncounted
        ()
    """

    layer: str
    op: str
    calls: int
    elements: int


@dataclass(frozen=True)
class Folding:
    """Linear layers in a row, without a neuron in between: together they are one linear layer."""

    members: tuple[int, ...]  # where they stand in `Records.layers`, in the order of the run
    record: Record  # what the one layer would have done, on the input of the first


@dataclass(frozen=True)
class Records:
    """Everything that one run did. ``a + b`` is both runs of one model as one, sample after sample.

    Attributes:
        model: class name of the model.
        samples: B.
        steps: T, 1 where there is no time.
        layers: one entry per layer and operation, in the order of their first call.
        free: calls that cost nothing, by the rule that says so.
        uncounted: what no rule covers; empty where coverage is 1.
        calls: all operations that ran.
        foldings: what `folded` can make one layer of.
        classes: the class of every sample; None where it was not given.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import cost, from_pretrained
        >>> net, x = from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28)
        >>> cost.measure(net, x).total("mac")
        125248
    """

    model: str
    samples: int
    steps: int
    layers: tuple[Record, ...]
    free: Mapping[str, int]
    uncounted: tuple[Uncounted, ...]
    calls: int
    foldings: tuple[Folding, ...] = ()
    classes: tuple[int, ...] | None = None

    def __add__(self, other: Records) -> Records:
        return joined((self, other)) if isinstance(other, Records) else NotImplemented

    def folded(self, foldings: Iterable[Folding] | None = None) -> Records:
        """The same run with linear layers in a row as one layer each: the longest rows, or those that are given."""
        longest = {entry.members[0]: entry for entry in sorted(self.foldings, key=lambda entry: len(entry.members))}
        chosen = list(longest.values() if foldings is None else foldings)
        names = {self.layers[i].layer: entry.record.layer for entry in chosen for i in entry.members}
        ends = {entry.members[-1]: entry.record for entry in chosen}
        gone = {i for entry in chosen for i in entry.members}
        kept = (ends.get(i, record) for i, record in enumerate(self.layers) if i in ends or i not in gone)
        return replace(self, layers=tuple(_renamed(record, names) for record in kept), foldings=())

    @property
    def coverage(self) -> float:
        """Share of the executed operations that are counted or free by a stated rule; 1 is all of them."""
        return 1.0 if not self.calls else 1.0 - sum(entry.calls for entry in self.uncounted) / self.calls

    def total(self, name: str) -> int:
        """One count over all layers, for the whole batch."""
        return sum(record[name] for record in self.layers)

    def per_sample(self, name: str) -> float:
        """One count over all layers, per sample."""
        return self.total(name) / self.samples

    def layer(self, name: str) -> Record:
        """The first record of the layer of this dotted path.

        Raises:
            KeyError: no such layer.
        """
        for record in self.layers:
            if record.layer == name:
                return record
        raise KeyError(f"no layer {name!r}; there are {', '.join(record.layer for record in self.layers)}")


def joined(runs: Sequence[Records]) -> Records:
    """Runs of one model as one, sample after sample.

    Raises:
        MeasureError: they are of different models.
    """
    first, keyed = runs[0], [_keyed(run) for run in runs]
    for run in runs[1:]:
        if run.model != first.model:
            raise MeasureError(f"Records: got runs of {first.model} and {run.model}, expected one model. Add its runs.")
    keys = list(dict.fromkeys(key for entries in keyed for key in entries))
    layers = [_joined_record([entries.get(key) for entries in keyed], runs) for key in keys]
    uncounted: dict[tuple[str, str], Uncounted] = {}
    for entry in (entry for run in runs for entry in run.uncounted):
        held = uncounted.get((entry.layer, entry.op), Uncounted(entry.layer, entry.op, 0, 0))
        counts = held.calls + entry.calls, held.elements + entry.elements
        uncounted[entry.layer, entry.op] = Uncounted(entry.layer, entry.op, *counts)
    told = [run.classes for run in runs if run.classes is not None]
    return Records(
        model=first.model,
        samples=sum(run.samples for run in runs),
        steps=max(run.steps for run in runs),
        layers=tuple(layers),
        free=dict(sum((Counter(run.free) for run in runs), Counter())),
        uncounted=tuple(uncounted.values()),
        calls=sum(run.calls for run in runs),
        foldings=_joined_foldings(runs) if all(list(entries) == keys for entries in keyed) else (),
        classes=tuple(c for classes in told for c in classes) if len(told) == len(runs) else None,
    )


def _keyed(run: Records) -> dict[tuple[str, str, int], Record]:
    """Records by layer, operation and how many of that kind came before."""
    seen: Counter[tuple[str, str]] = Counter()
    out = {}
    for record in run.layers:
        out[record.layer, record.op, seen[record.layer, record.op]] = record
        seen[record.layer, record.op] += 1
    return out


def _joined_foldings(runs: Sequence[Records]) -> tuple[Folding, ...]:
    """Foldings that every run has."""
    by_members = [{entry.members: entry.record for entry in run.foldings} for run in runs]
    shared = [members for members in by_members[0] if all(members in found for found in by_members)]
    return tuple(Folding(m, _joined_record([found[m] for found in by_members], runs)) for m in shared)


def _joined_record(records: Sequence[Record | None], runs: Sequence[Records]) -> Record:
    """One layer in all runs; None where it did not run."""
    records = _without_silence(records)
    ran = [record for record in records if record is not None]
    first, shapes = ran[0], {record.geometry for record in ran}
    if len(shapes) > 1:
        raise MeasureError(
            f"Records: {first.layer or 'the model'} has connections of {len(shapes)} shapes, expected one. Add runs of "
            "one model on inputs of one size."
        )
    counts: Counter[str] = sum((Counter(record.counts) for record in ran), Counter())
    levels: Counter[int] = sum((Counter(record.levels) for record in ran), Counter())
    kinds = dict.fromkeys(kind for record in ran for kind in record.operand.split("+") if kind)
    most = {name: max(getattr(record, name) for record in ran) for name in ("steps", "weight_bytes", "state_bytes")}
    return replace(
        first,
        operand="+".join(kinds) if len({record.operand for record in ran}) > 1 else first.operand,
        calls=sum(record.calls for record in ran),
        counts=dict(counts),
        levels=dict(sorted(levels.items())),
        events=_joined_events([None if record is None else record.events for record in records], records, runs),
        activation_bytes=sum(record.activation_bytes for record in ran),
        **most,
    )


def _without_silence(records: Sequence[Record | None]) -> list[Record | None]:
    """Runs that gave a layer nothing but zeros, as the other runs tell: zeros among real values are multiplied."""

    def silent(record: Record) -> bool:  # it got zeros alone, which count as spikes that never came
        return record.operand == "spikes" and record["synapses"] > 0 and not (record["mac"] or record["ac"])

    if {record.operand for record in records if record is not None and not silent(record)} != {"analog"}:
        return list(records)
    return [_multiplied(record) if record is not None and silent(record) else record for record in records]


def _multiplied(record: Record) -> Record:
    """The same zeros as real values: all synapses at work, spread evenly over the steps and samples."""
    events, total = record.events, record["synapses"]
    if events is not None:
        share = total // (len(events) * len(events[0]))
        events = tuple(tuple(share for _ in row) for row in events)
    return replace(record, operand="analog", counts={**record.counts, "mac": total}, events=events)


def _joined_events(
    events: Sequence[tuple[tuple[int, ...], ...] | None], records: Sequence[Record | None], runs: Sequence[Records]
) -> tuple[tuple[int, ...], ...] | None:
    """Events side by side along the samples; a layer or step that did not run has none."""
    if any(one is None and record is not None for one, record in zip(events, records, strict=True)):
        return None

    def row(t: int) -> tuple[int, ...]:
        parts = zip(events, runs, strict=True)
        found = [one[t] if one is not None and t < len(one) else (0,) * run.samples for one, run in parts]
        return tuple(count for part in found for count in part)

    return tuple(row(t) for t in range(max(len(one) for one in events if one is not None)))


def _renamed(record: Record, names: Mapping[str, str]) -> Record:
    """The record with folded layers among its sources under their new name."""
    if not record.sources:
        return record
    return replace(record, sources=tuple(dict.fromkeys(names.get(name, name) for name in record.sources)))
