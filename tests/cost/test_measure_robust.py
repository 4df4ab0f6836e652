"""`measure` leaves no trace, refuses what it cannot measure, says what it did not count, and covers whole networks."""

import copy
import pickle
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import snntorch as snn
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from snntorch_smixer.cost import measure
from snntorch_smixer.cost.records import COUNTS, Records
from snntorch_smixer.errors import MeasureError, SMixerError
from tests.cost.replay import inputs_of, kind, spikes_of, twin_of_ones, values
from tests.fakes import neurons
from tests.fakes.wrapped import our_hooks, sight, wrapped
from tests.fakes.zoo import FAKES, Fake


class Fragile(nn.Module):
    """Has state of every sort, modes of both sorts, and may fail behind its first neuron."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.norm, self.drop = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5)
        self.lif, self.own = snn.Leaky(0.9, init_hidden=True), neurons.MultiStepLIF(v_threshold=0.6)
        self.fc2, self.fails = nn.Linear(8, 3), False
        self.register_buffer("calls", torch.zeros(1))
        nn.init.uniform_(self.fc1.weight, 0, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        spikes = self.own(self.lif(self.drop(self.norm(self.fc1(x)))).unsqueeze(0))[0]
        if self.fails:
            raise RuntimeError("half-way")
        return self.fc2(spikes)


def fragile() -> Fragile:
    """One in mixed modes and in mid-run, with a hook of its owner."""
    model = Fragile()
    model.fc2.register_forward_hook(_own_hook)
    model.train()
    model(torch.rand(4, 6))
    model.lif.mem = model.lif.mem.detach()
    model.own.v = torch.full((4, 8), 0.5)
    model.norm.eval()
    assert model.lif.mem.count_nonzero()
    return model


def _own_hook(*_: object) -> None:
    return None


def surroundings() -> tuple[object, ...]:
    """What a measurement may patch outside the model."""
    patched = (F.linear, F.conv2d, torch.matmul, torch.einsum, Tensor.__matmul__, nn.Module.__call__, nn.Linear.forward)
    hooks = torch.nn.modules.module
    everywhere = tuple(
        len(getattr(hooks, name)) for name in dir(hooks) if name.startswith("_global") and "hooks" in name
    )
    modes = (len(_get_current_dispatch_mode_stack()), torch._C._len_torch_function_stack())
    listed = [id(entry) for entry in snn.SpikingNeuron.instances]
    return patched, everywhere, modes, listed, torch.is_grad_enabled(), torch.is_inference_mode_enabled()


@contextmanager
def no_trace(model: nn.Module) -> Iterator[None]:
    before, around = sight(model), surroundings()
    yield
    after = sight(model)
    assert [name for name in before | after if before.get(name) != after.get(name)] == []
    assert surroundings() == around


def test_no_trace_is_left():
    model, x = fragile(), values("spikes", 4, 6)
    kept = x.clone()
    with no_trace(model):
        records = measure(model, x)
    assert records.layer("fc1")["ac"] == 8 * x.count_nonzero()
    assert torch.equal(x, kept)
    assert our_hooks(model) == []
    assert all(p.grad is None for p in model.parameters())


def test_a_failing_model_is_put_back():
    model, x = fragile(), values("spikes", 4, 6)
    good = measure(model, x)
    model.fails = True
    for run in (None, lambda batch: [model(one[None]) for one in batch]):
        with no_trace(model), pytest.raises(RuntimeError, match="half-way"):
            measure(model, x, run=run)
    model.fails = False
    assert measure(model, x) == good


def test_measuring_twice_and_copies_give_equal_records():
    model, x = fragile(), values("spikes", 4, 6)
    records = measure(model, x)
    assert records == measure(model, x) == measure(copy.deepcopy(model), x)
    assert records == copy.deepcopy(records) == pickle.loads(pickle.dumps(records))
    other = x.clone()
    other[0] = 1 - other[0]
    assert records != measure(model, other)


def test_evaluation_mode_from_rest():
    model, x = fragile(), values("spikes", 4, 6)
    rested, awake = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
    rested.own.reset()
    truth = []
    for one in rested, awake:
        one.lif.reset_mem()
        with spikes_of(one, snn.Leaky, neurons.MultiStepLIF) as seen, torch.no_grad():
            one(x)
        truth.append([int(seen[name][0].count_nonzero()) for name in ("lif", "own")])
    assert truth[0][0] > 0
    assert truth[0][1] != truth[1][1]
    records = measure(model, x)
    assert [records.layer(name)["spikes"] for name in ("lif", "own")] == truth[0]


@pytest.mark.parametrize(("shape", "axes"), [((0, 6), "b"), ((4, 0, 6), "t b"), ((0, 4, 6), "t b"), ((0, 4, 6), "b t")])
def test_empty_batch(shape: tuple[int, ...], axes: str):
    with pytest.raises(MeasureError, match="empty"):
        measure(nn.Linear(6, 2), torch.zeros(shape), axes=axes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_input_that_is_not_finite(bad: float):
    x = values("spikes", 4, 6)
    x[1, 2] = bad
    with pytest.raises(MeasureError, match="finite"):
        measure(nn.Linear(6, 2), x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_name_the_layer(bad: float):
    model = nn.Sequential(OrderedDict(front=fragile(), behind=nn.Linear(3, 2)))
    model.front.fc2.weight.data[:] = bad
    with no_trace(model), pytest.raises(MeasureError, match=r"front\.fc2|behind"):
        measure(model, values("spikes", 4, 6))


class Odd(nn.Module):
    """Runs an operation that no rule covers."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "fft":
            return torch.fft.fft(x).real
        return torch.cumsum(x, -1) if self.name == "cumsum" else torch.cdist(x, x) @ x


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["cumsum", "fft", "cdist"])
def test_what_no_rule_covers_is_listed(name: str, mode: type):
    model, x = nn.Sequential(OrderedDict(odd=Odd(name), fc=nn.Linear(6, 6))), values("spikes", 4, 6)
    with mode():
        records = measure(model, x, axes="b")
        with pytest.raises(MeasureError, match=name):
            measure(model, x, axes="b", strict=True)
    assert 0 < records.coverage < 1
    (entry,) = [one for one in records.uncounted if name in one.op]
    assert (entry.layer, entry.calls) == ("odd", 1)
    assert entry.elements >= 16
    assert records.coverage == 1 - sum(one.calls for one in records.uncounted) / records.calls
    assert records.layer("fc")["dense"] == 4 * 36


