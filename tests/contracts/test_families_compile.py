"""``torch.compile`` of wrapped models: runs, gives what eager gives, and follows settings that change."""

import warnings

import pytest
import torch

from tests.fakes.neurons import reset
from tests.fakes.wrapped import EVERY, REPRESENTATIVES, differ, each, logits, wrapped
from tests.fakes.zoo import Fake


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # dynamo's own, about what it cannot look into
        yield
    torch._dynamo.reset()


@REPRESENTATIVES
def test_compiled_models_give_what_eager_ones_give(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    expected = logits(fake, model, x)
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        reset(model)
        with torch.no_grad():
            assert torch.equal(fake.logits(compiled(x)), expected)
    assert not torch.equal(expected, logits(fake, fake.build(), x))
