"""Spike intensity value and ranking, on numbers small enough to add up by eye."""

from itertools import combinations

import pytest
import torch

from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.pruning.siv import RANKINGS, rank, siv

# (T, B, N, C) = (2, 1, 2, 3)
SPIKES = torch.tensor([[[[1, 0, 1], [0, 0, 1]]], [[[1, 1, 1], [0, 0, 0]]]], dtype=torch.float32)


@pytest.mark.parametrize(
    ("over", "values"),
    [
        ("c", [[[2, 1]], [[3, 0]]]),
        ("n c", [[3], [3]]),
        ("t c", [[5, 1]]),
        ("t n c", [6]),
        ("t", [[[2, 1, 2], [0, 0, 1]]]),
    ],
)
def test_by_hand(over, values):
    got = siv(SPIKES, over)
    assert got.tolist() == values
    assert got.dtype == torch.float32


@pytest.mark.parametrize("over", [c for n in (1, 2, 3, 4) for c in combinations("tbnc", n)], ids="".join)
def test_every_form_equals_a_loop(over):
    spikes = (torch.rand(2, 3, 4, 5) < 0.4).float()
    expected = spikes
    for letter in reversed(over):
        expected = sum(expected.unbind("tbnc".index(letter)))
    assert torch.equal(siv(spikes, " ".join(over)), expected)
    assert torch.equal(siv(spikes, " ".join(reversed(over))), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.int64])
def test_more_spikes_than_the_dtype_can_count_are_counted(dtype):
    spikes = torch.ones(1, 1, 2, 70_001, dtype=dtype)
    spikes[0, 0, 1, 0] = 0
    assert siv(spikes, "c").tolist() == [[[70_001, 70_000]]]


def test_exact_under_autocast():
    spikes = torch.ones(3, 1, 2, 257)
    spikes[0, 0, 1, 0] = 0
    with torch.autocast("cpu", torch.bfloat16):
        assert siv(spikes.bfloat16(), "t c").tolist() == [[771, 770]]
        assert siv(spikes, "n c").tolist() == [[513], [514], [514]]


def test_refusals():
    with pytest.raises(LayoutError, match=r"^siv: expected tokens \(T, B, N, C\), got shape \(2, 3, 4\); did you"):
        siv(torch.zeros(2, 3, 4), "c")
    with pytest.raises(LayoutError, match=r"^shapes.axis: got axis 'h'"):
        siv(torch.zeros(1, 2, 3, 4), "h c")


SCORES = torch.tensor([[3.0, 5, 3, 0, 5], [1, 1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("ranking", "order"),
    [
        ("low", [[1, 4, 0, 2, 3], [0, 1, 2, 3, 4]]),
        ("high", [[3, 0, 2, 1, 4], [0, 1, 2, 3, 4]]),
    ],
)
def test_rank_by_hand_with_the_lowest_index_first_on_a_tie(ranking, order):
    assert rank(SCORES, ranking).tolist() == order


@pytest.mark.parametrize("ranking", ["low", "high"])
def test_many_ties_keep_index_order(ranking):
    scores = torch.randint(3, (4, 500)).float()
    sign = -1 if ranking == "low" else 1
    expected = [sorted(range(500), key=lambda i: sign * row[i]) for row in scores.tolist()]
    assert rank(scores, ranking).tolist() == expected


def test_low_is_the_default():
    assert torch.equal(rank(SCORES), rank(SCORES, "low"))
    assert RANKINGS == ("low", "high", "random")


def test_random_is_one_draw_for_the_batch():
    scores = torch.rand(3, 50)
    order = rank(scores, "random")
    assert order[0].sort().values.tolist() == list(range(50))
    assert torch.equal(order, order[:1].expand(3, -1))
    assert not torch.equal(order, rank(scores, "random"))
    torch.manual_seed(7)
    first = rank(scores, "random")
    torch.manual_seed(7)
    assert torch.equal(rank(scores[1:2], "random"), first[1:2])


@pytest.mark.parametrize("ranking", ["low", "high"])
def test_a_row_ranks_the_same_alone(ranking):
    scores = torch.randint(10, (6, 40)).float()
    together = rank(scores, ranking)
    assert torch.equal(torch.cat([rank(row[None], ranking) for row in scores]), together)


def test_an_unknown_ranking_is_refused():
    with pytest.raises(SettingError) as caught:
        rank(SCORES, "busiest")
    assert str(caught.value) == (
        "rank: ranking='busiest' is unknown. Expected one of low, high, random. Pass one of these."
    )
