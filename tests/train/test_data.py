"""Augmentation against an explicit loop, and idx files written here."""

import gzip
import struct
from itertools import product

import pytest
import torch

from snntorch_smixer.errors import CardError
from snntorch_smixer.train.data import FASHION_MNIST_CLASSES, augment, fashion_mnist, normalise


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


def test_normalise_by_hand():
    pixels = torch.tensor([0, 255, 51], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 2, 1, 3)
    found = normalise(pixels, (0.5, 0.2), (0.5, 0.1))
    torch.testing.assert_close(found[0, 0, 0], torch.tensor([-1.0, 1.0, -0.6]))
    torch.testing.assert_close(found[0, 1, 0], torch.tensor([-2.0, 8.0, 0.0]))
    assert found.dtype == torch.float32


def idx(values: torch.Tensor) -> bytes:
    header = struct.pack(f">HBB{values.dim()}I", 0, 8, values.dim(), *values.shape)
    return header + bytes(values.flatten().tolist())


PIXELS = {"train": torch.arange(3 * 4 * 5).view(3, 4, 5), "t10k": torch.arange(2 * 4 * 5).view(2, 4, 5) + 100}
LABELS = {"train": torch.tensor([7, 0, 9]), "t10k": torch.tensor([3, 3])}


@pytest.fixture(params=["plain", "gz"])
def root(request, tmp_path):
    """A data set of five images, its files gzipped or not."""
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part in ("train", "t10k"):
        for name, values in ((f"{part}-images-idx3-ubyte", PIXELS[part]), (f"{part}-labels-idx1-ubyte", LABELS[part])):
            if request.param == "gz":
                (raw / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
            else:
                (raw / name).write_bytes(idx(values))
    return tmp_path


def test_idx_files_are_read(root):
    data = fashion_mnist(str(root))
    for part, (pixels, labels) in (("train", data.train), ("t10k", data.test)):
        assert pixels.dtype == torch.uint8
        assert torch.equal(pixels, PIXELS[part][:, None].byte())
        assert labels.dtype == torch.int64
        assert torch.equal(labels, LABELS[part])
    assert data.classes == FASHION_MNIST_CLASSES
    assert len(set(data.classes)) == 10
    assert torch.equal(data.normalise(data.test[0]), normalise(data.test[0], (0.2860,), (0.3530,)))


def files(root):
    return sorted((root / "FashionMNIST" / "raw").iterdir())


def refused(root) -> str:
    with pytest.raises(CardError) as caught:
        fashion_mnist(root)
    return str(caught.value)


@pytest.mark.parametrize("which", range(4))
@pytest.mark.parametrize("keep", [0, 3, 6, 9, -1])
def test_a_truncated_file(root, which, keep):
    path = files(root)[which]
    path.write_bytes(path.read_bytes()[:keep])
    assert refused(root) == f"fashion_mnist: {path} is no complete idx file of bytes. Download it again."


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html><html>", idx(torch.arange(2)) + b"\0", b"\0\0\x0d" + idx(torch.arange(4))[3:], b"\x01" * 30],
    ids=["a web page", "too long", "floats", "ones"],
)
def test_another_file(root, content):
    path = files(root)[0]
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert refused(root) == f"fashion_mnist: {path} is no complete idx file of bytes. Download it again."


@pytest.mark.parametrize("which", range(4))
def test_a_missing_file(root, which):
    path = files(root)[which]
    path.unlink()
    plain = path.with_name(path.name.removesuffix(".gz"))
    assert refused(root) == (
        f"fashion_mnist: neither {plain} nor {plain.name}.gz exists. Pass the folder above FashionMNIST/raw."
    )
