"""`from_pretrained` and `create_model`: a network by name, folder or repository."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor

from snntorch_smixer.cards.card import CONFIG, WEIGHTS
from snntorch_smixer.cards.folder import read_tensors, record_of_bytes, tensor_shapes
from snntorch_smixer.errors import CardError, SettingError, SMixerError, check_name
from snntorch_smixer.models.architectures import build, shapes_of
from snntorch_smixer.models.network import Network, NetworkConfig
from snntorch_smixer.models.saving import OF_THE_WEIGHTS, Blueprint, card_for, check_made, note_untrained
from snntorch_smixer.patching.wrap import wrap
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.shapes import square
from snntorch_smixer.zoo.adapt import MATRIX, adapt
from snntorch_smixer.zoo.locate import Located, locate
from snntorch_smixer.zoo.registry import configured, model_blueprint, model_card


class Overrides(TypedDict, total=False):
    """Fields of the configurations that `create_model` and `from_pretrained` change by keyword, beside their own."""

    in_chans: int
    dim: int
    depth: int
    heads: int
    mlp_ratio: float
    strides: tuple[int, ...]
    mixer: str
    beta: float
    threshold: float
    gamma: float
    prune: DSTSPConfig | None
    variant: str
    proj_over_batch: bool
    dims: tuple[int, ...]
    depths: tuple[int, ...]
    value_ratio: int
    levels: int
    kind: str
    depth_scale: float
    width_scale: float
    most_channels: int
    grid: tuple[int, int]


def from_pretrained(
    name: str | Path,
    *,
    num_classes: int | None = None,
    in_channels: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    T: int | None = None,
    cache_dir: str | Path | None = None,
    **settings: Unpack[Overrides],
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
        img_size: (H, W), or one number for both; where it differs every ``W_M`` is resized, see `resize_matrix`.
        T: time steps; no weight depends on them.
        cache_dir: default: that of the Hub's client.
        settings: further fields of the configuration that weights do not depend on, such as ``prune``, ``beta`` and
            ``threshold``; and ``in_chans``, another name of ``in_channels``.

    Returns:
        The network; ``net.card`` describes it, None where nobody wrote a card.

    Raises:
        CardError: unknown name, weights that nobody has published, a pickle, or files that are missing, corrupt,
            truncated, of a later version or of another network. Nothing is left half-loaded.
        SettingError: a value is out of range, an unknown setting, with close matches, or one that the weights are made
            for.

    Examples:
        >>> import torch
        >>> from snntorch_smixer import from_pretrained
        >>> net = from_pretrained("smixer-2-64-fmnist", num_classes=5)  # a fresh head
        >>> net(torch.randn(2, 1, 28, 28)).shape
        torch.Size([2, 5])
    """
    asked = {"num_classes": num_classes, "in_channels": in_channels, "img_size": img_size, "T": T}
    changes = _given("from_pretrained", asked, settings)
    return load(locate(name, cache_dir=cache_dir), changes).eval()


def create_model(
    name: str,
    *,
    pretrained: bool = False,
    num_classes: int | None = None,
    in_channels: int | None = None,
    img_size: int | tuple[int, int] | None = None,
    T: int | None = None,
    **settings: Unpack[Overrides],
) -> Network:
    """Build a named model.

    Args:
        name: one of `list_models`.
        pretrained: load weights, see `from_pretrained`; ``name`` may then be whatever that takes.
        num_classes: K, instead of the named one; 0 gives pooled features.
        in_channels: 1, 2 or 3, instead of the named one.
        img_size: (H, W), or one number for both, instead of the named one.
        T: time steps, instead of the named ones.
        settings: further fields of the configuration instead of the named ones, such as ``dim``, ``depth``, ``heads``
            or ``prune``; and ``in_chans``, another name of ``in_channels``.

    Returns:
        The network, in training mode; ``net.card`` is the card of its name without files and results, or None. What it
        says about training is no part of what is saved later, since random weights were trained on nothing.

    Raises:
        CardError: unknown name, or see `from_pretrained`.
        SettingError: a value is out of range, or an unknown setting, with close matches. With ``pretrained`` also a
            setting that the weights are made for.

    Examples:
        >>> from snntorch_smixer import create_model
        >>> create_model("smixer-4-384", dim=64, heads=4, img_size=16, in_chans=1).config.num_tokens
        16
        >>> create_model("smixer-4-384-cifar100-dstsp", num_classes=10).dstsp.t  # untrained
        1
    """
    asked = {"num_classes": num_classes, "in_channels": in_channels, "img_size": img_size, "T": T}
    changes = _given("create_model", asked, settings)
    if pretrained:
        return load(locate(name), changes).train()
    blueprint = model_blueprint(name)
    _check_known(blueprint.config, changes)
    net = construct(blueprint, changes)
    if name in configured():
        note_untrained(net, model_card(name), blueprint)
    return net


