"""Packed spikes: the convention by hand, the way there and back, and what must not be packed."""

import math

import pytest
import torch
from torch import Tensor

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels.spikes import Spikes, pack, spike_count, unpack

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int64]


def random_spikes(*shape: int, rate: float = 0.3) -> Tensor:
    return (torch.rand(shape) < rate).float()


def test_the_convention_by_hand():
    # Lowest bit first: spikes 0, 3 and 7 of the first byte, spike 9 of the second, zeros behind spike 9.
    spikes = torch.tensor([1, 0, 0, 1, 0, 0, 0, 1, 0, 1.0])
    assert pack(spikes).tolist() == [1 + 8 + 128, 2]
    assert unpack(torch.tensor([137, 2], dtype=torch.uint8), 10).tolist() == spikes.tolist()


def test_every_byte():
    rows = torch.tensor([[byte >> place & 1 for place in range(8)] for byte in range(256)])
    for dtype in DTYPES:
        assert pack(rows.to(dtype)).flatten().tolist() == list(range(256))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (4, 2, 3, 17), (2, 3, 5, 4, 16), (3, 0), (0, 9), (2, 0, 24)])
def test_there_and_back(dtype: torch.dtype, shape: tuple[int, ...]):
    spikes = random_spikes(*shape).to(dtype)
    bits = pack(spikes)
    assert bits.dtype == torch.uint8
    assert bits.shape == (*shape[:-1], math.ceil(shape[-1] / 8))
    back = unpack(bits, shape[-1], dtype)
    assert back.dtype == dtype
    assert back.is_contiguous()
    assert torch.equal(back, spikes)


def test_strided_input_and_strided_bits():
    spikes = random_spikes(5, 16, 3, 24)[:, ::2].transpose(0, 2)
    assert not spikes.is_contiguous()
    bits = pack(spikes)
    assert torch.equal(unpack(bits, 24), spikes)
    assert torch.equal(unpack(bits.transpose(0, 1), 24), spikes.transpose(0, 1))
    grid = random_spikes(2, 8, 4, 4).to(memory_format=torch.channels_last)
    assert torch.equal(unpack(pack(grid), 4), grid)


@pytest.mark.parametrize("trusted", [False, True])
def test_input_is_left_alone_and_no_history_is_kept(trusted: bool):
    spikes = random_spikes(3, 20).requires_grad_()
    before = spikes.detach().clone()
    assert not pack(spikes, trusted=trusted).requires_grad
    assert torch.equal(spikes, before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("odd", [2.0, 0.5, -1.0, math.nan, math.inf, -math.inf, 3.0, 0.9921875, 1e-7])
def test_what_is_not_binary_is_refused(dtype: torch.dtype, odd: float):
    spikes = random_spikes(4, 33).to(dtype)
    spikes[2, 31] = odd
    with pytest.raises(LayoutError, match="expected binary spikes, got the value"):
        pack(spikes)


@pytest.mark.parametrize("towards", [0.0, 2.0])
def test_the_smallest_step_away_from_one_is_seen(towards: float):
    with pytest.raises(LayoutError):
        pack(torch.nextafter(torch.tensor([1.0]), torch.tensor([towards])))


def test_minus_zero_is_silence():
    assert pack(torch.tensor([-0.0, 1.0])).tolist() == [2]


def test_integers_above_one_are_refused_and_named():
    with pytest.raises(LayoutError) as caught:
        pack(torch.tensor([[0, 1, 3]]))
    assert str(caught.value) == (
        "spikes.pack: expected binary spikes, got the value 3 in shape (1, 3); only 0 and 1 fit into bits, so keep "
        "integer or real values in the plain path"
    )


def test_wrong_shapes_are_refused():
    with pytest.raises(LayoutError, match="got a single number"):
        pack(torch.tensor(1.0))
    with pytest.raises(LayoutError) as caught:
        unpack(torch.zeros(4, 2, dtype=torch.uint8), 17)
    assert str(caught.value) == (
        "spikes.unpack: expected uint8 (..., 3) for 17 channels, got torch.uint8 (4, 2); "
        "pass the bits that spikes.pack made of these spikes"
    )
    with pytest.raises(LayoutError, match=r"got torch\.float32"):
        unpack(torch.zeros(4, 2), 16)


@pytest.mark.parametrize("axes", [(3,), (2, 3), (0,), (-1, 0), (0, 1, 2), (0, 1, 2, 3), ()])
def test_counts_equal_sums(axes: tuple[int, ...]):
    spikes = random_spikes(4, 3, 5, 300, rate=0.9)
    counts = spike_count(pack(spikes), 300, axes)
    assert counts.dtype == torch.int64
    wanted = spikes.sum(axes) if axes else spikes
    assert wanted.max() > 0
    assert torch.equal(counts, wanted.long())


def test_spikes_carry_both_forms():
    values = random_spikes(2, 3, 5, 11).requires_grad_()
    spikes = Spikes.of(values)
    assert spikes.values is values
    assert spikes.shape == (2, 3, 5, 11)
    assert spikes.channels == 11
    assert torch.equal(unpack(spikes.bits, 11), values)
    assert torch.equal(spikes.count((3,)), values.sum(3).long())
    with pytest.raises(AttributeError):
        spikes.values = values


def test_bits_of_other_spikes_are_refused():
    values = random_spikes(2, 3, 16)
    with pytest.raises(LayoutError) as caught:
        Spikes(values, pack(values)[:1])
    assert str(caught.value) == (
        "Spikes: bits (1, 3, 2) do not belong to values (2, 3, 16); pass the bits of these values, or use Spikes.of"
    )
    with pytest.raises(LayoutError, match="expected binary"):
        Spikes.of(values * 2)


def test_bits_are_made_when_they_are_asked_for(monkeypatch):
    from snntorch_smixer.kernels import spikes as module

    packed = []
    monkeypatch.setattr(module, "pack", lambda *args, **settings: packed.append(1) or pack(*args, **settings))
    values = random_spikes(2, 3, 16)
    spikes = Spikes.of(values, trusted=True)
    assert not packed
    assert torch.equal(unpack(spikes.bits, 16), values)
    assert spikes.bits is spikes.bits
    assert packed == [1]
    given = pack(values)
    assert Spikes.of(values, bits=given).bits is given
    with pytest.raises(LayoutError, match="expected binary"):
        Spikes(values * 2)  # before anybody asks for bits
    assert packed == [1]