@pytest.mark.parametrize("axes", ["t b", "b t"])
def test_as_many_steps_as_samples(axes: str):
    x = torch.zeros(3, 3, 6)
    for t in range(3):
        for b in range(3):
            x[t, b, : t + 3 * b] = 1
    x = x if axes == "t b" else x.transpose(0, 1)
    truth = ((0, 6, 12), (2, 8, 12), (4, 10, 12))
    loop = nn.Sequential(nn.Linear(6, 2))
    records = measure(loop, x, axes=axes)
    assert (records.samples, records.steps, records.layer("0").events) == (3, 3, truth)
    assert [record.op for record in records.layers] == ["linear"]  # a bias is no addition, however x lies in memory

    def run(batch: Tensor) -> None:
        for step in batch.unbind(0 if axes == "t b" else 1):
            loop(step)

    assert measure(loop, x, run=run, axes=axes).layer("0").events == truth


@pytest.mark.parametrize(
    ("axes", "steps", "shape"),
    [
        ("x b", None, (4, 2, 6)),
        ("(t b)", None, (8, 6)),
        ("(t b)", 3, (8, 6)),
        ("t", None, (4, 6)),
        ("t b c", None, (4, 2)),
    ],
)
def test_axes_that_say_nothing_are_refused(axes: str, steps: int | None, shape: tuple[int, ...]):
    with pytest.raises(SMixerError):
        measure(nn.Linear(shape[-1], 2), torch.ones(shape), axes=axes, steps=steps)


