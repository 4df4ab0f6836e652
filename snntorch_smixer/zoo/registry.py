"""Names of models: the paper's configurations and the folders of the zoo."""

from __future__ import annotations

import dataclasses
from difflib import get_close_matches
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from snntorch_smixer.errors import CardError
from snntorch_smixer.models.config import CONFIGS, SMixerConfig
from snntorch_smixer.models.smixer_net import SMixerNet
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.zoo.card import WEIGHTS, Card, load_config
from snntorch_smixer.zoo.weights import load_weights

TWIN = "-dstsp"


@cache
def zoo_folder() -> Path:
    """Folder of the shipped models: inside an installed package, or beside the package in a checkout."""
    here = Path(__file__).parent
    inside = here / "models"
    return inside if inside.is_dir() else here.parents[1] / "zoo"


def configured() -> list[str]:
    """Names of the folders of the zoo, with weights or without."""
    return sorted(p.parent.name for p in zoo_folder().glob("*/config.toml"))


def shipped() -> list[str]:
    """Names of the models whose weights come with the package."""
    return [name for name in configured() if (zoo_folder() / name / WEIGHTS).is_file()]


def shipped_folder(name: str) -> Path:
    """Folder of a model whose weights come with the package.

    Raises:
        CardError: the name is unknown, or no weights are shipped.
    """
    if name not in shipped():
        model_config(name)
        raise CardError(
            f"zoo: no weights of {name} are shipped. With weights: {', '.join(shipped()) or 'none'}. "
            f"create_model({name!r}) builds it untrained."
        )
    return zoo_folder() / name


def list_models(pattern: str = "*", *, pretrained: bool = False) -> list[str]:
    """Names that `create_model` knows, sorted.

    Args:
        pattern: shell pattern, for example ``"smixer-8*"``.
        pretrained: only those with shipped weights.
    """
    names = set(shipped())
    if not pretrained:
        names |= set(configured()) | set(CONFIGS) | {name + TWIN for name in CONFIGS}
    return sorted(name for name in names if fnmatch(name, pattern))


def model_config(name: str) -> SMixerConfig:
    """Configuration of a named model; a ``-dstsp`` twin prunes with the paper's defaults.

    Raises:
        CardError: the name is unknown; close matches are named.
    """
    if name in configured():
        return load_config(zoo_folder() / name)
    base = name.removesuffix(TWIN)
    if base in CONFIGS:
        config = CONFIGS[base]
        return config if base == name else dataclasses.replace(config, prune=DSTSPConfig())
    near = get_close_matches(name, list_models(), n=3)
    hint = f"Did you mean {', '.join(near)}?" if near else "See list_models()."
    raise CardError(f"zoo: no model is called {name!r}. {hint}")


def model_card(name: str) -> Card:
    """Card of a shipped model: input normalisation, classes, licence, measured results.

    Raises:
        CardError: no model of this name is shipped.
    """
    if name not in shipped():
        raise CardError(f"model_card: {name!r} is not shipped; there are cards of {', '.join(shipped())}.")
    return Card.load(zoo_folder() / name)


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    T: int | None = None,
) -> SMixerNet:
    """Build a named model.

    Args:
        name: one of `list_models`.
        pretrained: load the shipped weights; they fix ``num_classes`` and ``in_channels``.
        num_classes: K, instead of the named one.
        in_channels: 1, 2 or 3, instead of the named one.
        T: time steps, instead of the named ones.

    Returns:
        The network, in training mode.

    Raises:
        CardError: unknown name, no shipped weights, or weights that do not fit what was asked.
        SettingError: a value is out of range.
    """
    asked = {"num_classes": num_classes, "in_channels": in_channels, "T": T}
    changes: dict[str, Any] = {k: v for k, v in asked.items() if v is not None}
    config = model_config(name)
    wanted = dataclasses.replace(config, **changes)
    if not pretrained:
        return SMixerNet(wanted)
    for key in ("num_classes", "in_channels"):
        if getattr(wanted, key) != getattr(config, key):
            raise CardError(
                f"create_model: the weights of {name} have {key}={getattr(config, key)}, got {key}="
                f"{getattr(wanted, key)}. Leave it out, or set pretrained=False."
            )
    folder = shipped_folder(name)
    return load_weights(SMixerNet(wanted), folder)
