"""Model card: what a shipped model is, how it was measured, and which bytes its weights are."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snntorch_smixer.errors import CardError, SMixerError
from snntorch_smixer.models.config import SMixerConfig
from snntorch_smixer.tables import read_toml

WEIGHTS = "weights.safetensors"


@dataclass(frozen=True)
class Measured:
    """A result that we measured, and how to measure it again.

    Attributes:
        test_accuracy: share of ``test_images`` classified correctly, in float32 on a CPU.
        test_images: how many.
        demo_accuracy: share of the 1,000 images that the demo ships.
        epochs: of training.
        seed: of training.
        precision: of training.
        command: that trains it.
        versions: of torch and snntorch.
    """

    test_accuracy: float
    test_images: int
    demo_accuracy: float
    epochs: int
    seed: int
    precision: str
    command: str
    versions: str


@dataclass(frozen=True)
class Card:
    """Contents of ``card.toml``.

    Attributes:
        name: of the model; its folder has the same name.
        summary: one sentence.
        dataset: it was trained on.
        license: of the weights.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        classes: names, by label.
        sha256: of the weight file.
        size_bytes: of the weight file.
        measured: our own results.
    """

    name: str
    summary: str
    dataset: str
    license: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...]
    sha256: str
    size_bytes: int
    measured: Measured

    @classmethod
    def load(cls, folder: Path) -> Card:
        """Read ``card.toml`` of a model folder.

        Raises:
            CardError: the file is missing, is no TOML, or lacks or invents a key.
        """
        raw = read_toml(folder / "card.toml")
        _check_keys(folder / "card.toml", cls, raw)
        _check_keys(f"{folder / 'card.toml'} [measured]", Measured, raw["measured"])
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**{**values, "measured": Measured(**raw["measured"])})

    def save(self, folder: Path) -> None:
        """Write ``card.toml`` into a model folder; `load` reads it back equal."""
        raw = dataclasses.asdict(self)
        measured = raw.pop("measured")
        # JSON's strings, numbers and arrays are TOML's too.
        tables = [
            "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in table.items())
            for table in (raw, measured)
        ]
        (folder / "card.toml").write_text("\n[measured]\n".join(tables), encoding="utf-8")

    def check_weights(self, path: Path) -> None:
        """Raise `CardError` unless the file has the size and SHA-256 of the card."""
        size = path.stat().st_size
        if size != self.size_bytes:
            raise CardError(
                f"{path}: {size} bytes, the card of {self.name} says {self.size_bytes}; the file is truncated or "
                "another one. Get it again."
            )
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != self.sha256:
            raise CardError(
                f"{path}: SHA-256 {digest[:12]}..., the card of {self.name} says {self.sha256[:12]}...; the file is "
                "corrupt or another one. Get it again."
            )


def load_config(folder: Path) -> SMixerConfig:
    """``config.toml`` of a model folder.

    Raises:
        CardError: the file is missing, is no TOML, or describes no valid network.
    """
    try:
        return SMixerConfig.from_dict(read_toml(folder / "config.toml"))
    except (SMixerError, TypeError) as error:
        if isinstance(error, CardError):
            raise
        raise CardError(f"{folder / 'config.toml'}: {error}") from error


def _check_keys(where: Path | str, cls: type, raw: object) -> None:
    if not isinstance(raw, dict):
        raise CardError(f"{where}: expected a table, got {raw!r}. Restore the card.")
    wanted = {f.name for f in dataclasses.fields(cls)}
    if set(raw) != wanted:
        lacks, extra = sorted(wanted - set(raw)), sorted(set(raw) - wanted)
        raise CardError(f"{where}: missing keys {lacks}, unknown keys {extra}. Restore the card.")