def test_default_axes():
    image, events = values("spikes", 3, 2, 5, 5), values("spikes", 4, 3, 2, 5, 5)
    net = nn.Sequential(nn.Flatten(-3), nn.Linear(50, 2))
    records = measure(net, image)
    assert (records.samples, records.steps) == (3, 1)
    records = measure(net, events)
    assert (records.samples, records.steps) == (3, 4)
    assert records.layer("1").events == tuple(tuple(2 * int(one.sum()) for one in step) for step in events)


def test_a_batch_of_several_tensors():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(6, 2), nn.Linear(4, 2)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.one(x) + self.other(y)

    x, y = values("spikes", 3, 6), values("spikes", 3, 4)
    records = measure(Two(), (x, y))
    assert (records.samples, records.total("adds")) == (3, 6)
    assert [records.layer(name).events for name in ("one", "other")] == [
        (tuple(2 * int(row.sum()) for row in part),) for part in (x, y)
    ]


# Whole networks

NETS = ("spikformer_cifar", "qkformer", "sdt_v1", "sdt_v3", "stmixer", "spikeyolo")


def crossed(layer: nn.Module, x: Tensor) -> int:
    """`replay` of all events at once, which for a linear layer is the same."""
    return round(twin_of_ones(layer)((x != 0).double()).sum().item())


def check_net(fake: Fake, model: nn.Module) -> tuple[Records, dict[str, list[Tensor]]]:
    """The records, and what left each neuron."""
    x = fake.example(2)
    neurons.reset(model)
    with inputs_of(model) as seen, spikes_of(model, *neurons.NEURONS) as spikes, torch.no_grad():
        model(x)
    neurons.reset(model)
    with no_trace(model):
        records = measure(model, x, strict=True)
    assert (records.uncounted, records.coverage, records.samples) == ((), 1.0, x.shape[-4])
    modules = dict(model.named_modules())
    truth = {name: sum(crossed(modules[name], one) for one in calls) for name, calls in seen.items()}
    found = {name: records.layer(name) for name in truth}
    assert {name: one["ac"] + one["graded"] + one["effective_mac"] for name, one in found.items()} == truth
    binary = [name for name, calls in seen.items() if all(kind(one) == "spikes" for one in calls)]
    assert [name for name in binary if found[name]["ac"] != truth[name]] == []
    assert len(binary) >= 4 or fake.name in ("sdt_v3", "spikeyolo")  # whose neurons send several levels
    assert set().union(*(record.counts for record in records.layers)) <= set(COUNTS)
    return records, spikes


def neuron_layers(records: Records) -> list[str]:
    return sorted(record.layer for record in records.layers if record.op == "neuron")


@pytest.mark.parametrize("name", NETS)
def test_networks_are_covered(name: str):
    fake = FAKES[name]
    records, spikes = check_net(fake, fake.build())
    assert neuron_layers(records) == sorted(spikes)
    for layer, calls in spikes.items():
        found, sent = records.layer(layer), sum(int(one.count_nonzero()) for one in calls)
        assert (found["updates"], found["spikes"]) == (sum(one.numel() for one in calls), sent)
    quadratic = [record for record in records.layers if record["act_act"] or record["gates"]]
    assert bool(quadratic) == bool(fake.attention_paths or fake.linear_paths)
    for path in fake.attention_paths:
        assert sum(record["act_act"] for record in records.layers if record.layer.startswith(path)) > 0


@pytest.mark.parametrize("name", NETS)
def test_wrapped_networks_are_covered(name: str):
    fake = FAKES[name]
    records, spikes = check_net(fake, wrapped(fake).model)
    assert set(neuron_layers(records)) >= set(spikes)
    assert "dstsp" not in neuron_layers(records), "the ranking of tokens is no neuron"
    for path in fake.attention_paths:
        assert sum(record["act_act"] for record in records.layers if record.layer.startswith(path)) == 0
