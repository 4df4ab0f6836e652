"""The detector that needs no ultralytics: boxes, sizes, saving, bad input."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from snntorch_smixer import create_model, from_pretrained, list_models
from snntorch_smixer.detect import BoxData, BoxFolder, DetectorConfig, SpikingDetector, SpikingPyramid, draw_boxes
from snntorch_smixer.detect.data import letterbox, open_picture
from snntorch_smixer.detect.draw import dropped_tokens
from snntorch_smixer.detect.head import SpikingHead, detections
from snntorch_smixer.detect.rows import read_config, strides_of
from snntorch_smixer.errors import CardError, LayoutError, SettingError
from tests.detect.made import rectangles


def lively(net: nn.Module) -> nn.Module:
    """BatchNorm that lets an untrained net fire in its deeper layers."""
    draw = torch.Generator().manual_seed(0)
    for module in net.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.fill_(0.05)
            module.bias.data.normal_(std=0.3, generator=draw)
    return net.eval()


def detector(**changes: object) -> SpikingDetector:
    torch.manual_seed(0)
    small = {"img_size": (64, 64), "grid": (2, 2), "num_classes": 3, "width_scale": 0.125}
    return lively(SpikingDetector(DetectorConfig(**{**small, **changes})))


def test_strides_are_those_of_the_maps():
    pyramid = SpikingPyramid("spike-yolo-p-smixer.yaml").eval()
    maps = pyramid(torch.rand(1, 3, 64, 96))
    assert [tuple(one.shape[3:]) for one in maps] == [(64 // s, 96 // s) for s in pyramid.strides]
    assert strides_of(pyramid.rows)[-1] == 8


def test_a_box_is_decoded_from_the_middle_of_its_cell():
    head = SpikingHead((8,), 2, strides=(8,), bins=4)
    raw = torch.full((1, 16, 6), -50.0)  # 2 x 3 cells
    for side, distance in enumerate((1, 0, 2, 3)):
        raw[0, 4 * side + distance] = 50.0
    out = head.decode(raw, torch.zeros(1, 2, 6), [(2, 3)])
    x, y = 2.5, 1.5  # of the last cell
    wanted = torch.tensor([x - 1, y - 0, x + 2, y + 3]) * 8
    torch.testing.assert_close(out[0, :4, 5], wanted)
    assert out[0, 4:].unique().tolist() == [0.5]


def test_overlapping_boxes_of_one_class_are_one():
    decoded = torch.tensor([[[0, 0, 10, 10], [1, 0, 10, 10], [1, 0, 10, 10], [50, 50, 60, 60]]]).float().transpose(1, 2)
    scores = torch.tensor([[[0.9, 0.8, 0.1, 0.7], [0.0, 0.0, 0.85, 0.0]]])
    found = detections(torch.cat([decoded, scores], 1))[0]
    assert found["labels"].tolist() == [0, 1, 0]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.85, 0.7]))


@pytest.mark.parametrize("prune", [None, (0.2, 1)])
def test_any_multiple_of_32_is_taken_and_a_sample_alone_is_the_same(prune):
    net = detector()
    if prune:
        net.dstsp.ps, net.dstsp.t = prune
    for size in ((64, 64), (96, 64), (32, 128)):
        x = torch.rand(2, 3, *size)
        with torch.no_grad():
            both = net.decoded(x)
            torch.testing.assert_close(net.decoded(x[1:]), both[1:], atol=1e-4, rtol=1e-4)
        assert both.shape == (2, 7, sum((size[0] // s) * (size[1] // s) for s in (8, 16, 32)))


def test_other_sizes_are_refused_with_the_next_one():
    with pytest.raises(LayoutError, match="50 to 64"):
        detector()(torch.rand(1, 3, 64, 50))


def test_gradients_reach_every_weight_dense_and_pruned():
    for ps, t in ((0.0, None), (0.2, 1)):
        net = detector().train()
        net.dstsp.ps, net.dstsp.t = ps, t
        sum(one.square().mean() for one in net.raw(torch.rand(2, 3, 64, 64))).backward()
        silent = [name for name, p in net.named_parameters() if p.grad is None]
        assert silent == []


def test_saved_and_loaded_with_its_yaml(tmp_path: Path):
    net = detector()
    net.dstsp.ps, net.dstsp.t = 0.2, 1
    net.save_pretrained(tmp_path / "mine")
    back, x = from_pretrained(tmp_path / "mine"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(back.decoded(x), net.decoded(x))
    assert (back.dstsp.ps, back.dstsp.t) == (0.2, 1)
    table = read_config(tmp_path / "mine" / "detector.yaml")
    assert (table["ps"], table["t"], table["nc"]) == (0.2, 1, 3)
    SpikingPyramid(table).load_state_dict(net.pyramid.state_dict())
    assert "object-detection" in (tmp_path / "mine" / "README.md").read_text()
    fresh = from_pretrained(tmp_path / "mine", num_classes=5)
    assert fresh.config.num_classes == 5
    assert torch.equal(fresh.head.cv2[0][0].linear.weight, net.head.cv2[0][0].linear.weight)


def test_named_detectors():
    names = list_models("spike-yolo-*")
    assert {"spike-yolo-n-smixer", "spike-yolo-n-smixer-dstsp", "spike-yolo-l-conv"} <= set(names)
    net = create_model("spike-yolo-p-smixer-dstsp", num_classes=2)
    assert (net.dstsp.ps, net.dstsp.t, net.config.num_classes) == (0.2, 1, 2)
    with pytest.raises(CardError, match="spike-yolo-n-smixer"):
        create_model("spike-yolo-n-smixr")


def test_predict_gives_boxes_in_the_pixels_of_the_picture():
    net = detector()
    tall = np.zeros((150, 70, 3), np.uint8)
    found = net.predict([tall, Image.fromarray(tall), torch.zeros(3, 150, 70)], score=0.0)
    assert torch.equal(found[0]["boxes"], found[1]["boxes"])
    assert len(found[0]["boxes"]) > 0
    assert found[0]["boxes"].min() >= 0
    assert (found[0]["boxes"].max(0).values <= torch.tensor([70.0, 150, 70, 150])).all()
    assert not net.training
    with pytest.raises(SettingError, match="multiple of 32"):
        net.predict([tall], size=100)
    with pytest.raises(CardError, match="float64"):
        net.predict([np.zeros((4, 4, 3))])


def test_letterbox_there_and_back():
    picture, boxes = torch.rand(3, 40, 100), torch.tensor([[10.0, 5, 60, 30]])
    boxed, how = letterbox(picture, 64)
    assert boxed.shape == (3, 64, 64)
    torch.testing.assert_close(how.back(how.there(boxes)), boxes)
    assert letterbox(picture, 64, square=False)[0].shape == (3, 32, 64)


def test_dropped_tokens_are_dimmed_on_the_picture():
    net = detector(grid=(4, 4))
    with pytest.raises(SettingError, match="drops no tokens"):
        dropped_tokens(net, torch.rand(3, 128, 96), size=128)
    net.dstsp.ps = 0.25
    mask = dropped_tokens(net, torch.rand(3, 128, 96), size=128)
    assert mask.shape == (128, 96)
    assert mask.mean() == 0.25
    none = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0).long()}
    drawn = np.asarray(draw_boxes(torch.zeros(3, 128, 96), none, dropped=mask))
    assert ((drawn > 0).all(2) == mask).all()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("2 0.5 0.5 0.2 0.2", "class 2 is outside 0..1"),
        ("0 0.9 0.5 0.4 0.2", "reaches outside"),
        ("0 0.5 0.5 0 0.2", "empty"),
        ("0 0.5 0.5 0.2", "is no box"),
        ("0 nan 0.5 0.2 0.2", "is no box"),
        ("cat 0.5 0.5 0.2 0.2", "is no box"),
    ],
)
def test_a_wrong_label_is_named_with_its_line(tmp_path: Path, line: str, words: str):
    data = rectangles(tmp_path)
    file = data / "labels" / "val" / "1.txt"
    file.write_text(f"0 0.5 0.5 0.1 0.1\n{line}\n")
    with pytest.raises(CardError, match=words) as caught:
        BoxFolder.read(data).check()
    assert f"{file}, line 2" in str(caught.value)


def test_a_data_set_without_labels_pictures_or_table_is_refused(tmp_path: Path):
    with pytest.raises(CardError, match=r"data\.yaml"):
        BoxFolder.read(tmp_path)
    data = rectangles(tmp_path / "a")
    for file in (data / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(CardError, match="have no box"):
        BoxFolder.read(data).check()
    for file in (data / "images" / "val").iterdir():
        file.unlink()
    with pytest.raises(CardError, match="no picture"):
        BoxFolder.read(data).check(("val",))
    with pytest.raises(CardError, match="no 'test'"):
        BoxFolder.read(data).pictures("test")
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnc: 7\nnames: [a, b]\n")
    with pytest.raises(CardError, match="nc: 7"):
        BoxFolder.read(data)
    (data / "data.yaml").write_text("train: images/train\nnames: [red, blue]\n")
    with pytest.raises(CardError, match="no 'val'"):
        BoxFolder.read(data).check(("val",))
    (data / "data.yaml").write_text("train: images/train\n")
    with pytest.raises(CardError, match="no names"):
        BoxFolder.read(data)


def test_data_are_letterboxed_with_their_boxes(tmp_path: Path):
    picture, target = BoxData(BoxFolder.read(rectangles(tmp_path)), "train", size=96)[0]
    assert picture.shape == (3, 96, 96)
    left, top, right, bottom = target["boxes"][1].int().tolist()  # blue, drawn last
    inside = picture[:, top + 2 : bottom - 2, left + 2 : right - 2].mean((1, 2))
    torch.testing.assert_close(inside, torch.tensor([40.0, 60, 220]) / 255, atol=0.02, rtol=0)
    with pytest.raises(CardError, match="multiple of 32"):
        BoxData(BoxFolder.read(tmp_path), "train", size=100)


def test_turned_and_deep_pictures(tmp_path: Path):
    pixels = np.zeros((20, 10, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    assert open_picture(tmp_path / "a.jpg").shape == (3, 10, 20)
    Image.fromarray(np.full((4, 4), 65535, np.uint16)).save(tmp_path / "b.png")
    assert open_picture(tmp_path / "b.png").unique().tolist() == [1.0]


def test_wrong_rows_are_named():
    table = read_config("spike-yolo-p-smixer.yaml")
    for row, words in (
        ([-1, 1, "SpikngConv", [64]], "row 5.*SpikingConv"),
        ([-1, 1, "SpikingConvBlock", [512]], "row 5.*keeps its channels"),
        ([99, 1, "Upsample", []], "row 5.*no layer 99"),
        ([-1, 1, "SpikingConv"], "row 5.*four parts"),
    ):
        rows = [*table["backbone"][:5], row, *table["backbone"][6:]]
        with pytest.raises(SettingError, match=words):
            SpikingPyramid({**table, "backbone": rows})
    with pytest.raises(SettingError, match="Did you mean 'levels'"):
        SpikingPyramid({**table, "level": 3})
    bare = [["nothing", 1, "Upsample", []] if row[2] == "PruneSteps" else row for row in table["backbone"]]
    bare = [[-1, 1, "SpikingConvBlock", [128]] if row[0] == "nothing" else row for row in bare]
    with pytest.raises(SettingError, match="no row PruneSteps"):
        SpikingPyramid({**table, "backbone": bare, "ps": 0.2})
    with pytest.raises(SettingError, match="scale"):
        SpikingPyramid({**table, "scale": "q"})
    with pytest.raises(SettingError, match="shipped"):
        DetectorConfig.of_table({**table, "backbone": table["backbone"][:3]})


def test_a_configuration_is_what_its_table_says():
    config = DetectorConfig(num_classes=7, T=3, levels=2, grid=(4, 5), kind="conv")
    assert DetectorConfig.of_table(config.table()).table() == config.table()
    assert DetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    yaml.safe_dump(config.table())
    with pytest.raises(SettingError, match="multiples of 32"):
        DetectorConfig(img_size=(100, 100))
