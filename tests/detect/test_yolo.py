"""Detectors through ultralytics: training, reloading, what it changes for the process, bad input."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from snntorch_smixer.detect import contain, from_ultralytics
from snntorch_smixer.errors import CardError, MissingExtra, SettingError
from tests.detect.made import rectangles

try:
    from snntorch_smixer.detect import yolo
except MissingExtra as missing:
    pytest.skip(str(missing), allow_module_level=True)

P = "spike-yolo-p-smixer.yaml"
QUICK = {"imgsz": 64, "batch": 4, "workers": 0, "device": "cpu", "plots": False, "optimizer": "AdamW"}


def lively(model: torch.nn.Module) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.running_var.fill_(0.05)
            module.bias.data.normal_(std=0.3, generator=draw)
    return model.eval()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder of a short training with pruning, and its data."""
    root = tmp_path_factory.mktemp("yolo")
    data = rectangles(root / "data")
    model = yolo.SpikeYOLO(P)
    model.train(data=str(data / "data.yaml"), epochs=1, ps=0.25, t=1, project=str(root), name="run", **QUICK)
    return root / "run", data


def test_a_short_training_writes_what_reloads_with_its_pruning(trained):
    run, data = trained
    for kind in (yolo.SpikeYOLO, yolo.YOLO):
        model = kind(str(run / "weights" / "last.pt"))
        assert isinstance(model.model, yolo.SpikeDetectionModel)
        assert (model.model.dstsp.ps, model.model.dstsp.t) == (0.25, 1)
        assert model.model.yaml["grid"] == [2, 2]
        assert len(model.predict(str(data / "images" / "val" / "0.png"), imgsz=64, verbose=False)) == 1
    result = yolo.SpikeYOLO(run / "weights" / "last.pt").val(
        data=str(data / "data.yaml"), **{**QUICK, "optimizer": "auto"}
    )
    assert 0 <= result.box.map50 <= 1


def test_the_trained_net_is_the_detector_that_needs_no_ultralytics(trained):
    run, _ = trained
    model = yolo.SpikeYOLO(run / "weights" / "last.pt")
    lively(model.model.float())
    net = yolo.detector_of(model)
    assert net.card.classes == ("red", "blue")
    assert net.card.license == "AGPL-3.0"
    x = torch.rand(2, 3, 64, 96)
    for ps, t in ((0.25, 1), (0.0, None)):
        for one in (model.model, net):
            one.dstsp.ps, one.dstsp.t = ps, t
        with torch.no_grad():
            theirs, ours = model.model(x)[0], net.decoded(x)
        middle, size = theirs[:, :2], theirs[:, 2:4]
        corners = torch.cat([middle - size / 2, middle + size / 2], 1)
        torch.testing.assert_close(ours[:, :4], corners, atol=1e-3, rtol=1e-4)
        torch.testing.assert_close(ours[:, 4:], theirs[:, 4:], atol=1e-6, rtol=1e-4)
        assert ours[:, 4:].std() > 0


def test_copies_share_one_pruning_of_their_own():
    model = yolo.SpikeDetectionModel(P)
    twin = copy.deepcopy(model)
    twin.dstsp.ps = 0.5
    assert model.dstsp.ps == 0.0
    assert {id(m) for m in twin.modules() if isinstance(m, yolo.GridDSTSP)} == {id(twin.dstsp)}


def test_register_serves_plain_yolo_and_leaves_other_models_alone():
    from snntorch_smixer.detect import config_path

    plain = yolo.YOLO("yolov8n.yaml")
    before = [tuple(p.shape) for p in plain.model.parameters()]
    yolo.register()
    yolo.register()
    try:
        again = yolo.YOLO("yolov8n.yaml")
        assert [tuple(p.shape) for p in again.model.parameters()] == before
        ours = yolo.YOLO(str(config_path("spike-yolo-smixer.yaml")))
        assert isinstance(ours.model.model[-1], yolo.SpikeDetect)
    finally:
        yolo.unregister()
    with pytest.raises(KeyError):
        yolo.YOLO(str(config_path("spike-yolo-smixer.yaml")))


def test_no_operations_are_printed_that_nobody_counted(capsys):
    model = yolo.SpikeDetectionModel(P)
    parameters = sum(p.numel() for p in model.parameters())
    assert model.info(verbose=False)[1] == parameters
    assert model.fuse() is model


