"""Against other counters: equal where they are right; where they are wrong, a test that notices when that changes."""

import contextlib
import io
from collections.abc import Callable
from importlib.util import find_spec

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer.cost import measure
from tests.cost.replay import (
    LAYERS,
    SPELLINGS,
    SSA,
    TRANSPOSED,
    B,
    C,
    N,
    Spelled,
    T,
    inputs_of,
    product_events,
    replay,
    values,
)
from tests.cost.test_measure_neurons import OwnLIF

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # torch, on even kernels
spikingjelly = pytest.mark.skipif(find_spec("spikingjelly") is None, reason="needs spikingjelly")


def known_mistake(theirs: object, wrong: object, truth: object, what: str) -> None:
    """Fail, saying so, where a peer no longer makes the mistake that this test is about."""
    assert wrong != truth
    if theirs == truth:
        pytest.skip(f"{what} is right by now: drop the row from the documentation and make this a test of equality")
    assert theirs == wrong, f"{what} says {theirs}, neither the known mistake {wrong} nor the truth {truth}"


def sj_total(counter: str, run: Callable[[], object], mode: type = torch.no_grad) -> int:
    from spikingjelly.activation_based import op_counter

    counting = getattr(op_counter, counter)()
    with mode(), op_counter.DispatchCounterMode([counting]):
        run()
    return counting.get_total()


# SpikingJelly


@spikingjelly
@pytest.mark.parametrize("name", [name for name, made in LAYERS.items() if not isinstance(made[0], TRANSPOSED)])
def test_spikingjelly_agrees_on_layers(name: str):
    layer, shape = LAYERS[name]
    x = values("spikes", 2, *shape, rate=0.4)
    truth = sum(replay(layer, x).events)
    assert (sj_total("SynOpCounter", lambda: layer(x)), measure(layer, x, axes="b").total("ac")) == (truth, truth)


@spikingjelly
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spikingjelly_agrees_on_spellings(spelling: str):
    model, x = Spelled(spelling), values("spikes", T, B, N, C)
    truth = N * int(x.sum())
    assert sj_total("SynOpCounter", lambda: model(x)) == measure(model, x, axes="t b").total("ac") == truth


@spikingjelly
def test_spikingjelly_agrees_on_a_net():
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), snn.Leaky(0.9, init_hidden=True), nn.Flatten(), nn.Linear(64, 5)
    )
    nn.init.uniform_(model[0].weight, 0, 0.4)
    x = values("spikes", T, B, 2, 6, 6)

    def run(batch: Tensor) -> None:
        model[1].reset_mem()
        for step in batch:
            model(step)

    with inputs_of(model) as seen, torch.no_grad():
        run(x)
    truth = sum(sum(replay(model[int(name)], step).events) for name, steps in seen.items() for step in steps)
    assert torch.stack(seen["3"]).sum() > 0
    records = measure(model, x, run=run, axes="t b")
    assert sj_total("SynOpCounter", lambda: run(x)) == records.total("ac") == truth


@spikingjelly
def test_spikingjelly_counts_nothing_under_inference_mode():  # row 19
    model, x = Spelled("at"), values("spikes", T, B, N, C)
    truth = N * int(x.sum())
    with torch.inference_mode():
        assert measure(model, x, axes="t b").total("ac") == truth
    theirs = sj_total("SynOpCounter", lambda: model(x), torch.inference_mode)
    known_mistake(theirs, 0, truth, "SpikingJelly's SynOpCounter under inference_mode")


@spikingjelly
def test_spikingjelly_counts_only_coincidences_of_attention():  # row 20
    q, k, v = (values("spikes", T, B, 2, N, 3, seed=seed) for seed in range(3))
    events, _, pairs = product_events(q, k.transpose(-1, -2))
    ours = measure(SSA(1.0), (q, k, v), axes="t b").layer("qk")
    assert (ours["act_act"], ours["coincidences"]) == (events, pairs)
    theirs = sj_total("SynOpCounter", lambda: q @ k.transpose(-1, -2))
    known_mistake(theirs, pairs, events, "SpikingJelly's SynOpCounter on Q K^T")


