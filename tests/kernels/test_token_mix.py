"""``W_M' X'``: the definition against plain loops, and every fast form against the definition."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from snntorch_smixer.kernels.token_mix import (
    active_weight,
    expand_to_grid,
    grid_is_cheaper,
    mix_shared,
    restrict_to_kept,
    token_mix_reference,
)
from snntorch_smixer.selection import W_PRIMES, Selection, take_tokens

STEPS, BATCH, TOKENS = 2, 3, 5
READINGS = [
    (keep, fused, w_prime)
    for keep in range(1, TOKENS + 1)
    for fused in (False, True)
    for w_prime in W_PRIMES
    if keep < TOKENS or not fused
]


def choose(keep: int, *, fused: bool = False, w_prime: str = "gather", full: int = TOKENS) -> Selection:
    """Each sample keeps other tokens; in rank order for "crop", in position order otherwise."""
    tokens = torch.stack([torch.randperm(full)[:keep] for _ in range(BATCH)])
    rows = torch.randperm(full)[: keep + fused].sort().values if w_prime == "shared" and keep < full else None
    return Selection(
        steps=torch.arange(STEPS).repeat(BATCH, 1),
        tokens=tokens if w_prime == "crop" else tokens.sort(1).values,
        full_steps=STEPS,
        full_tokens=full,
        w_prime=w_prime,
        rows=rows,
        fused=fused,
    )


def spikes(tokens: int, channels: int = 9) -> Tensor:
    """Binary tokens of which 30 % fire."""
    x = (torch.rand(STEPS, BATCH, tokens, channels) < 0.3).float()
    assert 0.05 < x.mean() < 0.6
    return x


def groups(kept: Selection, sample: int) -> list[list[int]]:
    """Positions of the full grid that each kept token stands for."""
    alone = [[i] for i in kept.tokens[sample].tolist()]
    lost = [i for i in range(kept.full_tokens) if [i] not in alone]
    return [*alone, lost] if kept.fused else alone


def entry(weight: Tensor, kept: Selection, sample: int, i: int, j: int) -> Tensor:
    """One entry of ``W_M'`` of every head, ``(h,)``, by the words of the paper."""
    if kept.rows is not None:
        return weight[:, kept.rows[i], kept.rows[j]]
    if kept.w_prime == "crop":
        return weight[:, i, j]
    rows, columns = groups(kept, sample)[i], groups(kept, sample)[j]
    return torch.stack([weight[:, r, c] for r in rows for c in columns]).sum(0) / len(rows)


def mix_by_hand(x: Tensor, weight: Tensor, kept: Selection) -> Tensor:
    """``W_M' X'`` one sample, one output token and one input token at a time."""
    out = torch.zeros_like(x)
    width = x.shape[3] // weight.shape[0]
    for b in range(x.shape[1]):
        for i in range(x.shape[2]):
            for j in range(x.shape[2]):
                out[:, b, i] += entry(weight, kept, b, i, j).repeat_interleave(width) * x[:, b, j]
    return out


def dense(x: Tensor, weight: Tensor) -> Tensor:
    """``W_M X`` on all tokens."""
    return torch.einsum("hnm,tbmhc->tbnhc", weight, x.unflatten(3, (weight.shape[0], -1))).flatten(3)


def fast_forms(x: Tensor, weight: Tensor, kept: Selection) -> Iterator[Tensor]:
    """The result of each fast form that fits this selection."""
    if kept.w_prime == "crop" or kept.rows is not None or not kept.drops_tokens:
        yield mix_shared(x, active_weight(weight, kept)[0])
    if kept.w_prime != "crop" and kept.rows is None:
        yield restrict_to_kept(dense(expand_to_grid(x, kept), weight), kept)


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("keep", "fused", "w_prime"), READINGS)
def test_reference_is_the_definition(keep: int, fused: bool, w_prime: str, heads: int):
    kept = choose(keep, fused=fused, w_prime=w_prime)
    x, weight = spikes(keep + fused).double(), torch.randn(heads, TOKENS, TOKENS).double()
    out = token_mix_reference(x, weight, kept)
    assert out.abs().max() > 0.1
    torch.testing.assert_close(out, mix_by_hand(x, weight, kept))


@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize(("keep", "fused", "w_prime"), READINGS)
def test_fast_forms_equal_the_reference(keep: int, fused: bool, w_prime: str, heads: int):
    kept = choose(keep, fused=fused, w_prime=w_prime)
    x = spikes(keep + fused).requires_grad_()
    weight = torch.randn(heads, TOKENS, TOKENS, requires_grad=True)
    wanted = token_mix_reference(x, weight, kept)
    upstream = torch.randn_like(wanted)
    wanted_grads = torch.autograd.grad(wanted, (x, weight), upstream)
    assert all(g.abs().max() > 0.1 for g in wanted_grads)
    forms = list(fast_forms(x, weight, kept))
    assert forms
    for out in forms:
        torch.testing.assert_close(out, wanted)
        for got, grad in zip(torch.autograd.grad(out, (x, weight), upstream), wanted_grads, strict=True):
            torch.testing.assert_close(got, grad, atol=2e-5, rtol=1e-5)


