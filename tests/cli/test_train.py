"""``smixer train``: a model folder that loads, describes itself and can be trained on."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from snntorch_smixer import Card, SMixerConfig, SMixerNet, from_pretrained
from snntorch_smixer.cli import training
from snntorch_smixer.errors import MissingExtra
from snntorch_smixer.extras import torchvision_ready
from snntorch_smixer.kernels.compiled import active
from snntorch_smixer.memory import memory_of
from snntorch_smixer.models.evaluate import evaluate
from snntorch_smixer.train.datasets import DATASETS, load_data
from snntorch_smixer.train.recipe import Recipe
from snntorch_smixer.zoo.registry import zoo_folder
from tests.cli.few_images import TEST, write_few_images

pytest.importorskip("accelerate")
NAME = "smixer-2-64-fmnist-dstsp"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few_images(tmp_path_factory.mktemp("few"))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "short.toml"
    path.write_text("epochs = 2\nbatch_size = 32\nseed = 3\n", encoding="utf-8")
    return path


def test_it_makes_a_model_folder(smixer, data: Path, recipe: Path, tmp_path: Path):
    out = tmp_path / "out"
    ran = smixer("train", NAME, "--data", data, "--out", out, "--recipe", recipe, "--epochs", 1, "--device", "cpu")
    card, net = Card.load(out), from_pretrained(out)
    assert net.dstsp.ps == 0.3
    found = evaluate(net, load_data("fashion-mnist", data).test_batches())
    (measured,) = card.measured
    assert (measured.value, measured.samples, measured.seed) == (found.top1, TEST, 3)
    assert (measured.metric, measured.dataset, measured.split) == ("top-1 accuracy", "fashion-mnist", "all test images")
    assert measured.command == f"smixer eval {out.as_posix()} --data DATA"
    assert card.trains == f"smixer train {NAME} --data DATA --out {out.as_posix()} --recipe recipe.toml --epochs 1"
    assert (card.name, card.license, card.mean) == (NAME, "MIT", (0.286,))
    assert Recipe.load(out / "recipe.toml") == Recipe(epochs=1, batch_size=32, seed=3)
    assert [json.loads(line)["epoch"] for line in (out / "log.jsonl").read_text().splitlines()] == [1]
    assert f"{NAME}: top-1 accuracy {found.top1:.2%} on fashion-mnist, all test images (32)\n" in ran.out
    assert f"{found.top1:.2%}" in (out / "README.md").read_text(encoding="utf-8")
    assert ran.err == (f"training epoch 1 to 1: 64 inputs, 2 steps an epoch, on cpu; checkpoints in {out}\n"), (
        "a progress bar without a terminal, or no word"
    )
    assert "ok" in smixer("zoo", "verify", out).out


def test_it_continues(smixer, data: Path, recipe: Path, tmp_path: Path):
    words = ("train", NAME, "--data", data, "--out", tmp_path / "out", "--recipe", recipe)
    first = smixer(*words).out
    assert '"epoch": 2' in first
    again = smixer(*words).out
    assert '"epoch"' not in again, "a finished run was trained again"
    assert again.splitlines() == [line for line in first.splitlines() if not line.startswith("{")]
    assert "holds a run with seed=3, got seed=4" in smixer(*words, "--seed", 4, code=2).err


def test_its_own_recipe_and_an_architecture(smixer, data: Path, recipe: Path, tmp_path: Path, monkeypatch):
    seen = []
    keep = ("compile_net", "progress")
    monkeypatch.setattr(training, "fit", lambda net, recipe, **rest: seen.append((recipe, *(rest[k] for k in keep))))
    smixer("train", NAME, "--data", data, "--out", tmp_path / "a")
    assert seen == [(Recipe.load(zoo_folder() / NAME / "recipe.toml"), False, True)]
    smixer("train", NAME, "--data", data, "--out", tmp_path / "quiet", "-q")
    assert seen.pop() == (Recipe.load(zoo_folder() / NAME / "recipe.toml"), False, False)
    assert Card.load(tmp_path / "a").measured[0].command == f"smixer eval {NAME} --data DATA"
    monkeypatch.setattr(training, "create_model", _tiny)
    words = ("train", "smixer-4-384", "--data", data, "--out", tmp_path / "b", "--recipe", recipe, "--compile")
    assert "names no data set. Pass --dataset: fashion-mnist" in smixer(*words, code=2).err
    smixer(*words, "--dataset", "fashion-mnist")
    assert seen[1] == (Recipe.load(recipe), True, True)
    card = Card.load(tmp_path / "b")
    assert (card.name, card.dataset, card.classes[1]) == ("b", "fashion-mnist", "Trouser")
    assert card.dataset_text == DATASETS["fashion-mnist"].text
    assert "--dataset fashion-mnist --recipe recipe.toml" in card.trains


def test_the_memory_mode_and_the_tier(smixer, data: Path, recipe: Path, tmp_path: Path, monkeypatch):
    seen = []

    def fit(net, recipe, **rest):
        seen.append((memory_of(net), active()["impl"]))

    monkeypatch.setattr(training, "fit", fit)
    smixer("train", NAME, "--data", data, "--out", tmp_path / "a", "--recipe", recipe)
    words = ("--memory", "recompute", "--impl", "eager")
    smixer("train", NAME, "--data", data, "--out", tmp_path / "b", "--recipe", recipe, *words)
    assert seen == [("fused", "auto"), ("recompute", "eager")]
    assert active()["impl"] == "auto"
    # Results do not depend on them, so the command that reproduces the model does not name them.
    assert "--memory" not in Card.load(tmp_path / "b").trains


def test_a_tier_of_an_earlier_version_is_refused_before_the_data_is_opened(smixer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(training, "open_data", lambda *args, **rest: pytest.fail("the data set was opened"))
    err = smixer("train", NAME, "--data", "x", "--out", tmp_path / "out", "--impl", "triton", code=2).err
    assert "--impl 'triton' is unknown. Choose from 'auto', 'eager', 'compile'." in err
    assert active()["impl"] == "auto"


def test_the_log_names_them(smixer, data: Path, recipe: Path, tmp_path: Path):
    words = ("--recipe", recipe, "--epochs", 1, "--memory", "reference")
    out = smixer("train", NAME, "--data", data, "--out", tmp_path / "out", *words).out
    record = json.loads(out.splitlines()[0])
    assert (record["memory"], record["tier"]) == ("reference", "eager")
    assert json.loads((tmp_path / "out" / "log.jsonl").read_text()) == record


def test_it_starts_from_other_weights(data: Path, tmp_path: Path, monkeypatch):
    nets = []
    monkeypatch.setattr(training, "fit", lambda net, recipe, **rest: nets.append(net.state_dict()))
    path = tmp_path / "from.toml"
    path.write_text(f'init_from = "{NAME}"\n', encoding="utf-8")
    training.train(training.Training(model="smixer-2-64-fmnist", data=data, out=tmp_path / "out", recipe=path))
    theirs = from_pretrained(NAME).state_dict()
    assert all(torch.equal(value, theirs[key]) for key, value in nets[0].items())
    assert Card.load(tmp_path / "out").name == "smixer-2-64-fmnist"


def test_the_device_reaches_accelerate(data: Path, tmp_path: Path, monkeypatch):
    seen = []
    monkeypatch.setattr(training, "fit", lambda *args, **rest: seen.append(training.os.environ[variable]))
    variable = "ACCELERATE_TORCH_DEVICE"
    monkeypatch.setenv(variable, "before")
    training.train(training.Training(model=NAME, data=data, out=tmp_path / "out", device="cpu"))
    assert seen == ["cpu"]
    assert training.os.environ[variable] == "before"


@pytest.mark.parametrize("progress", [True, False])
def test_bars_are_drawn_where_they_are_wanted(data: Path, recipe: Path, tmp_path: Path, capsys, progress: bool):
    run = training.Training(NAME, data, tmp_path / "out", recipe=recipe, epochs=1, progress=progress)
    training.train(run)
    err = capsys.readouterr().err
    assert ("epoch 1" in err) == progress
    assert bool(err) == progress


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("smixer-4-385",), "no model is called 'smixer-4-385'"),
        (("smixer-8-512",), "train: smixer-8-512 has no recipe of its own. Pass --recipe FILE."),
        ((NAME, "--recipe", "nowhere.toml"), "nowhere.toml: no such file"),
        ((NAME, "--recipe", "pyproject.toml"), "unknown key 'build-system'"),
        ((NAME, "--epochs", 0), "--epochs 0: expected at least 1."),
        ((NAME, "--seed", -1), "seed=-1 must be a whole number"),
        ((NAME, "--device", "gpu"), "--device gpu: Expected one of cpu"),
        ((NAME, "--memory", "lean"), "--memory 'lean' is unknown. Choose from 'reference', 'fused', 'recompute'."),
        ((NAME, "--impl", "fast"), "--impl 'fast' is unknown. Choose from 'auto', 'eager', 'compile'"),
        ((NAME, "--compile", "--memory", "fused"), "train: --compile with --memory fused: under torch.compile of the"),
        ((NAME, "--compile", "--impl", "eager"), "train: --compile with --impl eager: under torch.compile of the"),
        ((NAME, "--dataset", "cifar-10"), "x/cifar-10-batches-bin/data_batch_1.bin"),
    ],
)
def test_mistakes(smixer, tmp_path: Path, words: tuple[object, ...], text: str):
    assert text in smixer("train", *words, "--data", "x", "--out", tmp_path / "out", code=2).err
    assert not (tmp_path / "out").exists()


def test_a_model_is_not_overwritten(smixer, data: Path):
    folder = zoo_folder() / NAME
    before = (folder / "card.toml").read_bytes()
    (empty := data / "model").mkdir()
    (empty / "model.safetensors").touch()
    err = smixer("train", NAME, "--data", data, "--out", empty, code=2).err
    assert f"train: {empty} holds a model and no run to continue. Pass another --out." in err
    assert (folder / "card.toml").read_bytes() == before


def test_another_model_or_other_data_are_refused_and_nothing_is_changed(
    smixer, data: Path, recipe: Path, tmp_path: Path
):
    out, other = tmp_path / "out", write_few_images(tmp_path / "other")
    labels = other / "FashionMNIST" / "raw" / "train-labels-idx1-ubyte.gz"
    raw = bytearray(gzip.decompress(labels.read_bytes()))
    raw[-1] = (raw[-1] + 1) % 10
    labels.write_bytes(gzip.compress(bytes(raw)))
    words = ("--out", out, "--recipe", recipe, "--epochs", 1, "-q")
    smixer("train", NAME, "--data", data, *words)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    dense = NAME.removesuffix("-dstsp")
    err = smixer("train", dense, "--data", data, *words, code=2).err
    assert f"{out} holds a run with name={NAME!r}, got name={dense!r}." in err
    assert "data.fingerprint=" in smixer("train", NAME, "--data", other, *words, code=2).err
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_model_whose_run_is_gone_is_not_overwritten(smixer, data: Path, recipe: Path, tmp_path: Path):
    words = ("train", NAME, "--data", data, "--out", tmp_path / "out", "--recipe", recipe, "--epochs", 1, "-q")
    smixer(*words)
    shutil.rmtree(tmp_path / "out" / "state")
    assert "holds a model and no run to continue" in smixer(*words, code=2).err


@pytest.mark.parametrize(
    ("epochs", "said"),
    [(0, "stopped before the first epoch was kept. The same command starts again."),
     (1, "keeps 1 epoch. The same command continues after them."),
     (2, "keeps 2 epochs. The same command continues after them.")],
)  # fmt: skip
def test_ctrl_c_says_how_to_continue(smixer, data: Path, tmp_path: Path, monkeypatch, epochs: int, said: str):
    out = tmp_path / "out"

    def fit(net, recipe, **rest):
        if epochs:
            (out / "state").mkdir(parents=True)
            (out / "state" / "log.jsonl").write_text("{}\n" * epochs)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "fit", fit)
    assert said in smixer("train", NAME, "--data", data, "--out", out, code=130).err


def test_a_folder_that_cannot_be_written_is_one_line(smixer, data: Path, recipe: Path, tmp_path: Path):
    (tmp_path / "out").touch()
    err = smixer("train", NAME, "--data", data, "--out", tmp_path / "out", "--recipe", recipe, code=2).err
    assert err.startswith(f"smixer: fit: the run cannot be written to {tmp_path / 'out'}: File exists.")
    assert len(err.splitlines()) == 1


def test_a_loss_that_is_not_finite_is_one_line_and_no_success(smixer, data: Path, tmp_path: Path):
    path = tmp_path / "wild.toml"
    path.write_text("epochs = 1\nbatch_size = 8\nlr = 1e30\nwarmup_epochs = 0\n", encoding="utf-8")
    err = smixer("train", NAME, "--data", data, "--out", tmp_path / "out", "--recipe", path, "-q", code=2).err
    assert "expected a finite number" in err or "expected finite weights" in err
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_card_names_the_classes_of_the_data(smixer, data: Path, recipe: Path, tmp_path: Path, monkeypatch):
    def base(name: str):
        net = from_pretrained(NAME)
        net.card = dataclasses.replace(net.card, classes=tuple("abcdefghij"))
        return net

    monkeypatch.setattr(training, "fit", lambda *args, **rest: None)
    monkeypatch.setattr(training, "create_model", base)
    smixer("train", NAME, "--data", data, "--out", tmp_path / "out", "--recipe", recipe)
    assert Card.load(tmp_path / "out").classes[1] == "Trouser"


def _tiny(name: str):
    net = from_pretrained(NAME)
    net.card = None
    return net


def test_json_is_all_that_the_output_holds(smixer, data: Path, recipe: Path, tmp_path: Path):
    out = tmp_path / "out"
    ran = smixer("train", NAME, "--data", data, "--out", out, "--recipe", recipe, "--epochs", 1, "--json")
    told = json.loads(ran.out)
    assert told["folder"] == str(out)
    assert told["card"] == json.loads(json.dumps(dataclasses.asdict(Card.load(out))))
    assert '{"epoch": 1, ' in ran.err


def test_a_head_for_the_classes_of_picture_folders(smixer, recipe: Path, tmp_path: Path, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    try:
        torchvision_ready()
    except MissingExtra as error:
        pytest.skip(str(error))
    for split in ("train", "val"):
        for name in ("cat", "dog", "emu"):
            (tmp_path / split / name).mkdir(parents=True)
            image.new("RGB", (20, 24)).save(tmp_path / split / name / "1.png")
    monkeypatch.setattr(training, "fit", lambda net, recipe, **rest: None)
    config = SMixerConfig(16, dim=16, depth=1, heads=2)
    monkeypatch.setattr(training, "create_model", lambda name: SMixerNet(config))
    words = ("train", "smixer-4-384", "--data", tmp_path, "--recipe", recipe, "--memory", "recompute")
    smixer(*words, "--dataset", "image-folder", "--out", tmp_path / "out")
    net = from_pretrained(tmp_path / "out")
    assert (net.num_classes, net.card.classes) == (3, ("cat", "dog", "emu"))