@spikingjelly
@pytest.mark.parametrize("make", [OwnLIF, lambda: snn.Leaky(0.9)])
def test_spikingjelly_finds_no_state_of_foreign_neurons(make: Callable[[], nn.Module]):  # row 21
    model, x = nn.Sequential(nn.Linear(6, 8), make()), values("spikes", T, B, 6)
    assert measure(model, x, axes="t b").layer("1").state_bytes == 8 * 4
    assert measure(model, x, axes="t b").layer("1")["updates"] == T * B * 8
    theirs = sj_total("NeuronStateCounter", lambda: model(x))
    assert theirs == 0, f"SpikingJelly's NeuronStateCounter sees foreign neurons by now ({theirs}): drop the row"


@spikingjelly
def test_spikingjelly_reads_no_functional_weights():  # row 22
    from spikingjelly.activation_based.op_counter import ModuleCounterMode, NeuromorphicMemoryAccessCounter

    model, x = Spelled("at"), values("spikes", T, B, N, C)
    ours = measure(model, x, axes="t b").layer("W")
    assert (ours.weight_bytes, ours["ac"]) == (4 * N * N, N * x.sum())
    counter = NeuromorphicMemoryAccessCounter()
    with torch.no_grad(), ModuleCounterMode([counter], model=model):
        model(x)
    known_mistake(counter.get_total(), 0, 4 * N * int(x.sum()), "SpikingJelly's memory counter on W @ X")


# NeuroBench


def nb(model: nn.Module, x: Tensor, *metrics: str) -> dict[str, object]:
    """What NeuroBench says of one batch."""
    pytest.importorskip("neurobench")
    from neurobench.metrics import workload
    from neurobench.models import TorchModel

    wrapped = TorchModel(model)
    wrapped.add_activation_module(snn.SpikingNeuron)
    wrapped.register_hooks()
    made = {name: getattr(workload, name)() for name in metrics}
    try:
        with torch.no_grad():
            out = wrapped(x)
        return {name: metric(wrapped, out, (x, None)) for name, metric in made.items()}
    finally:
        wrapped.cleanup_hooks()


def synops(model: nn.Module, x: Tensor) -> tuple[float, float, float]:
    """Effective AC and MAC and dense operations per sample by NeuroBench."""
    found = nb(model, x, "SynapticOperations")["SynapticOperations"]
    return found["Effective_ACs"], found["Effective_MACs"], found["Dense"]


NEUROBENCH = [name for name in LAYERS if name.startswith(("linear", "odd", "depth", "same", "valid", "stride"))]


@pytest.mark.parametrize("name", NEUROBENCH)
def test_neurobench_agrees_on_hooked_layers(name: str):
    layer, shape = LAYERS[name]
    x = values("spikes", 2, *shape, rate=0.4)
    model, truth = nn.Sequential(layer), replay(layer, x)
    records = measure(model, x)
    assert records.per_sample("ac") == sum(truth.events) / 2
    assert synops(model, x) == (records.per_sample("ac"), 0, records.per_sample("synapses"))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_neurobench_sees_no_parameter_matrix(spelling: str):  # row 1
    model, x = nn.Sequential(Spelled(spelling)), values("spikes", B, N, C)
    records = measure(model, x)
    truth = (N * x.sum().item() / B, 0, N * N * C)
    assert tuple(records.per_sample(name) for name in ("ac", "mac", "dense")) == truth
    assert records.layer("0.W")["ac"] == N * x.sum()
    known_mistake(synops(model, x), (0, 0, 0), truth, f"NeuroBench on {spelling}")


def test_neurobench_sees_no_custom_neuron():  # row 3
    model, x = nn.Sequential(nn.Linear(6, 8), OwnLIF()), values("spikes", T, B, 6)
    nn.init.uniform_(model[0].weight, 0.1, 0.6)
    with torch.no_grad():
        spikes = model(x)
    ours = measure(model, x, axes="t b").layer("1")
    assert (ours["updates"], ours["spikes"]) == (spikes.numel(), spikes.count_nonzero())
    theirs = nb(model, x, "MembraneUpdates", "ActivationSparsity")
    known_mistake(theirs["MembraneUpdates"], 0, spikes.numel() / T, "NeuroBench on a custom neuron")
    known_mistake(theirs["ActivationSparsity"], 0, 1 - ours["spikes"] / ours["updates"], "NeuroBench's sparsity")