def test_fused_weight_by_hand():
    # Tokens 0 and 2 of four are kept, the fused token stands at 1 and 3: row mean, column sum.
    weight = torch.arange(16.0).view(1, 4, 4)
    tokens = torch.tensor([[0, 2]])
    kept = Selection(torch.zeros(1, 1).long(), tokens, full_steps=1, full_tokens=4, fused=True)
    assert active_weight(weight, kept)[0, 0].tolist() == [[0, 2, 1 + 3], [8, 10, 9 + 11], [8, 10, 9 + 11]]


@pytest.mark.parametrize(("w_prime", "batch"), [("gather", BATCH), ("crop", 1), ("shared", 1)])
def test_active_weight_shape(w_prime: str, batch: int):
    weight = torch.randn(3, TOKENS, TOKENS)
    assert active_weight(weight, choose(4, w_prime=w_prime)).shape == (batch, 3, 4, 4)
    assert torch.equal(active_weight(weight, choose(TOKENS, w_prime=w_prime))[0], weight)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("keep", range(1, TOKENS))
def test_expand_and_restrict_are_inverse(keep: int, fused: bool):
    kept = choose(keep, fused=fused)
    x = torch.randn(STEPS, BATCH, keep + fused, 3)
    grid = expand_to_grid(x, kept)
    assert grid.shape == (STEPS, BATCH, TOKENS, 3)
    torch.testing.assert_close(restrict_to_kept(grid, kept), x, atol=1e-6, rtol=0)
    for b in range(BATCH):
        for i, group in enumerate(groups(kept, b)):
            assert all(torch.equal(grid[:, b, n], x[:, b, i]) for n in group)
    dropped = take_tokens(grid, kept.dropped())
    assert fused or not dropped.any()


@pytest.mark.parametrize("form", [token_mix_reference, lambda x, w, k: next(fast_forms(x, w, k))])
def test_gather_is_the_dense_product_with_silent_dropped_tokens(form):
    kept, full = choose(3), spikes(TOKENS)
    weight = torch.randn(3, TOKENS, TOKENS)
    silenced = full * kept.keep_mask()[None, :, :, None]
    assert not torch.equal(silenced, full)
    out = form(take_tokens(full, kept.tokens), weight, kept)
    torch.testing.assert_close(out, take_tokens(dense(silenced, weight), kept.tokens))


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("w_prime", ["gather", "crop"])
def test_batch_mates_do_not_change_a_sample(w_prime: str, fused: bool):
    kept = choose(3, fused=fused, w_prime=w_prime)
    x, weight = spikes(3 + fused), torch.randn(3, TOKENS, TOKENS)
    together = [token_mix_reference(x, weight, kept), *fast_forms(x, weight, kept)]
    for b in range(BATCH):
        alone = Selection(kept.steps[b : b + 1], kept.tokens[b : b + 1], STEPS, TOKENS, w_prime, fused=fused)
        lonely = x[:, b : b + 1]
        forms = [token_mix_reference(lonely, weight, alone), *fast_forms(lonely, weight, alone)]
        for one, all_ in zip(forms, together, strict=True):
            torch.testing.assert_close(one[:, 0], all_[:, b])


@pytest.mark.parametrize(
    ("steps", "full", "channels", "heads", "keep", "wanted"),
    [
        (1, 4, 8, 1, 3, True),  # 32 <= 9 + 24
        (1, 4, 10, 1, 3, False),  # 40 > 9 + 30
        (1, 4, 9, 1, 3, True),  # 36 <= 9 + 27: equal
        (2, 4, 8, 1, 3, False),  # 64 > 9 + 48
        (2, 4, 8, 2, 3, True),  # 64 <= 18 + 48
        (1, 196, 384, 12, 137, True),  # 75264 <= 225228 + 52608
        (4, 64, 384, 1, 45, False),  # 98304 > 2025 + 69120
    ],
)
def test_grid_is_cheaper_formula(steps: int, full: int, channels: int, heads: int, keep: int, wanted: bool):
    x = torch.empty(steps, BATCH, keep, channels, device="meta")
    assert grid_is_cheaper(x, heads, choose(keep, full=full)) is wanted


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("w_prime", W_PRIMES)
def test_bfloat16_stays_bfloat16_and_close(w_prime: str, fused: bool):
    kept = choose(3, fused=fused, w_prime=w_prime)
    x, weight = spikes(3 + fused), torch.randn(3, TOKENS, TOKENS).bfloat16()
    wanted = token_mix_reference(x, weight.float(), kept)
    half = x.bfloat16()
    for out in [token_mix_reference(half, weight, kept), *fast_forms(half, weight, kept)]:
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.float(), wanted, atol=0.06, rtol=0.02)
