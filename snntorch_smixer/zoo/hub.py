"""Loading weights: safetensors only, checked before anything is built from them."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.zoo.card import WEIGHTS, Card, load_config
from snntorch_smixer.zoo.registry import shipped_folder


def from_pretrained(name: str | Path) -> SMixerNet:
    """A trained network, in evaluation mode.

    Args:
        name: a model whose weights are shipped (``list_models(pretrained=True)``), or a folder that holds
            ``config.toml`` and ``weights.safetensors``; a ``card.toml`` in it is checked too.

    Raises:
        CardError: unknown name, no shipped weights, or a file that is missing, corrupt, truncated or of another
            network. Nothing is left half-loaded.
    """
    folder = _folder(name)
    return load_weights(SMixerNet(load_config(folder)), folder).eval()


def load_weights(net: SMixerNet, name: str | Path) -> SMixerNet:
    """Load the weights of a shipped model, or of a model folder, into ``net``. Raises what `from_pretrained` raises."""
    folder = _folder(name)
    path = folder / WEIGHTS
    if not path.is_file():
        raise CardError(f"from_pretrained: {path} does not exist. Train the model, or name another folder.")
    if (folder / "card.toml").exists():
        Card.load(folder).check_weights(path)
    load_safetensors(net, path)
    return net


def _folder(name: str | Path) -> Path:
    return Path(name) if isinstance(name, Path) or Path(name).is_dir() else shipped_folder(name)


def load_safetensors(net: nn.Module, path: Path) -> None:
    """Load a safetensors file whose names and shapes must be those of ``net``; all or nothing.

    Raises:
        CardError: the file is no safetensors file, or of another network.
    """
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
