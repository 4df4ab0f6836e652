"""Neurons of every make are found: updates, spikes, state; and what is inside them is counted as nothing else."""

from importlib import import_module
from importlib.util import find_spec

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import measure
from snntorch_smixer.cost.records import Record, Records
from snntorch_smixer.neurons import LIF, IntegerLIF, reset
from tests.cost.replay import Spelled, inputs_of, replay, spikes_of, values
from tests.fakes import neurons as fakes

T, B, IN, OUT = 4, 3, 6, 8
SYNAPTIC = ("ac", "graded", "mac", "act_act", "gates", "dense")


def drive(seed: int = 0) -> Tensor:
    """Spikes (T, B, IN) where sample 1 gets nothing at step 2, and nobody at step 0."""
    x = values("spikes", T, B, IN, rate=0.4, seed=seed)
    x[2, 1], x[0] = 0, 0
    return x


def layer(inside: int, outside: int) -> nn.Linear:
    """Weights that make neurons of threshold 1 fire now and then."""
    made = nn.Linear(inside, outside, bias=False)
    nn.init.uniform_(made.weight, 0.1, 0.5)
    return made


def neurons(records: Records) -> list[Record]:
    return [record for record in records.layers if record.op == "neuron"]


def check_neuron(record: Record, spikes: Tensor) -> None:
    """``spikes`` is (T, B, ...)."""
    assert spikes.count_nonzero() not in (0, spikes.numel())
    assert (record.op, record["updates"], record["spikes"]) == ("neuron", spikes.numel(), spikes.count_nonzero())
    assert record.events == tuple(tuple(int(one.count_nonzero()) for one in step) for step in spikes)
    assert [name for name in SYNAPTIC if record[name]] == []
    assert record["triggered"] <= record["updates"]


class Loop(nn.Module):
    """Two layers of snnTorch neurons, state passed by hand, steps in a loop."""

    def __init__(self, make: type[nn.Module], settings: dict[str, object]) -> None:
        super().__init__()
        self.fc1, self.lif1, self.fc2, self.lif2 = layer(IN, OUT), make(**settings), layer(OUT, 5), make(**settings)

    def forward(self, x: Tensor) -> Tensor:
        one, other, out = self.lif1.reset_mem(), self.lif2.reset_mem(), []
        for step in x:
            one = self.lif1(self.fc1(step), *_state(one))
            other = self.lif2(self.fc2(one[0]), *_state(other))
            out.append(other[0])
            one, other = one[1:], other[1:]
        return torch.stack(out)


