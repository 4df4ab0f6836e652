"""Picture folders: pictures written here, cropped as the recipe says."""

import dataclasses
from importlib.util import find_spec

import numpy as np
import pytest
import torch

from snntorch_smixer.errors import CardError
from snntorch_smixer.extras import need, torchvision_ready
from snntorch_smixer.train.folders import MEAN, STD, image_folder
from snntorch_smixer.train.recipe import Recipe

if find_spec("torchvision") is None:
    pytest.skip("torchvision is not installed", allow_module_level=True)
torchvision_ready()
RECIPE = Recipe(batch_size=3, randaugment_ops=1, randaugment_magnitude=20, erasing=0.5)


def picture(path, seed: int, side: int = 20) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(256, size=(side, side + 4, 3), dtype=np.uint8)
    need("PIL.Image", extra="vision").fromarray(values).save(path)


@pytest.fixture
def root(tmp_path):
    for number in range(5):
        picture(tmp_path / "train" / "cat" / f"{number}.png", number)
        picture(tmp_path / "train" / "dog" / "images" / f"{number}.JPEG", 10 + number)
    for number in range(2):
        picture(tmp_path / "val" / "cat" / f"{number}.png", 20 + number)
        picture(tmp_path / "val" / "dog" / f"{number}.png", 30 + number)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no picture")
    return tmp_path


def test_what_is_found(root):
    data = image_folder(root, size=(16, 16), workers=0)
    assert (data.train_count, data.test_count, data.classes, data.shape) == (10, 4, ("cat", "dog"), (3, 16, 16))
    assert (data.mean, data.std) == (MEAN, STD)
    assert image_folder(str(root)).shape == (3, 224, 224)


def test_training_batches(root):
    data = image_folder(root, size=(16, 12), workers=0)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        batches = list(data.train_batches(RECIPE))
        assert [tuple(x.shape) for x, _ in batches] == [(3, 3, 16, 12)] * 3 + [(1, 3, 16, 12)]
        assert sorted(torch.cat([labels for _, labels in batches]).tolist()) == [0] * 5 + [1] * 5
        runs.append(torch.cat([x for x, _ in batches]))
    assert runs[0].dtype == torch.float32
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_change_nothing(root):
    found = []
    for workers in (0, 2):
        torch.manual_seed(1)
        found.append(
            torch.cat([x for x, _ in image_folder(root, size=(16, 16), workers=workers).train_batches(RECIPE)])
        )
    assert torch.equal(*found)


def test_evaluation_takes_the_centre(root):
    # 20 x 24 pixels, the shorter side resized to 16 / 0.8 = 20: not at all, so the crop is exact.
    data = image_folder(root, size=(16, 16), crop=0.8, workers=0)
    [(images, labels)] = data.test_batches()
    assert labels.tolist() == [0, 0, 1, 1]
    for image, seed in zip(images, (20, 21, 30, 31), strict=True):
        pixels = np.random.default_rng(seed).integers(256, size=(20, 24, 3), dtype=np.uint8)[2:18, 4:20]
        expected = (torch.from_numpy(pixels).permute(2, 0, 1) / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(
            STD
        )[:, None, None]
        torch.testing.assert_close(image, expected)


def test_the_crop_has_at_least_its_share_of_the_area(tmp_path):
    # Half of the columns are black: a crop of nearly everything shows both halves, a small one mostly one of them.
    image = need("PIL.Image", extra="vision")
    for split in ("train", "val"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            values = np.zeros((32, 32, 3), np.uint8)
            values[:, 16:] = 255
            image.fromarray(values).save(tmp_path / split / name / "x.png")
    data = image_folder(tmp_path, size=(16, 16), workers=0)
    large, small = (
        [
            x.flatten(1).std(1).min()
            for _ in range(20)
            for x, _ in data.train_batches(Recipe(crop_scale=share, flip=False))
        ]
        for share in (0.95, 0.08)
    )
    assert min(large) > 1.5
    assert min(small) < 1


def test_grey_pictures_are_read_as_colour(root):
    need("PIL.Image", extra="vision").new("L", (20, 20), 77).save(root / "val" / "cat" / "0.png")
    [(images, _)] = image_folder(root, size=(16, 16), workers=0).test_batches()
    torch.testing.assert_close(images[0, 2, 0, 0], torch.tensor((77 / 255 - MEAN[2]) / STD[2]))


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_a_corrupt_picture_is_named(root, content):
    path = root / "val" / "dog" / "1.png"
    path.write_bytes(path.read_bytes()[:200] if content is None else content)
    with pytest.raises(CardError) as caught:
        list(image_folder(root, size=(16, 16), workers=0).test_batches())
    assert str(caught.value).startswith(f"{path}: no readable picture (")
    assert str(caught.value).endswith("Get it again, or remove it.")


@pytest.mark.parametrize("missing", ["train", "val"])
def test_a_missing_split(root, missing):
    (root / missing).rename(root / "elsewhere")
    with pytest.raises(CardError) as caught:
        image_folder(root)
    assert str(caught.value).startswith(f"image_folder: {root / missing}: ")
    assert str(caught.value).endswith(
        f"Expected {root}/train/CLASS/* and {root}/val/CLASS/*. Sort the pictures into one folder per class."
    )


def test_an_empty_class(root):
    (root / "train" / "eel").mkdir()
    with pytest.raises(CardError, match="Found no valid file for the classes eel"):
        image_folder(root)


def test_a_class_in_one_split_only(root):
    picture(root / "val" / "images" / "0.png", 0)
    with pytest.raises(CardError, match="got 2 and 3, and 'images' is in one only"):
        image_folder(root)


def test_settings_can_be_replaced(root):
    data = dataclasses.replace(image_folder(root, workers=0), size=(8, 8))
    [(images, _)] = data.test_batches()
    assert images.shape == (4, 3, 8, 8)
