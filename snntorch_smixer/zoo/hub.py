"""`from_pretrained`: a trained network by name or folder."""

from __future__ import annotations

from pathlib import Path

from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.card import load_config
from snntorch_smixer.zoo.registry import shipped, shipped_folder
from snntorch_smixer.zoo.weights import load_weights


def from_pretrained(name: str | Path) -> SMixerNet:
    """A trained network, in evaluation mode.

    Args:
        name: a model whose weights are shipped (``list_models(pretrained=True)``), or a folder that holds
            ``config.toml`` and ``weights.safetensors``; a ``card.toml`` in it is checked too. A shipped name wins over
            a folder of that name.

    Raises:
        CardError: unknown name, no shipped weights, or a file that is missing, corrupt, truncated or of another
            network. Nothing is left half-loaded.
    """
    is_folder = isinstance(name, Path) or (name not in shipped() and name != "" and Path(name).is_dir())
    folder = Path(name) if is_folder else shipped_folder(str(name))
    return load_weights(SMixerNet(load_config(folder)), folder).eval()