def _state(state: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return state if isinstance(state, tuple) else (state,)


SNNTORCH = {
    "leaky": (snn.Leaky, {"beta": 0.8}, 1),
    "leaky_zero": (snn.Leaky, {"beta": 0.8, "reset_mechanism": "zero"}, 1),
    "leaky_now": (snn.Leaky, {"beta": 0.8, "reset_delay": False}, 1),
    "synaptic": (snn.Synaptic, {"alpha": 0.6, "beta": 0.8}, 2),
    "alpha": (snn.Alpha, {"alpha": 0.8, "beta": 0.6, "threshold": 0.5}, 3),
    "lapicque": (snn.Lapicque, {"beta": 0.8, "threshold": 0.3}, 1),
}


@pytest.mark.parametrize("name", SNNTORCH)
def test_snntorch_loop(name: str):
    make, settings, states = SNNTORCH[name]
    model, x = Loop(make, settings), drive()
    with spikes_of(model, snn.SpikingNeuron) as seen, torch.no_grad():
        model(x)
    records = measure(model, x, axes="t b")
    assert [record.layer for record in neurons(records)] == ["lif1", "lif2"]
    for record in neurons(records):
        spikes = torch.stack(seen[record.layer])
        check_neuron(record, spikes)
        assert (record.calls, record.state_bytes) == (T, states * 4 * spikes[0, 0].numel())
    assert records.layer("fc1")["ac"] == OUT * x.sum()
    assert records.layer("fc2")["ac"] == 5 * torch.stack(seen["lif1"]).sum()
    assert (records.total("mac"), records.total("gates"), records.total("act_act")) == (0, 0, 0)
    assert records.coverage == 1.0


@pytest.mark.parametrize("all_to_all", [True, False])
def test_recurrent_leaky_counts_its_own_synapses(all_to_all: bool):
    settings = {"linear_features": OUT, "all_to_all": True} if all_to_all else {"V": 0.3, "all_to_all": False}
    neuron = snn.RLeaky(0.8, init_hidden=True, reset_mechanism="subtract", **settings)
    model, x = nn.Sequential(layer(IN, OUT), neuron), drive()
    with spikes_of(model, snn.SpikingNeuron) as seen, torch.no_grad():
        out = [model(step) for step in x]
    reset(model)
    records = measure(model, x, run=lambda batch: [model(step) for step in batch], axes="t b")
    check_neuron(records.layer("1"), torch.stack(seen["1"]))
    if all_to_all:
        assert records.layer("1.recurrent")["ac"] == OUT * torch.stack(out[:-1]).sum() > 0
    assert (records.total("gates"), records.coverage) == (0, 1.0)


def test_hidden_state_starts_at_rest_and_comes_back():
    model, x = nn.Sequential(layer(IN, OUT), snn.Leaky(0.9, init_hidden=True)), drive()

    def run(batch: Tensor) -> Tensor:
        return torch.stack([model(step) for step in batch])

    with torch.no_grad():
        at_rest = run(x)
        reset(model)
        left = run(drive(1))
    kept = model[1].mem.clone()
    assert kept.count_nonzero()
    assert left.count_nonzero()
    for _ in range(2):
        check_neuron(measure(model, x, run=run, axes="t b").layer("1"), at_rest)
        assert torch.equal(model[1].mem, kept)


@pytest.mark.parametrize("mode", ["s", "m"])
@pytest.mark.parametrize("name", ["LIFNode", "IFNode", "ParametricLIFNode"])
def test_spikingjelly_nodes(name: str, mode: str):
    if find_spec("spikingjelly") is None:
        pytest.skip("needs spikingjelly")
    node = getattr(import_module("spikingjelly.activation_based.neuron"), name)
    model, x = nn.Sequential(layer(IN, OUT), node(step_mode=mode, v_threshold=0.6)), drive()

    def run(batch: Tensor) -> Tensor:
        return model(batch) if mode == "m" else torch.stack([model(step) for step in batch])

    with torch.no_grad():
        spikes = run(x)
    kept = model[1].v.clone()
    records = measure(model, x, run=run, axes="t b")
    check_neuron(records.layer("1"), spikes)
    assert (records.layer("1").state_bytes, records.coverage) == (4 * OUT, 1.0)
    assert [record.layer for record in neurons(records)] == ["1"]
    assert kept.count_nonzero()
    assert torch.equal(model[1].v, kept)


class OwnLIF(nn.Module):
    """As in STMixer's code: no known base class, and a child that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.act_ann = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        mem, spikes = torch.zeros_like(x[0]), []
        for step in x.unbind(0):
            mem = 0.5 * mem + step
            spike = (mem >= 1).float()
            mem = mem * (1 - spike)
            spikes.append(spike)
        return torch.stack(spikes)


MANY = {
    "lif": LIF,
    "integer": IntegerLIF,
    "own": OwnLIF,
    "MultiStepLIF": fakes.MultiStepLIF,
    "StoredTLIF": lambda: nn.Sequential(nn.Flatten(0, 1), fakes.StoredTLIF(T), nn.Unflatten(0, (T, B))),
    "MemUpdate": fakes.MemUpdate,
    "MultiSpike": fakes.MultiSpike,
    "StepNode": lambda: nn.Sequential(nn.Flatten(0, 1), fakes.StepNode(T), nn.Unflatten(0, (T, B))),
    "Soma": lambda: fakes.Soma(0.9),
}


@pytest.mark.parametrize("name", MANY)
def test_multi_step_neurons(name: str):
    neuron = MANY[name]()
    model, x = nn.Sequential(layer(IN, OUT), neuron, nn.Linear(OUT, 2)), 1.5 * drive()
    with torch.no_grad():
        spikes = model[:2](x)
    fakes.reset(model)
    records = measure(model, x, axes="t b")
    (record,) = neurons(records)
    assert record.layer == ("1.1" if isinstance(neuron, nn.Sequential) else "1")
    check_neuron(record, spikes)
    level = spikes[spikes != 0].min().item()  # MultiSpike sends quarters
    assert level in (0.25, 1)
    behind, units = records.layer("2"), (spikes / level).sum()
    assert behind["ac"] + behind["graded"] == 2 * spikes.count_nonzero()
    assert (behind["ac"] + behind["graded_ac"], behind["units"]) == (2 * units, units)
    assert (records.total("mac"), records.total("gates"), records.coverage) == (0, 0, 1.0)


class Functional(nn.Module):
    """A neuron written out in the forward of a larger module."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = layer(IN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        mem, spikes = torch.zeros(x.shape[1], OUT), []
        for step in x:
            mem = 0.9 * mem + self.fc(step)
            spikes.append((mem > 1).float())
            mem = mem * (1 - spikes[-1])
        return torch.stack(spikes)


def test_functional_neuron():
    model, x = Functional(), drive()
    with torch.no_grad():
        spikes = model(x)
    records = measure(model, x, axes="t b")
    (record,) = neurons(records)
    assert record.layer == ""
    check_neuron(record, spikes)
    assert (records.total("act_act"), records.coverage) == (0, 1.0)


def test_reset_of_a_functional_neuron_is_no_gate():
    assert measure(Functional(), drive(), axes="t b").total("gates") == 0


def test_a_custom_neuron_may_be_the_whole_model():
    x = 1.5 * drive()
    records = measure(OwnLIF(), x, axes="t b")
    (record,) = records.layers
    check_neuron(record, OwnLIF()(x))


class Around(nn.Module):
    """A neuron and something elementwise behind it: no weights of its own."""

    def __init__(self, make: type[nn.Module], gate: bool) -> None:
        super().__init__()
        self.lif, self.gate = make(), gate

    def forward(self, x: Tensor) -> Tensor:
        return self.lif(x) * x if self.gate else self.lif(x) + x


@pytest.mark.parametrize("gate", [True, False])
@pytest.mark.parametrize("make", [LIF, OwnLIF, fakes.MultiStepLIF])
def test_a_residual_behind_a_neuron_is_no_part_of_it(make: type[nn.Module], gate: bool):
    model, x = nn.Sequential(Around(make, gate)), drive() * 2
    with torch.no_grad():
        spikes = make()(x)
    records = measure(model, x, axes="t b")
    assert [record.layer for record in neurons(records)] == ["0.lif"]
    check_neuron(records.layer("0.lif"), spikes)
    sent = spikes.count_nonzero() + x.count_nonzero()
    assert (records.total("adds"), records.total("gates")) == ((0, sent) if gate else (x.numel(), 0))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("grid", [False, True])
def test_triggered_neurons_equal_the_replay(grid: bool, norm: bool):
    """A bias is a constant current and no event, and so is that of a BatchNorm, which folds."""
    if grid:
        one, other, x = nn.Conv2d(2, 3, 3, stride=2), nn.Conv2d(3, 2, 2), values("spikes", T, B, 2, 7, 7, rate=0.05)
    else:
        one, other, x = layer(IN, OUT), nn.Linear(OUT, 5), drive()
    for synapse in one, other:
        nn.init.constant_(synapse.weight, 0.6)
    between = [(nn.BatchNorm2d(3) if grid else nn.BatchNorm1d(OUT))] if norm else []
    model = nn.Sequential(
        one, *between, snn.Leaky(0.5, init_hidden=True), other, snn.Leaky(0.5, init_hidden=True)
    ).eval()
    last = len(between)
    with inputs_of(model) as seen, torch.no_grad():
        for step in x:
            model(step)
    records = measure(model, x, run=lambda batch: [model(step) for step in batch], axes="t b")
    for synapse, neuron in ("0", str(1 + last)), (str(2 + last), str(3 + last)):
        reached = sum(sum(replay(model[int(synapse)], step).reached) for step in seen[synapse])
        record = records.layer(neuron)
        assert 0 < reached < record["updates"]
        assert record["triggered"] == reached


def test_triggered_neurons_of_a_mixer():
    x = values("spikes", T, B, 5, 4, rate=0.1)
    model = nn.Sequential(Spelled("at"), LIF())
    channels = int((x.sum(-2) > 0).sum())  # every token of a channel with a spike
    assert 0 < channels < T * B * 4
    assert measure(model, x, axes="t b").layer("1")["triggered"] == 5 * channels
