"""The right steps and tokens go on, ``W_M'`` is the part of ``W_M`` that belongs to them, and dropped ones stay as they are."""

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer import dstsp
from snntorch_smixer.layouts import Layout
from snntorch_smixer.patching.modules import TokenMixing
from tests.fakes.neurons import MultiSpike, Multispike
from tests.fakes.wrapped import BATCH_DEPENDENT, EVERY, MODELS, SWAPPED, Calls, each, logits, wrapped
from tests.fakes.zoo import Fake

GRID = ("sdt_v1_dvs", "sdt_v2", "sdt_v3", "spikeyolo", "strided_keys")
LEAVING = [name for name in MODELS if name not in GRID]
# (T, B, N, C) of the input of the first block behind the pruning.
LAYOUT = {3: "(t b) c n", 4: "t b c n", 5: "t b c y x"}
TOKENS_LAST = ("spikformer_cifar", "braincog", "one_big_block", "einsum")
FIRST_BLOCK = {"root_attention": "look_one", "einsum": "chain.0", "one_big_block": "deck.0", "stmixer": "block.0"}


def first_block(fake: Fake, model: nn.Module) -> nn.Module:
    path = FIRST_BLOCK.get(fake.name) or fake.sites[0].rpartition(".")[0]
    return model.get_submodule(path)


def tokens(fake: Fake, x: Tensor, steps: int) -> Tensor:
    """A stream as (T, B, N, C)."""
    layout = "t b n c" if fake.name in TOKENS_LAST else LAYOUT[x.dim()]
    return Layout(layout).to_tokens(x, {"t": steps})


def stream(fake: Fake, model: nn.Module, x: Tensor, *, steps: int) -> Tensor:
    """What enters the first block, as tokens."""
    with Calls(first_block(fake, model)) as calls:
        logits(fake, model, x)
    (args,) = calls.args
    return tokens(fake, args[0], steps)


def selections(fake: Fake, model: nn.Module, x: Tensor) -> list[tuple[Tensor, dstsp.Selection]]:
    """(pruned tokens, what was kept) of each pruning in one forward."""
    with Calls(model.dstsp) as calls:
        logits(fake, model, x)
    return calls.outs


@each(LEAVING)
@pytest.mark.parametrize(("ps", "t"), [(0.3, 1), (0.5, 2), (0.0, 3), (0.5, None)])
def test_the_first_block_gets_the_kept_tokens_of_the_kept_steps(fake: Fake, ps: float, t: int | None):
    model, x = wrapped(fake).model, fake.example(batch=3)
    levels = model.dstsp.plan.levels
    model.dstsp.active, model.dstsp.merge = "never", "drop"
    steps = 1 if levels else fake.steps
    before = stream(fake, model, x, steps=steps)
    model.dstsp.active, model.dstsp.ps, model.dstsp.t = "both", ps, t
    found = selections(fake, model, x)
    kept = found[-1][1]
    left = steps if levels or t is None else t
    after = stream(fake, model, x, steps=left)
    expected = torch.stack(
        [before[s][:, n, chosen] for n, (s, chosen) in enumerate(zip(kept.steps, kept.tokens, strict=True))], 1
    )[:, torch.arange(3), torch.arange(3)] if False else _gather(before, kept)
    assert kept.tokens.shape == (3, 16 - int(16 * ps))
    assert kept.steps.shape == (3, left)
    assert (kept.tokens.diff(dim=1) > 0).all()
    assert torch.equal(after, expected)


def _gather(x: Tensor, kept: dstsp.Selection) -> Tensor:
    samples = [x[steps, n][:, tokens] for n, (steps, tokens) in enumerate(zip(kept.steps, kept.tokens, strict=True))]
    return torch.stack(samples, 1)
