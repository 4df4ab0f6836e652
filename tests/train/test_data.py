"""Image data in memory, idx files written here, and whether data fit a net."""

import dataclasses
import gzip
import struct
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from snntorch_smixer.errors import CardError, SettingError
from snntorch_smixer.train.data import (
    FASHION_MNIST_CLASSES,
    ImageData,
    check_fits,
    class_indices,
    fashion_mnist,
    normalise,
)
from snntorch_smixer.train.recipe import Recipe


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


@pytest.mark.parametrize(("label", "text"), [(10, "label 10"), (255, "label 255")])
def test_a_label_out_of_range(root, label, text):
    path = files(root)[1]
    content = idx(torch.tensor([3, label]))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    plain = path.with_name(path.name.removesuffix(".gz"))
    assert refused(root) == f"{plain}: got {text}, expected 0 to 9. The file is another one or corrupt; get it again."


def test_more_labels_than_images(root):
    path = files(root)[1]
    content = idx(torch.tensor([3, 3, 3]))
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    assert "got 3 labels for 2 images, expected one for each, and at least one." in refused(root)


PLAIN = Recipe(batch_size=4, crop_padding=0, flip=False)


def numbered(count: int = 10) -> ImageData:
    """Image i is filled with i, and has the label i."""
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()
    split = (images, torch.arange(count))
    return ImageData(split, split, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), tuple("abcdefghij"))


def test_an_epoch_holds_every_image_once_with_its_label():
    data = numbered()
    batches = list(data.train_batches(PLAIN))
    assert [len(labels) for _, labels in batches] == [4, 4, 2]
    assert data.train_count == data.test_count == 10
    assert data.shape == (3, 2, 2)
    seen = torch.cat([labels for _, labels in batches])
    assert sorted(seen.tolist()) == list(range(10))
    assert seen.tolist() != list(range(10)), "not shuffled"
    for images, labels in batches:
        assert torch.equal(images, data.normalise(data.train[0][labels]))


def test_test_batches_are_in_order():
    data = numbered()
    batches = list(data.test_batches(4))
    assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(10))
    assert torch.equal(torch.cat([images for images, _ in batches]), data.normalise(data.test[0]))


# Python 3.12 and later warn of every fork beside threads, which torch starts.
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_what_a_recipe_asks_for_happens_to_the_batches():
    images = torch.randint(256, (10, 3, 12, 12), dtype=torch.uint8)
    data = ImageData(
        (images, torch.arange(10)), (images, torch.arange(10)), (0.511,) * 3, (0.5,) * 3, tuple("abcdefghij")
    )
    everything = Recipe(batch_size=10, randaugment_ops=2, randaugment_magnitude=27, erasing=1.0)
    runs = []
    for seed, workers in ((1, 0), (1, 2), (2, 0)):
        torch.manual_seed(seed)
        data = dataclasses.replace(data, workers=workers)
        runs += [x for x, _ in data.train_batches(everything)]
    assert torch.equal(runs[0], runs[1]), "workers change nothing"
    assert not torch.equal(runs[0], runs[2])
    assert ((runs[0] == 0).flatten(1).sum(1) > 0).all(), "every image has an erased rectangle"


class Net(nn.Module):
    def __init__(self, config: object = None) -> None:
        super().__init__()
        if config is not None:
            self.config = config


FITTING = {"in_channels": 3, "img_size": (2, 2), "num_classes": 10, "T": 4}


def test_data_that_fit():
    check_fits(Net(), numbered())
    check_fits(Net(SimpleNamespace(**FITTING)), numbered())
    check_fits(Net(SimpleNamespace(other=1)), numbered())


@pytest.mark.parametrize(
    ("name", "value", "got", "advice"),
    [
        ("in_channels", 1, 3, "pass the data it was made for"),
        ("img_size", (4, 4), (2, 2), "pass data of its size"),
        ("num_classes", 1000, 10, "pass the data it was made for"),
    ],
)
def test_data_that_do_not_fit(name, value, got, advice):
    with pytest.raises(SettingError) as caught:
        check_fits(Net(SimpleNamespace(**{**FITTING, name: value})), numbered())
    assert str(caught.value) == (
        f"check_fits: the data have {name}={got}, Net was built with {name}={value}. Build it with {name}={got}, or "
        f"{advice}."
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_split_is_said(split):
    empty = (torch.zeros(0, 3, 2, 2, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    with pytest.raises(SettingError) as caught:
        check_fits(Net(), dataclasses.replace(numbered(), **{split: empty}))
    kind = "training" if split == "train" else "test"
    assert str(caught.value) == f"check_fits: the data have no {kind} inputs, expected at least one. Add some."


def test_the_number_of_classes_is_not_compared_where_their_names_are():
    check_fits(Net(SimpleNamespace(**{**FITTING, "num_classes": 1000})), numbered(), by_name=True)


@pytest.mark.parametrize(
    ("images", "labels"),
    [(torch.rand(4, 1, 2, 2), torch.arange(4)), (torch.zeros(4, 2, 2, dtype=torch.uint8), torch.arange(4)),
     (torch.zeros(4, 1, 2, 2, dtype=torch.uint8), torch.arange(3))],
)  # fmt: skip
def test_images_in_memory_that_would_be_scaled_wrongly_are_refused(images, labels):
    with pytest.raises(SettingError, match=r"ImageData: test has images .* expected uint8 \(n, C, H, W\) and \(n,\)"):
        dataclasses.replace(numbered(), test=(images, labels))


def test_classes_are_found_by_name():
    known = ("apple", "bee", "cat", "dog")
    assert class_indices(known, known) == (0, 1, 2, 3)
    assert class_indices(("dog", "bee"), known) == (3, 1)
    assert class_indices(("a", "a"), ("a", "a")) == (0, 1), "the same names in the same order need no search"


def test_classes_that_the_model_does_not_know_are_named():
    with pytest.raises(SettingError) as caught:
        class_indices(("bee", "cat", "dog"), ("apple", "bee", "cat"))
    assert str(caught.value) == (
        "class_indices: the model has no single class called 'dog', expected some of its 3 classes. The data lack "
        "'apple'. Rename the classes of the data, or leave those out."
    )
    with pytest.raises(SettingError, match="'a0', 'a1', 'a2', 'a3', 'a4' and 3 more, expected"):
        class_indices(tuple(f"a{number}" for number in range(8)), ("b",))
    with pytest.raises(SettingError, match="no single class called 'crane'"):
        class_indices(("crane", "maillot"), ("maillot", "crane", "crane"))


def test_the_fingerprint_is_of_the_content():
    first, second = numbered(), numbered()
    assert first.fingerprint() == second.fingerprint()
    second.test[0][9, 2, 1, 1] += 1
    assert first.fingerprint() != second.fingerprint()
