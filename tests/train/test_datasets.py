"""The registry, and loading by name."""

import gzip
import struct
from importlib.util import find_spec

import numpy as np
import pytest

from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.train.datasets import DATASETS, DVS128_CLASSES, load_data


def idx(values: np.ndarray) -> bytes:
    return struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape) + values.tobytes()


def fashion(root) -> None:
    raw = root / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 4), ("t10k", 2)):
        (raw / f"{part}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(np.zeros((count, 28, 28), np.uint8))))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.zeros(count, np.uint8)))


def cifar(root, folder: str, parts: list[str], labels: int) -> None:
    (root / folder).mkdir()
    for part in parts:
        (root / folder / f"{part}.bin").write_bytes(bytes(2 * (labels + 3072)))


def pictures(root) -> None:
    for split in ("train", "val"):
        (root / split / "n01440764").mkdir(parents=True)
        need("PIL.Image", extra="vision").new("RGB", (40, 40)).save(root / split / "n01440764" / "x.JPEG")


def recordings(root, folders: tuple[str, ...], *, count: int = 2, steps: int = 16) -> None:
    for folder in folders:
        (root / folder).mkdir(parents=True)
        for number in range(count):
            np.savez(root / folder / f"{number}.npz", frames=np.zeros((steps, 2, 8, 8), np.float32))


def write(name: str, root) -> None:
    batches = [f"data_batch_{number}" for number in range(1, 6)]
    if name == "fashion-mnist":
        fashion(root)
    elif name == "cifar-10":
        cifar(root, "cifar-10-batches-bin", [*batches, "test_batch"], 1)
    elif name == "cifar-100":
        cifar(root, "cifar-100-binary", ["train", "test"], 2)
    elif name in ("imagenet-1k", "image-folder"):
        if find_spec("torchvision") is None:
            pytest.skip("torchvision is not installed")
        pictures(root)
    elif name == "dvs128-gesture":
        for split in ("train", "test"):
            recordings(root / "frames_number_16_split_by_number" / split, tuple(str(number) for number in range(11)))
    else:
        recordings(root / "frames_number_16_split_by_number", DATASETS[name].classes, count=10)


COUNTS = {"fashion-mnist": (4, 2), "cifar-10": (10, 2), "cifar-100": (2, 2), "imagenet-1k": (1, 1)}
COUNTS |= {"image-folder": (1, 1), "dvs128-gesture": (22, 22), "cifar10-dvs": (90, 10)}
SHAPES = {"fashion-mnist": (1, 28, 28), "cifar-10": (3, 32, 32), "cifar-100": (3, 32, 32), "imagenet-1k": (3, 24, 24)}
SHAPES |= {"image-folder": (3, 24, 24), "dvs128-gesture": (16, 2, 8, 8), "cifar10-dvs": (16, 2, 8, 8)}


@pytest.mark.parametrize("name", DATASETS)
def test_load_by_name(name, tmp_path):
    write(name, tmp_path)
    info = DATASETS[name]
    data = load_data(name, tmp_path, size=SHAPES[name][-2:], workers=0)
    assert (data.train_count, data.test_count) == COUNTS[name]
    assert data.shape == SHAPES[name]
    assert (data.mean, data.std) == (info.mean, info.std)
    assert data.classes == (info.classes or ("n01440764",))
    assert (info.kind == "frames") == (len(data.shape) == 4) == (info.mean == ())
    [(x, labels)] = data.test_batches(100)
    assert x.shape[-len(data.shape) + 1 :] == data.shape[1:]
    assert len(labels) == data.test_count
    if find_spec("torchvision") is None or "imagenet" in name or name == "image-folder":
        return
    with pytest.raises(SettingError) as caught:
        load_data(name, str(tmp_path), size=(7, 7))
    assert str(caught.value) == (
        f"load_data: {name} has {data.shape[-2]} x {data.shape[-1]} pixels, got size=(7, 7). Build the net with "
        f"img_size={data.shape[-2:]}."
    )


def test_one_number_is_the_size_of_a_square(tmp_path):
    write("dvs128-gesture", tmp_path)
    assert load_data("dvs128-gesture", tmp_path, size=8, workers=0).shape == (16, 2, 8, 8)
    with pytest.raises(SettingError, match=r"has 8 x 8 pixels, got size=\(7, 7\)"):
        load_data("dvs128-gesture", tmp_path, size=7)


@pytest.mark.parametrize("size", [0, -1, True, (8,), (8, 8, 8), (8.0, 8.0), "8"])
def test_other_sizes_are_refused_before_a_file_is_read(tmp_path, size):
    with pytest.raises(SettingError, match=r"^load_data: got size=.*expected \(H, W\) in pixels, or one number"):
        load_data("image-folder", tmp_path, size=size)


def test_an_unknown_name(tmp_path):
    with pytest.raises(SettingError) as caught:
        load_data("mnist", tmp_path)
    assert str(caught.value) == (
        "load_data: name='mnist' is unknown. Expected one of fashion-mnist, cifar-10, cifar-100, imagenet-1k, "
        "image-folder, dvs128-gesture, cifar10-dvs. Pass one of these."
    )


def test_every_entry_is_complete():
    for name, info in DATASETS.items():
        assert info.name == name
        assert info.kind in ("images", "frames")
        assert len(info.mean) == len(info.std)
        assert all((info.text, info.source, info.layout, info.terms))
        assert len(set(info.classes)) == len(info.classes)


def test_the_third_label_of_dvs128_gesture_is_folder_10():
    assert len(DVS128_CLASSES) == 11
    assert DVS128_CLASSES[:4] == ("hand clapping", "right hand wave", "other gestures", "left hand wave")


def test_other_folders_of_gestures_name_themselves(tmp_path):
    for split in ("train", "test"):
        recordings(tmp_path / split, ("clap", "wave"))
    assert load_data("dvs128-gesture", tmp_path, workers=0).classes == ("clap", "wave")
