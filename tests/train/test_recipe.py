"""Recipes: defaults, checks, and reading from a file."""

import dataclasses

import pytest

from snntorch_smixer.errors import SettingError
from snntorch_smixer.train.recipe import Recipe


def test_a_file_gives_every_number(tmp_path, toml_text):
    recipe = Recipe(
        epochs=3,
        batch_size=7,
        lr=1e-2,
        min_lr=1e-4,
        weight_decay=0.1,
        warmup_epochs=0.5,
        label_smoothing=0.2,
        crop_padding=1,
        flip=False,
        precision="bf16",
        seed=9,
        init_from="smixer-2-64-fmnist",
    )
    assert all(getattr(recipe, f.name) != f.default for f in dataclasses.fields(Recipe)), "a default was not tried"
    path = tmp_path / "recipe.toml"
    path.write_text(toml_text(dataclasses.asdict(recipe)), encoding="utf-8")
    assert Recipe.load(path) == Recipe.load(str(path)) == recipe


def test_what_a_file_leaves_out_is_the_default(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 4\n", encoding="utf-8")
    assert Recipe.load(path) == dataclasses.replace(Recipe(), epochs=4)


def test_an_unknown_key_is_refused_with_the_file(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("epochs = 4\nlearning_rate = 1\n", encoding="utf-8")
    with pytest.raises(SettingError) as caught:
        Recipe.load(path)
    assert str(caught.value) == (
        f"{path}: unknown key 'learning_rate'. Known keys: epochs, batch_size, lr, min_lr, weight_decay, "
        "warmup_epochs, label_smoothing, crop_padding, flip, precision, seed, init_from."
    )


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("epochs", 0, "Recipe: epochs=0 must be a whole number of at least 1."),
        ("epochs", "3", "Recipe: epochs='3' must be a whole number of at least 1."),
        ("batch_size", 0, "Recipe: batch_size=0 must be a whole number of at least 1."),
        ("crop_padding", -1, "Recipe: crop_padding=-1 must be a whole number of at least 0."),
        ("seed", 1.5, "Recipe: seed=1.5 must be a whole number of at least 0."),
        ("lr", -1e-3, "Recipe: lr=-0.001 must be a number of at least 0."),
        ("lr", float("nan"), "Recipe: lr=nan must be a number of at least 0."),
        ("warmup_epochs", -3, "Recipe: warmup_epochs=-3 must be a number of at least 0."),
        (
            "lr",
            0.0,
            "Recipe: lr=0.0 must be positive, min_lr=1e-05 at most lr, and label_smoothing=0.05 below 1.",
        ),
        (
            "label_smoothing",
            7,
            "Recipe: lr=0.005 must be positive, min_lr=1e-05 at most lr, and label_smoothing=7 below 1.",
        ),
    ],
)
def test_numbers_out_of_range_are_refused(name, value, wanted):
    with pytest.raises(SettingError) as caught:
        Recipe(**{name: value})
    assert str(caught.value) == wanted


@pytest.mark.parametrize("precision", ["fp16", "BF16", ""])
def test_an_unknown_precision_is_refused(precision):
    with pytest.raises(SettingError) as caught:
        Recipe(precision=precision)
    assert str(caught.value) == (
        f"Recipe: precision={precision!r} is unknown. Expected one of fp32, bf16. Pass one of these."
    )


def test_a_bad_number_in_a_file_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("batch_size = 0\n", encoding="utf-8")
    with pytest.raises(SettingError, match="batch_size=0"):
        Recipe.load(path)


def test_it_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 5
