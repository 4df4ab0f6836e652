"""Training recipe: every number that a training run depends on."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from pathlib import Path

from snntorch_smixer.errors import SettingError, check_choice, check_count
from snntorch_smixer.tables import check_keys, read_toml


@dataclass(frozen=True)
class Recipe:
    """AdamW with linear warm-up and cosine decay; random crop and flip.

    Attributes:
        epochs: passes over the training set.
        batch_size: images per step.
        lr: peak learning rate.
        min_lr: learning rate at the last step.
        weight_decay: of AdamW, on weights with two or more axes.
        warmup_epochs: epochs of linear warm-up from ``min_lr``.
        label_smoothing: of the cross entropy.
        crop_padding: pixels of zero padding before a random crop; 0 for none.
        flip: random horizontal flip.
        precision: "fp32" or "bf16" (autocast).
        seed: of initialisation, order and augmentation.
        init_from: model whose weights the training starts from; empty for random weights.
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

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "crop_padding", "seed"):
            check_count("Recipe", name, getattr(self, name), least=0 if name in ("crop_padding", "seed") else 1)
        for name in ("lr", "min_lr", "weight_decay", "warmup_epochs", "label_smoothing"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and 0 <= value < inf):
                raise SettingError(f"Recipe: {name}={value!r} must be a number of at least 0.")
        if not (self.min_lr <= self.lr and self.lr > 0 and self.label_smoothing < 1):
            raise SettingError(
                f"Recipe: lr={self.lr} must be positive, min_lr={self.min_lr} at most lr, and "
                f"label_smoothing={self.label_smoothing} below 1."
            )
        check_choice("Recipe", "precision", self.precision, ("fp32", "bf16"))

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
