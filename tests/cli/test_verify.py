"""``smixer zoo verify``: finds what is wrong with a model folder, and says which folder."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from snntorch_smixer import Card
from snntorch_smixer.cards.folder import record_of
from snntorch_smixer.cli.verify import problems
from snntorch_smixer.zoo.registry import configured


@pytest.fixture
def folder(tmp_path: Path, save_model, firing_net) -> Path:
    return save_model(firing_net(), tmp_path / "tiny")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_zoo_is_sound(smixer):
    lines = smixer("zoo", "verify", "--all").out.splitlines()
    assert [line.split(":")[0] for line in lines] == configured()
    assert "smixer-2-64-fmnist: ok" in lines


def test_a_sound_folder(smixer, folder: Path):
    assert smixer("zoo", "verify", folder).out == f"{folder}: ok\n"
    assert json.loads(smixer("zoo", "verify", folder, "--json").out) == {str(folder): []}


def test_problems_are_findings(smixer, folder: Path):
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"x")
    ran = smixer("zoo", "verify", folder, "smixer-2-64-fmnist", code=1)
    first, second, third = ran.out.splitlines()
    assert first == f"{folder}: PROBLEMS"
    assert second.startswith(f"  {folder / 'model.safetensors'}: ")
    assert "the card of tiny says" in second
    assert third == "smixer-2-64-fmnist: ok"
    found = json.loads(smixer("zoo", "verify", folder, "--json", code=1).out)
    assert found == {str(folder): [second.strip()]}


def test_each_kind_of_problem(folder: Path):
    def found_after(change) -> list[str]:
        twin = folder.with_name("twin")
        shutil.rmtree(twin, ignore_errors=True)
        shutil.copytree(folder, twin)
        change(twin)
        return problems(twin)

    assert found_after(lambda f: None) == []
    (one,) = found_after(lambda f: (f / "card.toml").write_text("name = 3\n"))
    assert "missing keys" in one
    (one,) = found_after(lambda f: (f / "card.toml").unlink())
    assert "card.toml: no such file" in one
    two = found_after(lambda f: replace(f / "config.json", '"T": 4', '"T": 3'))
    assert "the configuration has T=3, the card of tiny says 4" in two[1]
    assert "SHA-256" in two[0]
    two = found_after(lambda f: replace(f / "config.json", '"format": 1', '"format": 9'))
    assert "format 9 is of a later release" in two[0]
    assert "SHA-256" in two[1]
    (one,) = found_after(lambda f: (f / "recipe.toml").write_text("epochs = 0\n"))
    assert "epochs=0 must be a whole number" in one
    (one,) = found_after(lambda f: _card(f, files={}))
    assert "names no size and SHA-256 of model.safetensors" in one
    assert found_after(lambda f: (f / "model.safetensors").unlink()) == []


def test_weights_are_loaded_and_run(folder: Path):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "head.linear.weight": torch.full((5, 16), torch.nan)}, folder / "model.safetensors")
    _card(folder, files={})
    _card(folder, files={name: record_of(folder / name) for name in ("config.json", "model.safetensors")})
    (one,) = problems(folder)
    assert "two inputs of noise give (2, 5), expected (2, 5) finite numbers" in one
    save_file({k: v for k, v in weights.items() if k != "head.linear.weight"}, folder / "model.safetensors")
    _card(folder, files={name: record_of(folder / name) for name in ("config.json", "model.safetensors")})
    (one,) = problems(folder)
    assert "1 tensors do not fit the configuration, first head.linear.weight" in one


def test_more_is_asked_of_the_zoo(own_zoo: Path, save_model, firing_net):
    save_model(firing_net(), own_zoo / "other", license="")
    assert [line.partition("card.toml: ")[2] for line in problems(own_zoo / "other")] == [
        "name='tiny', expected the name of its folder.",
        "names no licence of the weights.",
        "dataset='noise' is none of fashion-mnist, cifar-10, cifar-100, imagenet-1k, image-folder, dvs128-gesture, "
        "cifar10-dvs, coco128.",
    ]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "zoo verify: name models or folders, or pass --all."),
        (("smixer-2-64-fmnist", "--all"), "zoo verify: name models or folders, or pass --all."),
        (
            ("smixer-2-64-fmnst",),
            "'smixer-2-64-fmnst' is no model of the zoo and no folder. Did you mean smixer-2-64-f",
        ),
        (("zzz",), "'zzz' is no model of the zoo and no folder. Architectures have no folder to check."),
    ],
)
def test_mistakes(smixer, words: tuple[str, ...], text: str):
    assert text in smixer("zoo", "verify", *words, code=2).err


def _card(folder: Path, **changes: object) -> None:
    dataclasses.replace(Card.load(folder), **changes).save(folder)
