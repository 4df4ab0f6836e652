"""The YOLO folder layout: what is read, and what is refused before anything is trained."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from snntorch_smixer.detect import BoxData, BoxFolder, DetectorRecipe, fit_detector
from snntorch_smixer.errors import CardError, SettingError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One picture of 40 x 20 pixels, two classes, no labels yet."""
    for name in ("images", "labels"):
        (tmp_path / name).mkdir()
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images\nnames: {0: a, 1: b}\n")
    Image.new("RGB", (40, 20), (255, 0, 0)).save(tmp_path / "images" / "one.png")
    return tmp_path


def data(folder: Path, *lines: str) -> BoxData:
    (folder / "labels" / "one.txt").write_text("\n".join(lines))
    return BoxData(BoxFolder.read(folder), "train", size=64)


def test_boxes_are_in_the_pixels_of_the_letterboxed_picture(folder: Path):
    picture, target = data(folder, "1 0.5 0.5 0.5 1")[0]
    assert picture.shape == (3, 64, 64)
    assert target["boxes"].tolist() == [[16.0, 16.0, 48.0, 48.0]]
    assert target["labels"].tolist() == [1]
    assert torch.equal(picture[:, 32, 32], torch.tensor([1.0, 0.0, 0.0]))
    assert picture[0, 2, 2] == pytest.approx(114 / 255)


def test_a_missing_or_empty_label_file_is_a_picture_without_objects(folder: Path):
    assert BoxData(BoxFolder.read(folder), "train", size=64)[0][1]["boxes"].shape == (0, 4)
    assert data(folder, "")[0][1]["labels"].shape == (0,)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "is no box"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3", "is no box"),
        ("0 0.5 nan 0.5 0.5", "is no box"),
        ("a 0.5 0.5 0.5 0.5", "is no box"),
        ("2 0.5 0.5 0.5 0.5", r"class 2 is outside 0\.\.1"),
        ("-1 0.5 0.5 0.5 0.5", "class -1 is outside"),
        ("0.5 0.5 0.5 0.5 0.5", r"class 0\.5 is outside"),
        ("0 0.9 0.5 0.5 0.5", "reaches outside its picture"),
        ("0 0.5 0.5 0 0.5", "or is empty"),
        ("0 20 10 5 5", "reaches outside"),
    ],
)
def test_a_wrong_line_is_named(folder: Path, line: str, message: str):
    with pytest.raises(CardError, match=message) as caught:
        data(folder, "0 0.5 0.5 0.5 0.5", line)
    assert "one.txt, line 2" in str(caught.value)


def test_a_data_set_without_labels_is_refused(folder: Path):
    with pytest.raises(CardError, match="have no box"):
        BoxFolder.read(folder).check()
    with pytest.raises(SettingError, match="none of the 1 pictures has a box"):
        fit_detector(torch.nn.Linear(1, 1), data(folder), DetectorRecipe(epochs=1))


def test_an_empty_folder_and_a_wrong_size_are_refused(folder: Path):
    with pytest.raises(CardError, match="expected a multiple of 32"):
        BoxData(BoxFolder.read(folder), "train", size=100)
    (folder / "images" / "one.png").unlink()
    with pytest.raises(CardError, match="no picture in"):
        BoxData(BoxFolder.read(folder), "train", size=64)
    with pytest.raises(CardError, match="cannot be read"):
        BoxFolder.read(folder / "images")
