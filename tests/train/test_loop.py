"""Training on a handful of tiny images: what is recorded, and that a stopped run ends where a whole one does."""

import copy
import dataclasses
import functools
import json
import math
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from snntorch_smixer.errors import MissingExtra, SettingError
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.evaluate import accuracy
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.train.augment import mix
from snntorch_smixer.train.data import ImageData
from snntorch_smixer.train.loop import _groups, fit, learning_rate
from snntorch_smixer.train.recipe import Recipe

needs_accelerate = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
needs_vision = pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
TWO_EPOCHS = Recipe(epochs=2, batch_size=16, crop_padding=1)


@pytest.fixture
def data() -> ImageData:
    def split(number: int) -> tuple[Tensor, Tensor]:
        return torch.randint(256, (number, 1, 8, 8), dtype=torch.uint8), torch.arange(number) % 4

    return ImageData(split(64), split(20), (0.5,), (0.29,), ("a", "b", "c", "d"))


def network(seed: int = 0) -> SMixerNet:
    torch.manual_seed(seed)
    return SMixerNet(SMixerConfig((8, 8), 1, 4, 2, dim=8, depth=1, heads=2, threshold=0.5, prune=DSTSPConfig()))


def classifier() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))


def lines(out) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


@needs_accelerate
def test_two_epochs(data, tmp_path):
    net = network()
    before = copy.deepcopy(net.state_dict())
    log = fit(net, TWO_EPOCHS, data=data, out=tmp_path / "run")
    assert [record["epoch"] for record in log] == [1, 2]
    assert lines(tmp_path / "run") == log
    keys = ["epoch", "loss", "test_accuracy", "lr", "seconds", "memory", "tier"]
    assert all([*record] == keys for record in log)
    assert {(record["memory"], record["tier"]) for record in log} == {("fused", "eager")}
    assert all(0.5 < record["loss"] < 3 and record["seconds"] >= 0 for record in log)
    assert log[-1]["lr"] == pytest.approx(TWO_EPOCHS.min_lr)
    assert log[-1]["test_accuracy"] == accuracy(net, data.normalise(data.test[0]), data.test[1])
    assert all(not torch.equal(p, before[name]) for name, p in net.named_parameters())


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


@needs_accelerate
@pytest.mark.parametrize("done", [2, 4, 7, 11])
def test_a_stopped_run_ends_bit_for_bit_where_a_whole_one_does(data, tmp_path, done):
    recipe = Recipe(epochs=3, batch_size=16, crop_padding=1)
    whole, first, second = network(), network(), network(seed=done)
    expected = fit(whole, recipe, data=data, out=tmp_path / "whole")
    hook = first.register_forward_pre_hook(StopAfter(done))
    with pytest.raises(Stop):
        fit(first, recipe, data=data, out=tmp_path / "stopped")
    hook.remove()
    finished = done // 4
    if finished:
        assert [record["epoch"] for record in lines(tmp_path / "stopped")] == [1, 2][:finished]
    else:
        assert list((tmp_path / "stopped").iterdir()) == []
        second = network()  # nothing was kept, so the run begins again
    torch.manual_seed(99)
    log = fit(second, recipe, data=data, out=tmp_path / "stopped")
    for record in (*log, *expected):
        record.pop("seconds")
    assert log == expected
    assert [record["epoch"] for record in lines(tmp_path / "stopped")] == [1, 2, 3]
    state = whole.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in second.state_dict().items())


@needs_accelerate
def test_a_run_of_another_recipe_is_not_continued(data, tmp_path):
    fit(network(), Recipe(epochs=1, batch_size=16), data=data, out=tmp_path)
    net = network()
    before = {name: p.clone() for name, p in net.named_parameters()}
    with pytest.raises(SettingError) as caught:
        fit(net, Recipe(epochs=1, batch_size=16, seed=7), data=data, out=tmp_path)
    assert str(caught.value) == (
        f"fit: {tmp_path} holds a run with seed=0, got seed=7. Pass another folder, or delete this one to start again."
    )
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


