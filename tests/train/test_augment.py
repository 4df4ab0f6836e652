"""Crop and flip against an explicit loop; RandAugment, erasing, mixup and cutmix by their arithmetic."""

import sys
from importlib.util import find_spec
from itertools import product

import pytest
import torch

from snntorch_smixer.errors import MissingExtra
from snntorch_smixer.extras import torchvision_ready
from snntorch_smixer.train.augment import augment, check_installed, erase, mix, rand_augment
from snntorch_smixer.train.recipe import Recipe


@pytest.fixture
def vision() -> None:
    if find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    torchvision_ready()


def images(batch: int = 40, channels: int = 2, height: int = 6, width: int = 5) -> torch.Tensor:
    """No two pixels of an image, and no two images, are equal; none is zero."""
    pixels = channels * height * width
    return torch.stack([torch.randperm(250)[:pixels].view(channels, height, width) + 1 for _ in range(batch)]).byte()


def window(image: torch.Tensor, down: int, right: int) -> torch.Tensor:
    """The image seen through a frame that was moved down and right; zero where it has no pixels."""
    height, width = image.shape[1:]
    found = torch.zeros_like(image)
    for row, column in product(range(height), range(width)):
        if 0 <= row + down < height and 0 <= column + right < width:
            found[:, row, column] = image[:, row + down, column + right]
    return found


def windows(image: torch.Tensor, padding: int) -> dict[tuple[int, int, bool], torch.Tensor]:
    """Every crop of the padded image, mirrored or not, by its offset."""
    found = {}
    for down, right in product(range(-padding, padding + 1), repeat=2):
        found[down, right, False] = window(image, down, right)
        found[down, right, True] = window(image, down, right).flip(2)
    return found


def placements(before: torch.Tensor, after: torch.Tensor, padding: int) -> list[tuple[int, int, bool]]:
    """Offset and mirroring of each augmented image, which must be one of the windows of its original."""
    found = []
    for image, result in zip(before, after, strict=True):
        matches = [place for place, crop in windows(image, padding).items() if torch.equal(crop, result)]
        assert len(matches) == 1, "no window of its image"
        found += matches
    return found


def test_each_image_is_a_shifted_window_of_itself():
    before = images()
    after = augment(before, padding=2, flip=False)
    assert (after.shape, after.dtype) == (before.shape, torch.uint8)
    found = placements(before, after, 2)
    assert not any(mirrored for _, _, mirrored in found)
    assert {down for down, _, _ in found} == {right for _, right, _ in found} == {-2, -1, 0, 1, 2}
    assert len({(down, right) for down, right, _ in found}) > 10, "rows and columns move together"


def test_crops_and_flips_together():
    before = images()
    found = placements(before, augment(before, padding=1, flip=True), 1)
    assert len(set(found)) > 9


def test_half_of_the_images_are_mirrored():
    before = images(400)
    after = augment(before, padding=0, flip=True)
    same = (after == before).flatten(1).all(1)
    mirrored = (after == before.flip(3)).flatten(1).all(1)
    assert bool((same ^ mirrored).all())
    assert 150 < int(mirrored.sum()) < 250


def test_no_padding_and_no_flip_change_nothing():
    before = images()
    assert torch.equal(augment(before, padding=0, flip=False), before)


def test_the_seed_decides():
    before = images()
    torch.manual_seed(3)
    first = augment(before, padding=2, flip=True)
    second = augment(before, padding=2, flip=True)
    torch.manual_seed(3)
    assert torch.equal(augment(before, padding=2, flip=True), first)
    assert not torch.equal(second, first)


def test_the_input_is_not_changed():
    before = images()
    copy = before.clone()
    augment(before, padding=2, flip=True)
    assert torch.equal(before, copy)


GREY = (0.5, 0.5, 0.5)


def photos(batch: int = 16) -> torch.Tensor:
    return torch.randint(256, (batch, 3, 8, 8), dtype=torch.uint8)


def test_rand_augment_is_drawn_per_image(vision):
    before = photos(1).repeat(64, 1, 1, 1)
    after = rand_augment(before, Recipe(randaugment_ops=1, randaugment_magnitude=27), mean=GREY)
    assert (after.shape, after.dtype) == (before.shape, torch.uint8)
    kinds = after.flatten(1).unique(dim=0)
    assert len(kinds) > 8, "14 operations, most of them with two signs"
    assert 2 <= int((after == before).flatten(1).all(1).sum()) < 40, "Identity is one of the operations"


