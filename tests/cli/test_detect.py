"""``smixer detect``: train, val, predict, and what they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from snntorch_smixer.detect import DetectorConfig, SpikingDetector
from snntorch_smixer.models.saving import note_training
from tests.detect.made import rectangles


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder of an untrained detector that finds boxes everywhere."""
    torch.manual_seed(0)
    net = SpikingDetector(DetectorConfig((64, 64), num_classes=1, grid=(2, 2), width_scale=0.125)).eval()
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.fill_(0.05)
    note_training(net, name="blues", classes=["blue"])
    net.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_predict_draws_and_lists(smixer, tmp_path: Path, model: Path):
    data = rectangles(tmp_path / "data", size=80)
    words = ("detect", "predict", model, "--input", data / "images" / "val", "--out", tmp_path / "found")
    rows = json.loads(smixer(*words, "--score", 0, "--ps", 0.5, "--dropped", "--json").out)
    assert [row["picture"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[0]["boxes"][0]["label"] == "blue"
    assert json.loads((tmp_path / "found" / "found.json").read_text()) == rows
    with Image.open(tmp_path / "found" / "0.png") as drawn:
        assert drawn.size == (80, 80)
    assert "4 pictures" in smixer(*words).out


def test_one_unreadable_picture_leaves_nothing_half_done(smixer, tmp_path: Path, model: Path):
    place = tmp_path / "in"
    place.mkdir()
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (64, 64)).save(place / name)
    (place / "z.png").write_bytes(b"no picture")
    words = ("detect", "predict", model, "--input", place, "--out", tmp_path / "found")
    assert "z.png" in smixer(*words, code=2).err
    assert not list((tmp_path / "found").iterdir())
    (place / "z.png").unlink()
    smixer(*words)
    assert sorted(p.name for p in (tmp_path / "found").iterdir()) == ["a.jpg.png", "a.png.png", "found.json"]


def test_a_film_gives_its_frames(smixer, tmp_path: Path, model: Path):
    frames = [Image.fromarray(np.full((40, 60, 3), 40 * i, np.uint8)) for i in range(1, 4)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    smixer("detect", "predict", model, "--input", tmp_path / "film.gif", "--out", tmp_path / "found")
    assert len(list((tmp_path / "found").glob("film-*.png"))) == 3


def test_val_takes_the_classes_of_the_model(smixer, tmp_path: Path, model: Path):
    pytest.importorskip("torchmetrics")
    data = rectangles(tmp_path / "data")
    found = json.loads(smixer("detect", "val", model, "--data", data, "--json").out)
    assert set(found["per_class"]) == {"blue"}
    (data / "data.yaml").write_text((data / "data.yaml").read_text().replace("blue", "green"))
    assert "unknown class 'blue'" in smixer("detect", "val", model, "--data", data, code=2).err


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_train_writes_a_model_that_val_and_predict_take(smixer, tmp_path: Path):
    data = rectangles(tmp_path / "data")
    words = ("--epochs", 1, "--img-size", 64, "--batch-size", 4, "--ps", 0.2, "--t", 1, "--device", "cpu")
    smixer("detect", "train", "spike-yolo-p-smixer", "--data", data, "--out", tmp_path / "run", *words)
    assert "mAP50" in smixer("detect", "val", tmp_path / "run", "--data", data).out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("predict", "MODEL", "--input", "none.png"), "there is no file none.png"),
        (("predict", "MODEL", "--input", "."), "no picture in ."),
        (("predict", "MODEL", "--input", "none.png", "--img-size", "100"), "Pass 128"),
        (("predict", "MODEL", "--input", "none.png", "--score", "2"), "outside [0, 1]"),
        (("predict", "MODEL", "--input", "none.png", "--ps", "1"), "ps"),
        (("predict", "spike-yolo-n-smixr", "--input", "none.png"), "Did you mean"),
        (("predict", "smixer-2-64-fmnist", "--input", "none.png"), "expected a detector"),
        (("val", "MODEL", "--data", "none"), "data.yaml"),
        (("train", "spike-yolo-p-smixer", "--data", "none"), "data.yaml"),
        (("train", "spike-yolo-p-smixer", "--data", "none", "--img-size", "100"), "Pass 128"),
        (("train", "spike-yolo-p-smixer", "--data", "none", "--epochs", "0"), "--epochs"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(smixer, monkeypatch, tmp_path: Path, model: Path, words, message):
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    error = smixer("detect", *(model if word == "MODEL" else word for word in words), code=2).err
    assert message in error
    assert error.count("\n") == 1
    assert not list(place.iterdir())
