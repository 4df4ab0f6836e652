"""The demo's table and the README's are what the shipped weights give on the shipped images."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

from snntorch_smixer import SMixerNet
from snntorch_smixer.bench.compare import Row, compare
from snntorch_smixer.cards.card import CONFIG, WEIGHTS, Card, Measured
from snntorch_smixer.cards.folder import check_file
from snntorch_smixer.train.data import normalise
from snntorch_smixer.zoo.registry import model_card, shipped, zoo_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def demo() -> ModuleType:
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples" / "00_demo.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def nets(demo: ModuleType) -> dict[str, SMixerNet]:
    return demo.load_nets()


@pytest.fixture(scope="module")
def rows(demo: ModuleType, nets: dict[str, SMixerNet]) -> list[Row]:
    images, labels = demo.load_images()
    card = model_card(demo.NAME)
    return compare(nets, normalise(images, card.mean, card.std), labels)


def test_shipped_images_are_a_thousand_of_ten_classes(demo: ModuleType):
    images, labels = demo.load_images()
    assert images.shape == (1000, 1, 28, 28)
    assert images.dtype == torch.uint8
    assert torch.bincount(labels).min() >= 80


def test_accuracy_is_that_of_the_card(demo: ModuleType, rows: list[Row]):
    for i, name in ((0, demo.NAME), (2, f"{demo.NAME}-dstsp")):
        assert rows[i].accuracy == pytest.approx(measured(model_card(name), 1000).value, abs=0.005)


def measured(card: Card, samples: int) -> Measured:
    """The accuracy that was measured on so many images."""
    [found] = [m for m in card.measured if m.samples == samples]
    assert found.metric == "top-1 accuracy"
    return found


def test_tokens_steps_and_macs(nets: dict[str, SMixerNet], rows: list[Row]):
    c = nets["unpruned"].config
    assert [(r.tokens, r.steps) for r in rows] == [(49, 4), (34, 1), (34, 1)]
    stem = dense_stem_macs(c.dim, c.T)
    for r, tokens, steps in zip(rows, (49, 34, 34), (4, 1, 1), strict=True):
        linear = (2 + 2 * c.mlp_ratio) * tokens * c.dim**2
        mixing = 49**2 * c.dim  # the gather form fills the dropped positions with silence
        head = steps * c.dim * c.num_classes
        assert r.dense_macs == stem + steps * c.depth * (linear + mixing) + head + merge_macs(c.dim, tokens)


def dense_stem_macs(dim: int, steps: int) -> float:
    """28 x 28 at strides 1, 2, 1, 2, 1: maps of 28, 14, 14, 7, 7; the first convolution and the short path run once."""
    widths = [1, dim // 8, dim // 4, dim // 2, dim, 7 * dim // 8]
    sides = [28, 14, 14, 7, 7]
    convs = [9 * a * b * s * s for a, b, s in zip(widths[:-1], widths[1:], sides, strict=True)]
    return convs[0] + steps * sum(convs[1:]) + 16 * dim // 8 * 49


def merge_macs(dim: int, tokens: int) -> float:
    """Softmatch: similarities of dropped and kept tokens, and adding each dropped token to its match."""
    return 2 * (49 - tokens) * tokens * dim if tokens < 49 else 0


def test_pruning_keeps_less_for_backward(rows: list[Row]):
    full, wrapped, trained = (r.saved_bytes for r in rows)
    assert wrapped == trained
    assert 0.2 * full < trained < 0.5 * full


def test_readme_table_is_this_table(rows: list[Row]):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for r in rows:
        row = re.search(rf"^\| {r.net} \|(.*)\|$", text, re.MULTILINE)
        assert row, f"README has no row for {r.net}"
        cells = [cell.strip() for cell in row.group(1).split("|")]
        assert float(cells[0].rstrip(" %")) == pytest.approx(100 * r.accuracy, abs=0.5)
        assert cells[2:4] == [str(r.tokens), str(r.steps)]
        assert float(cells[4].split()[0]) == pytest.approx(r.dense_macs / 1e6, abs=0.01)
        assert float(cells[5].split()[0]) == pytest.approx(r.saved_bytes / 2**20, abs=0.01)


@pytest.mark.parametrize("name", shipped())
def test_shipped_weights_are_small_and_match_their_card(name: str):
    folder = zoo_folder() / name
    card = Card.load(folder)
    assert set(card.files) == {CONFIG, WEIGHTS}
    for file, record in card.files.items():
        check_file(folder / file, record, owner=name)
    assert card.name == name
    assert card.files[WEIGHTS].size_bytes < 5e6
    if name.startswith("spike-yolo"):
        return  # a detector: the demo does not run it
    whole = measured(card, 10_000)
    assert f"{whole.value:.2%}".rstrip("%") in (ROOT / "README.md").read_text(encoding="utf-8")
