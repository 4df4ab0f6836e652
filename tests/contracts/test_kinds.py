"""Every kind of attention that users of snnTorch write is wrapped, and keeps the promises of the families."""

import copy
import pickle
import warnings
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import cost, dstsp, reset, set_memory
from snntorch_smixer.memory import MODES
from snntorch_smixer.patching.standins import SwappedAttention
from tests.fakes.kinds import KINDS
from tests.fakes.neurons import reset as reset_stand_ins

EVERY = pytest.mark.parametrize("name", KINDS)


def wrapped(name: str) -> nn.Module:
    """A copy of a model that was wrapped once."""
    return copy.deepcopy(_wrapped(name))


@cache
def _wrapped(name: str) -> nn.Module:
    kind = KINDS[name]
    torch.manual_seed(1)
    return dstsp.wrap(kind.build(), **{"ps": 0.3, "t": 1, "example_input": kind.example(), **kind.settings})


def run(model: nn.Module, x: Tensor) -> Tensor:
    """The output from rest, and back to rest."""
    at_rest(model)
    try:
        return model(x)
    finally:
        at_rest(model)


def unpickled(plain: nn.Module, model: nn.Module) -> list[nn.Module]:
    """``model`` once more; nothing where the plain one cannot be pickled, as snnTorch's surrogates by default."""
    try:
        pickle.dumps(plain)
    except AttributeError:
        return []
    return [pickle.loads(pickle.dumps(model))]


def at_rest(model: nn.Module) -> None:
    """Reset snnTorch's neurons, and those that only the stand-ins have."""
    reset(model)
    reset_stand_ins(model)


def matrices(model: nn.Module) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if name.endswith("w_m.weight")}


@EVERY
def test_it_is_swapped_and_pruned_and_unwrapped(name: str):
    kind = KINDS[name]
    plain, model = kind.build(), wrapped(name)
    x = kind.example(3, 1)
    before = run(plain, x)
    assert len(matrices(model)) == kind.swapped
    assert len([m for m in model.modules() if isinstance(m, SwappedAttention)]) == kind.swapped
    after = run(model, x)
    assert after.shape == before.shape
    assert not torch.equal(after, before)
    assert (after[0] != after[1]).any(), "outputs do not depend on the input"
    dstsp.unwrap(model)
    assert torch.equal(run(model, x), before)
    assert [*model.state_dict()] == [*plain.state_dict()]


@EVERY
def test_rates_act(name: str):
    kind, x = KINDS[name], KINDS[name].example(3, 1)
    if kind.settings.get("ps") == 0:
        pytest.skip("its tokens are bound to their places")
    model = wrapped(name)
    one = run(model, x)
    model.dstsp.ps = 0.6
    assert not torch.equal(run(model, x), one)
    model.dstsp.ps, model.dstsp.t = 0.0, None
    model.dstsp.active = "both"
    whole = run(model, x)
    model.dstsp.active = "never"
    assert torch.equal(run(model, x), whole)


@EVERY
def test_copies_are_whole(name: str):
    kind = KINDS[name]
    model, x = wrapped(name), kind.example(3, 1)
    out = run(model, x)
    for twin in (copy.deepcopy(model), *unpickled(kind.build(), model)):
        assert torch.equal(run(twin, x), out)
        assert torch.equal(run(dstsp.unwrap(twin), x), run(kind.build(), x))


@EVERY
def test_alone_is_as_in_a_batch(name: str):
    kind = KINDS[name]
    model, x = wrapped(name), kind.example(3, 1)
    whole = run(model, x)
    for sample in range(3):  # not in double precision: the spikes of snnTorch's neurons are single
        assert torch.allclose(run(model, x[sample : sample + 1])[0], whole[sample], atol=1e-5)


@EVERY
def test_every_w_m_learns(name: str):
    kind = KINDS[name]
    model = wrapped(name).train()
    for weight in matrices(model).values():
        weight.data.mul_(4)
    out = run(model, kind.example(8, 1))
    (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    assert [path for path, weight in matrices(model).items() if weight.grad is None or not weight.grad.any()] == []


@EVERY
def test_memory_modes_are_equal(name: str):
    kind, results = KINDS[name], []
    made = wrapped(name).train()
    for mode in MODES:
        model = copy.deepcopy(made)
        set_memory(model, mode)
        found = []
        for _ in range(2):  # the first one looks, the second one knows
            model.zero_grad(set_to_none=True)
            out = run(model, kind.example(3, 1))
            (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
            found += [out.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
        results.append(found)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@EVERY
def test_it_compiles(name: str):
    kind = KINDS[name]
    model, x = wrapped(name), kind.example(3, 1)
    with torch.no_grad():
        out = run(model, x)
        torch._dynamo.reset()
        at_rest(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # dynamo's own, about what it cannot look into
            compiled = torch.compile(model, backend="eager")(x)
        torch._dynamo.reset()
    assert torch.allclose(compiled, out, atol=1e-5)


@EVERY
def test_all_its_operations_are_counted(name: str):
    kind = KINDS[name]
    records = cost.measure(wrapped(name), kind.example(2, 1))
    uncounted = {one.op for one in records.uncounted}
    assert uncounted == ({"aten._fft_c2c.default"} if name == "fourier" else set())
    assert name == "fourier" or records.coverage == 1.0
