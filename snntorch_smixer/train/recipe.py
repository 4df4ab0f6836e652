"""Training recipe: every number that a training run depends on."""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass
from pathlib import Path

from snntorch_smixer.errors import SettingError, check_choice


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
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0 or self.crop_padding < 0:
            raise SettingError(
                f"Recipe: epochs, batch_size and lr must be positive and crop_padding not negative: {self}"
            )
        check_choice("Recipe", "precision", self.precision, ("fp32", "bf16"))

    @classmethod
    def load(cls, path: str | Path) -> Recipe:
        """Read ``recipe.toml``.

        Raises:
            SettingError: an unknown key.
        """
        raw = tomllib.loads(Path(path).read_text())
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(raw) - known)
        if unknown:
            raise SettingError(f"{path}: unknown key {unknown[0]!r}. Known keys: {', '.join(sorted(known))}.")
        return cls(**raw)
