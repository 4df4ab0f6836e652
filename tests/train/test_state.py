"""The folder of a run: what it may be continued with, damage, kills, and two runs at once."""

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from snntorch_smixer.errors import CardError, MeasureError, SettingError
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.train import lock, loop, state
from snntorch_smixer.train.data import ImageData
from snntorch_smixer.train.loop import fit
from snntorch_smixer.train.recipe import Recipe

fcntl = pytest.importorskip("fcntl")
pytestmark = pytest.mark.skipif(find_spec("accelerate") is None, reason="accelerate is not installed")
RECIPE = Recipe(epochs=3, batch_size=8, crop_padding=1)


def images(seed: int = 0, count: int = 16) -> ImageData:
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 1, 6, 6), dtype=torch.uint8, generator=draw)
    return ImageData(
        (pixels, torch.arange(count) % 4), (pixels[:8], torch.arange(8) % 4), (0.5,), (0.5,), tuple("abcd")
    )


def classifier(width: int = 8, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(7)
    hidden = nn.Sequential(nn.Linear(36, width), nn.BatchNorm1d(width), nn.Dropout(dropout))
    return nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 4))


class Stop(BaseException):
    """As a kill or Ctrl-C."""


def stop_after(steps: int):
    """Forward pre-hook: stops the run at the given training step."""
    seen = []

    def hook(module: nn.Module, args: object) -> None:
        seen.extend([1] * module.training)
        if len(seen) > steps:
            raise Stop

    return hook


def run(out: Path, *, net: nn.Module | None = None, data: ImageData | None = None, recipe: Recipe = RECIPE):
    """Net and log of a run, without the seconds."""
    net = classifier() if net is None else net
    log = fit(net, recipe, data=images() if data is None else data, out=out, progress=False)
    return net, [{**record, "seconds": 0} for record in log]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def two_epochs(tmp_path_factory) -> Path:
    """A run that was stopped in its third epoch."""
    out, net = tmp_path_factory.mktemp("stopped"), classifier()
    net.register_forward_pre_hook(stop_after(5))
    with pytest.raises(Stop):
        run(out, net=net)
    return out


@pytest.fixture
def stopped(two_epochs, tmp_path) -> Path:
    return shutil.copytree(two_epochs, tmp_path / "run")


def check_continues(out: Path, whole) -> None:
    """The run in ``out`` ends where a whole one does, and leaves nothing else."""
    net, log = run(out)
    assert log == whole[1]
    assert all(map(torch.equal, net.state_dict().values(), whole[0].state_dict().values()))
    assert sorted(path.name for path in out.iterdir()) == ["log.jsonl", "state"]
    assert [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()] == [1, 2, 3]


def test_the_last_two_checkpoints_stay_until_the_end(stopped, whole):
    assert sorted(path.name for path in stopped.iterdir()) == ["log.jsonl", "state", "state.old"]
    check_continues(stopped, whole)


OPERATIONS = (
    (os, "fsync"), (shutil, "rmtree"), (Path, "rename"), (Path, "replace"), (Path, "write_text"), (torch, "save"),
)  # fmt: skip


def killed(monkeypatch, out: Path, after: int) -> bool:
    """Whether the run ended in a kill, which the process does not survive to clean up, before the n-th operation."""
    done = []

    def dying(operation):
        def call(*args, **named):
            done.append(1)
            if len(done) > after:
                raise Stop
            return operation(*args, **named)

        return call

    with monkeypatch.context() as patch:
        for owner, name in OPERATIONS:
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            run(out)
        except Stop:
            return True
    return False


@pytest.mark.parametrize("after", [0, 1, 6, 9, 11, 12, 13, 16, 26, 27, 28, 29, 30, 33, 43, 44, 45, 46, 47, 48, 49])
def test_a_kill_while_a_checkpoint_is_written_changes_nothing(tmp_path, monkeypatch, whole, after):
    assert killed(monkeypatch, tmp_path, after)
    check_continues(tmp_path, whole)


