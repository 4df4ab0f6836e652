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
        warmup_lr=1e-3,
        cooldown_epochs=2,
        accumulate=7,
        randaugment_ops=2,
        randaugment_magnitude=27,
        randaugment_prob=0.5,
        mixup=0.8,
        cutmix=1.0,
        mix_prob=0.9,
        mix_off_epoch=2,
        erasing=0.25,
        crop_scale=0.5,
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
        "warmup_epochs, label_smoothing, crop_padding, flip, precision, seed, init_from, warmup_lr, cooldown_epochs, "
        "accumulate, randaugment_ops, randaugment_magnitude, randaugment_prob, mixup, cutmix, mix_prob, mix_off_epoch, "
        "erasing, crop_scale."
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
        ("accumulate", 0, "Recipe: accumulate=0 must be a whole number of at least 1."),
        (
            "accumulate",
            129,
            "Recipe: accumulate=129 must be at most batch_size=128; a part needs an image.",
        ),
        ("cooldown_epochs", -1, "Recipe: cooldown_epochs=-1 must be a whole number of at least 0."),
        ("mix_off_epoch", 0.5, "Recipe: mix_off_epoch=0.5 must be a whole number of at least 0."),
        ("warmup_lr", -1, "Recipe: warmup_lr=-1 must be a number of at least 0."),
        ("warmup_lr", 0.1, "Recipe: warmup_lr=0.1 must be at most lr=0.005."),
        ("mixup", -0.1, "Recipe: mixup=-0.1 must be a number of at least 0."),
        ("cutmix", "1", "Recipe: cutmix='1' must be a number of at least 0."),
        ("mix_prob", 1.5, "Recipe: mix_prob=1.5 must be a number from 0 to 1."),
        ("erasing", -0.5, "Recipe: erasing=-0.5 must be a number from 0 to 1."),
        ("crop_scale", 0, "Recipe: crop_scale=0 must be positive. Pass 1.0 for no smaller crop."),
        ("crop_scale", float("nan"), "Recipe: crop_scale=nan must be a number from 0 to 1."),
        ("randaugment_ops", -1, "Recipe: randaugment_ops=-1 must be a whole number of at least 0."),
        (
            "randaugment_magnitude",
            31,
            "Recipe: randaugment_magnitude=31 must be at most 30. Take three times timm's.",
        ),
        ("randaugment_prob", 2, "Recipe: randaugment_prob=2 must be a number from 0 to 1."),
        ("flip", "no", "Recipe: flip='no' must be true or false."),
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


@pytest.mark.parametrize("recipe", [Recipe(), Recipe(warmup_lr=0.0, flip=False, init_from='a "name"', mixup=0.5)])
def test_save_and_load(tmp_path, recipe):
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert Recipe(**recipe.to_dict()) == recipe


def test_when_batches_are_mixed():
    assert not Recipe().mixes
    assert not Recipe(mixup=0.5, mix_prob=0).mixes
    assert [Recipe(cutmix=1.0, mix_off_epoch=2).mixes_in(epoch) for epoch in range(4)] == [True, True, False, False]
    assert Recipe(mixup=0.5).mixes_in(299)


def test_the_cool_down_counts_as_epochs():
    assert Recipe(epochs=300, cooldown_epochs=10).total_epochs == 310
