"""What enters the stem."""

import pytest
import torch

from snntorch_smixer.errors import LayoutError
from snntorch_smixer.layers.encode import encode


def test_a_static_image_stays_one_step():
    x = torch.rand(2, 3, 8, 6)
    out = encode(x, steps=4, channels=3, size=(8, 6))
    assert out.shape == (1, 2, 3, 8, 6)
    assert torch.equal(out[0], x)
    assert out.data_ptr() == x.data_ptr()


def test_event_frames_pass():
    x = torch.rand(4, 2, 2, 8, 6)
    assert encode(x, steps=4, channels=2, size=(8, 6)) is x


def test_one_event_frame_passes():
    x = torch.rand(1, 2, 2, 8, 6)
    assert encode(x, steps=1, channels=2, size=(8, 6)) is x


@pytest.mark.parametrize("shape", [(3, 8, 6), (8, 6), (1, 4, 2, 3, 8, 6)])
def test_rank_error(shape: tuple[int, ...]):
    with pytest.raises(LayoutError) as caught:
        encode(torch.rand(shape), steps=4, channels=3, size=(8, 6))
    assert str(caught.value) == (
        "encode: expected an image batch (B, 3, 8, 6) or event frames (4, B, 3, 8, 6), "
        f"got shape {shape}; add the batch axis"
    )


@pytest.mark.parametrize("shape", [(2, 4, 3, 8, 6), (1, 4, 3, 8, 6)])
def test_steps_error(shape: tuple[int, ...]):
    with pytest.raises(LayoutError) as caught:
        encode(torch.rand(shape), steps=4, channels=3, size=(8, 6))
    assert str(caught.value) == (
        f"encode: expected 4 steps on the first axis, got shape {shape}; "
        "time comes first, so transpose batch-first frames, or build the network with this T"
    )


@pytest.mark.parametrize("shape", [(2, 1, 8, 6), (2, 3, 6, 8), (2, 3, 8, 8), (4, 2, 3, 9, 6), (4, 2, 2, 8, 6)])
def test_channels_and_size_error(shape: tuple[int, ...]):
    with pytest.raises(LayoutError) as caught:
        encode(torch.rand(shape), steps=4, channels=3, size=(8, 6))
    assert str(caught.value) == (
        f"encode: expected 3 channels of 8 x 6, got shape {shape}; "
        "resize the input, or build the network with this img_size and in_channels"
    )


def test_integer_images_are_refused():
    with pytest.raises(LayoutError, match=r"^encode: expected floating-point input, got torch\.uint8; normalise the"):
        encode(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), steps=4, channels=1, size=(8, 8))