def test_a_real_kill_releases_the_lock_and_the_run_continues(stopped, whole):
    holder = subprocess.Popen(
        [sys.executable, "-c", f"import fcntl, sys; f = open({str(stopped / '.lock')!r}, 'w'); f.write('process 7'); "
         "f.flush(); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SettingError) as caught:
            run(stopped)
        holder.send_signal(signal.SIGKILL)
    assert str(caught.value) == (
        f"fit: {stopped} is in use by process 7, expected one run per folder. Wait for its end, or pass another folder."
    )
    assert (stopped / ".lock").exists()
    check_continues(stopped, whole)


def test_a_child_that_outlives_the_run_does_not_keep_the_lock(tmp_path):
    with lock.only_run(tmp_path):
        held = next(iter(lock._held))
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                os.fstat(held)
            except OSError:
                os.write(write, b"closed")
            os._exit(0)
        os.waitpid(child, 0)
        os.close(write)
        assert os.read(read, 10) == b"closed"
        os.close(read)
        with pytest.raises(SettingError, match="is in use"), lock.only_run(tmp_path):
            pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with lock.only_run(tmp_path):
        with pytest.raises(SettingError) as caught, lock.only_run(tmp_path):
            pass
        assert str(caught.value).endswith(f"no locks: if that run has ended, delete {tmp_path / '.lock'}.")
    with lock.only_run(tmp_path):
        pass


FILES = ("model.safetensors", "optimizer.bin", "random_states_0.pkl", "log.jsonl", "run.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["a bit", "missing", "short"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(stopped, whole, name, damage):
    spoil(stopped / "state" / name, damage)
    if (name, damage) == ("run.json", "missing"):
        with pytest.raises(SettingError, match="does not say which model and data it is of"):
            run(stopped)
        return
    with pytest.warns(UserWarning, match=rf"state/{name} is (damaged|missing).*before it, after epoch 1\."):
        check_continues(stopped, whole)


@pytest.mark.parametrize("name", FILES)
def test_without_another_checkpoint_damage_is_an_error_and_nothing_is_changed(stopped, name):
    shutil.rmtree(stopped / "state.old")
    spoil(stopped / "state" / name, "a bit")
    before = content(stopped)
    with pytest.raises(CardError, match=rf"fit: .*state/{name} is damaged.* There is no other checkpoint"):
        run(stopped)
    assert content(stopped) == before


def spoil(path: Path, damage: str) -> None:
    raw = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "short":
        path.write_bytes(raw[:-1])
    else:
        raw[len(raw) // 2] ^= 1
        path.write_bytes(raw)


def content(out: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_no_code_is_run_while_a_checkpoint_is_read(stopped):
    shutil.rmtree(stopped / "state.old")
    torch.save({"harmful": Stop}, stopped / "state" / "random_states_0.pkl")
    raw = json.loads((stopped / "state" / "run.json").read_text())
    raw.pop("sha256")
    found = state.record_of(stopped / "state" / "random_states_0.pkl")
    raw["files"]["random_states_0.pkl"] = [found.size_bytes, found.sha256]
    (stopped / "state" / "run.json").write_text(json.dumps({**raw, "sha256": state._digest(raw)}))
    with pytest.raises(CardError, match=r"random_states_0\.pkl holds more than plain values and tensors"):
        run(stopped)


@pytest.mark.parametrize("text", ["", '{"epoch": 1}\n{"epo', '{"epoch": 1}\n' * 4, None])
def test_the_log_is_repaired_from_the_checkpoint(stopped, whole, text):
    path = stopped / "log.jsonl"
    path.unlink() if text is None else path.write_text(text)
    (stopped / "state.new-123").mkdir()
    (stopped / "state.new-456").touch()
    check_continues(stopped, whole)


def test_a_log_without_a_checkpoint_is_not_overwritten(stopped):
    for name in ("state", "state.old"):
        shutil.rmtree(stopped / name)
    with pytest.raises(SettingError, match=r"log\.jsonl is of a run whose checkpoint is gone\."):
        run(stopped)
    assert len((stopped / "log.jsonl").read_text().splitlines()) == 2


def other_test_images() -> ImageData:
    found = images()
    found.test[0][0, 0, 0, 0] ^= 1
    return found


def replaced(**changes) -> ImageData:
    return dataclasses.replace(images(), **changes)


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        (lambda: {"net": classifier(width=9)}, "(1): Linear(in_features=36, out_features=8"),
        (lambda: {"net": classifier(dropout=0.2)}, "(3): Dropout(p=0.1"),
        (lambda: {"net": classifier().requires_grad_(False)}, "tensors.1.weight='float32 [8, 36] trained', got"),
        (lambda: {"data": images(seed=1)}, "data.fingerprint="),
        (lambda: {"data": other_test_images()}, "data.fingerprint="),
        (lambda: {"data": images(count=24)}, "data.train_count=16, got data.train_count=24."),
        (lambda: {"data": replaced(classes=tuple("abce"))}, "data.classes[3]='d', got data.classes[3]='e'."),
        (lambda: {"data": replaced(mean=(0.4,))}, "data.mean[0]=0.5, got data.mean[0]=0.4."),
        (lambda: {"data": replaced(std=(0.4,))}, "data.std[0]=0.5, got data.std[0]=0.4."),
        (lambda: {"recipe": dataclasses.replace(RECIPE, lr=0.1)}, "lr=0.005, got lr=0.1."),
    ],
)
def test_whatever_is_not_as_it_was_is_named(stopped, changed, text):
    before = content(stopped)
    with pytest.raises(SettingError) as caught:
        run(stopped, **changed())
    assert str(caught.value).startswith(f"fit: {stopped} holds a run with ")
    assert text in str(caught.value)
    assert content(stopped) == before


def test_the_same_data_under_another_number_of_workers_and_without_a_name_continue(stopped, whole):
    assert run(stopped, data=replaced(workers=3, name="mine"))[1] == whole[1]


def network(**changes) -> SMixerNet:
    torch.manual_seed(0)
    return SMixerNet(SMixerConfig((8, 8), 1, 4, 2, **{"dim": 8, "depth": 1, "heads": 2, **changes}))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"prune": DSTSPConfig(ps=0.3)}, "config.prune=None, got config.prune={'ps': 0.3"),
        ({"beta": 0.9}, "config.beta=0.5, got config.beta=0.9."),
        ({"threshold": 0.7}, "config.threshold=1.0, got config.threshold=0.7."),
    ],
)
def test_another_network_with_the_same_weights_is_refused(tmp_path, changes, text):
    pixels = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
    data = ImageData((pixels, torch.arange(8) % 4), (pixels, torch.arange(8) % 4), (0.5,), (0.5,), tuple("abcd"))
    recipe = Recipe(epochs=1, batch_size=8)
    run(tmp_path, net=network(), data=data, recipe=recipe)
    with pytest.raises(SettingError) as caught:
        run(tmp_path, net=network(**changes), data=data, recipe=recipe)
    assert text in str(caught.value)