@needs_accelerate
def test_a_stop_while_saving_keeps_the_last_state(data, tmp_path):
    recipe, net = Recipe(epochs=2, batch_size=16), network()
    net.register_forward_pre_hook(StopAfter(5))
    with pytest.raises(Stop):
        fit(net, recipe, data=data, out=tmp_path)
    (tmp_path / "state").rename(tmp_path / "state.old")
    (tmp_path / "state.new").mkdir()
    log = fit(network(), recipe, data=data, out=tmp_path)
    assert [record["epoch"] for record in log] == [1, 2]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.jsonl", "state"]


@needs_accelerate
def test_a_finished_run_is_only_loaded(data, tmp_path):
    net, other = network(), network(seed=1)
    log = fit(net, TWO_EPOCHS, data=data, out=tmp_path)
    other.register_forward_pre_hook(StopAfter(0))
    assert fit(other, TWO_EPOCHS, data=data, out=tmp_path) == log
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in other.state_dict().items())


@needs_accelerate
def test_the_seed_decides_order_and_augmentation(data, tmp_path):
    weights = []
    for number, seed in enumerate((5, 5, 6)):
        net = network()
        torch.manual_seed(number)
        fit(net, Recipe(epochs=1, batch_size=16, seed=seed), data=data, out=tmp_path / str(number))
        weights.append(net.head.linear.weight.detach())
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@needs_accelerate
@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(data, tmp_path, precision, dtype):
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    net = network().eval()  # training is turned on by the loop
    net.head.register_forward_hook(lambda head, args, logits: seen[head.training].add(logits.dtype))
    log = fit(net, Recipe(epochs=2, batch_size=16, precision=precision), data=data, out=tmp_path)
    assert seen == {True: {dtype}, False: {torch.float32}}
    assert all(math.isfinite(record["loss"]) for record in log)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())


@needs_accelerate
def test_the_loss_is_the_mean_over_images_not_over_batches(data, tmp_path):
    net = classifier()
    still = Recipe(epochs=1, batch_size=60, lr=1e-12, min_lr=1e-13, label_smoothing=0.3, crop_padding=0, flip=False)
    [record] = fit(net, still, data=data, out=tmp_path)  # batches of 60 and 4
    expected = F.cross_entropy(net(data.normalise(data.train[0])), data.train[1], label_smoothing=0.3)
    assert record["loss"] == pytest.approx(expected.item(), abs=1e-4)


@needs_accelerate
def test_it_learns_what_can_be_learned(data, tmp_path):
    for pixels, labels in (data.train, data.test):
        pixels[:, :, :6] = (labels * 80).view(-1, 1, 1, 1)
    net = network()
    recipe = Recipe(epochs=10, batch_size=16, lr=2e-2, crop_padding=0, label_smoothing=0.0)
    log = fit(net, recipe, data=data, out=tmp_path)
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    assert log[-1]["test_accuracy"] > 0.45


@needs_accelerate
def test_a_run_of_an_older_release_goes_on(data, tmp_path):
    fit(network(), TWO_EPOCHS, data=data, out=tmp_path)
    path = tmp_path / "state" / "recipe.json"
    old = {name: value for name, value in json.loads(path.read_text()).items() if name not in ("mixup", "accumulate")}
    path.write_text(json.dumps(old))
    assert len(fit(network(), TWO_EPOCHS, data=data, out=tmp_path)) == 2
    with pytest.raises(SettingError, match="holds a run with accumulate=1, got accumulate=2"):
        fit(network(), dataclasses.replace(TWO_EPOCHS, accumulate=2), data=data, out=tmp_path)


@needs_accelerate
@pytest.mark.parametrize("parts", [2, 3, 16])
def test_accumulated_parts_are_one_step(data, tmp_path, parts):
    whole, split = classifier(), classifier()
    split.load_state_dict(whole.state_dict())
    recipe = Recipe(epochs=1, batch_size=16)
    first = fit(whole, recipe, data=data, out=tmp_path / "whole")
    second = fit(split, dataclasses.replace(recipe, accumulate=parts), data=data, out=tmp_path / "parts")
    torch.testing.assert_close(split[1].weight, whole[1].weight)
    assert second[0]["loss"] == pytest.approx(first[0]["loss"], abs=2e-4)


