"""Pictures with boxes in the YOLO folder layout, read and checked before anything is trained."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from snntorch_smixer.errors import CardError, check_name
from snntorch_smixer.pictures import eight_bits, read_picture

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
STRIDE = 32
"""Pixels per cell of the coarsest map."""
GREY = 114 / 255
"""What a picture is padded with."""


@dataclass(frozen=True)
class BoxFolder:
    """A data set in the YOLO layout: ``data.yaml`` with names and splits, pictures, and a text file per picture.

    Attributes:
        root: folder that the splits are relative to.
        splits: "train", "val", "test" to a folder of pictures, or a text file that lists them.
        names: of the classes, in order.
        numbers: of the classes in the label files; None where they are counted as ``names`` are.
    """

    root: Path
    splits: dict[str, Path]
    names: tuple[str, ...]
    numbers: tuple[int, ...] | None = None

    @classmethod
    def read(cls, path: str | Path) -> BoxFolder:
        """Read ``data.yaml``, or the one in a folder.

        Raises:
            CardError: there is none, or it lacks names or splits.
        """
        path = Path(path)
        file = path / "data.yaml" if path.is_dir() else path
        try:
            table = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise CardError(
                f"detect: {file} cannot be read: {error}. Expected a data.yaml with path, train, val and names."
            ) from error
        if not isinstance(table, dict) or not isinstance(table.get("names"), (dict, list)) or not table["names"]:
            raise CardError(f"detect: {file} has no names. Write names: {{0: person, 1: bicycle}}.")
        names = table["names"]
        if table.get("nc", len(names)) != len(names):
            raise CardError(f"detect: {file} says nc: {table['nc']} and has {len(names)} names. Make them agree.")
        if isinstance(names, dict):
            if sorted(names) != list(range(len(names))):
                raise CardError(f"detect: {file} numbers its names {sorted(names)}. Expected 0 to {len(names) - 1}.")
            names = [names[i] for i in range(len(names))]
        root = Path(table.get("path") or file.parent)
        root = root if root.is_absolute() and root.exists() else (file.parent / root).resolve()
        splits = {key: root / str(table[key]) for key in ("train", "val", "test") if table.get(key)}
        if "train" not in splits and "val" not in splits:
            raise CardError(f"detect: {file} names no train and no val. Write train: images/train.")
        return cls(root, splits, tuple(map(str, names)))

    def only(self, names: Sequence[str]) -> BoxFolder:
        """The same pictures with the boxes of some classes, which are counted in the order of ``names``.

        Raises:
            SettingError: the data set has no such class, with a close match.
        """
        for name in names:
            check_name("detect", "class", name, self.names)
        chosen = tuple(self.names.index(name) for name in names)
        numbers = chosen if self.numbers is None else tuple(self.numbers[i] for i in chosen)
        return replace(self, names=tuple(names), numbers=numbers)

    def boxes(self, picture: Path) -> Tensor:
        """Boxes ``(M, 5)`` of a picture, see `read_boxes`."""
        if self.numbers is None:
            return read_boxes(label_file(picture), len(self.names))
        found = read_boxes(label_file(picture), None)
        place = {number: new for new, number in enumerate(self.numbers)}
        kept = found[[int(kind) in place for kind in found[:, 0]]]
        kept[:, 0] = torch.tensor([float(place[int(kind)]) for kind in kept[:, 0]])
        return kept

    def pictures(self, split: str) -> list[Path]:
        """Files of a split, sorted.

        Raises:
            CardError: no such split, or no picture in it.
        """
        place = self.splits.get(split)
        if place is None:
            raise CardError(f"detect: the data set in {self.root} has no {split!r}. It has {', '.join(self.splits)}.")
        if place.is_file():
            lines = place.read_text(encoding="utf-8").split()
            found = [path if path.is_absolute() else self.root / path for path in map(Path, lines)]
        else:
            found = [p for p in place.rglob("*") if p.suffix.lower() in SUFFIXES] if place.is_dir() else []
        if not found:
            raise CardError(f"detect: no picture in {place}. Expected files {', '.join(SUFFIXES)}.")
        return sorted(found)

    def check(self, splits: Iterable[str] = ("train", "val")) -> dict[str, int]:
        """Read every label file; the number of boxes of each split.

        Raises:
            CardError: a line that is no box, a box outside its picture, an unknown class, or a split without a box.
        """
        counts = {}
        for split in splits:
            pictures = self.pictures(split)
            counts[split] = sum(len(self.boxes(p)) for p in pictures)
            if not counts[split]:
                raise CardError(
                    f"detect: the {len(pictures)} pictures of {split!r} have no box. Expected a text file beside each, "
                    f"such as {label_file(pictures[0])}, with lines: class x y width height, as shares of the picture."
                )
        return counts


def label_file(picture: Path) -> Path:
    """The text file of a picture: ``labels`` in the place of the last ``images`` of its path."""
    parts = list(picture.parts)
    at = len(parts) - 1 - parts[::-1].index("images") if "images" in parts else None
    if at is not None:
        parts[at] = "labels"
    return Path(*parts).with_suffix(".txt")


def read_boxes(file: Path, classes: int | None) -> Tensor:
    """Boxes ``(M, 5)`` of a label file: class, and middle, width and height as shares of the picture.

    Args:
        file: a missing one stands for a picture without objects.
        classes: K; None for any number.

    Raises:
        CardError: with the line.
    """
    if not file.exists():
        return torch.zeros(0, 5)
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if line.strip():
            rows.append(_box(line, f"{file}, line {number}", classes))
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, 5).float()


def _box(line: str, where: str, classes: int | None) -> list[float]:
    try:
        values = [float(part) for part in line.split()]
    except ValueError:
        values = []
    if len(values) != 5 or not all(map(math.isfinite, values)):
        raise CardError(f"detect: {where}: {line.strip()[:60]!r} is no box. Write: class x y width height.")
    kind, x, y, width, height = values
    if kind != int(kind) or not 0 <= kind < (classes or math.inf):
        last = "" if classes is None else classes - 1
        raise CardError(f"detect: {where}: class {kind:g} is outside 0..{last}, the classes of data.yaml.")
    edges = (x - width / 2, y - height / 2, 1 - x - width / 2, 1 - y - height / 2)
    if min(width, height) <= 0 or min(edges) < -0.01:
        raise CardError(
            f"detect: {where}: box {x:g} {y:g} {width:g} {height:g} reaches outside its picture or is empty. Expected "
            "shares of the picture, in [0, 1]."
        )
    return values


@dataclass(frozen=True)
class Letterbox:
    """How a picture was brought to a size: scaled by one factor and padded on all sides.

    Attributes:
        scale: of both sides.
        left: pixels of padding.
        top: pixels of padding.
        size: (height, width) of the picture.
    """

    scale: float
    left: int
    top: int
    size: tuple[int, int]

    def back(self, boxes: Tensor) -> Tensor:
        """Boxes ``(M, 4)`` in the pixels of the picture, cut at its edges."""
        height, width = self.size
        shift = boxes.new_tensor([self.left, self.top, self.left, self.top])
        edges = boxes.new_tensor([width, height, width, height])
        return ((boxes - shift) / self.scale).clamp(min=0).minimum(edges)

    def there(self, boxes: Tensor) -> Tensor:
        """The inverse of `back`."""
        return boxes * self.scale + boxes.new_tensor([self.left, self.top, self.left, self.top])


def letterbox(picture: Tensor, size: int, *, square: bool = True) -> tuple[Tensor, Letterbox]:
    """A picture ``(3, H, W)`` in [0, 1] brought to ``size``, with its longer side as long, and padded with grey.

    Args:
        picture: values in [0, 1].
        size: pixels of the longer side, a multiple of 32.
        square: pad to a square; else to the next multiple of 32.
    """
    height, width = picture.shape[1:]
    scale = size / max(height, width)
    inside = max(1, round(height * scale)), max(1, round(width * scale))
    scaled = picture
    if inside != (height, width):
        scaled = F.interpolate(picture[None], inside, mode="bilinear", antialias=True, align_corners=False)[0]
    outside = (size, size) if square else tuple(-(-side // STRIDE) * STRIDE for side in inside)
    top, left = (outside[0] - inside[0]) // 2, (outside[1] - inside[1]) // 2
    padding = (left, outside[1] - inside[1] - left, top, outside[0] - inside[0] - top)
    return F.pad(scaled, padding, value=GREY), Letterbox(scale, left, top, (height, width))


def open_picture(source: Any) -> Tensor:
    """A picture as ``(3, H, W)`` in [0, 1]: a file, a PIL image, an array ``(H, W, 3)`` of bytes, or such a tensor.

    Raises:
        CardError: no picture.
    """
    if isinstance(source, Tensor):
        if source.dim() != 3 or source.shape[0] != 3 or not source.is_floating_point():
            raise CardError(f"detect: got a tensor {tuple(source.shape)} of {source.dtype}. Pass (3, H, W) in [0, 1].")
        return source
    if isinstance(source, (str, Path)):
        source = np.asarray(read_picture(Path(source)))
    elif hasattr(source, "getexif"):
        source = np.asarray(eight_bits(source))
    if not isinstance(source, np.ndarray) or source.ndim != 3 or source.shape[2] != 3 or source.dtype != np.uint8:
        what = f"{source.dtype} {source.shape}" if isinstance(source, np.ndarray) else type(source).__name__
        raise CardError(f"detect: got {what}. Pass a file, a PIL image, or bytes (H, W, 3).")
    return torch.from_numpy(np.array(source)).permute(2, 0, 1).float() / 255


class BoxData(Dataset[tuple[Tensor, dict[str, Tensor]]]):
    """Letterboxed pictures with their boxes, in torchvision's form: ``(3, size, size)`` and boxes, labels, image_id.

    Args:
        data: see `BoxFolder`.
        split: "train", "val" or "test".
        size: pixels of both sides, a multiple of 32.
        flip: the chance of a mirrored picture.

    Examples:
        >>> from snntorch_smixer.detect import BoxData, BoxFolder
        >>> len(BoxData(BoxFolder.read("data"), "train"))  # doctest: +SKIP
        128
    """

    def __init__(self, data: BoxFolder, split: str, *, size: int = 256, flip: float = 0.0) -> None:
        if size % STRIDE or size < STRIDE:
            raise CardError(f"detect: got size={size}, expected a multiple of {STRIDE}. Pass {_next(size)}.")
        self.data, self.size, self.flip = data, size, flip
        self.files = data.pictures(split)
        self.boxes = [data.boxes(file) for file in self.files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, dict[str, Tensor]]:
        picture = open_picture(self.files[index])
        kind, middle, sides = self.boxes[index].split((1, 2, 2), 1)
        corners = torch.cat([middle - sides / 2, middle + sides / 2], 1).clamp(0, 1)
        if self.flip and float(torch.rand(())) < self.flip:
            picture = picture.flip(2)
            corners = torch.stack([1 - corners[:, 2], corners[:, 1], 1 - corners[:, 0], corners[:, 3]], 1)
        height, width = picture.shape[1:]
        picture, how = letterbox(picture, self.size)
        boxes = how.there(corners * corners.new_tensor([width, height, width, height]))
        return picture, {"boxes": boxes, "labels": kind[:, 0].long(), "image_id": torch.tensor(index)}


def collate(samples: Sequence[tuple[Tensor, dict[str, Tensor]]]) -> tuple[Tensor, list[dict[str, Tensor]]]:
    """Pictures ``(B, 3, H, W)`` and a list of targets."""
    return torch.stack([picture for picture, _ in samples]), [target for _, target in samples]


def _next(size: int) -> int:
    return max(STRIDE, -(-size // STRIDE) * STRIDE)


def batches(data: BoxData, size: int, *, seed: int | None = None) -> Iterator[tuple[Tensor, list[dict[str, Tensor]]]]:
    """Batches of ``size`` samples, shuffled by ``seed``, in order without one."""
    order = list(range(len(data)))
    if seed is not None:
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed)).tolist()
    for start in range(0, len(order), size):
        yield collate([data[i] for i in order[start : start + size]])
