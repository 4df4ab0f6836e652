"""Axes are followed through reshapes, also where T = B; a label is kept where it is sure and lost where it is not."""

import pytest

from snntorch_smixer.cost.count import axes as ax
from snntorch_smixer.errors import MeasureError

T4, B2, B4 = (("t", 4),), (("b", 2),), (("b", 4),)
MERGED = (("t", 4), ("b", 2))


def free(*sizes: int) -> ax.Axes:
    return tuple(map(ax.plain, sizes))


@pytest.mark.parametrize(
    ("shape", "letters", "steps", "expected"),
    [
        ((2, 3, 8, 8), "b", None, (B2, *free(3, 8, 8))),
        ((4, 2, 3), "t b", None, (T4, B2, *free(3))),
        ((2, 4, 3), "b t", None, (B2, T4, *free(3))),
        ((4, 4, 3), "t b", None, (T4, B4, *free(3))),
        ((4, 4, 3), "b t", None, (B4, T4, *free(3))),
        ((8, 3), "(t b)", 4, (MERGED, *free(3))),
        ((8, 3), "(b t)", 4, ((("b", 2), ("t", 4)), *free(3))),
        ((16, 3), "(t b)", 4, ((("t", 4), ("b", 4)), *free(3))),
        ((4, 3), "(t b)", 4, (T4, *free(3))),  # one sample: factors of size 1 are left out
        ((4, 3), "(t b)", 1, (B4, *free(3))),
        ((1, 2, 3), "t b", None, ((), B2, *free(3))),
        ((2,), "b", None, (B2,)),
        ((4, 2), "t b", 7, (T4, B2)),  # the axis says T
    ],
)
def test_of_batch(shape: tuple, letters: str, steps: int | None, expected: ax.Axes):
    axes = ax.of_batch(shape, letters, steps)
    assert axes == expected
    assert tuple(map(ax.size_of, axes)) == shape


@pytest.mark.parametrize(
    ("shape", "letters", "steps", "text"),
    [
        ((2, 3), "b c", None, "axes='b c' is unknown. Expected one of 'b', 't b', 'b t', '(t b)', '(b t)'."),
        ((2,), "t b", None, "axes='t b' names more axes than the batch of shape (2,) has."),
        ((), "b", None, "axes='b' names more axes than the batch of shape () has."),
        (
            (8, 3),
            "(t b)",
            None,
            "axes='(t b)' needs steps=, a divisor of the first axis, got steps=None and shape (8, 3).",
        ),
        ((8, 3), "(b t)", 3, "got steps=3 and shape (8, 3). Pass the T that is merged in it."),
        ((8, 3), "(t b)", 0, "got steps=0 and shape (8, 3)."),
    ],
)
def test_of_batch_refuses(shape: tuple, letters: str, steps: int | None, text: str):
    with pytest.raises(MeasureError) as caught:
        ax.of_batch(shape, letters, steps)
    assert str(caught.value).startswith("measure: ")
    assert text in str(caught.value)


def test_size_label_and_count():
    axes = (MERGED, (), *free(5), (("b", 3),))
    assert [ax.size_of(axis) for axis in axes] == [8, 1, 5, 3]
    assert (ax.count(axes, "t"), ax.count(axes, "b"), ax.count(axes, "")) == (4, 6, 5)
    assert (ax.count(free(5), "t"), ax.count((), "b")) == (1, 1)
    assert (ax.has(axes, "t"), ax.has(free(5, 2), "t"), ax.has((T4,), "b")) == (True, False, False)
    assert free(1, 5) == ((), (("", 5),))


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ((T4, B2, *free(6)), (8, 6), (MERGED, *free(6))),
        ((B2, T4, *free(6)), (8, 6), ((("b", 2), ("t", 4)), *free(6))),
        ((MERGED, *free(6)), (4, 2, 6), (T4, B2, *free(6))),
        (((("b", 2), ("t", 4)), *free(6)), (2, 4, 6), (B2, T4, *free(6))),
        (((("t", 4), ("b", 4)), *free(6)), (4, 4, 6), (T4, B4, *free(6))),  # T = B
        (((("b", 4), ("t", 4)), *free(6)), (4, 4, 6), (B4, T4, *free(6))),
        ((T4, B2, *free(6)), (4, 2, 2, 3), (T4, B2, *free(2, 3))),  # heads
        ((T4, B2, *free(6, 5)), (4, 2, 30), (T4, B2, (("", 6), ("", 5)))),
        ((T4, B2, *free(6)), (48,), ((*MERGED, ("", 6)),)),
        ((T4, B2, *free(6)), (4, 12), (T4, (("b", 2), ("", 6)))),  # samples and channels
        (((*MERGED, ("", 6)),), (4, 2, 6), (T4, B2, *free(6))),
        ((T4, B2), (4, 1, 2), (T4, (), B2)),
        ((T4, (), B2), (4, 2), (T4, B2)),
        ((T4, B2, *free(6)), (1, 8, 6, 1), ((), MERGED, *free(6), ())),
    ],
)
def test_regroup(axes: ax.Axes, shape: tuple, expected: ax.Axes):
    assert ax.regroup(axes, shape) == expected
    back = ax.regroup(expected, tuple(map(ax.size_of, axes)))
    assert labelled(back) == labelled(axes)


