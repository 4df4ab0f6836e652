"""DSTP: which steps are kept, and the spike cap."""

import pytest
import torch

from snntorch_smixer import neurons
from snntorch_smixer.errors import LayoutError, SettingError
from snntorch_smixer.pruning import temporal
from snntorch_smixer.pruning.temporal import cap_spikes, dstp


def with_counts(counts: list[list[int]], tokens: int = 2, channels: int = 5) -> torch.Tensor:
    """Spikes ``(T, B, N, C)`` of which sample b has ``counts[b][t]`` at step t."""
    spikes = torch.zeros(len(counts[0]), len(counts), tokens * channels)
    for sample, row in enumerate(counts):
        for step, count in enumerate(row):
            spikes[step, sample, torch.randperm(tokens * channels)[:count]] = 1
    return spikes.view(*spikes.shape[:2], tokens, channels)


COUNTS = [[3, 7, 1, 9], [8, 2, 2, 2], [0, 0, 0, 0]]


@pytest.mark.parametrize(
    ("t", "ranking", "kept"),
    [
        (1, "low", [[3], [0], [0]]),
        (2, "low", [[1, 3], [0, 1], [0, 1]]),
        (3, "low", [[0, 1, 3], [0, 1, 2], [0, 1, 2]]),
        (4, "low", [[0, 1, 2, 3]] * 3),
        (1, "high", [[2], [1], [0]]),
        (2, "high", [[0, 2], [1, 2], [0, 1]]),
    ],
)
def test_by_hand_each_sample_its_own_in_time_order(t, ranking, kept):
    assert dstp(with_counts(COUNTS), t, ranking).tolist() == kept


def test_steps_are_counted_over_tokens_and_channels():
    spikes = torch.zeros(2, 1, 3, 4)
    spikes[0, 0, 0] = 1  # four spikes in one token
    spikes[1, 0, :, :2] = 1  # six spikes in three tokens
    assert dstp(spikes, 1).tolist() == [[1]]


def test_random_steps_are_in_time_order_and_shared_by_the_batch():
    spikes = with_counts([[3, 7, 1, 9, 4, 4]] * 3)
    draws = [dstp(spikes, 3, "random") for _ in range(20)]
    for kept in draws:
        assert torch.equal(kept, kept.sort(dim=1).values)
        assert torch.equal(kept, kept[:1].expand(3, -1))
        assert len(set(kept[0].tolist())) == 3
    assert len({tuple(kept[0].tolist()) for kept in draws}) > 3


@pytest.mark.parametrize("t", [0, 5, -1])
def test_steps_that_do_not_exist_are_refused(t):
    with pytest.raises(SettingError) as caught:
        dstp(with_counts(COUNTS), t)
    assert str(caught.value) == (
        f"DSTP: t={t} is outside 1..4, the steps that arrive. Keep fewer, or pass None for all."
    )


def test_tokens_are_required():
    with pytest.raises(LayoutError, match="did you forget the time axis"):
        dstp(torch.zeros(2, 3, 4), 1)


def test_an_unknown_ranking_is_refused():
    with pytest.raises(SettingError, match=r"ranking='top' is unknown. Expected one of low, high, random"):
        dstp(with_counts(COUNTS), 1, "top")


def test_the_cap_is_the_one_of_the_neurons():
    assert temporal.cap_spikes is neurons.cap_spikes


def test_the_cap_lets_the_earliest_spikes_pass():
    spikes = torch.tensor([[1.0, 0, 1, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]])
    assert cap_spikes(spikes, 2).tolist() == [[1, 0, 1, 0], [1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    assert cap_spikes(spikes, 1).sum(0).tolist() == [1, 1, 1, 0]
    assert torch.equal(cap_spikes(spikes, 4), spikes)


def test_the_cap_cuts_integer_spikes_to_what_is_left():
    assert cap_spikes(torch.tensor([[3.0], [2], [4]]), 4).tolist() == [[3], [1], [0]]


def test_gradients_reach_what_the_cap_lets_through():
    spikes = torch.tensor([[1.0, 0], [1, 0], [1, 1]], requires_grad=True)
    cap_spikes(spikes, 2).sum().backward()
    assert spikes.grad.tolist() == [[1, 1], [1, 1], [0, 1]]
