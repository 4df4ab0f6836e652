"""CIFAR in each layout, from files written here, whole and damaged."""

import numpy as np
import pytest
import torch

from snntorch_smixer.errors import CardError
from snntorch_smixer.train.cifar import CIFAR_10_CLASSES, CIFAR_100_CLASSES, cifar_10, cifar_100

PARTS = [f"data_batch_{number}" for number in range(1, 6)]


def pixels(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(256, size=(count, 3, 32, 32), dtype=np.uint8)


def records(images: np.ndarray, *labels: list[int]) -> bytes:
    heads = np.array(labels, np.uint8).T
    return np.concatenate([heads, images.reshape(len(images), -1)], 1).tobytes()


@pytest.fixture(params=["above", "inside"])
def ten(request, tmp_path):
    """CIFAR-10 of two images per file; the root is the folder of the files, or the one above."""
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for number, part in enumerate([*PARTS, "test_batch"]):
        (folder / f"{part}.bin").write_bytes(records(pixels(2, number), [number, 9 - number]))
    return folder if request.param == "inside" else tmp_path


def test_binary_cifar_10(ten):
    data = cifar_10(str(ten))
    images, labels = data.train
    assert (images.dtype, images.shape) == (torch.uint8, (10, 3, 32, 32))
    assert labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
    assert labels.dtype == torch.int64
    for number in range(5):
        assert torch.equal(images[2 * number : 2 * number + 2], torch.from_numpy(pixels(2, number)))
    assert torch.equal(data.test[0], torch.from_numpy(pixels(2, 5)))
    assert data.test[1].tolist() == [5, 4]
    assert (data.classes, data.shape) == (CIFAR_10_CLASSES, (3, 32, 32))
    assert data.normalise(images)[0, 1, 0, 0].item() == pytest.approx(
        (int(images[0, 1, 0, 0]) / 255 - 0.4822) / 0.2435, abs=1e-5
    )


def refused(root, load=cifar_10) -> str:
    with pytest.raises(CardError) as caught:
        load(root)
    return str(caught.value)


def file_of(root, name: str):
    return next(root.rglob(name))


@pytest.mark.parametrize("name", ["data_batch_1.bin", "data_batch_3.bin", "test_batch.bin"])
def test_a_truncated_binary(ten, name):
    path = file_of(ten, name)
    path.write_bytes(path.read_bytes()[:-1])
    assert refused(ten) == (
        f"{path}: 6145 bytes are no whole number of records of 3073 bytes; the file is truncated or another one. Get "
        "it again."
    )


def test_an_empty_binary(ten):
    path = file_of(ten, "test_batch.bin")
    path.write_bytes(b"")
    assert "got 0 labels for 0 images, expected one for each, and at least one." in refused(ten)


def test_a_label_out_of_range(ten):
    path = file_of(ten, "data_batch_2.bin")
    path.write_bytes(records(pixels(2, 0), [1, 10]))
    assert refused(ten) == f"{path}: got label 10, expected 0 to 9. The file is another one or corrupt; get it again."


def test_a_missing_part(ten):
    path = file_of(ten, "data_batch_4.bin")
    path.unlink()
    assert refused(ten) == f"{path}: no such file. Unpack the archive again; it holds all of them."


ADVICE = "Get {}-binary.tar.gz from the data set's page and unpack it in {}."


@pytest.mark.parametrize(
    ("load", "name", "inside", "part"),
    [
        (cifar_10, "cifar-10", "cifar-10-batches-bin", "data_batch_1"),
        (cifar_100, "cifar-100", "cifar-100-binary", "train"),
    ],
)
def test_nothing_there(tmp_path, load, name, inside, part):
    assert refused(tmp_path, load) == (
        f"{name}: neither {tmp_path / inside / part}.bin nor {tmp_path / part}.bin exists. "
        + ADVICE.format(name, tmp_path)
    )


@pytest.mark.parametrize(
    ("load", "name", "inside", "pickle"),
    [
        (cifar_10, "cifar-10", "cifar-10-batches-bin/data_batch_1", "cifar-10-batches-py/data_batch_1"),
        (cifar_10, "cifar-10", "cifar-10-batches-bin/data_batch_1", "data_batch_1"),
        (cifar_100, "cifar-100", "cifar-100-binary/train", "cifar-100-python/train"),
    ],
)
def test_only_pickles_there(tmp_path, load, name, inside, pickle):
    path = tmp_path / pickle
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")  # would run a program if it were loaded
    assert refused(tmp_path, load) == (
        f"{name}: {path} is a Python pickle, which can run code and is never loaded here; expected the binary version, "
        f"{inside}.bin. " + ADVICE.format(name, tmp_path)
    )


def test_binary_cifar_100_takes_the_fine_label(tmp_path):
    folder = tmp_path / "cifar-100-binary"
    folder.mkdir()
    (folder / "train.bin").write_bytes(records(pixels(3, 0), [4, 1, 19], [72, 0, 99]))
    (folder / "test.bin").write_bytes(records(pixels(1, 1), [3], [42]))
    for root in (tmp_path, folder):
        data = cifar_100(root)
        assert data.train[1].tolist() == [72, 0, 99]
        assert data.test[1].tolist() == [42]
        assert torch.equal(data.train[0], torch.from_numpy(pixels(3, 0)))
        assert data.classes == CIFAR_100_CLASSES
    (folder / "test.bin").write_bytes(records(pixels(1, 1), [3], [100]))
    assert "got label 100, expected 0 to 99." in refused(tmp_path, cifar_100)


def test_the_classes_of_cifar_100():
    assert len(set(CIFAR_100_CLASSES)) == 100
    assert list(CIFAR_100_CLASSES) == sorted(CIFAR_100_CLASSES)


@pytest.fixture
def mosaics(tmp_path):
    """CIFAR-10 as mosaics of six images, two rows of three."""
    image = pytest.importorskip("PIL.Image")
    for number, part in enumerate([*PARTS, "test_batch"]):
        tiles = pixels(6, number).reshape(2, 3, 3, 32, 32)
        picture = tiles.transpose(0, 3, 1, 4, 2).reshape(64, 96, 3)
        image.fromarray(picture).save(tmp_path / f"{part}.webp", lossless=True)
    labels = {"train": np.arange(30, dtype=np.uint8) % 10, "test": np.arange(6, dtype=np.uint8)}
    np.savez_compressed(tmp_path / "labels.npz", **labels)
    return tmp_path


def test_mosaics(mosaics):
    data = cifar_10(mosaics)
    for number in range(5):
        assert torch.equal(data.train[0][6 * number : 6 * number + 6], torch.from_numpy(pixels(6, number)))
    assert torch.equal(data.test[0], torch.from_numpy(pixels(6, 5)))
    assert data.train[1].tolist() == [number % 10 for number in range(30)]
    assert data.test[1].tolist() == list(range(6))


def test_a_missing_mosaic(mosaics):
    path = mosaics / "data_batch_5.webp"
    path.unlink()
    assert refused(mosaics) == f"{path}: no such file. Copy it beside the other mosaics."


def test_a_truncated_mosaic(mosaics):
    path = mosaics / "data_batch_2.webp"
    path.write_bytes(path.read_bytes()[:500])
    assert refused(mosaics) == f"{path}: no readable picture. Copy it again."


def test_a_picture_that_is_no_mosaic(mosaics):
    image = pytest.importorskip("PIL.Image")
    path = mosaics / "data_batch_1.webp"
    image.new("RGB", (96, 65)).save(path, lossless=True)
    assert refused(mosaics) == f"{path}: 96 x 65 pixels are no mosaic of 32 x 32 images. Copy it again."


def test_damaged_labels_of_mosaics(mosaics):
    path = mosaics / "labels.npz"
    unreadable = f"{path}: holds no readable array 'train' of labels. Copy it again."
    np.savez(path, train=np.array([{"an": "object"}] * 30, dtype=object), test=np.zeros(6))
    assert refused(mosaics) == unreadable, "objects are pickles"
    np.savez(path, test=np.zeros(6))
    assert refused(mosaics) == unreadable
    path.write_bytes(b"PK\x03\x04 no zip")
    assert refused(mosaics) == unreadable
    np.savez(path, train=np.zeros(29), test=np.zeros(6))
    assert f"{path}: got 29 labels for 30 images, expected one for each, and at least one." in refused(mosaics)
    np.savez(path, train=np.full(30, 10), test=np.zeros(6))
    assert f"{path}: got label 10, expected 0 to 9." in refused(mosaics)
    path.unlink()
    assert refused(mosaics) == f"{path}: no such file. Copy it beside the mosaics."
