"""FCOS on spiking maps: it learns, keeps the sizes of pictures, and its maps leave for ONNX."""

import math
import pickle
from pathlib import Path

import pytest
import torch
from PIL import Image

from snntorch_smixer import SMixerConfig, SMixerNet, dstsp
from snntorch_smixer.detect import (
    BoxData,
    BoxFolder,
    DetectorRecipe,
    FCOSMaps,
    SpikingBackbone,
    SpikingFCOSHead,
    SpikingPyramid,
    evaluate,
    export_onnx,
    fit_detector,
    spiking_fcos,
)
from snntorch_smixer.errors import CardError, MeasureError, SettingError

GREY = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def detector(**changes):
    """An untrained FCOS of three classes on a tiny SMixerNet."""
    config = SMixerConfig((64, 64), 3, 10, **{"T": 1, "dim": 32, "depth": 1, "heads": 4, **changes})
    return spiking_fcos(SpikingBackbone(SMixerNet(config), channels=32), 3, **GREY)


@pytest.fixture
def squares(tmp_path: Path) -> BoxData:
    """Four pictures with a red, green or blue square each."""
    for name in ("images", "labels"):
        (tmp_path / name / "train").mkdir(parents=True)
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nnames: [red, green, blue]\n")
    for i, (x, y, side) in enumerate([(35, 3, 25), (7, 1, 28), (23, 11, 31), (20, 1, 20)]):
        picture = Image.new("RGB", (64, 64), (110, 110, 110))
        picture.paste(tuple(255 * (c == i % 3) for c in range(3)), (x, y, x + side, y + side))
        picture.save(tmp_path / "images" / "train" / f"{i}.png")
        line = f"{i % 3} {(x + side / 2) / 64} {(y + side / 2) / 64} {side / 64} {side / 64}\n"
        (tmp_path / "labels" / "train" / f"{i}.txt").write_text(line)
    return BoxData(BoxFolder.read(tmp_path), "train", size=64)


STRIDES = {"strides": (1, 2, 2, 2, 1)}


def test_in_training_it_gives_the_three_losses_and_gradients_reach_the_first_layer():
    model = detector(**STRIDES)
    target = {"boxes": torch.tensor([[4.0, 4.0, 30.0, 30.0]]), "labels": torch.tensor([2])}
    losses = model([torch.rand(3, 64, 64), torch.rand(3, 64, 64)], [target, target])
    assert sorted(losses) == ["bbox_ctrness", "bbox_regression", "classification"]
    sum(losses.values()).backward()
    first = next(model.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


def test_a_picture_without_objects_is_learnt_as_background():
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long)}
    losses = detector(**STRIDES)([torch.rand(3, 64, 64)], [empty])
    assert losses["classification"] > 0
    assert losses["bbox_regression"] == 0


@pytest.mark.parametrize("training", [True, False])
def test_pictures_keep_their_size_and_are_padded_to_a_multiple_of_32(training):
    model = detector(**STRIDES).train(training)
    images, _ = model.transform([torch.rand(3, 64, 90), torch.rand(3, 50, 64)])
    assert images.tensors.shape == (2, 3, 64, 96)
    assert images.image_sizes == [(64, 90), (50, 64)]


def test_min_size_resizes_as_torchvision_does():
    backbone = SpikingPyramid("spike-yolo-n-smixer.yaml")
    model = spiking_fcos(backbone, 3, min_size=64).eval()
    images, _ = model.transform([torch.rand(3, 32, 48)])
    assert images.tensors.shape == (1, 3, 64, 96)


def test_anchors_lie_on_the_cells_of_the_maps():
    model = detector(**STRIDES).eval()
    images, _ = model.transform([torch.rand(3, 64, 96)])
    maps = list(model.backbone(images.tensors).values())
    (anchors,) = model.anchor_generator(images, maps)
    assert len(anchors) == 8 * 12 + 4 * 6 + 2 * 3
    assert torch.equal(anchors[1], anchors[0] + torch.tensor([8.0, 0, 8, 0]))
    assert torch.equal(anchors[-1] - anchors[-2], torch.tensor([32.0, 0, 32, 0]))


def test_each_map_may_have_steps_of_its_own():
    head = SpikingFCOSHead((8, 16), 3).eval()
    fine, coarse = torch.randn(3, 2, 8, 4, 4) * 3, torch.randn(1, 2, 16, 2, 2) * 3  # (T', B, C, H, W)
    out = head([one.transpose(0, 1).flatten(1, 2) for one in (fine, coarse)])
    assert [tuple(value.shape) for value in out.values()] == [(2, 20, 3), (2, 20, 4), (2, 20, 1)]
    assert torch.allclose(out["cls_logits"][:, 16:], scores(head, 1, coarse), atol=1e-6)
    assert torch.allclose(out["cls_logits"][:, :16], scores(head, 0, fine), atol=1e-6)


