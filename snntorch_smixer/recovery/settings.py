"""How a pruned net is recovered."""

from __future__ import annotations

from dataclasses import dataclass

from snntorch_smixer.errors import SettingError, check_choice, check_count


@dataclass(frozen=True)
class RecoverySettings:
    """How `recover` works.

    Attributes:
        samples: inputs of the statistics and of the closed forms; the last fifth of what is read, 500 at most, is held
            out for the figures where `recover` gets no ``check``.
        strength: of the ridge towards the weights of now, over the mean square of the inputs.
        epochs: passes of distillation over the loader.
        lr: peak learning rate of distillation; AdamW with a short warm-up and a cosine to 0.
        temperature: of distillation.
        precision: "fp32", or "bf16" for autocast in distillation.
        seed: of everything that draws from torch, NumPy or Python, a shuffling loader included.

    Raises:
        SettingError: a value is out of range.

    Examples:
        >>> from snntorch_smixer import dstsp
        >>> dstsp.RecoverySettings(epochs=2).epochs
        2
    """

    samples: int = 2000
    strength: float = 1e-3
    epochs: int = 1
    lr: float = 1e-3
    temperature: float = 2.0
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("samples", 2), ("epochs", 1), ("seed", 0)):
            check_count("RecoverySettings", name, getattr(self, name), least=least)
        for name in ("strength", "lr", "temperature"):
            value = getattr(self, name)
            if isinstance(value, bool) or not (isinstance(value, (int, float)) and 0 < value < float("inf")):
                raise SettingError(f"RecoverySettings: {name}={value!r} must be a positive number. Pass one.")
        check_choice("RecoverySettings", "precision", self.precision, ("fp32", "bf16"))
