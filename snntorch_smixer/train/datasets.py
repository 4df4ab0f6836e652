"""The data sets of the paper's tables by name: what they are, where to get them, and how to load them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from snntorch_smixer.errors import SettingError, check_choice, is_count
from snntorch_smixer.shapes import square
from snntorch_smixer.train import cifar, folders, frames
from snntorch_smixer.train.data import FASHION_MNIST_CLASSES, Data, ImageData, fashion_mnist
from snntorch_smixer.train.files import default_workers


@dataclass(frozen=True)
class DatasetInfo:
    """One data set, for people and for `load_data`.

    Attributes:
        name: key of `DATASETS`.
        text: one line: what it holds.
        kind: "images" or "frames" (of events, with a time axis).
        classes: names, by label; empty where the folders name them.
        mean: per channel, for pixels in [0, 1]; empty for frames, which are not normalised.
        std: per channel.
        source: where to get it.
        layout: files that `load_data` expects below its root.
        terms: licence or terms of use, as far as they are known.
    """

    name: str
    text: str
    kind: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    layout: str
    terms: str


# SpikingJelly numbers the gestures from 0 and sorts these numbers as strings: 0, 1, 10, 2, ...
DVS128_FOLDERS = tuple(sorted(str(number) for number in range(11)))
_GESTURES = (
    "hand clapping",
    "right hand wave",
    "left hand wave",
    "right arm clockwise",
    "right arm counter-clockwise",
    "left arm clockwise",
    "left arm counter-clockwise",
    "arm roll",
    "air drums",
    "air guitar",
    "other gestures",
)
DVS128_CLASSES = tuple(_GESTURES[int(folder)] for folder in DVS128_FOLDERS)
"""Names of the gestures, by label."""

_SPIKINGJELLY = "frames_number_16_split_by_number as SpikingJelly makes it (data_type='frame', frames_number=16)"

DATASETS: Mapping[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo(
            "fashion-mnist",
            "60,000 + 10,000 grey images of clothes, 28 x 28, 10 classes",
            "images",
            FASHION_MNIST_CLASSES,
            (0.2860,),
            (0.3530,),
            "https://github.com/zalandoresearch/fashion-mnist",
            "FashionMNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, gzipped (.gz) or not",
            "MIT (Zalando SE)",
        ),
        DatasetInfo(
            "cifar-10",
            "50,000 + 10,000 colour images, 32 x 32, 10 classes",
            "images",
            cifar.CIFAR_10_CLASSES,
            cifar.MEAN,
            cifar.STD,
            "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version",
            "cifar-10-batches-bin/{data_batch_1..5,test_batch}.bin; or lossless mosaics data_batch_1..5.webp, "
            "test_batch.webp and labels.npz",
            "no licence stated; cite Krizhevsky, 2009",
        ),
        DatasetInfo(
            "cifar-100",
            "50,000 + 10,000 colour images, 32 x 32, 100 classes",
            "images",
            cifar.CIFAR_100_CLASSES,
            cifar.MEAN,
            cifar.STD,
            "https://www.cs.toronto.edu/~kriz/cifar.html, the binary version",
            "cifar-100-binary/{train,test}.bin",
            "no licence stated; cite Krizhevsky, 2009",
        ),
        DatasetInfo(
            "imagenet-1k",
            "1,281,167 + 50,000 photographs, 1,000 classes",
            "images",
            (),
            folders.MEAN,
            folders.STD,
            "https://image-net.org, ILSVRC 2012, after registration",
            "train/WNID/*.JPEG and val/WNID/*.JPEG; the official validation archive is flat and has to be sorted",
            "research terms of image-net.org",
        ),
        DatasetInfo(
            "image-folder",
            "any pictures in one folder per class, such as Tiny-ImageNet",
            "images",
            (),
            folders.MEAN,
            folders.STD,
            "your own",
            "train/CLASS/* and val/CLASS/*",
            "those of the pictures",
        ),
        DatasetInfo(
            "dvs128-gesture",
            "1,176 + 288 recordings of gestures by an event camera, 128 x 128, 11 classes",
            "frames",
            DVS128_CLASSES,
            (),
            (),
            "https://research.ibm.com/interactive/dvsgesture/",
            f"{_SPIKINGJELLY}: train/0..10/*.npz and test/0..10/*.npz",
            "see LICENSE.txt in the archive",
        ),
        DatasetInfo(
            "cifar10-dvs",
            "10,000 recordings of CIFAR-10 images by an event camera, 128 x 128, 10 classes",
            "frames",
            cifar.CIFAR_10_CLASSES,
            (),
            (),
            "https://figshare.com/articles/dataset/CIFAR10-DVS_New/4724671",
            f"{_SPIKINGJELLY}: train/CLASS/*.npz and test/CLASS/*.npz, or CLASS/*.npz, of which the first 90 % of each "
            "class by name are for training (there is no official split)",
            "see its figshare page",
        ),
    )
}
"""Every data set that `load_data` knows, by name."""

IN_MEMORY: Mapping[str, Callable[[str | Path], ImageData]] = {
    "fashion-mnist": fashion_mnist,
    "cifar-10": cifar.cifar_10,
    "cifar-100": cifar.cifar_100,
}
"""Loaders of the data sets that fit into memory."""

CIFAR10_DVS_TRAIN_SHARE = 0.9
"""Of each class; the split of SpikingJelly's users."""


def load_data(
    name: str, root: str | Path, *, size: int | tuple[int, int] | None = None, workers: int | None = None
) -> Data:
    """Open a data set. Small ones are read into memory, picture and event folders are read while they are used.

    Args:
        name: key of `DATASETS`.
        root: folder with the files of ``DATASETS[name].layout``.
        size: (H, W) that the net takes, or one number for both. Picture folders are cropped to it (None: 224 x 224);
            others must have it.
        workers: processes that read folders or run RandAugment; 0 for none, None for one per core. Results do not
            depend on it.

    Raises:
        CardError: a file is missing, corrupt or not of this data set.
        SettingError: the name is unknown, or the data have another size.
        MissingExtra: torchvision or Pillow is needed and not installed.
    """
    check_choice("load_data", "name", name, tuple(DATASETS))
    size = square(size)
    if size is not None and not (isinstance(size, (tuple, list)) and len(size) == 2 and all(map(is_count, size))):
        raise SettingError(f"load_data: got size={size!r}, expected (H, W) in pixels, or one number. Pass 224.")
    if name in ("imagenet-1k", "image-folder"):
        pictures = folders.image_folder(root, size=size or (224, 224), workers=workers)
        return dataclasses.replace(pictures, name=name)
    data: ImageData | frames.FrameData
    if name in IN_MEMORY:
        count = default_workers() if workers is None else workers
        data = dataclasses.replace(IN_MEMORY[name](root), workers=count)
    elif name == "dvs128-gesture":
        data = _named(frames.frame_folder(root, workers=workers))
    else:
        data = frames.frame_folder(root, train_share=CIFAR10_DVS_TRAIN_SHARE, workers=workers)
    if size is not None and tuple(size) != data.shape[-2:]:
        raise SettingError(
            f"load_data: {name} has {data.shape[-2]} x {data.shape[-1]} pixels, got size={tuple(size)}. Build the net "
            f"with img_size={data.shape[-2:]}."
        )
    return dataclasses.replace(data, name=name)


def _named(data: frames.FrameData) -> frames.FrameData:
    return dataclasses.replace(data, classes=DVS128_CLASSES) if data.classes == DVS128_FOLDERS else data
