"""Loading weights: safetensors only, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.card import WEIGHTS, Card


def load_weights(net: SMixerNet, folder: Path) -> SMixerNet:
    """Load the weights of a model folder into ``net``; a ``card.toml`` in the folder is checked first.

    Raises:
        CardError: a file is missing, corrupt, truncated or of another network; ``net`` is as before.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise CardError(f"from_pretrained: {path} does not exist. Train the model, or name another folder.")
    if (folder / "card.toml").exists():
        Card.load(folder).check_weights(path)
    load_safetensors(net, path)
    return net


def load_safetensors(net: nn.Module, path: Path) -> None:
    """Load a safetensors file whose names and shapes must be those of ``net``; all or nothing.

    Raises:
        CardError: the file is no safetensors file, or of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CardError(f"{path}: not a readable safetensors file ({error}). Get it again.") from error
    mine = {k: tuple(v.shape) for k, v in net.state_dict().items()}
    found = {k: tuple(v.shape) for k, v in state.items()}
    if mine != found:
        wrong = sorted(k for k in mine.keys() | found.keys() if mine.get(k) != found.get(k))
        first = wrong[0]
        raise CardError(
            f"{path}: {len(wrong)} tensors do not fit this {type(net).__name__}, first {first}: expected "
            f"{mine.get(first)}, got {found.get(first)}. Use the config.toml that belongs to these weights."
        )
    net.load_state_dict(state)
