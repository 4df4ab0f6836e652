"""Model folders to load from: a tiny network that fires, with its configuration, weights and card."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo import registry


def card_values(weights: bytes) -> dict[str, object]:
    return {
        "name": "tiny",
        "summary": "A network for tests.",
        "dataset": "noise",
        "license": "MIT",
        "mean": [0.5, 0.25],
        "std": [0.5, 1.0],
        "classes": ["a", "b", "c", "d", "é"],
        "sha256": hashlib.sha256(weights).hexdigest(),
        "size_bytes": len(weights),
        "measured": {
            "test_accuracy": 0.875,
            "test_images": 8,
            "demo_accuracy": 0.5,
            "epochs": 2,
            "seed": 0,
            "precision": "fp32",
            "command": 'train "tiny"',
            "versions": "torch 2",
        },
    }


@pytest.fixture
def save_model(toml_text: Callable[[dict[str, object]], str]) -> Callable[[SMixerNet, Path], Path]:
    """Writes a network to a model folder and returns the folder."""

    def save(net: SMixerNet, folder: Path) -> Path:
        folder.mkdir(parents=True)
        save_file(net.state_dict(), folder / "weights.safetensors")
        (folder / "config.toml").write_text(toml_text(net.config.to_dict()), encoding="utf-8")
        values = card_values((folder / "weights.safetensors").read_bytes())
        (folder / "card.toml").write_text(toml_text(values), encoding="utf-8")
        return folder

    return save


@pytest.fixture
def own_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the shipped models."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    monkeypatch.setattr(registry, "zoo_folder", lambda: folder)
    return folder
