"""``smixer eval``: the accuracy that the library finds, on the data set of the card."""

import dataclasses
import importlib.util
import json
from itertools import product
from pathlib import Path

import pytest
import torch

from snntorch_smixer import create_model, dstsp, from_pretrained
from snntorch_smixer.cli import evaluate as command
from snntorch_smixer.cli.dataset import open_data
from snntorch_smixer.cli.printing import shows_progress
from snntorch_smixer.models.evaluate import Accuracy, evaluate
from snntorch_smixer.train.datasets import load_data
from tests.cli.few_images import TEST, write_few_images

NAME = "smixer-2-64-fmnist"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_few_images(tmp_path_factory.mktemp("few"))


def test_it_is_what_the_library_finds(smixer, data: Path):
    found = evaluate(from_pretrained(NAME), load_data("fashion-mnist", data).test_batches())
    assert 0 < found.correct < found.count == TEST
    shown = json.loads(smixer("eval", NAME, "--data", data, "--json").out)
    assert shown == {
        "model": NAME,
        "dataset": "fashion-mnist",
        "split": "all test images",
        "samples": TEST,
        "correct": found.correct,
        "top1": found.top1,
        "top5": found.top5,
        "standard_error": found.standard_error,
        "ps": None,
        "t": None,
        "place": None,
    }


def test_for_people(smixer, data: Path):
    found = evaluate(from_pretrained(NAME), load_data("fashion-mnist", data).test_batches())
    ran = smixer("eval", NAME, "--data", data, "--batch-size", 7, "--device", "cpu")
    assert f"top-1 {found.top1:.2%}, top-5 {found.top5:.2%}; standard error" in ran.out
    assert f"({found.correct} of 32)" in ran.out
    assert "the card says" not in ran.out, "the card has other numbers of samples"
    assert ran.err == "", "a progress bar without a terminal"


def test_pruned(smixer, data: Path):
    batches = list(load_data("fashion-mnist", data).test_batches())
    expected = [evaluate(dstsp.wrap(from_pretrained(NAME), ps=0.5, t=1), batches).correct]
    expected.append(evaluate(from_pretrained(f"{NAME}-dstsp"), batches).correct)
    other = from_pretrained(f"{NAME}-dstsp")
    other.dstsp.ps, other.dstsp.t = 0.5, 2
    expected.append(evaluate(other, batches).correct)
    runs = ((NAME, "--ps", 0.5, "--t", 1), (f"{NAME}-dstsp",), (f"{NAME}-dstsp", "--ps", 0.5, "--t", 2))
    shown = [json.loads(smixer("eval", *words, "--data", data, "--json").out) for words in runs]
    assert [row["correct"] for row in shown] == expected
    assert [(row["ps"], row["t"]) for row in shown] == [(0.5, 1), (0.3, 1), (0.5, 2)]
    assert "DSTSP: ps=0.3 t=1" in smixer("eval", f"{NAME}-dstsp", "--data", data).out


@pytest.mark.parametrize("name", [NAME, f"{NAME}-dstsp"])
def test_pruned_inside_the_stem(smixer, data: Path, name: str):
    net = from_pretrained(name)
    net = net if net.dstsp is not None else dstsp.wrap(net)
    net.dstsp.ps, net.dstsp.t, net.dstsp.place = 0.3, 1, "lif2"
    expected = evaluate(net, load_data("fashion-mnist", data).test_batches()).correct
    words = ("eval", name, "--data", data, "--ps", 0.3, "--t", 1, "--place", "lif2")
    shown = json.loads(smixer(*words, "--json").out)
    assert (shown["correct"], shown["place"]) == (expected, "lif2")
    assert "DSTSP: ps=0.3 t=1 place=lif2" in smixer(*words).out


def test_limit(smixer, data: Path):
    (x, labels), *_ = load_data("fashion-mnist", data).test_batches()
    found = evaluate(from_pretrained(NAME), [(x[:10], labels[:10])])
    words = ("eval", NAME, "--data", data, "--limit", 10, "--batch-size", 4)
    shown = json.loads(smixer(*words, "--json").out)
    assert (shown["samples"], shown["correct"]) == (10, found.correct)
    assert "the first 10 test images" in smixer(*words).out


def test_limits_of_frames():
    batches = [(torch.arange(12).reshape(2, 3, 1, 1, 2), torch.arange(3))] * 3
    kept = list(command.first_inputs(iter(batches), 4))
    assert [tuple(x.shape) for x, _ in kept] == [(2, 3, 1, 1, 2), (2, 1, 1, 1, 2)]
    assert [len(labels) for _, labels in kept] == [3, 1]


def test_the_card_is_quoted_where_it_speaks_of_the_same(smixer, data: Path, tmp_path: Path):
    net = from_pretrained(NAME)
    card = net.card
    assert card is not None
    mine = dataclasses.replace(card.measured[0], samples=TEST, value=0.25, versions="torch 0")
    net.save_pretrained(tmp_path / "net", card=dataclasses.replace(card, measured=(mine,)))
    out = smixer("eval", tmp_path / "net", "--data", data).out
    assert "the card says: top-1 accuracy 25.00% (all test images; torch 0)" in out


