"""``config.json`` of a model folder, and writing such a folder."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from snntorch_smixer.cards.card import CARD, CONFIG, WEIGHTS, Card, FileRecord
from snntorch_smixer.cards.folder import parse_json, read_json, record_of_bytes, write_files
from snntorch_smixer.cards.readme import README, model_readme
from snntorch_smixer.errors import CardError, SMixerError
from snntorch_smixer.models.spec import Configured, NetworkConfig, config_of, shapes_of
from snntorch_smixer.pruning.pruner import DSTSPConfig
from snntorch_smixer.pruning.rates import rate_at
from snntorch_smixer.tables import check_keys

FORMAT = 1
"""Version of ``config.json``; raised when an older release would misread it."""

LIBRARY = "snntorch-smixer"

_MAX_BLOCKS = 1000
_MAX_INPUT = 1 << 30
_MAX_RUN = 1 << 24
"""T * C * H * W of a network that is wrapped, which runs it once; ImageNet at T=4 has 0.6 million."""
_MAX_TOKENS = 1 << 12
"""N of a network that is wrapped: attention may take N * N per head."""


OF_THE_WEIGHTS = ("num_classes", "in_channels", "img_size")
"""Fields of a configuration that weights are made for and can be adapted to."""


@dataclass(frozen=True)
class Wrapped:
    """What `wrap` did to a network that does not prune by itself.

    Attributes:
        swap: argument of `wrap`.
        dstsp: settings of the pruning.
        only: blocks that were touched, None for all.
    """

    swap: bool | str
    dstsp: DSTSPConfig
    only: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Blueprint:
    """Contents of ``config.json``: what to build before weights are loaded.

    Attributes:
        config: of the network.
        wrapped: None for a network that was not wrapped, or that prunes by itself.
    """

    config: NetworkConfig
    wrapped: Wrapped | None = None

    @classmethod
    def of(cls, net: Configured) -> Blueprint:
        """What rebuilds ``net`` with the settings of now."""
        config, dstsp = net.live_config(), getattr(net, "dstsp", None)
        if dstsp is None or hasattr(config, "prune"):
            return cls(config)
        return cls(config, Wrapped(dstsp.swap, dstsp.settings, dstsp.only))

    @classmethod
    def load(cls, folder: Path) -> Blueprint:
        """Read ``config.json`` of a model folder.

        Raises:
            CardError: no such file, no JSON, of a later format, or it describes no valid network.
        """
        path = folder / CONFIG
        return cls._of_file(path, read_json(path))

    @classmethod
    def parse(cls, path: Path, content: bytes) -> Blueprint:
        """`load` of the bytes of a ``config.json`` that are read already; ``path`` names them in errors."""
        return cls._of_file(path, parse_json(path, content))

    @classmethod
    def _of_file(cls, path: Path, raw: Mapping[str, Any]) -> Blueprint:
        version = raw.get("format")
        if type(version) is not int or version < 1:
            raise CardError(f"{path}: format={version!r}, expected {FORMAT}. It was not written by {LIBRARY}.")
        if version > FORMAT:
            raise CardError(
                f"{path}: format {version} is of a later release, this one reads up to {FORMAT}. Run pip install -U "
                f"{LIBRARY}."
            )
        try:
            return cls._from_dict(raw)
        except (SMixerError, TypeError, ValueError, OverflowError) as error:
            raise CardError(f"{path}: {error}") from error

    @classmethod
    def _from_dict(cls, raw: Mapping[str, Any]) -> Blueprint:
        unknown = sorted(set(raw) - {"library_name", "format", "architecture", "config", "wrapped"})
        if unknown:
            raise CardError(f"unknown key {unknown[0]!r}. Restore the file.")
        config = config_of(raw.get("architecture")).from_dict(raw.get("config", {}))
        wrapped = raw.get("wrapped")
        _check_limits(config, run=wrapped is not None)
        if wrapped is None:
            return cls(config)
        if getattr(config, "prune", None) is not None:
            raise CardError("prune and wrapped are both there, and a network is pruned once. Restore the file.")
        check_keys("wrapped", Wrapped, wrapped)
        if wrapped.get("swap") not in (True, False, "all"):
            raise CardError(f"wrapped.swap={wrapped.get('swap')!r} is no argument of wrap. Restore the file.")
        only = wrapped.get("only")
        if only is not None and not (isinstance(only, list) and only and all(isinstance(path, str) for path in only)):
            raise CardError(f"wrapped.only={only!r} is no list of block names. Restore the file.")
        settings = DSTSPConfig.from_dict(wrapped.get("dstsp", {}))
        return cls(config, Wrapped(wrapped["swap"], settings, None if only is None else tuple(only)))

    def to_json(self) -> str:
        """The text of ``config.json``."""
        raw = {"library_name": LIBRARY, "format": FORMAT, "architecture": self.config.architecture}
        raw |= {"config": self.config.to_dict()}
        if self.wrapped is not None:
            dstsp = dataclasses.asdict(self.wrapped.dstsp, dict_factory=_without_none)
            only = {} if self.wrapped.only is None else {"only": list(self.wrapped.only)}
            raw |= {"wrapped": {"swap": self.wrapped.swap, **only, "dstsp": dstsp}}
        return json.dumps(raw, indent=2) + "\n"

    @property
    def prune(self) -> DSTSPConfig | None:
        """Settings of the pruning, None for none."""
        return getattr(self.config, "prune", None) if self.wrapped is None else self.wrapped.dstsp

    def facts(self) -> dict[str, Any]:
        """What a card says about the configuration: T, ps, t, input_size."""
        config, prune = self.config, self.prune
        ps: Any = 0.0 if prune is None else prune.ps
        depth = getattr(config, "depth", 1)
        if not isinstance(ps, (int, float)):
            ps = tuple(rate_at(ps, block, depth) for block in range(depth))
        t = config.T if prune is None or prune.t is None else prune.t
        return {"T": config.T, "ps": ps, "t": t, "input_size": (config.in_channels, *config.img_size)}

    def check_card(self, card: Card, path: Path) -> None:
        """Raise `CardError` where the card says something else than the configuration."""
        for key, value in self.facts().items():
            told = getattr(card, key)
            if told != value:
                raise CardError(
                    f"{path}: the configuration has {key}={value!r}, the card of {card.name} says {told!r}. Use the "
                    "files that belong together."
                )


def save(net: Configured, folder: Path, *, card: Card | None = None, repo_id: str | None = None) -> Card:
    """Write weights, configuration, card and README of ``net``; see `Network.save_pretrained`.

    Args:
        net: not changed.
        folder: made where it does not exist.
        card: default: that of ``net``.
        repo_id: where it is to be published; default: as the card says.

    Raises:
        CardError: the network is not what its configuration builds.
    """
    check_made("save_pretrained", net)
    blueprint, state = Blueprint.of(net), _state(net)
    if blueprint.wrapped is None:
        _check_state(net, blueprint.config, state)
    contents = _contents(blueprint, state)
    files = {name: record_of_bytes(content) for name, content in contents.items()}
    own = _as_named(folder.resolve().name)
    if card is None or card == net.card:
        card = _own_card(net, blueprint, files, name=own)
    else:
        card = describe(blueprint, files, card, name=own)
    card = dataclasses.replace(card, parameters=_count(net))
    if repo_id is not None and repo_id != card.repo_id:
        card = dataclasses.replace(card, repo_id=repo_id, revision="")
    texts = {README: model_readme(card), CARD: card.to_toml()}
    write_files(folder, {**contents, **net.more_files(), **{name: text.encode() for name, text in texts.items()}})
    return card


def describe(blueprint: Blueprint, files: Mapping[str, FileRecord], card: Card | None, *, name: str) -> Card:
    """What somebody says about these files: results and the pinned revision stay only where the bytes are the same."""
    if card is None:
        return _plain_card(blueprint, files, name=_as_named(name))
    if dict(card.files) == dict(files):
        return dataclasses.replace(card, **blueprint.facts())
    return _revised(card, blueprint, files)


def _own_card(net: Configured, blueprint: Blueprint, files: Mapping[str, FileRecord], *, name: str) -> Card:
    """What the card of ``net`` says that is true of these files; nobody passed one for them.

    Weights that are not those the card was written for may be trained on anything, so nothing about their origin stays
    but the licence, which binds what was made of them, and the paper.
    """
    card = net.card
    if card is None:
        return _plain_card(blueprint, files, name=name)
    if not _is_of(net, card, files[WEIGHTS]) or card.input_size != blueprint.facts()["input_size"]:
        card = _of_other_weights(card, blueprint, files, name=name)
        untrained = net.described is not None and net.described.weights is None
        return dataclasses.replace(card, license="") if untrained else card
    said = describe(blueprint, files, card, name=name)
    return said if dict(card.files) == dict(files) else dataclasses.replace(said, summary=_summary(blueprint))


def _is_of(net: Configured, card: Card, weights: FileRecord) -> bool:
    """True where ``card`` is about these weights, by the hash it pins or by the one it came with.

    A card that pins no hash and that the user has put on ``net`` is about whatever the user saves.
    """
    if net.described is not None and net.described.card == card:
        return weights.sha256 == net.described.weights
    return WEIGHTS not in card.files or card.files[WEIGHTS] == weights


def card_for(net: Configured, card: Card | None, source: Blueprint) -> Card | None:
    """``card`` of the weights of ``source``, for ``net`` that was loaded with them or built like them.

    As it is where nothing else is different; without results and summary where settings are; without all that its
    training says where classes, channels or size are, since some weights are other ones then.
    """
    now = Blueprint.of(net)
    if card is None or now == source:
        return card
    same = all(getattr(now.config, key) == getattr(source.config, key) for key in OF_THE_WEIGHTS)
    told = _revised(card, now, {}) if same else _of_other_weights(card, now, {}, name=card.name)
    return dataclasses.replace(told, summary=_summary(now), parameters=_count(net))


def note_untrained(net: Configured, card: Card, source: Blueprint) -> None:
    """Give ``net``, built with random weights, the ``card`` of the model ``source``: without files and results.

    It says what the network is to be trained on. Saved as it is, the network has a card without all that.
    """
    told = card_for(net, dataclasses.replace(card, files={}, measured=(), revision=""), source)
    net.describe(told, weights=None)


def note_other_weights(net: Configured) -> None:
    """Take out of the card of ``net`` what its weights were trained on: some of them have just been replaced."""
    if net.card is not None:
        card = _of_other_weights(net.card, Blueprint.of(net), {}, name=net.card.name)
        untrained = net.described is not None and net.described.weights is None
        net.describe(dataclasses.replace(card, parameters=_count(net)), weights=None if untrained else "")


def note_training(
    net: Configured,
    *,
    name: str,
    classes: Sequence[str],
    norm: tuple[Sequence[float], Sequence[float]] = ((), ()),
    dataset: str = "",
) -> None:
    """Give a network that was just trained a card of its own, which says what it was trained on and nothing else.

    Args:
        net: with the weights that the card is about; any other ones are saved without it.
        name: of the model.
        classes: names, by label.
        norm: mean and standard deviation per channel, for pixels in [0, 1].
        dataset: its id, where it has one.
    """
    blueprint = Blueprint.of(net)
    files = {file: record_of_bytes(content) for file, content in _contents(blueprint, _state(net)).items()}
    card = _plain_card(blueprint, files, name=_as_named(name))
    told: dict[str, Any] = {
        "dataset": dataset,
        "classes": tuple(classes),
        "mean": tuple(norm[0]),
        "std": tuple(norm[1]),
    }
    paper = net.card.paper if net.card is not None else ""
    card = dataclasses.replace(card, paper=paper, parameters=_count(net), **told)
    net.describe(card, weights=files[WEIGHTS].sha256)


def _plain_card(blueprint: Blueprint, files: Mapping[str, FileRecord], *, name: str) -> Card:
    return Card(name=name, summary=_summary(blueprint), license="", files=dict(files), **blueprint.facts())


def _of_other_weights(card: Card, blueprint: Blueprint, files: Mapping[str, FileRecord], *, name: str) -> Card:
    # The licence binds what was made of the weights too; the paper is that of the architecture.
    return dataclasses.replace(_plain_card(blueprint, files, name=name), license=card.license, paper=card.paper)


def _summary(blueprint: Blueprint) -> str:
    return f"{blueprint.config.architecture} network."


def _as_named(folder: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+|\.{2,}", "-", folder).strip("._-") or "model"


def _state(net: Configured) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in net.state_dict().items()}


def _contents(blueprint: Blueprint, state: Mapping[str, Tensor]) -> dict[str, bytes]:
    from safetensors.torch import save as to_bytes  # `import snntorch_smixer` does without it

    return {CONFIG: blueprint.to_json().encode(), WEIGHTS: to_bytes(dict(state))}


def check_made(where: str, net: nn.Module) -> None:
    """Raise `CardError` where a ``W_M`` waits for the first input to know its size."""
    if any(isinstance(p, nn.UninitializedParameter) for p in net.parameters()):
        raise CardError(
            f"{where}: some W_M of this {type(net).__name__} are not made yet. Run it once, or pass example_input to "
            "wrap."
        )


def _count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def _revised(card: Card, blueprint: Blueprint, files: Mapping[str, FileRecord]) -> Card:
    """``card`` for a network that has changed: without results and place, which belong to the bytes of before."""
    config = blueprint.config
    changes: dict[str, Any] = {"files": dict(files), "measured": (), "reported": (), "trains": ""}
    changes |= {"repo_id": "", "revision": ""}
    if card.classes and len(card.classes) != config.num_classes:
        changes |= {"classes": (), "dataset": "", "dataset_text": ""}
    if len(card.mean) != config.in_channels:
        changes |= {"mean": (), "std": ()}
    return dataclasses.replace(card, **changes, **blueprint.facts())


def _check_state(net: Configured, config: NetworkConfig, state: Mapping[str, Tensor]) -> None:
    wanted = shapes_of(config)
    wrong = sorted(k for k in wanted.keys() | state.keys() if k not in state or wanted.get(k) != tuple(state[k].shape))
    if wrong:
        raise CardError(
            f"save_pretrained: {len(wrong)} tensors are not those that the configuration of this {type(net).__name__} "
            f"builds, first {wrong[0]}. Save the network as it was built; parts that were added are not in its "
            "configuration."
        )


def _check_limits(config: NetworkConfig, *, run: bool) -> None:
    """A file may ask for anything; what no network here comes near is refused before it is built, or ``run``."""
    # The numbers may be too long to be printed.
    if getattr(config, "depth", 1) > _MAX_BLOCKS:
        raise CardError(f"more than {_MAX_BLOCKS} blocks, so it is no network of this package. Restore the file.")
    limit = _MAX_RUN if run else _MAX_INPUT
    if config.T * config.in_channels * prod(config.img_size) > limit:
        raise CardError(f"an input of more than {limit} values over T steps is not loaded. Restore the file.")
    if run and prod(getattr(config, "grid", ())) > _MAX_TOKENS:
        raise CardError(f"more than {_MAX_TOKENS} tokens in a wrapped network are not loaded. Restore the file.")


def _without_none(items: list[tuple[str, Any]]) -> dict[str, Any]:
    return {k: v for k, v in items if v is not None}
