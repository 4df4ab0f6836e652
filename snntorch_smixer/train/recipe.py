"""Training recipe: every number that a training run depends on."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Any

from snntorch_smixer.errors import SettingError, check_choice, check_count
from snntorch_smixer.tables import check_keys, read_toml

COUNTS = {
    "epochs": 1,
    "batch_size": 1,
    "crop_padding": 0,
    "seed": 0,
    "cooldown_epochs": 0,
    "accumulate": 1,
    "randaugment_ops": 0,
    "randaugment_magnitude": 0,
    "mix_off_epoch": 0,
}
"""The whole numbers of a recipe, and the least that each may be."""

NUMBERS = ("lr", "min_lr", "weight_decay", "warmup_epochs", "label_smoothing", "mixup", "cutmix")
SHARES = ("randaugment_prob", "mix_prob", "erasing", "crop_scale")

MOST_MAGNITUDE = 30
"""torchvision's RandAugment has 31 strengths, from 0."""


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up and cosine decay; crop and flip; RandAugment, erasing, mixup and cutmix where asked.

    What the later settings need (torchvision, the extra "vision") is imported only where one is on. All of them
    default to off, so a short recipe stays a plain one.

    RandAugment is torchvision's, which differs from timm's, of which papers quote strings such as
    ``rand-m9-n1-mstd0.4-inc1``: torchvision counts strengths 0 to 30, timm 0 to 10, so m9 is 27 here; torchvision
    applies every operation it draws, timm only every second one (``randaugment_prob=0.5``); torchvision has no noise
    on the strength (mstd), and has Identity but not Invert and SolarizeAdd among its operations. Shear, translation,
    rotation and the colour changes have the same range as timm's "increasing" set (inc1), or 1 % off.

    Attributes:
        epochs: passes over the training set, without the cool-down.
        batch_size: images per optimizer step.
        lr: peak learning rate.
        min_lr: learning rate at the end of the decay, and in the cool-down.
        weight_decay: of AdamW, on weights with two or more axes.
        warmup_epochs: epochs of linear warm-up.
        label_smoothing: of the cross entropy.
        crop_padding: pixels of zero padding before a random crop; 0 for none. Image folders use ``crop_scale``.
        flip: random horizontal flip.
        precision: "fp32" or "bf16" (autocast).
        seed: of initialisation, order and augmentation.
        init_from: model whose weights the training starts from; empty for random weights.
        warmup_lr: learning rate at the first step; None for ``min_lr``.
        cooldown_epochs: further epochs at ``min_lr``.
        accumulate: each batch goes through the net in so many parts before the step, to save memory; BatchNorm sees
            the parts.
        randaugment_ops: RandAugment operations per image, drawn with replacement; 0 for none.
        randaugment_magnitude: their strength, of torchvision's 0 to 30.
        randaugment_prob: chance of each operation.
        mixup: alpha of mixup's Beta distribution; 0 for none.
        cutmix: alpha of cutmix; 0 for none. With both, each batch draws one of them, with equal chance.
        mix_prob: chance that a batch is mixed at all.
        mix_off_epoch: mixing stops after so many epochs; 0 for never.
        erasing: chance that a random rectangle of an image becomes zero, which is the mean after normalisation.
        crop_scale: image folders only: least share of the area in a random resized crop.
    """

    epochs: int = 15
    batch_size: int = 128
    lr: float = 5e-3
    min_lr: float = 1e-5
    weight_decay: float = 0.06
    warmup_epochs: float = 1.0
    label_smoothing: float = 0.05
    crop_padding: int = 2
    flip: bool = True
    precision: str = "fp32"
    seed: int = 0
    init_from: str = ""
    warmup_lr: float | None = None
    cooldown_epochs: int = 0
    accumulate: int = 1
    randaugment_ops: int = 0
    randaugment_magnitude: int = 9
    randaugment_prob: float = 1.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mix_prob: float = 1.0
    mix_off_epoch: int = 0
    erasing: float = 0.0
    crop_scale: float = 0.08

    def __post_init__(self) -> None:
        for name, least in COUNTS.items():
            check_count("Recipe", name, getattr(self, name), least=least)
        for name in (*NUMBERS, *(() if self.warmup_lr is None else ("warmup_lr",))):
            _check_number(name, getattr(self, name))
        for name in SHARES:
            _check_number(name, getattr(self, name), most=1)
        if not (self.min_lr <= self.lr and self.lr > 0 and self.label_smoothing < 1):
            raise SettingError(
                f"Recipe: lr={self.lr} must be positive, min_lr={self.min_lr} at most lr, and "
                f"label_smoothing={self.label_smoothing} below 1."
            )
        _check_together(self)
        check_choice("Recipe", "precision", self.precision, ("fp32", "bf16"))

    @property
    def total_epochs(self) -> int:
        """Epochs with the cool-down: how many records a finished run has."""
        return self.epochs + self.cooldown_epochs

    @property
    def mixes(self) -> bool:
        """Whether mixup or cutmix is on in some epoch."""
        return self.mix_prob > 0 and max(self.mixup, self.cutmix) > 0

    def mixes_in(self, epoch: int) -> bool:
        """Whether mixup or cutmix is on in an epoch, counted from 0."""
        return self.mixes and (self.mix_off_epoch == 0 or epoch < self.mix_off_epoch)

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read ``recipe.toml``.

        Raises:
            CardError: no such file, or no TOML.
            SettingError: an unknown key, or a value out of range.
        """
        raw = read_toml(Path(path))
        check_keys(str(path), cls, raw)
        return cls(**raw)

    def to_dict(self) -> dict[str, Any]:
        """Every number by its name, without the Nones: what a TOML or JSON file holds."""
        return {name: value for name, value in dataclasses.asdict(self).items() if value is not None}

    def save(self, path: str | Path) -> None:
        """Write ``recipe.toml``; `load` reads it back equal."""
        # JSON's strings, numbers and booleans are TOML's too.
        lines = (f"{name} = {json.dumps(value, ensure_ascii=False)}\n" for name, value in self.to_dict().items())
        Path(path).write_text("".join(lines), encoding="utf-8")


def _check_number(name: str, value: object, most: float = inf) -> None:
    if isinstance(value, (int, float)) and 0 <= value <= most and value != inf:
        return
    wanted = "a number of at least 0" if most == inf else f"a number from 0 to {most}"
    raise SettingError(f"Recipe: {name}={value!r} must be {wanted}.")


def _check_together(recipe: Recipe) -> None:
    if recipe.warmup_lr is not None and recipe.warmup_lr > recipe.lr:
        raise SettingError(f"Recipe: warmup_lr={recipe.warmup_lr} must be at most lr={recipe.lr}.")
    if recipe.accumulate > recipe.batch_size:
        raise SettingError(
            f"Recipe: accumulate={recipe.accumulate} must be at most batch_size={recipe.batch_size}; a part needs an "
            "image."
        )
    if recipe.randaugment_magnitude > MOST_MAGNITUDE:
        raise SettingError(
            f"Recipe: randaugment_magnitude={recipe.randaugment_magnitude} must be at most {MOST_MAGNITUDE}. Take "
            "three times timm's."
        )
    if recipe.crop_scale == 0:
        raise SettingError("Recipe: crop_scale=0 must be positive. Pass 1.0 for no smaller crop.")
    if not isinstance(recipe.flip, bool):
        raise SettingError(f"Recipe: flip={recipe.flip!r} must be true or false.")