class Leak(nn.Module):
    """Keeps its decay as snnTorch's neurons do, and shows nothing of it."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.register_buffer("beta", torch.tensor(beta))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.beta


def test_a_constant_of_a_layer_is_part_of_the_model(tmp_path):
    recipe = Recipe(epochs=1, batch_size=8)
    run(tmp_path, net=nn.Sequential(classifier(), Leak(0.5)), recipe=recipe)
    with pytest.raises(SettingError, match=r"constants\.1\.beta=0\.5, got constants\.1\.beta=0\.75\."):
        run(tmp_path, net=nn.Sequential(classifier(), Leak(0.75)), recipe=recipe)


class Spoils(nn.Module):
    """Its output, or its gradient, is NaN at a training step; it hides a weight that is NaN, as spikes do."""

    def __init__(self, at: int, where: str) -> None:
        super().__init__()
        self.at, self.where, self.steps = at, where, 0
        self.scale = nn.Parameter(torch.ones(()))
        self.scale.register_hook(lambda grad: grad * self.factor("gradient"))

    def factor(self, where: str) -> float:
        return float("nan") if self.training and (self.where, self.at) == (where, self.steps) else 1.0

    def forward(self, x: Tensor) -> Tensor:
        self.steps += self.training
        return x * (self.scale if self.scale.isfinite() else 1.0) * self.factor("loss")


@pytest.mark.parametrize(
    ("where", "text"),
    [
        (
            "loss",
            "fit: the loss is nan at step 2 of 2 of epoch 2, expected a finite number. The last checkpoint stays.",
        ),
        (
            "gradient",
            "1.scale holds NaN or infinity after epoch 2, expected finite weights. The last checkpoint stays.",
        ),
    ],
)
def test_what_is_not_finite_stops_the_run_and_the_last_checkpoint_stays(tmp_path, where, text):
    with pytest.raises(MeasureError) as caught:
        run(tmp_path, net=nn.Sequential(classifier(), Spoils(4, where)))
    assert text in str(caught.value)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in log] == [1]
    weights = state.read_tensors(tmp_path / "state" / "model.safetensors")
    assert all(value.isfinite().all() for value in weights.values())


def test_weights_that_are_not_finite_are_refused_before_training(tmp_path):
    net = classifier()
    with torch.no_grad():
        net[1].bias[0] = float("inf")
    with pytest.raises(MeasureError, match=r"1\.bias holds NaN or infinity before training"):
        run(tmp_path / "run", net=net)
    assert not (tmp_path / "run").exists()


def test_a_full_disk_is_noticed_before_the_first_epoch(tmp_path, monkeypatch):
    def full(file, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    net = classifier()
    net.register_forward_pre_hook(stop_after(0))
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(SettingError) as caught:
            run(tmp_path, net=net)
    assert str(caught.value) == (
        f"fit: the run cannot be written to {tmp_path}: No space left on device. Free space, or pass a folder that "
        "takes it; what was written before stays."
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(0, 0, 100_000))
    with pytest.raises(SettingError, match="100,000 bytes are free, the checkpoints take"):
        run(tmp_path, net=net)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("unexpected pos 64")])
def test_a_disk_that_becomes_full_keeps_the_last_checkpoint(stopped, whole, monkeypatch, error):
    def full(value, path):
        raise error

    before = content(stopped)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full)
        with pytest.raises(
            SettingError, match=r"cannot be written to .*: (No space left on device|unexpected pos 64)\."
        ):
            run(stopped)
    assert content(stopped) == before
    check_continues(stopped, whole)


def test_a_file_in_place_of_the_folder(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(SettingError, match=r"cannot be written to .*: File exists"):
        run(tmp_path / "run")


def test_a_checkpoint_that_is_not_read_as_it_was_written_does_not_take_the_place_of_the_last(stopped, monkeypatch):
    real, before = state.read_tensors, content(stopped)

    def lossy(path: Path) -> dict[str, Tensor]:
        found = real(path)
        return {name: value + 1 for name, value in found.items()} if "state.new" in str(path) else found

    monkeypatch.setattr(state, "read_tensors", lossy)
    with pytest.raises(SettingError, match="is not read as it was written"):
        run(stopped)
    assert content(stopped) == before


def test_a_run_of_the_earlier_format_is_refused_in_words(stopped):
    for name in ("state", "state.old"):
        (stopped / name / "run.json").unlink()
    with pytest.raises(SettingError) as caught:
        run(stopped)
    assert str(caught.value) == (
        f"fit: {stopped / 'state'} does not say which model and data it is of: a run of an earlier release, or without "
        "its run.json. Start again in another folder."
    )


def test_lines_where_there_is_no_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(loop, "LINE_EVERY", 2)
    fit(classifier(), Recipe(epochs=1, batch_size=4), data=images(), out=tmp_path)
    first, *steps = capsys.readouterr().err.splitlines()
    assert first == f"training epoch 1 to 1: 16 inputs, 4 steps an epoch, on cpu; checkpoints in {tmp_path}"
    assert [line.split(": loss ")[0] for line in steps] == [f"epoch 1 of 1, step {step} of 4" for step in (2, 4)]


def test_bars_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(classifier(), Recipe(epochs=1, batch_size=8), data=images(), out=tmp_path)
    err = capsys.readouterr().err
    assert "epoch 1:" in err
    assert "training epoch" not in err


@pytest.mark.parametrize(("name", "value"), [("mixed_precision", "bf16"), ("gradient_accumulation_steps", "2")])
def test_settings_of_accelerate_that_would_change_the_recipe_are_refused(tmp_path, monkeypatch, name, value):
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(True)
    monkeypatch.setenv(f"ACCELERATE_{name.upper()}", value)
    try:
        with pytest.raises(SettingError, match=f"accelerate has {name}=.*Unset ACCELERATE_{name.upper()}"):
            run(tmp_path / "run")
    finally:
        AcceleratorState._reset_state(True)
    assert not (tmp_path / "run").exists()


def test_another_device_is_said(stopped):
    path = stopped / "state"
    checkpoint = state.last_checkpoint(stopped)
    elsewhere = dataclasses.replace(checkpoint, generators={**checkpoint.generators, "device": ("cuda", None)})
    net = classifier()
    optimizer = torch.optim.AdamW(loop._groups(net, RECIPE))
    with pytest.warns(UserWarning, match="the run was on cuda and continues on cpu"):
        state.restore(elsewhere, net, optimizer, torch.device("cpu"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state.restore(checkpoint, net, optimizer, torch.device("cpu"))
    assert path.is_dir()
