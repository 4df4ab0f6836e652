"""Model card: what a model is, which bytes it is made of, what was measured by us and what a paper reports."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from snntorch_smixer.errors import CardError, SMixerError
from snntorch_smixer.tables import check_keys, read_toml

CARD = "card.toml"
CONFIG = "config.json"
WEIGHTS = "model.safetensors"

REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*(?<![.-])(?<!\.git)")
"""``org/name`` of the Hub; at most 96 characters, and no two dots or dashes in a row."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of a file of the model folder.

    Attributes:
        sha256: 64 hexadecimal digits.
        size_bytes: of the file.
    """

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        if not (isinstance(self.sha256, str) and _SHA256.fullmatch(self.sha256)):
            raise CardError(f"card: sha256={self.sha256!r} is no SHA-256 of 64 lower-case hexadecimal digits.")
        if type(self.size_bytes) is not int or self.size_bytes < 0:
            raise CardError(f"card: size_bytes={self.size_bytes!r} is no file size.")


@dataclass(frozen=True)
class Measured:
    """A result that we measured, and how to measure it again.

    Attributes:
        metric: "top-1 accuracy".
        value: a share for an accuracy.
        dataset: id of the data set.
        split: which part of it, in words.
        samples: how many.
        command: that measures it again.
        seed: of the training.
        versions: of torch and snntorch.
    """

    metric: str
    value: float
    dataset: str
    split: str
    samples: int
    command: str
    seed: int
    versions: str

    def __post_init__(self) -> None:
        _check_kinds(self)


@dataclass(frozen=True)
class Reported:
    """A result that a paper reports; nobody measured it here.

    Attributes:
        metric: "top-1 accuracy", "energy", "training memory".
        value: as printed.
        unit: "%", "mJ per image", "MB".
        dataset: it was reported for.
        source: paper and table.
    """

    metric: str
    value: float
    unit: str
    dataset: str
    source: str

    def __post_init__(self) -> None:
        _check_kinds(self)


@dataclass(frozen=True)
class Card:
    """Contents of ``card.toml``; see `Measured` and `Reported` for the two kinds of results.

    Attributes:
        name: of the model; its folder in the zoo has the same name.
        summary: one sentence.
        license: of the weights.
        T: time steps.
        ps: share of tokens that is dropped; 0 where nothing is pruned. Rates per block as a tuple.
        t: steps that are kept; T where nothing is pruned.
        input_size: (C, H, W).
        paper: title, venue, address; "" where there is none.
        dataset: id of the data set that it is, or is to be, trained on.
        dataset_text: name, size and licence of that data set.
        mean: per channel, for pixels in [0, 1].
        std: per channel.
        classes: names, by label; empty where nobody wrote them down.
        parameters: of the network; 0 where nobody counted.
        trains: command that trains it.
        repo_id: of the Hub, "" for none.
        revision: the commit of ``repo_id`` that the weights are pinned to, "" as long as nobody published them.
        files: size and SHA-256 by file name.
        measured: our own results.
        reported: those of the paper.

    Examples:
        >>> from snntorch_smixer import from_pretrained
        >>> card = from_pretrained("smixer-2-64-fmnist").card
        >>> card.dataset, card.classes[0]
        ('fashion-mnist', 'T-shirt/top')
    """

    name: str
    summary: str
    license: str
    T: int
    ps: float | tuple[float, ...]
    t: int
    input_size: tuple[int, int, int]
    paper: str = ""
    dataset: str = ""
    dataset_text: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    classes: tuple[str, ...] = ()
    parameters: int = 0
    trains: str = ""
    repo_id: str = ""
    revision: str = ""
    files: Mapping[str, FileRecord] = field(default_factory=dict)
    measured: tuple[Measured, ...] = ()
    reported: tuple[Reported, ...] = ()

    def __post_init__(self) -> None:
        _check(self)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read ``card.toml`` of a model folder.

        Raises:
            CardError: the file is missing, is no TOML, lacks or invents a key, or holds a value of another kind.
        """
        path = folder / CARD
        raw = read_toml(path)
        try:
            return cls.from_dict(raw)
        except (SMixerError, TypeError, AttributeError, ValueError) as error:
            raise CardError(f"{path}: {error} Restore the card.") from error

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Self:
        """From the tables of a TOML file.

        Raises:
            SMixerError: an unknown or missing key, or a value of another kind.
        """
        check_keys("card", cls, raw)
        missing = [f.name for f in dataclasses.fields(cls) if _required(f) and f.name not in raw]
        if missing:
            raise CardError(f"card: missing keys {missing}.")
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        values["files"] = {name: _row(FileRecord, name, row) for name, row in raw.get("files", {}).items()}
        for key, kind in (("measured", Measured), ("reported", Reported)):
            values[key] = tuple(_row(kind, key, row) for row in raw.get(key, ()))
        return cls(**values)

    def save(self, folder: Path) -> None:
        """Write ``card.toml`` into a model folder; `load` reads it back equal."""
        (folder / CARD).write_text(self.to_toml(), encoding="utf-8")

    def to_toml(self) -> str:
        """The text of ``card.toml``."""
        raw = dataclasses.asdict(self)
        files, measured, reported = (raw.pop(key) for key in ("files", "measured", "reported"))
        parts = [_table(raw)]
        parts += [f"\n[files.{json.dumps(name)}]\n{_table(row)}" for name, row in sorted(files.items())]
        parts += [f"\n[[measured]]\n{_table(row)}" for row in measured]
        parts += [f"\n[[reported]]\n{_table(row)}" for row in reported]
        return "".join(parts)

    @property
    def is_published(self) -> bool:
        """True when the weights can be downloaded: repository, pinned revision, and what the bytes must be."""
        return bool(self.repo_id and self.revision and WEIGHTS in self.files)

    def pinned(self, repo_id: str, revision: str) -> Self:
        """The same card, pinned to a commit of a repository."""
        return replace(self, repo_id=repo_id, revision=revision)

    def preprocess(self, images: Tensor) -> Tensor:
        """uint8 images ``(B, C, H, W)``, or float ones in [0, 1], to what the network was trained on.

        Raises:
            CardError: the card names no mean and deviation, or those of another number of channels.
        """
        if not self.mean or not self.std:
            raise CardError(f"card of {self.name}: no mean and std are known. Normalise the images yourself.")
        if images.shape[-3:-2] != (len(self.mean),):
            raise CardError(
                f"card of {self.name}: images {tuple(images.shape)}, expected (B, {len(self.mean)}, H, W). Pass images "
                "of its channels."
            )
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        mean, std = (torch.tensor(v, device=images.device).view(-1, 1, 1) for v in (self.mean, self.std))
        return (images.float() / scale - mean) / std


