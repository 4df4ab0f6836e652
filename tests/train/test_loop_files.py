"""Training on files: event frames that can be learned, pictures, and a stopped run that ends where a whole one does."""

from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from snntorch_smixer.errors import SettingError
from snntorch_smixer.extras import need
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.evaluate import evaluate
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.train.folders import image_folder
from snntorch_smixer.train.frames import FrameData, frame_folder
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe

pytestmark = [
    pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed"),
    pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed"),
]
FRAMES = Recipe(epochs=6, batch_size=8, lr=2e-2, crop_padding=0, flip=False, mixup=0.5, mix_prob=0.5, mix_off_epoch=4)


def gesture(draw: np.random.Generator, label: int, polarity: int) -> np.ndarray:
    """Events that move from left to right (0) or back (1): only the order of the steps tells them apart."""
    frames = draw.poisson(0.1, (4, 2, 8, 8)).astype(np.float32)
    for step in range(4):
        column = 2 * (3 - step if label else step)
        frames[step, polarity, :, column : column + 2] += 3
    return frames


@pytest.fixture
def data(tmp_path) -> FrameData:
    draw = np.random.default_rng(0)
    for split, label in product(("train", "test"), (0, 1)):
        folder = tmp_path / "data" / split / str(label)
        folder.mkdir(parents=True)
        for number in range(16 if split == "train" else 8):
            np.savez(folder / f"{number}.npz", frames=gesture(draw, label, number % 2))
    return frame_folder(tmp_path / "data", workers=0)


def network(seed: int = 0, steps: int = 4) -> SMixerNet:
    torch.manual_seed(seed)
    return SMixerNet(SMixerConfig((8, 8), 2, 2, steps, dim=16, depth=1, heads=2, threshold=0.5))


def test_frames_are_learned_and_a_seed_repeats_exactly(data, tmp_path):
    nets, logs = [network(), network()], []
    for number, net in enumerate(nets):
        logs.append(fit(net, FRAMES, data=data, out=tmp_path / str(number)))
    assert logs[0][-1]["test_accuracy"] > 0.8
    assert logs[0][-1]["loss"] < 0.8 * logs[0][0]["loss"]
    assert [record["loss"] for record in logs[0]] == [record["loss"] for record in logs[1]]
    assert all(map(torch.equal, nets[0].state_dict().values(), nets[1].state_dict().values()))
    found = evaluate(nets[0], data.test_batches())
    assert (found.count, found.top1) == (16, logs[0][-1]["test_accuracy"])


class Stop(Exception):
    pass


class StopAfter:
    """Forward pre-hook: stops the run at the given training step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def __call__(self, module: nn.Module, args: object) -> None:
        self.steps -= module.training
        if self.steps < 0:
            raise Stop


def test_a_stopped_run_ends_bit_for_bit_where_a_whole_one_does(data, tmp_path):
    recipe = Recipe(epochs=3, batch_size=8, flip=True, crop_padding=1, mixup=0.5, cutmix=0.5, mix_off_epoch=2)
    whole, first, second = network(), network(), network(seed=5)
    expected = fit(whole, recipe, data=data, out=tmp_path / "whole")
    hook = first.register_forward_pre_hook(StopAfter(6))
    with pytest.raises(Stop):
        fit(first, recipe, data=data, out=tmp_path / "stopped")
    hook.remove()
    torch.manual_seed(99)
    log = fit(second, recipe, data=data, out=tmp_path / "stopped")
    assert [record["loss"] for record in log] == [record["loss"] for record in expected]
    assert all(map(torch.equal, whole.state_dict().values(), second.state_dict().values()))


def test_accumulated_frames_are_split_along_the_batch(data, tmp_path):
    sizes = []
    net = network()
    net.register_forward_pre_hook(lambda module, args: sizes.append(tuple(args[0].shape[:2])))
    fit(net, Recipe(epochs=1, batch_size=8, accumulate=2, crop_padding=0), data=data, out=tmp_path / "run")
    assert sizes[:8] == [(4, 4)] * 8


def test_other_steps_than_the_nets_are_refused(data, tmp_path):
    with pytest.raises(SettingError) as caught:
        fit(network(steps=16), FRAMES, data=data, out=tmp_path / "run")
    assert str(caught.value) == (
        "check_fits: the data have T=4, SMixerNet was built with T=16. Build it with T=4, or integrate the events into "
        "as many frames as the net has steps."
    )


def test_pictures_are_trained_on_with_everything_on(tmp_path):
    image = need("PIL.Image", extra="vision")
    for split, name, grey in (("train", "a", 40), ("train", "b", 200), ("val", "a", 40), ("val", "b", 200)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(6):
            image.new("RGB", (12, 10), (grey, grey + number, grey)).save(tmp_path / split / name / f"{number}.png")
    recipe = Recipe(
        epochs=2, batch_size=4, randaugment_ops=2, mixup=0.8, cutmix=1.0, erasing=0.25, precision="bf16", lr=1e-2
    )
    torch.manual_seed(0)
    net = SMixerNet(SMixerConfig((8, 8), 3, 2, 1, dim=8, depth=1, heads=2, threshold=0.5))
    log = fit(net, recipe, data=image_folder(tmp_path, size=(8, 8), workers=0), out=tmp_path / "run")
    assert len(log) == 2
    assert all(0 < record["loss"] < 3 for record in log)