def labelled(axes: ax.Axes) -> list[list[ax.Factor]]:
    return [[factor for factor in axis if factor[0]] for axis in axes]


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ((T4, B2), (2, 2, 2), (*free(2, 2), B2)),  # half of the steps: none of both is time
        ((T4, B2), (2, 4), (*free(2), (("", 2), ("b", 2)))),
        ((T4, (("b", 3),)), (6, 2), free(6, 2)),  # 6 is neither T nor a multiple of it
        ((B2, *free(6)), (3, 4), free(3, 4)),
    ],
)
def test_regroup_drops_what_it_cuts(axes: ax.Axes, shape: tuple, expected: ax.Axes):
    got = ax.regroup(axes, shape)
    assert tuple(map(ax.size_of, got)) == shape
    assert got == expected


def test_regroup_to_more_than_there_is():
    assert ax.regroup((T4, B2), (4, 2, 3)) == free(4, 2, 3)


def test_cutting_and_joining_again_loses_the_cut_axis_alone():
    cut = ax.regroup((T4, B2, *free(6)), (2, 2, 2, 6))
    joined = ax.regroup(cut, (4, 2, 6))
    assert (ax.count(joined, "t"), ax.count(joined, "b")) == (1, 2)
    assert joined[1] == B2


@pytest.mark.parametrize(
    ("shape", "inputs", "expected"),
    [
        ((4, 2, 6), [(T4, B2, *free(6)), free(6)], (T4, B2, *free(6))),  # a bias
        ((4, 2, 6), [free(6), (T4, B2, *free(6))], (T4, B2, *free(6))),
        ((4, 2, 6), [(B2, *free(6)), (T4, (), ())], (T4, B2, *free(6))),  # broadcast both ways
        ((4, 4, 6), [(B4, *free(6)), (T4, (), *free(6))], (T4, B4, *free(6))),  # T = B
        ((4, 4, 6), [(T4, (), *free(6)), ((), B4, *free(6))], (T4, B4, *free(6))),
        ((8, 6), [(MERGED, *free(6)), ((("b", 8),), *free(6))], (MERGED, *free(6))),  # the one that tells more
        ((8, 6), [((("b", 8),), *free(6)), (MERGED, *free(6))], (MERGED, *free(6))),
        ((4, 2, 9), [(T4, B2, *free(6))], (T4, B2, *free(9))),  # a linear map changes the last axis
        ((3, 2), [(T4, B2)], (*free(3), B2)),  # of another length: not the same axis
        ((4,), [(T4,), (B4,)], (T4,)),  # the first of equals
        ((4, 2), [], free(4, 2)),
        ((), [(T4,)], ()),
    ],
)
def test_broadcast(shape: tuple, inputs: list, expected: ax.Axes):
    assert ax.broadcast(shape, inputs) == expected


@pytest.mark.parametrize(
    ("axes", "shape", "expected"),
    [
        ((T4, B2, *free(6)), (4, 2, 3), (T4, B2, *free(3))),  # half of the tokens
        ((T4, B2, *free(6)), (2, 2, 6), ((("t", 2),), B2, *free(6))),  # half of the steps
        ((T4, B2, *free(6)), (1, 2, 6), ((), B2, *free(6))),
        ((MERGED, *free(6)), (6, 6), free(6, 6)),  # which of both, nobody knows
        ((MERGED, *free(6)), (8, 5), (MERGED, *free(5))),
        ((B2, ()), (2, 3), (B2, *free(3))),  # padding
    ],
)
def test_resized(axes: ax.Axes, shape: tuple, expected: ax.Axes):
    assert ax.resized(axes, shape) == expected


def test_resized_wants_the_same_rank():
    with pytest.raises(ValueError, match="zip"):
        ax.resized((T4, B2), (4, 2, 6))


@pytest.mark.parametrize(
    ("axes", "shape", "label", "expected"),
    [
        ((B2, *free(6)), (4, 2, 6), "t", (T4, B2, *free(6))),  # an image repeated
        ((B2, *free(6)), (2, 2, 6), "t", ((("t", 2),), B2, *free(6))),  # T = B
        ((B2, *free(6)), (2, 6), "t", (B2, *free(6))),
        ((B2, (), *free(6)), (2, 4, 6), "t", (B2, T4, *free(6))),
        (((), B2), (4, 2), "t", (T4, B2)),
        ((B2,), (8,), "t", (MERGED,)),  # tiled: the copies are the slower factor
        ((B2, *free(6)), (4, 3, 2, 6), "t", (T4, *free(3), B2, *free(6))),  # time but once
        ((B2, *free(6)), (4, 2, 6), "", (*free(4), B2, *free(6))),
        ((B2,), (3,), "t", free(3)),  # no whole number of copies
        ((B2,), (1, 2), "t", ((), B2)),
    ],
)
def test_expanded(axes: ax.Axes, shape: tuple, label: str, expected: ax.Axes):
    got = ax.expanded(axes, shape, label)
    assert got == expected
    assert tuple(map(ax.size_of, got)) == shape


def test_permuted_inserted_dropped():
    axes = (T4, B2, *free(6))
    assert ax.permuted(axes, [2, 0, 1]) == (*free(6), T4, B2)
    assert ax.inserted(axes, 1, ax.plain(3)) == (T4, *free(3), B2, *free(6))
    assert ax.inserted(axes, 3, ()) == (*axes, ())
    assert ax.dropped(axes, [0]) == (B2, *free(6))
    assert ax.dropped(axes, [-1, 0]) == (B2,)
    assert ax.dropped(axes, [0, 2], keep=True) == ((), B2, ())
    assert ax.dropped(axes, []) == axes
    assert ax.dropped((), [0]) == ()
