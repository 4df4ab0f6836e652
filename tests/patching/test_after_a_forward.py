"""Models that were run and not reset: what is looked at is a reset copy, and the model stays as it is."""

import copy

import pytest
import snntorch as snn
import torch
from torch import Tensor, nn

from snntorch_smixer import LIF, cost, dstsp
from snntorch_smixer.bench.peak import peak_bytes
from snntorch_smixer.errors import FamilyError
from snntorch_smixer.patching.observe import copied
from snntorch_smixer.patching.survey import survey
from tests.fakes.neurons import MultiStepLIF, StepNode, reset
from tests.fakes.zoo import FAKES


class InAList(nn.Module):
    """Keeps its membranes in a list, and has a reset of another name."""

    def __init__(self) -> None:
        super().__init__()
        self.held: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        self.held.append(x * 2)
        return sum(self.held)

    def reset_state(self) -> None:
        self.held.clear()


NEURONS = {
    "snntorch": lambda: snn.Leaky(0.9, init_hidden=True),
    "lif in step mode": lambda: LIF(0.5, step_mode="s"),
    "own attribute": MultiStepLIF,
    "n_reset": lambda: StepNode(1),
    "list": InAList,
}


def _spikingjelly() -> nn.Module:
    return pytest.importorskip("spikingjelly.activation_based.neuron").LIFNode(step_mode="m")


@pytest.mark.parametrize("make", [*NEURONS.values(), _spikingjelly], ids=[*NEURONS, "spikingjelly"])
def test_a_copy_is_reset_and_the_original_is_not(make):
    neuron, weight = make(), torch.rand(3, 2, 4, requires_grad=True)
    out = neuron(weight * 2)
    held = dict(vars(neuron), **neuron._buffers, **getattr(neuron, "_memories", {}))
    twin, fresh = copied(neuron), copied(make())
    other = torch.rand(3, 5, 4)
    assert torch.equal(twin(other), fresh(other)), "with another batch, and as one that never ran"
    after = dict(vars(neuron), **neuron._buffers, **getattr(neuron, "_memories", {}))
    assert all(after[name] is value for name, value in held.items())
    out.sum().backward()
    assert weight.grad is not None


@pytest.mark.parametrize("name", ["spikformer_cifar", "sdt_v1"])
def test_wrap_plan_and_fit_behind_a_forward_with_gradients(name):
    fake = FAKES[name]
    model, fresh = fake.build(), fake.build()
    model(fake.example(batch=2))
    lifs = [m for m in model.modules() if isinstance(m, MultiStepLIF)]
    held = [lif.v for lif in lifs]
    assert any(isinstance(v, Tensor) and v.requires_grad for v in held)
    x = fake.example(batch=3)
    assert str(dstsp.plan(model, swap="all", example_input=x)) == str(dstsp.plan(fresh, swap="all", example_input=x))
    for one in (model, fresh):
        torch.manual_seed(0)
        dstsp.wrap(one, ps=0.3, t=2, swap="all", example_input=x, calibrate=[x, x[:1]])
        dstsp.fit(one, [x])
    assert all(lif.v is v for lif, v in zip(lifs, held, strict=True)), "the membranes are the user's"
    twin = copy.deepcopy(model)
    for one in (model, twin):
        reset(one)
    assert torch.equal(fake.logits(twin(x)), fake.logits(fresh(x)))


def test_the_trial_of_wrap_starts_reset():
    fake = FAKES["spikformer_cifar"]
    model = fake.build()
    with torch.no_grad():
        model(fake.example(batch=2))
    runs: list[object] = []
    head = next(m for m in model.modules() if isinstance(m, MultiStepLIF))
    head.register_forward_pre_hook(lambda module, args: runs.append(module.v))
    dstsp.wrap(model, example_input=fake.example(batch=2))
    assert runs == [0.0], "hooks are on the copy that is tried out alone"


class Narrow(nn.Module):
    """Fails behind its first layer, whatever it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 4), nn.Linear(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        self.second(self.first(x))
        raise ValueError("the failure that matters")


class Folds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).sum(1)


@pytest.mark.parametrize(
    ("block", "text"),
    [(Narrow, r"fails with ValueError: the failure that matters"), (Folds, r"it runs, and gives \(.*\) for \(.*\)")],
)
def test_where_no_layout_fits_the_message_names_the_one_that_got_furthest(block, text):
    with pytest.raises(FamilyError, match=text):
        survey(block())


def test_measuring_behind_a_forward_leaves_its_graph_whole():
    net = nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9, init_hidden=True), nn.Linear(4, 2))
    net(torch.rand(3, 4))
    out = (net(torch.rand(3, 4)) * net[1].mem.sum().exp()).sum()
    mem = net[1].mem
    cost.measure(net, torch.rand(5, 4))
    assert net[1].mem is mem
    out.backward()
    assert net[0].weight.grad is not None


def test_a_benchmark_behind_a_forward_leaves_its_graph_whole():
    net = nn.Sequential(nn.Linear(4, 4), snn.Leaky(0.9, init_hidden=True), nn.Linear(4, 2))
    net(torch.rand(3, 4))
    out = (net(torch.rand(3, 4)) * net[1].mem.sum().exp()).sum()
    peak_bytes(net, torch.rand(3, 4))
    out.backward()
    assert net[0].weight.grad is not None
