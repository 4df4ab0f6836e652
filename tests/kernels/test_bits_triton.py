"""The Triton twins of packing, unpacking and counting against the plain ones on the CPU."""

import pytest
import torch

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.kernels import bits as plain
from tests.kernels.on_triton import DEVICE, WHERE, rounding_to_bfloat16, there

pytest.importorskip("triton", reason="needs Triton")
from snntorch_smixer.kernels import bits_triton as twin

pytestmark = WHERE

SHAPES = [(1,), (8,), (3, 7), (2, 3, 5, 11), (5, 130), (2, 300)]


def spikes(shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.rand(shape) < 0.4).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_packing_is_the_convention(shape: tuple[int, ...]):
    x = spikes(shape)
    bits = twin.pack(there(x)[0])
    assert torch.equal(bits.cpu(), plain.pack(x))
    assert torch.equal(twin.unpack(bits, shape[-1]).cpu(), x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64, torch.uint8, torch.int64])
def test_dtypes(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype):
    rounding_to_bfloat16(monkeypatch)
    x = spikes((3, 11), dtype)
    bits = twin.pack(there(x)[0])
    assert torch.equal(bits.cpu(), plain.pack(x))
    back = twin.unpack(bits, 11, dtype)
    assert back.dtype == dtype
    assert torch.equal(back.cpu(), x)


def test_booleans_and_strides():
    x = spikes((4, 6, 22))
    assert torch.equal(twin.pack(there(x.bool())[0]).cpu(), plain.pack(x))
    mine = there(x)[0]
    assert torch.equal(twin.pack(mine[..., ::2].transpose(0, 1)).cpu(), plain.pack(x[..., ::2].transpose(0, 1)))


@pytest.mark.parametrize("axes", [(), (0,), (-1,), (0, 2), (0, 1, 2, 3), (1, 3), (3, 1, -1)])
def test_counts(axes: tuple[int, ...]):
    x = spikes((2, 3, 4, 21))
    wanted = x.sum(tuple({a % 4 for a in axes}), dtype=torch.int64) if axes else x.long()
    got = twin.spike_count(there(plain.pack(x))[0], 21, axes)
    assert got.dtype == torch.int64
    assert torch.equal(got.cpu(), wanted)


def test_a_full_row_of_many_bytes():
    bits = torch.full((3, 200), 255, dtype=torch.uint8)
    assert twin.spike_count(there(bits)[0], 1600, (-1,)).tolist() == [1600] * 3


def test_bits_of_another_width_are_refused():
    bits = torch.zeros(2, 3, dtype=torch.uint8, device=DEVICE)
    for call in (lambda: twin.unpack(bits, 9), lambda: twin.spike_count(bits, 9, (0,))):
        with pytest.raises(LayoutError, match=r"expected uint8 \(\.\.\., 2\) for 9 channels"):
            call()


def test_serves():
    assert twin.serves(torch.zeros(2, 3))
    assert not twin.serves(torch.zeros(()))
    assert not twin.serves(torch.zeros(2, 0))