def test_images_are_normalised_as_the_card_says(data: Path):
    net = from_pretrained(NAME)
    net.card = dataclasses.replace(net.card, mean=(0.0,), std=(2.0,))
    name, opened = open_data("eval", net, root=data)
    assert (name, opened.mean, opened.std) == ("fashion-mnist", (0.0,), (2.0,))
    x, _ = next(iter(opened.test_batches()))
    assert torch.equal(x, load_data("fashion-mnist", data).test[0].float() / 255 / 2)


@pytest.mark.parametrize(
    ("quiet", "terminal", "bar"), [(False, True, True), (True, True, False), (False, False, False)]
)
def test_progress_needs_a_terminal(monkeypatch, quiet: bool, terminal: bool, bar: bool):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert shows_progress(command.argparse.Namespace(quiet=quiet)) is bar


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((NAME, "--data", "nowhere"), "fashion_mnist: neither nowhere/FashionMNIST/raw/"),
        ((NAME, "--data", "x", "--dataset", "mnist"), "load_data: name='mnist' is unknown"),
        ((NAME, "--data", "x", "--t", 1), "eval: --t needs --ps"),
        ((NAME, "--data", "x", "--ps", 0.3, "--place", "lif2"), "eval: --place needs --ps and --t"),
        ((NAME, "--data", "x", "--limit", 0), "--limit 0: expected at least 1."),
        ((NAME, "--data", "x", "--batch-size", 0), "--batch-size 0: expected at least 1."),
        ((NAME, "--data", "x", "--device", "gpu"), "--device gpu: Expected one of cpu"),
        (("smixer-4-384", "--data", "x"), "smixer-4-384 is an architecture"),
        (("smixer-4-385", "--data", "x"), "no model is called 'smixer-4-385'"),
    ],
)
def test_mistakes(smixer, words: tuple[object, ...], text: str):
    assert text in smixer("eval", *words, code=2).err


def test_data_that_do_not_fit(smixer, data: Path, tmp_path: Path):
    from_pretrained(NAME, num_classes=3).save_pretrained(tmp_path / "three")
    assert "card of this model names no data set" in smixer("eval", tmp_path / "three", "--data", data, code=2).err
    words = ("eval", tmp_path / "three", "--data", data, "--dataset", "fashion-mnist")
    assert "num_classes=10, SMixerNet was built with num_classes=3" in smixer(*words, code=2).err
    assert "--ps" not in smixer("eval", NAME, "--data", data, "--ps", 1.5, code=2).out


def save(folder: Path, classes: tuple[str, ...]) -> Path:
    """A net of Fashion-MNIST whose card names other classes."""
    net = from_pretrained(NAME)
    net.save_pretrained(folder, card=dataclasses.replace(net.card, classes=classes))
    return folder


def test_labels_are_found_by_name(smixer, data: Path, tmp_path: Path):
    batches = [(x, 9 - labels) for x, labels in load_data("fashion-mnist", data).test_batches()]
    turned = save(tmp_path / "turned", from_pretrained(NAME).card.classes[::-1])
    shown = json.loads(smixer("eval", turned, "--data", data, "--json").out)
    assert shown["correct"] == evaluate(from_pretrained(NAME), batches).correct


def test_classes_of_another_name_are_refused(smixer, data: Path, tmp_path: Path):
    names = ("Cat", *from_pretrained(NAME).card.classes[1:])
    err = smixer("eval", save(tmp_path / "cat", names), "--data", data, code=2).err
    assert "no single class called 'T-shirt/top', expected some of its 10 classes. The data lack 'Cat'." in err


@pytest.mark.filterwarnings("always:eval")
def test_a_card_without_class_names_is_said(smixer, data: Path, tmp_path: Path):
    ran = smixer("eval", save(tmp_path / "none", ()), "--data", data)
    assert "label k of the data is taken for its logit k" in ran.err
    assert "top-1" in ran.out


@pytest.mark.filterwarnings("always:eval")
def test_some_of_the_classes_are_evaluated_and_said(smixer, data: Path, tmp_path: Path, monkeypatch):
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("torchvision is not installed")
    image = pytest.importorskip("PIL.Image")
    for split, name in product(("train", "val"), ("Bag", "Coat")):
        (tmp_path / "data" / split / name).mkdir(parents=True)
        image.new("RGB", (32, 32)).save(tmp_path / "data" / split / name / "0.png")
    net = create_model(NAME, in_channels=3, img_size=(28, 28)).eval()
    net.card = dataclasses.replace(net.card, dataset="image-folder", classes=from_pretrained(NAME).card.classes)
    net.save_pretrained(tmp_path / "net", card=net.card)
    seen = []
    monkeypatch.setattr(command, "evaluate", lambda net, batches, **rest: seen.extend(batches) or Accuracy(1, 2, 2))
    ran = smixer("eval", tmp_path / "net", "--data", tmp_path / "data", "--workers", 0)
    assert "the data have 2 of the 10 classes of the model" in ran.err
    assert torch.cat([labels for _, labels in seen]).tolist() == [8, 4]
