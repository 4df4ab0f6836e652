"""DSSP: how many tokens are kept, and which."""

import pytest
import torch

from snntorch_smixer.errors import SettingError
from snntorch_smixer.pruning.spatial import dssp, tokens_kept


@pytest.mark.parametrize(
    ("num_tokens", "ps", "kept"),
    [
        (64, 0.3, 45),  # 44.8
        (196, 0.3, 137),  # 137.2
        (64, 0.2, 51),  # 51.2
        (64, 0.0, 64),
        (64, 0, 64),
        (9, 0.5, 4),  # 4.5: halves to even
        (11, 0.5, 6),  # 5.5: halves to even
        (3, 0.5, 2),  # 1.5
        (5, 0.5, 2),  # 2.5
        (1, 0.5, 1),  # 0.5: never none
        (64, 0.999, 1),
        (1, 0.999, 1),
    ],
)
def test_number_of_kept_tokens(num_tokens, ps, kept):
    assert tokens_kept(num_tokens, ps) == kept


@pytest.mark.parametrize("ps", [1, 1.0, 1.5, -0.1, -1e-9, float("nan"), float("inf")])
def test_a_share_outside_the_range_is_refused(ps):
    with pytest.raises(SettingError) as caught:
        tokens_kept(64, ps)
    assert str(caught.value) == (f"DSSP: ps={ps} is outside [0, 1). Pass the share of tokens to drop, for example 0.3.")


def spikes_of(counts: list[list[list[int]]], channels: int = 6) -> torch.Tensor:
    """``counts[t][b][n]`` spikes at step t in token n of sample b."""
    numbers = torch.tensor(counts)
    return (torch.arange(channels) < numbers[..., None]).float()


# Sums over steps: sample 0: 4 6 2 6 0; sample 1: 1 1 1 1 5.
COUNTS = [[[4, 0, 1, 6, 0], [1, 0, 1, 0, 2]], [[0, 6, 1, 0, 0], [0, 1, 0, 1, 3]]]


@pytest.mark.parametrize(
    ("ps", "ranking", "order"),
    [
        (0.4, "low", [[1, 3, 0], [4, 0, 1]]),
        (0.8, "low", [[1], [4]]),
        (0, "low", [[1, 3, 0, 2, 4], [4, 0, 1, 2, 3]]),
        (0.4, "high", [[4, 2, 0], [0, 1, 2]]),
    ],
)
def test_by_hand_summed_over_steps_busiest_first(ps, ranking, order):
    assert dssp(spikes_of(COUNTS), ps, ranking).tolist() == order


def test_a_sample_alone_keeps_the_same_tokens():
    spikes = (torch.rand(2, 5, 30, 8) < 0.3).float()
    together = dssp(spikes, 0.3)
    assert together.shape == (5, 21)
    assert len(together.unique(dim=0)) == 5
    assert torch.equal(torch.cat([dssp(spikes[:, [b]], 0.3) for b in range(5)]), together)


def test_random_tokens_are_distinct_and_differ_between_draws():
    spikes = spikes_of(COUNTS)
    draws = [dssp(spikes, 0.4, "random") for _ in range(20)]
    assert all(len(set(order[0].tolist())) == 3 and torch.equal(order[0], order[1]) for order in draws)
    assert len({tuple(order[0].tolist()) for order in draws}) > 5


def test_an_unknown_ranking_is_refused():
    with pytest.raises(SettingError, match=r"ranking='SIV' is unknown. Expected one of low, high, random"):
        dssp(spikes_of(COUNTS), 0.4, "SIV")