def load_pretrained(net: Network, name: str | Path, *, cache_dir: str | Path | None = None) -> Network:
    """Put trained weights into a network that you built, pruned or not: a dense checkpoint fits a DSTSP model.

    Classes, input channels and the resolution may differ, see `from_pretrained`. The settings of ``net`` stay.

    Returns:
        ``net``, in the mode it was in.

    Raises:
        CardError: as `from_pretrained`; or the weights are of another architecture. ``net`` is as before.

    Examples:
        >>> from snntorch_smixer import create_model, load_pretrained
        >>> net = create_model("smixer-2-64-fmnist-dstsp")
        >>> _ = load_pretrained(net, "smixer-2-64-fmnist")  # weights of the dense net, settings of the pruned one
    """
    check_made("load_pretrained", net)
    located = locate(name, cache_dir=cache_dir)
    source = _checked(located)
    state = read_tensors(located.folder / WEIGHTS, located.weights)
    mine = net.state_dict()
    before = {name: value.clone() for name, value in mine.items()}
    try:
        _put(state, net, located, source)
    except BaseException:  # an interrupt too must not leave it half loaded
        with torch.no_grad():
            for key, value in before.items():
                mine[key].copy_(value)
        raise
    return net


def _put(state: Mapping[str, Tensor], net: Network, located: Located, source: Blueprint) -> None:
    """Load the weights of ``source`` into ``net``, with the card that is true of it; a failure leaves some loaded."""
    path = located.folder / WEIGHTS
    try:
        fitting = adapt(state, net, grid=getattr(source.config, "grid", None))
        _check_same_meaning(path, source.config, net.config)
        net.load_state_dict(fitting)
    except SMixerError:
        raise
    except Exception as error:  # modules check their own state, and a file may hold anything
        reason = " ".join(str(error).split())[:300]
        raise CardError(f"{path}: these weights are of another network: {reason} Get it again.") from error
    card = located.card
    record = card.files.get(WEIGHTS) if card is not None else None  # compared with the bytes by now
    record = record or record_of_bytes(located.weights)
    net.describe(card_for(net, card, source), weights=record.sha256)


def _check_same_meaning(path: Path, stored: NetworkConfig, own: NetworkConfig) -> None:
    """Refuse weights of the right shapes that another network computes something else with, by other heads say."""
    for field in dataclasses.fields(stored) if type(stored) is type(own) else ():
        told, wanted = getattr(stored, field.name), getattr(own, field.name)
        if field.name not in (*stored.adjustable, *OF_THE_WEIGHTS) and told != wanted:
            raise CardError(
                f"{path}: these weights are made for {field.name}={told!r}, the network has {wanted!r}. Build it with "
                f"{field.name}={told!r}."
            )


def load(located: Located, changes: Mapping[str, Any]) -> Network:
    """The network of a model folder with its weights; ``changes`` are fields of the configuration."""
    blueprint = _checked(located)
    _check_known(blueprint.config, changes)
    _check_weights_stay(blueprint.config, changes)
    dataclasses.replace(blueprint.config, **changes)  # a mistake of the caller is told as such
    try:
        net = construct(blueprint, changes)
    except Exception as error:  # a configuration may ask for anything
        raise CardError(f"{located.folder / CONFIG}: {error or type(error).__name__}") from error
    state = read_tensors(located.folder / WEIGHTS, located.weights)
    kinds = {value.dtype for value in state.values() if value.is_floating_point()}
    if len(kinds) == 1:
        net.to(kinds.pop())
    _put(state, net, located, blueprint)
    return net


def construct(blueprint: Blueprint, changes: Mapping[str, Any] | None = None) -> Network:
    """The network of a blueprint, randomly initialised, with some fields of the configuration changed."""
    config = dataclasses.replace(blueprint.config, **(changes or {}))
    net = build(config)
    wrapped = blueprint.wrapped
    if wrapped is None:
        return net
    example = torch.zeros(1, config.in_channels, *config.img_size)
    return wrap(net, swap=wrapped.swap, settings=wrapped.dstsp, only=wrapped.only, example_input=example)


def _given(where: str, asked: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that were asked for, under the names and in the form that a configuration has."""
    values = {**asked, **settings}
    channels = values.pop("in_chans", None)
    if channels is not None and values["in_channels"] not in (None, channels):
        raise SettingError(
            f"{where}: got in_channels={values['in_channels']!r} and in_chans={channels!r}, two names of one setting. "
            "Pass one of them."
        )
    values["in_channels"] = values["in_channels"] if channels is None else channels
    values["img_size"] = square(values["img_size"])
    sizes = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    # Of the pruning None is a value: there is none.
    return {key: value for key, value in values.items() if value is not None or key == "prune"} | sizes


def _check_known(config: NetworkConfig, changes: Mapping[str, Any]) -> None:
    fields = [field.name for field in dataclasses.fields(config)]
    for key in changes:
        check_name(type(config).__name__, "setting", key, fields)


def _check_weights_stay(config: NetworkConfig, changes: Mapping[str, Any]) -> None:
    """Refuse a change of what trained weights are made for and cannot be adapted to."""
    free = (*config.adjustable, *OF_THE_WEIGHTS)
    for key, value in changes.items():
        if key not in free and value != getattr(config, key):
            raise SettingError(
                f"{type(config).__name__}: the weights are made for {key}={getattr(config, key)!r}, got {value!r}. "
                f"With weights only {', '.join(free)} can change. Build it untrained: create_model(name, {key}=...)."
            )


def _checked(located: Located) -> Blueprint:
    blueprint = Blueprint.parse(located.folder / CONFIG, located.config)
    if located.card is not None:
        blueprint.check_card(located.card, located.folder / CONFIG)
    _check_shapes(located, blueprint)
    return blueprint


def _check_shapes(located: Located, blueprint: Blueprint) -> None:
    """Compare the header of the weight file with the configuration before anything of its size is allocated."""
    path = located.folder / WEIGHTS
    found = tensor_shapes(path, located.weights)
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
