"""Axis letters, and reshaping with every index checked by hand or by a loop."""

import pytest
import torch

from snntorch_smixer import shapes
from snntorch_smixer.errors import LayoutError


def numbered(*shape: int) -> torch.Tensor:
    return torch.arange(torch.Size(shape).numel()).view(shape)


def test_axis_letters_are_positions():
    assert [shapes.axis(letter) for letter in "tbnc"] == [0, 1, 2, 3]


@pytest.mark.parametrize("letter", ["h", "", "tb", "T"])
def test_an_unknown_axis_is_refused(letter):
    with pytest.raises(LayoutError) as caught:
        shapes.axis(letter)
    assert str(caught.value) == f"shapes.axis: got axis {letter!r}. Expected one of t b n c."


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((2, 3, 4), "did you forget the time axis?"), ((2, 3, 4, 5, 6), "convert with shapes.grid_to_tokens")],
)
def test_tokens_need_four_axes(shape, hint):
    with pytest.raises(LayoutError) as caught:
        shapes.check_tokens("here", torch.zeros(shape))
    assert str(caught.value) == f"here: expected tokens (T, B, N, C), got shape {shape}; {hint}"


def test_token_and_channel_counts_are_checked():
    x = torch.zeros(2, 3, 4, 5)
    shapes.check_tokens("here", x, tokens=4, channels=5)
    with pytest.raises(LayoutError) as caught:
        shapes.check_tokens("here", x, tokens=5)
    assert str(caught.value) == (
        "here: expected 5 tokens, got 4 in shape (2, 3, 4, 5); "
        "feed the resolution that W_M was built for, or pass the Selection that pruned these tokens"
    )
    with pytest.raises(LayoutError) as caught:
        shapes.check_tokens("here", x, channels=4)
    assert str(caught.value) == (
        "here: expected 4 channels on the last axis, got 5 in shape (2, 3, 4, 5); "
        "tokens are (T, B, N, C), channels last"
    )


def test_the_last_axes_are_checked_without_a_time_axis_too():
    shapes.check_token_axes("here", torch.zeros(3, 4, 5), tokens=4, channels=5)
    with pytest.raises(LayoutError, match="here: expected 5 tokens, got 4"):
        shapes.check_token_axes("here", torch.zeros(3, 4, 5), tokens=5)
    with pytest.raises(LayoutError) as caught:
        shapes.check_token_axes("here", torch.zeros(4, 5))
    assert str(caught.value) == "here: expected (T, B, N, C) or (B, N, C), got shape (4, 5); add the batch axis"


def test_tokens_of_a_grid_are_row_major():
    x = numbered(2, 3, 4, 5, 6)
    tokens = shapes.grid_to_tokens(x)
    assert tokens.shape == (2, 3, 30, 4)
    for row in range(5):
        for column in range(6):
            assert torch.equal(tokens[:, :, row * 6 + column], x[:, :, :, row, column])


def test_tokens_to_grid_is_the_inverse():
    x = numbered(2, 3, 4, 5, 6)
    assert torch.equal(shapes.tokens_to_grid(shapes.grid_to_tokens(x), 5, 6), x)


def test_a_grid_of_another_size_is_refused():
    with pytest.raises(LayoutError) as caught:
        shapes.tokens_to_grid(torch.zeros(2, 3, 30, 4), 5, 5)
    assert str(caught.value) == "shapes.tokens_to_grid: 30 tokens do not fill a 5 x 5 grid"


def test_steps_fold_step_major():
    x = numbered(2, 3, 4)
    folded = shapes.fold_steps(x)
    assert folded.shape == (6, 4)
    assert torch.equal(folded[1 * 3 + 2], x[1, 2])
    assert torch.equal(shapes.unfold_steps(folded, 2), x)


@pytest.mark.parametrize("lead", [(2, 3), (3,)], ids=["T, B", "B"])
def test_heads_are_contiguous_channels_stacked_on_the_token_axis(lead):
    x = numbered(*lead, 5, 6)
    split = shapes.split_heads(x, 2)
    flat = x.reshape(-1, 5, 6)
    assert split.shape == (len(flat), 2 * 5, 3)
    for head in range(2):
        for token in range(5):
            assert torch.equal(split[:, head * 5 + token], flat[:, token, head * 3 : head * 3 + 3])
    assert torch.equal(shapes.join_heads(split, x), x)
