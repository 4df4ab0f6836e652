"""Small forms of tensors: what goes in comes out, and what has none is left."""

import pytest
import torch

from snntorch_smixer.patching.packed import packed

DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
NAN, INF = float("nan"), float("inf")


def draw(count: int, high: int) -> torch.Tensor:
    return torch.randint(high + 1, (count,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.bool])
@pytest.mark.parametrize("count", [1, 7, 4096, 5001])
def test_spikes_become_bits(dtype, count):
    x = draw(count, 1).to(dtype)
    small = packed(x)
    assert small.codes.nbytes == -(-count // 8)
    assert small.whole().dtype == dtype
    assert torch.equal(small.whole(), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit", [0.1, 0.125, 1 / 3, 2.0, 1e-6])
def test_spikes_of_any_height_become_bits(dtype, unit):
    x = draw(5000, 1).to(dtype) * torch.tensor(unit, dtype=dtype)
    small = packed(x)
    assert small.codes.nbytes == 625
    assert torch.equal(small.whole(), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("unit", [1.0, 0.25])
def test_levels_become_bytes(dtype, unit):
    x = draw(5000, 8).to(dtype) * unit
    small = packed(x)
    assert small.codes.dtype == torch.uint8
    assert torch.equal(small.whole(), x)


@pytest.mark.parametrize(
    ("high", "dtype"), [(9, torch.uint8), (300, torch.int16), (70_000, torch.int32), (2**40, None)]
)
def test_indices_become_short(high, dtype):
    x = draw(5000, high)
    small = packed(x)
    assert (small and small.codes.dtype) == dtype
    assert small is None or (small.whole().dtype == x.dtype and torch.equal(small.whole(), x))
    assert torch.equal(packed(-draw(5000, 9)).whole(), -draw(5000, 9))


@pytest.mark.parametrize("odd", [0.5 + 1e-7, -1.0, NAN, INF, -INF, 256.0, 1e-30], ids=str)
@pytest.mark.parametrize("place", [0, 3333], ids=["in the sample", "between"])
@pytest.mark.parametrize("high", [1, 2])
def test_one_odd_value_keeps_a_tensor_whole(odd, place, high):
    x = draw(5000, high).float()
    x[place] = odd
    assert packed(x) is None


@pytest.mark.parametrize(
    "x",
    [
        *(torch.randn(5000), torch.randn(5000).abs(), torch.randn(5000, dtype=torch.complex64)),
        *(torch.full((5000,), value) for value in (NAN, -1.0, INF)),
        *(torch.zeros(9) - 1, torch.ones(50, dtype=torch.uint8)),
    ],
    ids=["real", "positive", "complex", "NaN", "-1", "infinite", "few", "bytes"],
)
def test_what_has_no_small_form(x):
    assert packed(x) is None


def test_a_level_that_the_sample_misses_is_found():
    x = draw(5000, 1).float() * 4
    x[3333] = 2.0
    small = packed(x)
    assert (small.unit, small.in_bits) == (2.0, False)
    assert torch.equal(small.whole(), x)


def test_silence_is_binary():
    assert packed(torch.zeros(5000)).codes.nbytes == 625
    assert not packed(torch.zeros(5000)).whole().any()
