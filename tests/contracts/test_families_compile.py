"""``torch.compile`` of wrapped models: runs, gives what eager gives, and follows settings that change."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn

from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, differ, each, logits, wrapped
from tests.fakes.zoo import Fake

# One of each way in which tokens, steps and grids are treated; the others are slow.
FEW = each(["spikformer_cifar", "sdt_v3_large", "einsum"])


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own, about what it cannot look into
        yield
    torch._dynamo.reset()


def compiled_logits(fake: Fake, compiled: nn.Module, x: Tensor) -> Tensor:
    reset(compiled)
    with torch.no_grad():
        return fake.logits(compiled(x))


@FEW
def test_compiled_models_give_what_eager_ones_give(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    for _ in range(2):
        assert torch.equal(compiled_logits(fake, compiled, x), logits(fake, model, x))
    assert differ(fake, model, fake.build(), x)


@pytest.mark.slow
@EVERY
def test_compiled_models_train_and_follow_their_settings(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager")
    for ps, t in ((0.3, 1), (0.5, 2), (0.0, None)):
        for one in (model, twin):
            one.dstsp.ps, one.dstsp.t = ps, t
        assert torch.allclose(compiled_logits(fake, compiled, x), logits(fake, model, x), atol=1e-4)
    for one in (model, compiled):
        reset(one)
        torch.manual_seed(2)
        fake.logits(one(x)).square().sum().backward()
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    others = dict(twin.named_parameters())
    assert all(torch.allclose(others[name].grad, grad, atol=1e-3) for name, grad in grads.items())


@each(["stmixer"])
def test_compiled_models_follow_their_settings(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=4)
    twin = copy.deepcopy(model)
    compiled, outs = torch.compile(twin, backend="eager"), []
    for name, value in (("ps", 0.5), ("t", 2), ("active", "never")):
        for one in (model, twin):
            setattr(one.dstsp, name, value)
        outs.append(compiled_logits(fake, compiled, x))
        assert torch.equal(outs[-1], logits(fake, model, x)), name
    assert len({tuple(out.flatten().tolist()) for out in outs}) == 3


@pytest.mark.slow
@each(["spikformer_cifar", "stmixer"])
def test_inductor(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    compiled = torch.compile(copy.deepcopy(model))
    assert torch.allclose(compiled_logits(fake, compiled, x), logits(fake, model, x), atol=1e-4)