def _required(item: dataclasses.Field[Any]) -> bool:
    return item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING


def _row(kind: type, where: str, raw: object) -> Any:
    check_keys(f"card [{where}]", kind, raw)
    try:
        return kind(**raw)  # type: ignore[arg-type]
    except TypeError as error:
        raise CardError(f"card [{where}]: {error}.") from error


def _check_kinds(row: Measured | Reported) -> None:
    kinds: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float)}
    for item in dataclasses.fields(row):
        value = getattr(row, item.name)
        if isinstance(value, bool) or not isinstance(value, kinds[str(item.type)]):
            raise CardError(f"card: {item.name}={value!r} of a result must be of kind {item.type}.")
        if isinstance(value, (int, float)) and not _is_finite(value):
            raise CardError(f"card: {item.name}={value!r} of a result must be finite.")


def _is_finite(value: float) -> bool:
    try:
        return isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def _table(raw: Mapping[str, Any]) -> str:
    # JSON's strings, numbers and arrays are TOML's too, but for one control character.
    text = "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in raw.items())
    return text.replace("\x7f", "\\u007f")


_TEXTS = ("name", "summary", "license", "paper", "dataset", "dataset_text", "trains", "repo_id", "revision")


def _check(card: Card) -> None:
    for key in _TEXTS:
        if not isinstance(getattr(card, key), str):
            raise CardError(f"card: {key}={getattr(card, key)!r} is no text.")
    if not _NAME.fullmatch(card.name) or ".." in card.name:
        raise CardError(f"card: name={card.name!r} is no model name of letters, digits, '.', '_' and '-'.")
    if card.repo_id and not is_repo_id(card.repo_id):
        raise CardError(f"card: repo_id={card.repo_id!r} is no org/name of the Hub. Other addresses are not followed.")
    if card.revision and not _COMMIT.fullmatch(card.revision):
        raise CardError(f"card: revision={card.revision!r} is no commit of 40 hexadecimal digits. Pin a commit.")
    unknown = sorted(set(card.files) - {WEIGHTS, CONFIG})
    if unknown:
        raise CardError(f"card: files names {unknown[0]!r}. A model is {CONFIG} and {WEIGHTS}; nothing else is loaded.")
    _check_data(card)
    if type(card.parameters) is not int or card.parameters < 0:
        raise CardError(f"card: parameters={card.parameters!r} is no count.")
    if len(card.input_size) != 3 or any(type(v) is not int or v < 1 for v in card.input_size):
        raise CardError(f"card: input_size={card.input_size!r} must be three whole numbers, (C, H, W).")


def _check_data(card: Card) -> None:
    if any(not isinstance(v, (int, float)) or not _is_finite(v) for v in (*card.mean, *card.std)) or 0 in card.std:
        raise CardError(f"card: mean={card.mean} and std={card.std} must be finite numbers, and no std 0.")
    if len(card.mean) != len(card.std):
        raise CardError(f"card: mean={card.mean} and std={card.std} must have one entry per channel each.")
    if not all(isinstance(name, str) for name in card.classes):
        raise CardError("card: classes must be names.")


def is_repo_id(text: str) -> bool:
    """True for ``org/name``."""
    return len(text) <= 96 and bool(REPO_ID.fullmatch(text)) and ".." not in text and "--" not in text


def is_commit(text: str) -> bool:
    """True for a full commit hash."""
    return bool(_COMMIT.fullmatch(text))
