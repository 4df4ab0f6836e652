"""What one run of a model did, layer by layer: exact counts, no energy. Plain data, made by `measure`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

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
        events: events by step and sample, ``events[t][b]``: ``ac + graded + mac + act_act`` of a product, spikes of a
            neuron; None where the run does not tell which axis is time or sample.
        steps: time steps that it ran, as far as its axes or calls tell; 1 where there is no time.
        geometry: connections, for operations with weights.
        weight_bytes: parameters of the layer in memory, as stored in the model.
        state_bytes: membranes of the layer in memory, per sample, as stored in the model.
        activation_bytes: activations that enter and leave, as stored in the model, summed like `counts`.
    """

    layer: str
    op: str
    operand: str = ""
    calls: int = 1
    counts: Mapping[str, int] = field(default_factory=dict)
    events: tuple[tuple[int, ...], ...] | None = None
    steps: int = 1
    geometry: Geometry | None = None
    weight_bytes: int = 0
    state_bytes: int = 0
    activation_bytes: int = 0

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
    """

    layer: str
    op: str
    calls: int
    elements: int


@dataclass(frozen=True)
class Records:
    """Everything that one run did.

    Attributes:
        model: class name of the model.
        samples: B.
        steps: T, 1 where there is no time.
        layers: one entry per layer and operation, in the order of their first call.
        free: calls that cost nothing, by the rule that says so.
        uncounted: what no rule covers; empty where coverage is 1.
        calls: all operations that ran.
    """

    model: str
    samples: int
    steps: int
    layers: tuple[Record, ...]
    free: Mapping[str, int]
    uncounted: tuple[Uncounted, ...]
    calls: int

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