def test_the_chance_is_per_operation(vision):
    before = photos(400)
    counts = []
    for chance in (0.0, 0.3, 1.0):
        recipe = Recipe(randaugment_ops=1, randaugment_magnitude=27, randaugment_prob=chance)
        counts.append(int((rand_augment(before, recipe, mean=GREY) != before).flatten(1).any(1).sum()))
    assert counts[0] == 0
    assert counts[1] == pytest.approx(0.3 * counts[2], abs=40)
    assert counts[2] > 280


def test_no_operation_needs_no_torchvision(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    before, plain = photos(), Recipe()
    assert rand_augment(before, plain, mean=GREY) is before
    assert erase(before.float(), plain).equal(before.float())
    labels = torch.arange(16)
    assert mix(before.float(), labels, plain, classes=16)[1] is labels
    check_installed(plain)


@pytest.mark.parametrize("setting", [{"randaugment_ops": 1}, {"erasing": 0.1}, {"mixup": 0.2}, {"cutmix": 1.0}])
def test_without_torchvision_the_extra_is_named(monkeypatch, setting):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(MissingExtra, match=r"snntorch-smixer\[vision\]"):
        check_installed(Recipe(**setting))


def test_erased_pixels_are_a_rectangle_of_zeros(vision):
    before = torch.rand(200, 2, 20, 20) + 1
    after = erase(before, Recipe(erasing=1.0))
    gone = after == 0
    assert torch.equal(after[~gone], before[~gone])
    for image in gone:
        rows, columns = image[0].any(1).sum(), image[0].any(0).sum()
        assert torch.equal(image[0], image[1])
        assert 0.01 < rows * columns / 400 < 0.40
        assert image[0].sum() == rows * columns, "not a rectangle"


def test_the_chance_of_erasing(vision):
    erased = (erase(torch.ones(400, 1, 8, 8), Recipe(erasing=0.25)) == 0).flatten(1).any(1).sum()
    assert 65 < int(erased) < 135


def test_mixup_by_hand(vision):
    images, labels = torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 3, 4, 4])
    mixed, shares = mix(images, labels, Recipe(mixup=0.7), classes=5)
    lam = float(shares[0, 0])
    assert 0 < lam < 1
    torch.testing.assert_close(mixed, lam * images + (1 - lam) * images.roll(1, 0))
    one_hot = torch.eye(5)[labels]
    torch.testing.assert_close(shares, lam * one_hot + (1 - lam) * one_hot.roll(1, 0))
    torch.testing.assert_close(shares.sum(1), torch.ones(6))


@pytest.mark.parametrize("steps", [None, 3])
def test_cutmix_by_hand(vision, steps):
    batch = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 2, 10, 10)
    images = batch if steps is None else batch.expand(steps, -1, -1, -1, -1)
    torch.manual_seed(1)
    mixed, shares = mix(images, torch.arange(4), Recipe(cutmix=1.0), classes=4)
    assert mixed.shape == images.shape
    assert type(mixed) is torch.Tensor
    frames = mixed[None] if steps is None else mixed
    for frame, number in product(frames, range(4)):
        foreign = frame[number] == (number - 1) % 4
        assert bool((foreign | (frame[number] == number)).all())
        area = foreign[0].float().mean()
        assert 0 < area < 1
        torch.testing.assert_close(shares[number, number], 1 - area)
        torch.testing.assert_close(shares[number, (number - 1) % 4], area)


def test_mixup_of_frames_mixes_samples_not_steps(vision):
    frames = torch.rand(3, 5, 2, 4, 4)
    mixed, shares = mix(frames, torch.arange(5), Recipe(mixup=1.0), classes=5)
    lam = shares[0, 0]
    torch.testing.assert_close(mixed, lam * frames + (1 - lam) * frames.roll(1, 1))


def test_with_both_each_batch_draws_one(vision):
    images = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 10, 10).contiguous()
    found = []
    for _ in range(60):
        mixed, shares = mix(images, torch.arange(4), Recipe(mixup=1.0, cutmix=1.0), classes=4)
        if shares[0, 0] < 1:
            found.append(bool((mixed == mixed.round()).all()))
    assert 15 < sum(found) < 45, "cutmix only moves pixels, mixup makes new values"


def test_the_chance_of_mixing(vision):
    images, labels = torch.rand(4, 1, 4, 4), torch.arange(4)
    mixed = sum(mix(images, labels, Recipe(mixup=1.0, mix_prob=0.3), classes=4)[1].dim() == 2 for _ in range(200))
    assert 35 < mixed < 90


def test_a_batch_of_one_keeps_its_label(vision):
    image = torch.rand(1, 1, 4, 4)
    mixed, shares = mix(image, torch.tensor([2]), Recipe(mixup=1.0), classes=3)
    torch.testing.assert_close(mixed, image)
    torch.testing.assert_close(shares, torch.tensor([[0.0, 0.0, 1.0]]))