def test_neurobench_sees_no_attention():  # row 4
    q, k, v = (values("spikes", T, B, 2, N, 3, seed=seed) for seed in range(3))

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = SSA(1.0)

        def forward(self, qkv: Tensor) -> Tensor:
            return self.attention(*qkv.unbind(-1))

    x = torch.stack((q, k, v), -1)
    dense = 2 * B * T * 2 * N * N * 3
    records = measure(Packed(), x, axes="t b")
    assert (records.total("dense"), records.total("ac"), records.total("mac")) == (dense, 0, 0)
    assert records.layer("attention.qk")["act_act"] == N * (q.sum() + k.sum())
    known_mistake(synops(Packed(), x)[2], 0, dense / T, "NeuroBench on attention")


def test_neurobench_fails_on_gru():  # row 5
    model, x = nn.Sequential(nn.GRU(6, 8)), torch.randn(T, B, 6)
    assert measure(model, x, axes="t b").total("dense") == T * B * 3 * 8 * (6 + 8)
    pytest.importorskip("neurobench")
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(TypeError, match="exceptions must derive"):
        synops(model, x)


def test_neurobench_sees_no_root_layer():  # row 6
    model, x = nn.Linear(10, 20), values("spikes", B, 10)
    records = measure(model, x)
    assert (records.layer("")["dense"], records.per_sample("dense")) == (200 * B, 200)
    known_mistake(synops(model, x)[2], 0, 200, "NeuroBench on a root nn.Linear")


class SEW(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(10, 20)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x + x.roll(1, 1))


def test_neurobench_takes_a_spike_residual_for_real_values():  # row 7
    x = values("spikes", B, 10, rate=0.5)
    total = x + x.roll(1, 1)
    assert total.unique().tolist() == [0, 1, 2]
    record, sites, spikes = measure(SEW(), x).layer("fc"), int(total.count_nonzero()), int(total.sum())
    assert (record.operand, record["mac"], record["ac"]) == ("graded", 0, 0)
    assert (record["graded"], record["graded_ac"]) == (20 * sites, 20 * spikes)
    known_mistake(synops(SEW(), x)[:2], (0, 20 * sites / B), (20 * spikes / B, 0), "NeuroBench on {0, 1, 2}")


def test_two_levels_are_spikes():  # row 15
    x = values("half", B, 10, rate=0.4)
    record = measure(nn.Sequential(nn.Linear(10, 20)), x).layer("0")
    assert (record["ac"], record["mac"], record["graded"]) == (20 * x.count_nonzero(), 0, 0)
    assert record["units"] == record["packets"] == x.count_nonzero()


@pytest.mark.parametrize("cells", [False, True])
@pytest.mark.parametrize(("name", "gates"), [("RNN", 1), ("GRU", 3), ("LSTM", 4)])
def test_recurrent_nets_by_hand(name: str, gates: int, cells: bool):
    x = torch.randn(T, B, 6)
    net = getattr(nn, f"{name}Cell" if cells else name)(6, 8)
    state = torch.randn(B, 8) if cells else torch.randn(1, B, 8)
    state = (state, state.clone()) if name == "LSTM" else state

    def run(batch: Tensor) -> None:
        hidden = state
        for step in batch if cells else [batch]:
            hidden = net(step, hidden)

    records = measure(net, x, run=run, axes="t b")
    assert records.total("dense") == records.total("mac") == T * B * gates * 8 * (6 + 8)
    assert (records.total("ac"), records.total("graded"), records.coverage) == (0, 0, 1.0)


def test_recurrent_net_from_rest():
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gru, self.head = nn.GRU(6, 8, num_layers=2, batch_first=True), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.gru(x)[0][:, -1])

    records = measure(Net(), torch.randn(B, T, 6), axes="b t")
    assert records.total("dense") == B * (T * 3 * 8 * (6 + 8 + 8 + 8) + 8 * 5)
    assert records.layer("head")["mac"] == B * 8 * 5
