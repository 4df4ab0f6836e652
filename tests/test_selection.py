"""Selection, and taking the selected steps and tokens."""

import dataclasses

import pytest
import torch

from snntorch_smixer.selection import W_PRIMES, Selection, take_steps, take_tokens

STEPS = torch.tensor([[0, 2], [1, 2]])
TOKENS = torch.tensor([[4, 0, 1], [2, 1, 3]])  # rank order, as "crop" has it


def selection(**changes: object) -> Selection:
    values = {"steps": STEPS, "tokens": TOKENS, "full_steps": 3, "full_tokens": 5}
    return Selection(**{**values, **changes})


def test_counts():
    kept = selection()
    assert (kept.num_steps, kept.num_tokens, kept.drops_tokens) == (2, 3, True)
    assert selection(fused=True).num_tokens == 4
    assert not selection(full_tokens=3, tokens=torch.tensor([[2, 0, 1]])).drops_tokens


def test_defaults_gather_without_a_limit():
    kept = selection()
    assert (kept.w_prime, kept.rows, kept.fused, kept.spike_cap) == ("gather", None, False, None)
    assert W_PRIMES == ("gather", "crop", "shared")


def test_keep_mask():
    assert selection().keep_mask().tolist() == [[True, True, False, False, True], [False, True, True, True, False]]
    assert selection().keep_mask().dtype == torch.bool


def test_dropped_tokens_are_in_position_order_whatever_the_order_of_the_kept():
    assert selection().dropped().tolist() == [[2, 3], [0, 4]]


def test_nothing_dropped():
    kept = selection(tokens=torch.tensor([[3, 0, 1, 2, 4]]), steps=STEPS[:1])
    assert kept.dropped().shape == (1, 0)
    assert kept.keep_mask().all()


def test_it_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        selection().full_tokens = 7


@pytest.mark.parametrize("trailing", [(), (4,), (4, 3), (4, 3, 2)], ids=len)
def test_take_steps_takes_each_sample_its_own(trailing):
    x = torch.arange(3 * 2 * torch.Size(trailing).numel()).view(3, 2, *trailing)
    taken = take_steps(x, STEPS)
    assert taken.shape == (2, 2, *trailing)
    for sample in range(2):
        for place in range(2):
            assert torch.equal(taken[place, sample], x[STEPS[sample, place], sample])


def test_take_tokens_takes_each_sample_its_own_at_all_steps():
    x = torch.arange(3 * 2 * 5 * 4).view(3, 2, 5, 4)
    taken = take_tokens(x, TOKENS)
    assert taken.shape == (3, 2, 3, 4)
    for sample in range(2):
        for place in range(3):
            assert torch.equal(taken[:, sample, place], x[:, sample, TOKENS[sample, place]])


def test_gradients_reach_exactly_what_was_taken():
    x = torch.ones(3, 2, 5, 1, requires_grad=True)
    take_tokens(take_steps(x, STEPS), TOKENS).sum().backward()
    expected = torch.zeros(3, 2, 5, 1)
    for sample in range(2):
        for step in STEPS[sample]:
            expected[step, sample, TOKENS[sample]] = 1
    assert torch.equal(x.grad, expected)
