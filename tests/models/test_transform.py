"""`create_transform`: pictures, arrays and tensors to the input of a network, and what it refuses."""

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from snntorch_smixer import create_model, create_transform, from_pretrained
from snntorch_smixer.errors import CardError, LayoutError, SettingError
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet

NAME = "smixer-2-64-fmnist"


@pytest.fixture(scope="module")
def net() -> SMixerNet:
    return from_pretrained(NAME)


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(256, size=(28, 28), dtype=np.uint8)


@pytest.fixture
def colour_net(net: SMixerNet) -> SMixerNet:
    made = SMixerNet(SMixerConfig((32, 48), 3, 10, 1, dim=16, depth=1, heads=2))
    made.card = dataclasses.replace(
        net.card, mean=(0.1, 0.2, 0.3), std=(1.0, 0.5, 0.25), input_size=(3, 32, 48), files={}
    )
    return made


def test_an_image_of_the_size_is_only_normalised(net, grey):
    raw = torch.from_numpy(grey)[None]
    wanted, transform = net.card.preprocess(raw), create_transform(net)
    for image in (raw, grey, grey[..., None], raw.float() / 255, grey / np.float32(255)):
        torch.testing.assert_close(transform(image), wanted)
    batch = torch.stack([raw, raw])
    torch.testing.assert_close(transform(batch), torch.stack([wanted, wanted]))
    torch.testing.assert_close(transform(batch.permute(0, 2, 3, 1).numpy()), torch.stack([wanted, wanted]))
    with torch.no_grad():
        assert net(transform(raw)[None]).shape == (1, 10)


def test_any_size_comes_to_that_of_the_network(colour_net):
    transform = create_transform(colour_net)
    for height, width in ((70, 90), (90, 70), (10, 200), (32, 32)):
        assert transform(torch.rand(3, height, width)).shape == (3, 32, 48)
    assert create_transform(colour_net, crop=1)(torch.rand(2, 3, 48, 48)).shape == (2, 3, 32, 48)


def test_channels_are_normalised_each_by_its_own(colour_net):
    out = create_transform(colour_net)(torch.full((3, 40, 60), 0.6))
    wanted = (torch.full((3,), 0.6) - torch.tensor((0.1, 0.2, 0.3))) / torch.tensor((1.0, 0.5, 0.25))
    torch.testing.assert_close(out, wanted.view(3, 1, 1).expand(3, 32, 48))


def test_the_centre_is_what_stays(net):
    image = torch.zeros(1, 56, 112)
    image[:, :, 42:70] = 1  # the middle quarter
    out = create_transform(net, crop=1)(image)
    row = out[0, 14]
    assert row[8:20].min() > row[:4].max()
    torch.testing.assert_close(row, row.flip(0))


def test_a_picture_is_what_its_array_is(net, colour_net, grey):
    pil = pytest.importorskip("PIL.Image")
    torch.testing.assert_close(create_transform(net)(pil.fromarray(grey)), create_transform(net)(grey))
    colours = np.random.default_rng(1).integers(256, size=(50, 60, 3), dtype=np.uint8)
    transform = create_transform(colour_net)
    torch.testing.assert_close(transform(pil.fromarray(colours)), transform(colours))
    assert transform(pil.fromarray(grey)).shape == (3, 32, 48), "a grey picture becomes one of three channels"
    with pytest.raises(LayoutError, match="a picture of mode 'I;16', expected eight bits per channel"):
        transform(pil.fromarray(grey.astype(np.uint16)))


@pytest.mark.parametrize(("orientation", "turned"), [(1, lambda a: a), (3, lambda a: a[::-1, ::-1]), (6, np.rot90)])
def test_a_picture_is_turned_as_its_exif_data_say(net, grey, orientation, turned):
    pil = pytest.importorskip("PIL.Image")
    picture = pil.fromarray(np.ascontiguousarray(turned(grey)))
    picture.getexif()[0x0112] = orientation
    torch.testing.assert_close(create_transform(net)(picture), create_transform(net)(grey))


def test_it_is_that_of_evaluation_on_picture_folders(colour_net, tmp_path):
    pil = pytest.importorskip("PIL.Image")

    from snntorch_smixer.errors import MissingExtra
    from snntorch_smixer.train.folders import CentreCrop

    smooth = np.linspace(0, 255, 90 * 70 * 3).reshape(90, 70, 3).astype(np.uint8)
    pil.fromarray(smooth).save(tmp_path / "a.png")
    try:
        wanted = CentreCrop((32, 48), 0.875)(tmp_path / "a.png")
    except MissingExtra as error:
        pytest.skip(str(error))
    got = create_transform(colour_net)(smooth)
    torch.testing.assert_close(got, colour_net.card.preprocess(wanted), atol=8 / 255, rtol=0)


def test_it_can_be_pickled(net, grey):
    transform = create_transform(net)
    torch.testing.assert_close(pickle.loads(pickle.dumps(transform))(grey), transform(grey))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (torch.rand(3, 28, 28), r"shape \(3, 28, 28\) with channels first, expected \(1, H, W\)"),
        (np.zeros((28, 28, 3), np.uint8), r"shape \(3, 28, 28\) with channels first"),
        (torch.rand(28, 28), r"shape \(28, 28\)"),
        (torch.zeros(1, 0, 28), r"shape \(1, 0, 28\)"),
        (torch.full((1, 28, 28), 2.0), r"floating-point values from 2 to 2, expected \[0, 1\]"),
        (torch.full((1, 28, 28), -0.5), r"expected \[0, 1\]"),
        (torch.full((1, 28, 28), float("nan")), r"expected \[0, 1\]"),
        (torch.ones(1, 28, 28, dtype=torch.int64), "values of torch.int64, expected uint8 or floats"),
        (np.ones((28, 28), np.uint16), "values of uint16, expected uint8 or floats"),
        ([[0.5]], "got list, expected a PIL image"),
    ],
)
def test_other_images_are_refused(net, image, text):
    with pytest.raises(LayoutError, match=f"^create_transform: .*{text}"):
        create_transform(net)(image)


def test_what_is_missing_is_said(net):
    with pytest.raises(CardError, match="has no card, so mean and std of its inputs are not known"):
        create_transform(create_model("smixer-4-384", dim=32, depth=1))
    bare = SMixerNet(net.config)
    bare.card = dataclasses.replace(net.card, mean=(), std=())
    with pytest.raises(CardError, match="names mean and std of 0 channels, expected 1"):
        create_transform(bare)
    with pytest.raises(SettingError, match="takes event frames"):
        create_transform(create_model("smixer-2-256", dim=32, depth=1))
    with pytest.raises(SettingError, match="got Linear, expected a network of this package"):
        create_transform(nn.Linear(2, 2))
    for crop in (0, 1.5, True, "all"):
        with pytest.raises(SettingError, match="outside"):
            create_transform(net, crop=crop)
