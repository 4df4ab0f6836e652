"""`from_pretrained` and `create_model`: a network by name, folder or repository."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import torch

from snntorch_smixer.cards.card import CONFIG, WEIGHTS
from snntorch_smixer.cards.folder import read_tensors, tensor_shapes
from snntorch_smixer.errors import CardError, SMixerError
from snntorch_smixer.models.architectures import build, shapes_of
from snntorch_smixer.models.network import Network, NetworkConfig
from snntorch_smixer.models.saving import Blueprint, card_for, check_made
from snntorch_smixer.patching.wrap import wrap
from snntorch_smixer.zoo.adapt import MATRIX, adapt
from snntorch_smixer.zoo.locate import Located, locate
from snntorch_smixer.zoo.registry import configured, model_blueprint, model_card


def from_pretrained(
    name: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    img_size: tuple[int, int] | None = None,
    T: int | None = None,
    cache_dir: str | Path | None = None,
) -> Network:
    """A trained network, in evaluation mode.

    Shipped models load without a network connection; others are downloaded once into the cache of the Hub's client and
    checked against the size and SHA-256 of their card. ``HF_HUB_OFFLINE=1`` forbids the network, ``HF_TOKEN`` or
    ``hf auth login`` opens private repositories.

    Args:
        name: a model of the zoo (``list_models(pretrained=True)``), ``"org/name"`` or ``"org/name@revision"`` of the
            Hub, or a folder written by ``save_pretrained``.
        num_classes: K; where it differs the head is fresh, randomly initialised; 0 gives pooled features.
        in_channels: 1, 2 or 3; where it differs the convolutions on the input are adapted, see `adapt_channels`.
        img_size: (H, W); where it differs every ``W_M`` is resized, see `resize_matrix`.
        T: time steps; no weight depends on them.
        cache_dir: default: that of the Hub's client.

    Returns:
        The network; ``net.card`` describes it, None where nobody wrote a card.

    Raises:
        CardError: unknown name, weights that nobody has published, a pickle, or files that are missing, corrupt,
            truncated, of a later version or of another network. Nothing is left half-loaded.
        SettingError: a value is out of range.
    """
    asked = {"num_classes": num_classes, "in_channels": in_channels, "img_size": img_size, "T": T}
    return load(locate(name, cache_dir=cache_dir), _given(asked)).eval()


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    img_size: tuple[int, int] | None = None,
    T: int | None = None,
) -> Network:
    """Build a named model.

    Args:
        name: one of `list_models`.
        pretrained: load weights, see `from_pretrained`; ``name`` may then be whatever that takes.
        num_classes: K, instead of the named one; 0 gives pooled features.
        in_channels: 1, 2 or 3, instead of the named one.
        img_size: (H, W), instead of the named one.
        T: time steps, instead of the named ones.

    Returns:
        The network, in training mode; ``net.card`` is the card of its name, or None.

    Raises:
        CardError: unknown name, or see `from_pretrained`.
        SettingError: a value is out of range.
    """
    asked = {"num_classes": num_classes, "in_channels": in_channels, "img_size": img_size, "T": T}
    if pretrained:
        return load(locate(name), _given(asked)).train()
    net = construct(model_blueprint(name), _given(asked))
    net.card = model_card(name) if name in configured() else None
    return net


def load_pretrained(net: Network, name: str | Path, *, cache_dir: str | Path | None = None) -> Network:
    """Put trained weights into a network that you built, pruned or not: a dense checkpoint fits a DSTSP model.

    Classes, input channels and the resolution may differ, see `from_pretrained`. The settings of ``net`` stay.

    Returns:
        ``net``, in the mode it was in.

    Raises:
        CardError: as `from_pretrained`; or the weights are of another architecture. ``net`` is as before.
    """
    check_made("load_pretrained", net)
    located = locate(name, cache_dir=cache_dir)
    source = _checked(located)
    state = read_tensors(located.folder / WEIGHTS)
    net.load_state_dict(adapt(state, net, grid=getattr(source.config, "grid", None)))
    net.card = card_for(net, located.card, source)
    return net


def load(located: Located, changes: Mapping[str, Any]) -> Network:
    """The network of a model folder with its weights; ``changes`` are fields of the configuration."""
    blueprint = _checked(located)
    dataclasses.replace(blueprint.config, **changes)  # a mistake of the caller is told as such
    try:
        net = construct(blueprint, changes)
    except SMixerError as error:
        raise CardError(f"{located.folder / CONFIG}: {error}") from error
    state = read_tensors(located.folder / WEIGHTS)
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(kinds) == 1:
        net.to(kinds.pop())
    net.load_state_dict(adapt(state, net, grid=getattr(blueprint.config, "grid", None)))
    net.card = card_for(net, located.card, blueprint)
    return net


def construct(blueprint: Blueprint, changes: Mapping[str, Any] | None = None) -> Network:
    """The network of a blueprint, randomly initialised, with some fields of the configuration changed."""
    config = dataclasses.replace(blueprint.config, **(changes or {}))
    net = build(config)
    wrapped = blueprint.wrapped
    if wrapped is None:
        return net
    example = torch.zeros(1, config.in_channels, *config.img_size)
    settings = wrapped.dstsp
    net = wrap(net, ps=settings.ps, t=settings.t, swap=wrapped.swap, example_input=example)
    for key in ("merge", "ranking", "w_prime", "spike_cap", "active"):
        setattr(net.dstsp, key, getattr(settings, key))
    return net


def _given(asked: Mapping[str, Any]) -> dict[str, Any]:
    sizes = {key: tuple(value) for key, value in asked.items() if isinstance(value, list)}
    return {key: value for key, value in asked.items() if value is not None} | sizes


def _checked(located: Located) -> Blueprint:
    blueprint = Blueprint.load(located.folder)
    if located.card is not None:
        blueprint.check_card(located.card, located.folder / CONFIG)
    _check_shapes(located, blueprint)
    return blueprint


def _check_shapes(located: Located, blueprint: Blueprint) -> None:
    """Compare the header of the weight file with the configuration before anything of its size is allocated."""
    path = located.folder / WEIGHTS
    found = tensor_shapes(path)
    wanted = _shapes_of(path, blueprint.config, len(found))
    if blueprint.wrapped is not None:
        # Wrapping runs the network; what it is built from must at least fit the size of the file.
        stored, asked = sum(map(prod, found.values())), sum(map(prod, wanted.values()))
        if asked > 4 * stored + (1 << 20):
            raise CardError(f"{path}: {stored} values for a configuration of {asked}. Use the {CONFIG} that belongs.")
        _check_matrices(path, blueprint, found)
        return
    wrong = sorted(k for k in wanted.keys() | found.keys() if wanted.get(k) != found.get(k))
    if wrong:
        raise CardError(
            f"{path}: {len(wrong)} tensors do not fit the configuration, first {wrong[0]}: expected "
            f"{wanted.get(wrong[0])}, got {found.get(wrong[0])}. Use the {CONFIG} that belongs to these weights."
        )


def _shapes_of(path: Path, config: NetworkConfig, tensors: int) -> dict[str, tuple[int, ...]]:
    if getattr(config, "depth", 0) > tensors:
        raise CardError(f"{path}: {tensors} tensors for {config.depth} blocks. Use the {CONFIG} that belongs.")  # type: ignore[attr-defined]
    try:
        return shapes_of(config)
    except SMixerError as error:
        raise CardError(f"{path.with_name(CONFIG)}: {error}") from error
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise CardError(f"{path}: the configuration builds no network: {error}. Get it again.") from error


def _check_matrices(path: Path, blueprint: Blueprint, found: Mapping[str, tuple[int, ...]]) -> None:
    """A swap makes matrices of N x N, so the file must hold some, for the tokens of the configuration."""
    matrices = [shape for name, shape in found.items() if name.endswith(MATRIX)]
    tokens = prod(getattr(blueprint.config, "grid", ()))
    swapped = blueprint.wrapped is not None and blueprint.wrapped.swap is not False
    if swapped and not any(len(shape) > 1 and shape[1] == tokens for shape in matrices):
        raise CardError(f"{path}: no W_M of {tokens} tokens. Use the {CONFIG} that belongs to these weights.")
