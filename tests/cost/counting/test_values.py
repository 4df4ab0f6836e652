"""Spikes, whole numbers and real values are told apart in every format, and sums by step and sample are exact."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.cost.count.values import (
    LARGEST_GRADED,
    LARGEST_RAW,
    Note,
    Role,
    Scratch,
    classify,
    nonzero,
    spread,
    units,
)
from snntorch_smixer.errors import MeasureError

T3, B2 = (("t", 3),), (("b", 2),)


def kind(x: Tensor | Sequence[float], unit: float = 1.0, *, raw: bool = False) -> tuple[str, float]:
    """Kind and unit."""
    x = torch.as_tensor(x)
    note = Note(Role.DATA, tuple(map(ax.plain, x.shape)), unit=unit, raw=raw)
    found = classify(x, note, Scratch(), "body.fc")
    assert found == note.values.kind
    return found, note.values.unit


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([0.0, 1, 1, 0], ("spikes", 1)),
        ([1.0, 1], ("spikes", 1)),
        ([0.0, 0], ("spikes", 1)),
        ([0, 0.5, 0.5], ("spikes", 0.5)),  # the half folds into the weights
        ([0.0, -1, 0], ("spikes", -1)),
        ([0, -0.25], ("spikes", -0.25)),
        ([0.0, 2, 2], ("graded", 1)),  # two spikes each
        ([0.0, -3], ("graded", 1)),
        ([0.0, 1, 2, 3], ("graded", 1)),
        ([-1.0, 0, 1], ("graded", 1)),
        ([-1.0, 1], ("graded", 1)),
        ([0.0, LARGEST_GRADED], ("graded", 1)),
        ([0.0, 1, LARGEST_GRADED], ("graded", 1)),
        ([0.0, LARGEST_GRADED + 1], ("analog", 1)),
        ([0.0, 1, LARGEST_GRADED + 1], ("analog", 1)),
        ([0, 0.5, 1], ("analog", 1)),  # 0.5 is no whole number of spikes, as far as is known
        ([0.3, -1.2, 0.7], ("analog", 1)),
        ([0, 0.3, 5], ("analog", 1)),
        ([0, 1e-3, 1], ("analog", 1)),
        ([0.0, -0.0, 1], ("spikes", 1)),
        (5.0, ("graded", 1)),
    ],
)
def test_kinds(x: list, expected: tuple[str, float]):
    assert kind(x) == expected
    for dtype in (torch.float64, torch.float16, torch.bfloat16):
        if torch.as_tensor(x).abs().max() <= 256:  # whole in every format
            assert kind(torch.as_tensor(x, dtype=torch.float64).to(dtype))[0] == expected[0]


@pytest.mark.parametrize(
    ("x", "unit", "expected"),
    [
        ([0, 0.25, 0.25], 0.25, "spikes"),
        ([0, 0.5, 0.5], 0.25, "graded"),  # two of four
        ([0, 0.25, 0.5, 1], 0.25, "graded"),
        ([0, 0.1, 0.25], 0.25, "analog"),
        ([0, -0.5, 0.25], 0.25, "graded"),
        ([0, 0.5, 1], -0.5, "graded"),
        ([0.0, 1024], 0.25, "analog"),  # 4096 units
        ([0, 1023.75], 0.25, "graded"),
        ([0, 1e-4, 2e-4], 0.25, "analog"),  # no rounding error of zeros
    ],
)
def test_kinds_with_a_unit(x: list, unit: float, expected: str):
    assert kind(x, unit) == (expected, unit)


@pytest.mark.parametrize("count", [3, 7, 49, 196])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_means_are_whole_multiples_of_their_unit(count: int, dtype: torch.dtype):
    spikes = torch.rand(count, 50).lt(0.3).to(dtype)
    mean = spikes.mean(0)
    assert kind(mean, 1 / count)[0] == "graded"
    assert kind(mean)[0] == "analog"
    note = Note(Role.DATA, free(50), unit=1 / count)
    classify(mean, note, Scratch(), "")
    assert torch.equal(units(mean, note.values, Scratch()).double(), spikes.double().sum(0))


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        ([0.0, 1, 2, LARGEST_RAW], "graded"),  # event counts
        ([0.0, 1, 2, LARGEST_RAW + 1], "analog"),  # pixels
        ([0.0, 3.0, 3.0], "spikes"),
        ([0.0, 255.0], "spikes"),  # a black and white picture
        ([0.0, 128, 255], "analog"),
        ([-1.0, 0, 1], "graded"),
    ],
)
def test_the_models_input(x: list, expected: str):
    assert kind(x, raw=True)[0] == expected


@pytest.mark.parametrize(
    ("x", "raw", "expected"),
    [
        ([0.37, 0.37], True, "analog"),  # a constant image
        ([0.37, 0.37], False, "analog"),  # a mean over an image
        ([-0.5], False, "analog"),
        ([0.37, 0.0], True, "spikes"),
        ([1.0, 1.0], True, "spikes"),
        ([255.0, 255.0], True, "analog"),  # a white picture
        ([3.0, 3.0], True, "graded"),  # event counts
    ],
)
def test_one_value_alone_is_no_spike_level(x: list, raw: bool, expected: str):
    assert kind(x, raw=raw)[0] == expected


def test_one_value_that_came_out_of_a_comparison_is_a_spike_level():
    x = torch.tensor([0.37, 0.37])
    assert classify(x, Note(Role.DATA, free(2), fired=True), Scratch(), "") == "spikes"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_values_that_are_not_finite(value: float, dtype: torch.dtype):
    with pytest.raises(MeasureError) as caught:
        kind(torch.tensor([0, 1, value, 1], dtype=dtype))
    assert str(caught.value) == (
        "measure: the input of body.fc holds values that are not finite. Check the batch and the weights: a count of "
        "such events has no meaning."
    )


def test_empty_tensors_are_silent():
    assert kind(torch.empty(3, 0)) == ("spikes", 1.0)


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 1, 0], "spikes"), ([0, 1, 2], "graded"), ([0.1, 0.7, 2], "analog")]
)
def test_any_memory_order(values: list, expected: str):
    row = torch.tensor(values)
    block = row.repeat(4, 5, 1)
    views = (row.expand(4, 5, 3), block.transpose(0, 2), block.permute(2, 0, 1), block[::2, 1:4], block.mT[..., ::3])
    for x in (*views, block.unsqueeze(0).to(memory_format=torch.channels_last), torch.empty(0)):
        assert kind(x)[0] == (expected if x.numel() else "spikes")
        scratch = Scratch()
        assert torch.equal(nonzero(x, scratch), x.ne(0).float())
        assert scratch.like(x).shape == x.shape


def test_half_that_is_not_a_binary_fraction():
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.tensor([0, 0.1, 0.1], dtype=dtype)
        assert kind(x) == ("spikes", float(x[1]))
        assert kind(torch.tensor([0, 0.1, 0.3], dtype=dtype))[0] == "analog"


def test_one_double_that_differs_in_its_last_digits():
    x = torch.full((6,), 0.1, dtype=torch.float64)
    x[3] += 1e-12
    assert kind(x)[0] == "analog"


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8, torch.bool])
def test_whole_number_formats(dtype: torch.dtype):
    assert kind(torch.tensor([0, 1, 1], dtype=dtype)) == ("spikes", 1)
    if dtype != torch.bool:
        assert kind(torch.tensor([0, 1, 3], dtype=dtype)) == ("graded", 1)


def test_the_kind_is_found_once():
    note = Note(Role.DATA, free(3))
    assert classify(torch.tensor([0.0, 1, 2]), note, Scratch(), "") == "graded"
    assert classify(torch.tensor([0.5, math.nan, 2]), note, Scratch(), "") == "graded"
    assert (note.values.low, note.values.high) == (0, 2)


def test_units_are_absolute():
    x = torch.tensor([-2.0, 0, 3])
    note = Note(Role.DATA, free(3))
    classify(x, note, Scratch(), "")
    assert units(x, note.values, Scratch()).tolist() == [2, 0, 3]


def test_scratch_is_reused():
    scratch = Scratch()
    big, small = scratch.like(torch.empty(4, 6)), scratch.like(torch.empty(2, 3))
    assert big.data_ptr() == small.data_ptr()
    assert scratch.like(torch.empty(4, 6).T).stride() == (1, 6)
    assert scratch.like(torch.empty(3, dtype=torch.float64)).dtype == torch.float64
    assert scratch.like(torch.empty(3, dtype=torch.float16)).dtype == torch.float32


def free(*sizes: int) -> ax.Axes:
    return tuple(map(ax.plain, sizes))


@pytest.mark.parametrize(
    ("axes", "shape", "over"),
    [
        ((T3, B2, *free(5)), (3, 2, 5), (2,)),
        ((B2, T3, *free(5)), (2, 3, 5), (2,)),
        ((*free(5), T3, B2), (5, 3, 2), (0,)),
    ],
)
def test_spread_by_step_and_sample(axes: ax.Axes, shape: tuple, over: tuple):
    y = torch.randint(9, shape).float()
    expected = y.sum(over)
    expected = expected.T if axes[0] == B2 else expected
    assert torch.equal(spread(y, axes, {}, 8).double(), expected.double())


def test_spread_of_merged_axes():
    y = torch.randint(9, (6, 5)).float()
    by_step = y.sum(1).reshape(3, 2).tolist()
    assert spread(y, ((("t", 3), ("b", 2)), *free(5)), {}, 8).tolist() == by_step
    by_sample = y.sum(1).reshape(2, 3).T.tolist()
    assert spread(y, ((("b", 2), ("t", 3)), *free(5)), {}, 8).tolist() == by_sample
    assert spread(y, ((("b", 2), ("", 3)), *free(5)), {}, 8).tolist() == [y.reshape(2, 15).sum(1).tolist()]


def test_spread_where_an_axis_is_missing():
    y = torch.arange(6.0).reshape(3, 2)
    assert spread(y, (T3, *free(2)), {}, 5).tolist() == [[1], [5], [9]]
    assert spread(y, (*free(3), B2), {}, 5).tolist() == [[6, 9]]
    assert spread(y, free(3, 2), {}, 5).tolist() == [[15]]
    assert spread(y, (T3, (("t", 2),)), {}, 5).tolist() == [[1], [5], [9]]  # steps of steps
    assert spread(torch.tensor(4.0), (), {}, 4).tolist() == [[4]]


def test_spread_with_synapses_per_position():
    y = torch.tensor([[[1.0, 0, 2], [1, 1, 0]], [[0, 0, 1], [0, 3, 0]]])  # 2 samples, 2 channels, 3 positions
    taps = torch.tensor([2.0, 3, 2])
    expected = [2 * 1 + 2 * 2 + 2 * 1 + 3 * 1, 2 * 1 + 3 * 3]
    assert spread(y, (B2, *free(2, 3)), {2: taps}, 3).tolist() == [expected]
    two = {1: torch.tensor([1.0, 10]), 2: taps}
    assert spread(y, (B2, *free(2, 3)), two, 3).tolist() == [[6 + 10 * 5, 2 + 10 * 9]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_sums_above_2_to_24_are_exact(dtype: torch.dtype):
    """2**24 + 1 + 1 is 2**24 in float32."""
    y = torch.tensor([[2.0**24, 1, 1], [1, 2**24, 2]], dtype=dtype)
    assert spread(y, (B2, *free(3)), {}, 2**24).tolist() == [[2**24 + 2, 2**24 + 3]]
    assert spread(y, free(2, 3), {}, 2**24).tolist() == [[2**25 + 5]]
    taps = {1: torch.tensor([1.0, 1, 3])}
    assert spread(y, (B2, *free(3)), taps, 2**24).tolist() == [[2**24 + 4, 2**24 + 7]]


def test_sums_of_many_are_exact():
    """Of 3 x 11 184 811 entries of one."""
    y = torch.ones(1, 1).expand(3, 11_184_811)
    assert spread(y, free(3, 11_184_811), {}, 1).item() == 33_554_433