@needs_accelerate
def test_the_cool_down_is_trained_and_recorded(data, tmp_path):
    log = fit(network(), Recipe(epochs=1, warmup_epochs=0, cooldown_epochs=2, batch_size=32), data=data, out=tmp_path)
    assert [record["lr"] for record in log] == pytest.approx([1e-5] * 3)
    assert [record["epoch"] for record in log] == [1, 2, 3]


class NotesRange(nn.Module):
    """A classifier of images all of one of two values: notes in which training batches others are seen."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 4)
        self.mixed: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.mixed.append(len(x.unique()) > 2)
        return self.linear(x.flatten(1))


@needs_accelerate
@needs_vision
def test_mixing_stops_after_its_epochs(data, tmp_path):
    data.train[0][:] = (data.train[1] % 2 * 255).view(-1, 1, 1, 1)
    net, recipe = NotesRange(), Recipe(epochs=3, batch_size=32, mixup=1.0, mix_off_epoch=2, crop_padding=0)
    log = fit(net, recipe, data=data, out=tmp_path)
    assert net.mixed == [True] * 4 + [False] * 2
    assert all(math.isfinite(record["loss"]) for record in log)


@needs_accelerate
@needs_vision
def test_the_loss_of_mixed_labels_by_hand(data, tmp_path):
    net = classifier()
    recipe = Recipe(epochs=1, batch_size=64, lr=1e-12, min_lr=0, label_smoothing=0.2, mixup=1.0, crop_padding=0)
    torch.manual_seed(recipe.seed)
    [(images, labels)] = data.train_batches(recipe)
    mixed, shares = mix(images, labels, recipe, classes=4)
    expected = -((0.8 * shares + 0.2 / 4) * net(mixed).log_softmax(1)).sum(1).mean()
    [record] = fit(net, recipe, data=data, out=tmp_path)
    assert record["loss"] == pytest.approx(expected.item(), abs=1e-4)


@needs_accelerate
def test_data_for_another_net_are_refused_before_anything_is_written(data, tmp_path):
    other = ImageData((data.train[0][..., :4], data.train[1]), data.test, data.mean, data.std, data.classes)
    with pytest.raises(SettingError, match=r"the data have img_size=\(8, 4\), SMixerNet was built with"):
        fit(network(), TWO_EPOCHS, data=other, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_accelerate_the_extra_is_named(data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(MissingExtra, match=r"snntorch-smixer\[train\]"):
        fit(classifier(), TWO_EPOCHS, data=data, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_warm_up_and_cosine_by_hand():
    recipe = Recipe(epochs=5, lr=1.0, min_lr=0.2, warmup_epochs=0.5)
    schedule = functools.partial(learning_rate, recipe, steps_per_epoch=4)
    # 2 of 20 steps of warm-up from 0.2; then 0.2 + 0.8 * (1 + cos) / 2 over 18 steps
    assert [schedule(step) for step in (0, 1, 2)] == pytest.approx([0.2, 0.6, 1.0])
    assert schedule(11) == pytest.approx(0.6)
    assert schedule(8) == pytest.approx(0.2 + 0.8 * 0.75)
    assert schedule(20) == pytest.approx(0.2)
    assert schedule(25) == pytest.approx(0.2), "it does not rise again"


def test_a_warm_up_of_its_own_and_the_cool_down():
    recipe = Recipe(epochs=3, cooldown_epochs=2, lr=1.0, min_lr=0.2, warmup_lr=0.5, warmup_epochs=1)
    schedule = functools.partial(learning_rate, recipe, steps_per_epoch=4)
    assert [schedule(step) for step in (0, 1, 2, 4)] == pytest.approx([0.5, 0.625, 0.75, 1.0])
    assert schedule(8) == pytest.approx(0.6)
    assert [schedule(step) for step in (12, 16, 20)] == pytest.approx([0.2, 0.2, 0.2])


def test_weight_decay_is_for_weights_with_two_or_more_axes():
    net = network()
    decayed, free = _groups(net, Recipe(weight_decay=0.5))
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.5, 0.0)
    names = {p: name for name, p in net.named_parameters()}
    assert {names[p] for p in free["params"]} == {n for n in names.values() if ".norm." in n or n.endswith(".bias")}
    assert len(decayed["params"]) + len(free["params"]) == len(names)
    assert net.blocks[0].mixer.w_m.weight in set(decayed["params"])
