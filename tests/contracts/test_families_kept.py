"""The right tokens of the right steps go on, ``W_M'`` is their part of ``W_M``, and dropped ones stay as they are."""

import re

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.layouts import Layout
from tests.fakes.neurons import reset
from tests.fakes.wrapped import MODELS, WITH_TOKENS, Calls, each, logits, wrapped
from tests.fakes.zoo import Fake

GRID = ("sdt_v1_dvs", "sdt_v2", "sdt_v3", "spikeyolo", "strided_keys")
LEAVING = each(name for name in MODELS if name not in GRID)
TOKENS_BEFORE_CHANNELS = ("spikformer_cifar", "braincog", "one_big_block", "einsum")


def layout_of(fake: Fake, x: Tensor) -> Layout:
    if fake.name in TOKENS_BEFORE_CHANNELS:
        return Layout("t b n c")
    with_time = {3: "(t b) c n", 4: "t b c n", 5: "t b c y x"}[x.dim()]
    return Layout("b c y x" if fake.name == "sdt_v3" else with_time)


def first_input(fake: Fake, model: nn.Module, x: Tensor, steps: int, path: str = "") -> Tensor:
    """What enters the first block with attention, or another one, as (T, B, N, C)."""
    path = path or re.sub(r"\.(attn|ssa|held|token_mix\.attn)$", "", fake.sites[0])
    with Calls(model.get_submodule(path)) as calls:
        logits(fake, model, x)
    (args,) = calls.args
    return layout_of(fake, args[0]).to_tokens(args[0], {"t": steps})


def kept_last(fake: Fake, model: nn.Module, x: Tensor) -> dstsp.Selection:
    with Calls(model.dstsp) as calls:
        logits(fake, model, x)
    return calls.outs[-1][1]


def taken(x: Tensor, steps: Tensor, tokens: Tensor) -> Tensor:
    """Steps and tokens of each sample of (T, B, N, C), one sample after the other."""
    return torch.stack([x[s, n][:, k] for n, (s, k) in enumerate(zip(steps, tokens, strict=True))], 1)


@LEAVING
@pytest.mark.parametrize(("ps", "t"), [(0.3, 1), (0.5, 2), (0.5, None)])
def test_the_first_block_gets_the_kept_tokens_alone(fake: Fake, ps: float, t: int | None):
    model, x = wrapped(fake).model, fake.example(batch=3)
    steps = 1 if model.dstsp.plan.levels else t or fake.steps
    model.dstsp.merge, model.dstsp.ps, model.dstsp.t = "drop", 0.0, t
    whole = first_input(fake, model, x, steps)
    assert whole.shape[:3] == (steps, 3, 16)
    model.dstsp.ps = ps
    pruned, tokens = first_input(fake, model, x, steps), kept_last(fake, model, x).tokens
    assert tokens.shape == (3, round(16 * (1 - ps)))
    assert (tokens.diff(dim=1) > 0).all()
    assert (tokens != tokens[0]).any(), "every sample keeps the same tokens"
    assert torch.equal(pruned, taken(whole, torch.arange(steps).expand(3, -1), tokens))


@each(name for name, fake in MODELS.items() if fake.tokens and fake.family != "sdt_v3")
@pytest.mark.parametrize("t", [1, 3])
def test_the_first_block_gets_the_kept_steps_alone(fake: Fake, t: int):
    model, x = wrapped(fake).model, fake.example(batch=3)
    path = "stage1.0" if fake.family == "qkformer" else ""
    model.dstsp.ps, model.dstsp.t = 0.0, None
    whole = first_input(fake, model, x, fake.steps, path)
    model.dstsp.t = t
    pruned, steps = first_input(fake, model, x, t, path), kept_last(fake, model, x).steps
    assert steps.shape == (3, t)
    assert (steps.diff(dim=1) > 0).all()
    assert torch.equal(pruned, taken(whole, steps, torch.arange(whole.shape[2]).expand(3, -1)))


@WITH_TOKENS
def test_the_busiest_steps_and_tokens_are_kept(fake: Fake):
    model, x = wrapped(fake).model, fake.example(batch=3)
    model.dstsp.ps, model.dstsp.t = 0.4, 2
    with Calls(model.dstsp) as calls:
        logits(fake, model, x)
    (_, spikes, *_), (_, kept) = calls.args[-1], calls.outs[-1]
    named = re.findall(r"by spikes of (\S+), layout", str(model.dstsp.plan))
    if not named:
        assert set(spikes.unique().tolist()) <= {0, 1, 2}, "these are no spikes"
    else:
        assert torch.equal(spikes, by_hand(model, named[0], calls.args[-1][0]))
    if spikes.shape[0] > kept.num_steps:
        busiest = spikes.sum((2, 3)).argsort(dim=0, descending=True, stable=True)[:2].sort(0).values
        assert torch.equal(kept.steps, busiest.T)
        spikes = torch.stack([spikes[s, n] for n, s in enumerate(kept.steps)], 1)
    counts = spikes.sum((0, 3)).argsort(dim=1, descending=True, stable=True)
    assert torch.equal(kept.tokens, counts[:, : kept.tokens.shape[1]].sort(1).values)


def by_hand(model: nn.Module, path: str, tokens: Tensor) -> Tensor:
    """Spikes of a neuron at rest on tokens (T, B, N, C)."""
    neuron = model.get_submodule(path)
    reset(neuron)
    folded = hasattr(neuron, "T") or hasattr(neuron, "step")
    with torch.no_grad():
        out = neuron.forward(tokens.flatten(0, 1) if folded else tokens)
    reset(neuron)
    return out.view(tokens.shape)