_CHILD = """
import os, sys, numpy, torch, cv2, PIL.Image
torch.set_num_threads(2)
environment, read, save, opened = dict(os.environ), cv2.imread, torch.save, PIL.Image.open
printing, opencv = str(torch.tensor([0.123456789])), cv2.getNumThreads()
import snntorch_smixer, snntorch_smixer.detect
assert "ultralytics" not in sys.modules
from snntorch_smixer.detect import SpikeYOLO
model = SpikeYOLO("spike-yolo-p-smixer.yaml")
model.predict(numpy.zeros((64, 64, 3), "uint8"), imgsz=64, verbose=False, device="cpu")
assert torch.get_num_threads() == 2, torch.get_num_threads()
assert dict(os.environ) == environment, set(os.environ.items()) ^ set(environment.items())
assert cv2.imread is read and torch.save is save and PIL.Image.open is opened and cv2.getNumThreads() == opencv
assert str(torch.tensor([0.123456789])) == printing and "linewidth" in numpy.get_printoptions()
assert numpy.get_printoptions()["linewidth"] == 75
assert not torch.are_deterministic_algorithms_enabled()
assert not [p for p in os.listdir() if p != "home"], os.listdir()
"""


def test_the_process_is_as_before(tmp_path: Path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith("YOLO")} | {"OMP_NUM_THREADS": "2"}
    clean |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(Path(contain.__file__).parents[2])}
    (tmp_path / "home").mkdir()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHILD], cwd=tmp_path, env=clean, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "home").rglob("*ltralytics*"))


@pytest.mark.parametrize(
    ("version", "words"), [(None, r"detect\]"), ("8.3.9", "8.4"), ("8.5.0", "8.4"), ("9.0", "8.4")]
)
def test_a_missing_or_unknown_ultralytics_is_named(monkeypatch, version, words):
    monkeypatch.setattr(contain, "_version", lambda: version)
    with pytest.raises(MissingExtra, match=words):
        contain.check_installed()


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path):
    model, data = yolo.SpikeYOLO(P), rectangles(tmp_path / "data")
    (data / "labels" / "train" / "0.txt").write_text("5 0.5 0.5 0.1 0.1\n")
    runs = tmp_path / "runs"
    for words, kind, asked in (
        ("class 5", CardError, {}),
        ("multiple of 32", SettingError, {"imgsz": 100}),
        ("multiple of 32", SettingError, {"imgsz": 0}),
        ("multiple of 32", SettingError, {"imgsz": "64"}),
        ("outside", SettingError, {"t": 5}),
        ("share", SettingError, {"ps": 1.5}),
        (r"data\.yaml", CardError, {"data": str(tmp_path / "none.yaml")}),
    ):
        with pytest.raises(kind, match=words):
            model.train(**{"data": str(data / "data.yaml"), "epochs": 1, "project": str(runs), **QUICK, **asked})
    assert not runs.exists()
    assert (model.dstsp.ps, model.dstsp.t) == (0.0, None)
    (data / "labels" / "train" / "0.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    overrides = dict(model.overrides)
    with pytest.raises(SyntaxError, match="epochz"):
        model.train(data=str(data / "data.yaml"), ps=0.25, epochz=3, **QUICK)
    assert (model.dstsp.ps, model.overrides) == (0.0, overrides)
    with pytest.raises(SettingError, match="imgsz=64"):
        model.model(torch.zeros(1, 3, 64, 40))
    with pytest.raises(SettingError, match="spike-yolo-n-smixer"):
        yolo.SpikeYOLO("spike-yolo-n-smixr.yaml")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore::UserWarning")
def test_onnx_agrees(monkeypatch, tmp_path: Path):
    runtime = pytest.importorskip("onnxruntime")
    model = yolo.SpikeYOLO(P)
    lively(model.model)
    monkeypatch.chdir(tmp_path)
    file = model.export(format="onnx", imgsz=64)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        wanted = model.model.eval()(x)[0].numpy()
    session = runtime.InferenceSession(file)
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    far = np.abs(found - wanted) > 1e-3  # a membrane that rounds the other way moves a box
    assert far.mean() < 0.02, (far.sum(), far.size, np.abs(found - wanted).max())
    model.dstsp.t = 1
    with pytest.raises(SettingError, match="cannot be exported"):
        model.export(format="onnx", imgsz=64)


def test_weights_of_another_table_are_refused():
    state = yolo.SpikeDetectionModel(P).state_dict()
    with pytest.raises(SettingError, match="in weights or in table only"):
        from_ultralytics(state, yolo.read_config("spike-yolo-p-conv.yaml"))
