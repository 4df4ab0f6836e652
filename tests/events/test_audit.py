"""`events.audit`: what an asynchronous chip cannot run."""

import copy
import json

import pytest
import snntorch as snn
import torch
from torch import nn

from snntorch_smixer import LIF, dstsp, events, from_pretrained
from snntorch_smixer.cli.events import audit_text
from tests.fakes.zoo import FAKES

_SSA = [fake for fake in FAKES.values() if fake.attention_paths]


def _products(found: events.Audit) -> list[str]:
    return [hit.module for hit in found.hits if hit.kind == "product"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("fake", _SSA, ids=lambda fake: fake.name)
def test_two_products_per_attention(fake, training):
    model = fake.build().train(training)
    before = copy.deepcopy(model.state_dict())
    inside = _products(events.audit(model, fake.example(2, 0)))
    gates = [path for path in inside if path in fake.linear_paths]
    assert len(inside) - len(gates) == 2 * len(fake.attention_paths)
    assert set(gates) == set(fake.linear_paths)
    assert model.training is training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("fake", [f for f in FAKES.values() if not f.sites or f.mixer_paths], ids=lambda f: f.name)
def test_mixers_and_convolutions_have_none(fake):
    assert not _products(events.audit(fake.build(), fake.example(2, 0)))


@pytest.mark.parametrize("name", ["spikformer_cifar", "spikformer_dvs", "braincog"])
def test_a_wrapped_model_has_products_only_in_its_pruning(name):
    fake = FAKES[name]
    model, x = fake.build(), fake.example(2, 0)
    dstsp.wrap(model, example_input=x)
    assert set(_products(events.audit(model, x))) == {"dstsp"}
    model.dstsp.ps, model.dstsp.t = 0.0, None
    assert not _products(events.audit(model, x))


def test_shipped_net():
    found = events.audit(from_pretrained("smixer-2-64-fmnist"), torch.rand(2, 1, 28, 28))
    assert {hit.kind for hit in found.hits} == {"analog_input", "membrane"}
    assert {entry.op for entry in found.operations if entry.verdict == "folds"} == {"batch_norm"}
    assert "head.linear" in str(found)


def test_dynamic_pruning_sorts():
    found = events.audit(from_pretrained("smixer-2-64-fmnist-dstsp"), torch.rand(2, 1, 28, 28))
    assert "sort" in {hit.kind for hit in found.hits}


class _Odd(nn.Module):
    """A layer under test between two neurons."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.last = LIF(), layer, LIF()

    def forward(self, x):
        return self.last(self.layer(self.first(x)))


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.MaxPool2d(2), "max_pool"),
        (nn.Softmax(-1), "softmax"),
        (nn.LayerNorm(8), "norm"),
        (nn.Sigmoid(), "special"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_one_hit_with_its_module(layer, kind):
    x = (torch.rand(4, 2, 8, 8) > 0.3).float() * 2
    found = events.audit(_Odd(layer), x, axes="t b")
    assert [(hit.kind, hit.module, hit.reason) for hit in found.hits] == [(kind, "layer", events.REASONS[kind])]
    assert not found.event_driven


def test_average_pooling_runs():
    found = events.audit(_Odd(nn.AvgPool2d(2)), (torch.rand(4, 2, 8, 8) > 0.3).float() * 2, axes="t b")
    assert found.event_driven
    assert not found.hits


def test_neurons_of_snntorch_have_no_hit():
    net = nn.Sequential(
        nn.Linear(8, 8), snn.Leaky(0.5, init_hidden=True), nn.Linear(8, 4), snn.Leaky(0.5, init_hidden=True)
    )
    x = (torch.rand(2, 8) > 0.5).float()
    assert not events.audit(net, x).hits


def test_the_command_prints_what_audit_finds():
    model, x = FAKES["spikformer_cifar"].build(), FAKES["spikformer_cifar"].example(2, 0)
    found = json.loads(audit_text(model, x, as_json=True))
    assert found["event_driven"] is False
    assert sum(hit["kind"] == "product" for hit in found["hits"]) == 4
    assert "block.0.attn" in audit_text(model, x)