def scores(head: SpikingFCOSHead, i: int, x: torch.Tensor) -> torch.Tensor:
    """Values of one map, the mean over its steps taken here."""
    last = head.cls_logits[i]
    spikes = last.neuron(head.class_towers[i](x))
    each = torch.stack([torch.nn.functional.conv2d(one, last.weight, last.bias) for one in spikes])
    return each.mean(0).flatten(2).transpose(1, 2)


def test_pruning_is_the_backbones_and_can_be_changed():
    config = SMixerConfig((64, 64), 3, 10, T=2, dim=32, depth=1, heads=4, **STRIDES)
    backbone = SpikingBackbone(dstsp.wrap(SMixerNet(config), ps=0.5, t=1), channels=16)
    model = spiking_fcos(backbone, 3, **GREY).eval()
    assert model.backbone(torch.rand(1, 3, 64, 64))["p3"].shape == (1, 1 * 16, 8, 8)
    backbone.dstsp.t = 2
    assert model.backbone(torch.rand(1, 3, 64, 64))["p3"].shape == (1, 2 * 16, 8, 8)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(squares: BoxData, tmp_path: Path):
    recipe, out = DetectorRecipe(epochs=2, batch_size=2, lr=1e-3), tmp_path / "run"
    torch.manual_seed(3)
    model, again = detector(**STRIDES), detector(**STRIDES)
    again.load_state_dict(model.state_dict())
    state = pickle.dumps(model.state_dict())
    whole = fit_detector(model, squares, recipe)

    class Stop(Exception):
        pass

    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == 3:  # in the second epoch
            raise Stop

    handle = again.register_forward_hook(stop)
    with pytest.raises(Stop):
        fit_detector(again, squares, recipe, out=out)
    handle.remove()
    again.load_state_dict(pickle.loads(state))
    log = fit_detector(again, squares, recipe, out=out)
    assert [one["loss"] for one in log] == [one["loss"] for one in whole]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert len((out / "log.jsonl").read_text().splitlines()) == 2
    assert not list(out.glob("*.part"))


def test_another_recipe_model_or_damaged_state_is_refused(squares: BoxData, tmp_path: Path):
    recipe = DetectorRecipe(epochs=1)
    fit_detector(detector(**STRIDES), squares, recipe, out=tmp_path / "run")
    with pytest.raises(SettingError, match=r"holds a run with lr=0\.002, got 0\.1"):
        fit_detector(detector(**STRIDES), squares, DetectorRecipe(epochs=1, lr=0.1), out=tmp_path / "run")
    with pytest.raises(SettingError, match="of another model"):
        fit_detector(detector(dim=16, **STRIDES), squares, recipe, out=tmp_path / "run")
    (tmp_path / "run" / "state.pt").write_bytes(b"no state")
    with pytest.raises(CardError, match=r"state\.pt cannot be read"):
        fit_detector(detector(**STRIDES), squares, recipe, out=tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(squares: BoxData, tmp_path: Path):
    model = detector(**STRIDES)
    torch.nn.init.constant_(model.head.cls_logits[0].bias, math.nan)
    with pytest.raises(MeasureError, match="the loss is nan in epoch 0"):
        fit_detector(model, squares, DetectorRecipe(epochs=1), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [{"epochs": 0}, {"lr": -1.0}, {"frozen": 1.5}, {"seed": -1}, {"warmup": True}])
def test_a_recipe_out_of_range_is_refused(wrong):
    with pytest.raises(SettingError, match=f"DetectorRecipe: {next(iter(wrong))}="):
        DetectorRecipe(**wrong)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_classes": 0}, "num_classes=0"),
        ({"mean": (0.5,)}, "for pictures of 3 channels"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"min_size": -1}, "min_size=-1"),
    ],
)
def test_settings_out_of_range_are_refused(wrong, message):
    with pytest.raises(SettingError, match=message):
        spiking_fcos(SpikingPyramid("spike-yolo-n-smixer.yaml"), **{"num_classes": 3, **wrong})


@pytest.mark.slow
def test_four_pictures_are_learnt_by_heart(squares: BoxData):
    model = detector(**STRIDES)
    log = fit_detector(model, squares, DetectorRecipe(epochs=80, lr=4e-3))
    assert log[-1]["loss"] < log[0]["loss"] / 2
    assert evaluate(model, squares).map50 > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's exporter warns of itself
@pytest.mark.parametrize("ps", [None, 0.25])
def test_the_maps_of_onnx_agree_with_torch(ps, tmp_path: Path):
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    net = SMixerNet(SMixerConfig((64, 64), 3, 10, T=2, dim=32, depth=1, heads=4, **STRIDES))
    net = net if ps is None else dstsp.wrap(net, ps=ps, t=1)
    maps = FCOSMaps(spiking_fcos(SpikingBackbone(net, channels=16), 3)).eval()
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = maps(x)
    export_onnx(maps, x, tmp_path / "maps.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "maps.onnx")
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    for one, other in zip(got, wanted, strict=True):
        # A convolution that adds up in another order may move a spike over a threshold; a few cells may differ.
        same = torch.isclose(torch.from_numpy(one), other, atol=1e-4).float().mean()
        assert same > 0.98, f"{1 - same:.1%} of the values differ"
