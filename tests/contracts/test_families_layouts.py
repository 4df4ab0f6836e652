"""Layouts: to tokens and back without a change, each axis where its letter says."""

import itertools
import math

import pytest
import torch

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.layouts import Layout, parse_layout
from snntorch_smixer.patching.survey import LAYOUTS

SIZES = {"t": 2, "b": 3, "y": 4, "x": 5, "c": 6, "g": 7, "d": 11}
MORE = (
    "t b g n d",
    "t b n g d",
    "t b n d g",
    "t b g d n",
    "(t b) g n d",
    "(t b g) n d",
    "(b g) n d",
    "b g n d",
    "g t b n d",
)
EVERY = [*LAYOUTS, *MORE, "(b t) n c", "t b (y x) c", "t b (x y) c", "b (g d) n", "b (d g) n"]


def size(letter: str) -> int:
    return SIZES["y"] * SIZES["x"] if letter == "n" else SIZES[letter]


def shape(text: str) -> list[int]:
    return [math.prod(size(letter) for letter in group) for group in parse_layout(text)]


@pytest.mark.parametrize("text", EVERY)
def test_round_trip(text: str):
    layout = Layout(text)
    x = torch.randn(shape(text))
    sizes = {letter: size(letter) for letter in layout.letters}
    tokens = layout.to_tokens(x, sizes)
    channels = SIZES["c"] if "c" in layout else SIZES["g"] * SIZES["d"]
    assert tokens.shape == (2 if "t" in layout else 1, 3, 20, channels)
    assert torch.equal(layout.from_tokens(tokens, sizes), x)


@pytest.mark.parametrize("text", EVERY)
def test_each_number_goes_to_its_step_sample_token_and_channel(text: str):
    layout = Layout(text)
    sizes = {letter: size(letter) for letter in layout.letters}
    places = dict(
        zip(("t", "b", "n", "c"), torch.meshgrid(*map(torch.arange, (2, 3, 20, 77)), indexing="ij"), strict=True)
    )
    order = [*itertools.chain(*parse_layout(text))]
    for letter in order:
        ramp = torch.arange(size(letter)).view([-1 if other == letter else 1 for other in order])
        x = ramp.expand([size(other) for other in order]).reshape(shape(text))
        tokens = layout.to_tokens(x, sizes)
        wanted = {
            **places,
            **{"y": places["n"] // 5, "x": places["n"] % 5, "g": places["c"] // 11, "d": places["c"] % 11},
        }[letter]
        assert torch.equal(tokens, wanted[: tokens.shape[0], ..., : tokens.shape[3]])


@pytest.mark.parametrize("text", ["t b c y x", "b c y x", "(t b) c y x"])
def test_fewer_tokens_than_the_grid_become_a_column(text: str):
    layout = Layout(text)
    tokens = torch.randn(2 if "t" in layout else 1, 3, 13, 6)
    x = layout.from_tokens(tokens, {"y": 4, "x": 5})
    assert x.shape[-2:] == (13, 1)
    assert torch.equal(layout.to_tokens(x, {"t": tokens.shape[0]}), tokens)
    assert torch.equal(layout.from_tokens(tokens, {}), x)


def test_one_of_merged_axes_may_stay_open():
    x = torch.randn(2 * 3 * 7, 20, 11)
    whole = Layout("(t b g) n d").to_tokens(x, {"t": 2, "b": 3, "g": 7})
    assert torch.equal(Layout("(t b g) n d").to_tokens(x, {"t": 2, "g": 7}), whole)
    assert torch.equal(Layout("(t b g) n d").to_tokens(x, {"b": 3, "g": 7}), whole)


@pytest.mark.parametrize(
    "text", ["", "t b n", "b c", "t b n n c", "t b q n c", "t b n c g", "t b n y c", "b y c", "t n c"]
)
def test_nonsense_is_refused(text: str):
    with pytest.raises(
        LayoutError, match=r"^layout '.*' is not understood\. Expected t, b, n or y x, c or g d, each once"
    ):
        Layout(text)


def test_tensors_of_another_rank_are_refused():
    with pytest.raises(LayoutError, match=r"^layout 't b n c' has 4 axes, got shape \(2, 3, 4\)\.$"):
        Layout("t b n c").to_tokens(torch.zeros(2, 3, 4), {})


def test_sizes_of_axes_by_letter():
    assert Layout("t b c y x").size(torch.zeros(2, 3, 6, 4, 5), "y") == 4
    assert repr(Layout("(t b) c n")) == "Layout('(t b) c n')"
