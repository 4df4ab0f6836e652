"""Resets of the libraries that models come from still find every neuron, in the model and out of it."""

import importlib

import pytest
import snntorch
import torch
from snntorch import utils
from torch import nn

import snntorch_smixer
from snntorch_smixer import dstsp
from tests.fakes.neurons import MultiStepLIF
from tests.fakes.spikingjelly_models import SPIKINGJELLY
from tests.fakes.wrapped import EVERY, check_equal, each, logits, our_hooks, wrapped
from tests.fakes.zoo import Fake


@pytest.fixture
def functional():
    pytest.importorskip("spikingjelly")
    return importlib.import_module("spikingjelly.activation_based.functional")


@each(SPIKINGJELLY)
@pytest.mark.parametrize("swap", [True, "all"])
def test_spikingjelly_resets_what_is_in_the_model_now(fake: Fake, functional, swap: bool | str):
    model, x = fake.build(), fake.example(batch=3)

    def twice(one: nn.Module) -> None:
        with torch.no_grad():
            functional.reset_net(one)
            first = fake.logits(one(x))
            functional.reset_net(one)
            assert torch.equal(fake.logits(one(x)), first)
            functional.reset_net(one)
            assert torch.allclose(fake.logits(one(x[:1])), first[:1], atol=1e-5)
        functional.reset_net(one)

    twice(model)
    twice(dstsp.wrap(model, example_input=x, swap=swap))
    twice(dstsp.unwrap(model))
    twice(dstsp.wrap(model, example_input=x, swap=swap))
    check_equal(fake, dstsp.unwrap(model), fake.build(), x)


@each(SPIKINGJELLY)
@pytest.mark.parametrize("swap", [True, "all"])
def test_precision_of_spikingjelly_models(fake: Fake, swap: bool | str):
    model, x = wrapped(fake, swap=swap).model, fake.example(batch=3)
    assert logits(fake, model.double(), x.double()).dtype == torch.float64
    check_equal(fake, dstsp.unwrap(model).float(), fake.build(), x)


@EVERY
def test_snntorch_resets_do_no_harm(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    out = logits(fake, model, x)
    utils.reset(model)
    snntorch_smixer.reset(model)
    assert torch.equal(logits(fake, model, x), out)


class Leaky(nn.Module):
    """snnTorch's neuron over the steps of (T, B, ...)."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = snntorch.Leaky(beta=0.5, threshold=0.5, init_hidden=True)

    def forward(self, x):
        return torch.stack([self.cell(step) for step in x])


@each(["spikformer_cifar", "sdt_v1"])
def test_models_with_neurons_of_snntorch(fake: Fake):
    model, x = fake.build(), fake.example(batch=3)
    for module in [*model.modules()]:
        for name, child in [*module.named_children()]:
            if isinstance(child, MultiStepLIF):
                setattr(module, name, Leaky())

    def out(one: nn.Module) -> torch.Tensor:
        for module in one.modules():
            if isinstance(module, snntorch.Leaky):
                module.mem = module.reset_mem()
        with torch.no_grad():
            return fake.logits(one(x))

    before = out(model)
    assert (before[0] != before[1]).any()
    assert torch.equal(out(model), before)
    dstsp.wrap(model, ps=0.3, t=2, example_input=x)
    pruned = out(model)
    assert not torch.equal(pruned, before)
    assert torch.equal(out(model), pruned)
    dstsp.unwrap(model)
    assert our_hooks(model) == []
    assert torch.equal(out(model), before)
