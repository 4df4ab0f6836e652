"""Read a checkpoint file that somebody else wrote: safetensors, or a pickle where it is allowed."""

from __future__ import annotations

import zipfile
from argparse import Namespace
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from snntorch_smixer.cards.folder import read_tensors
from snntorch_smixer.errors import CardError

ENTRIES = ("state_dict", "model", "model_state_dict", "net", "state_dict_ema", "model_ema")
"""Entries of a training checkpoint that hold a state dict; the first that is there is taken."""

PREFIXES = ("module.", "_orig_mod.")
"""Put before every name by DistributedDataParallel and ``torch.compile``."""

_SHARED = 8
"""How many times the bytes of a file its tensors may be in all, where some share theirs."""

PICKLE_STARTS = (b"PK\x03\x04", b"\x80")
"""First bytes of what ``torch.save`` writes now, and of what it wrote before."""


@dataclass(frozen=True)
class Checkpoint:
    """A state dict and where it was in the file.

    Attributes:
        state: tensors by name, without `PREFIXES`.
        entry: dotted path of the entry of the file that was used, "" for the whole file.
    """

    state: dict[str, Tensor]
    entry: str


def read_checkpoint(path: str | Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """State dict of a checkpoint file; see `open_checkpoint`, which also tells which entry of the file it was."""
    return open_checkpoint(path, allow_pickle=allow_pickle).state


def open_checkpoint(path: str | Path, *, allow_pickle: bool = False) -> Checkpoint:
    """State dict of a checkpoint file, on the CPU. What a file is, its content decides, not its name.

    Training checkpoints are unwrapped: ``ENTRIES`` says in which order, weights before their moving average.

    Args:
        path: safetensors, or with ``allow_pickle`` anything that ``torch.save`` wrote.
        allow_pickle: load pickles with ``weights_only=True``, which runs no code of the file: tensors, plain values
            and ``argparse.Namespace``, which training scripts store, and nothing else.

    Raises:
        CardError: there is no such file, it is damaged, a pickle that is not allowed or holds more than tensors, or
            it holds no state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CardError(f"{path}: no such file. Name a checkpoint.")
    if _is_safetensors(path):
        return _unwrapped(path, read_tensors(path))
    if not allow_pickle:
        raise CardError(
            f"{path}: {_kind(path)}, not safetensors. Pickles can run code of whoever wrote them: save its state dict "
            "as safetensors where you trust it, or pass allow_pickle=True / --allow-pickle, which loads with "
            "weights_only=True."
        )
    return _unwrapped(path, _load_pickle(path))


def _is_safetensors(path: Path) -> bool:
    """True where the file begins with the length of a JSON header that fits into it."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") <= path.stat().st_size - 8


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    return "a pickle" if start.startswith(PICKLE_STARTS) else "a file of unknown kind"


def _load_pickle(path: Path) -> object:
    try:
        # An open file, since torch.load goes by the name of one that is called .safetensors.
        with path.open("rb") as file, _namespace_allowed():
            _check_archive(path, file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except CardError:
        raise
    except Exception as error:  # torch does not say what it raises for a damaged file
        reason = str(error).strip().splitlines()
        raise CardError(
            f"{path}: weights_only=True does not load it ({type(error).__name__}: {reason[0] if reason else ''}). "
            "It is damaged or holds more than tensors; save its state dict as safetensors where you trust it."
        ) from error


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuse an archive that gives more bytes than it has: torch.save compresses nothing and shares no bytes."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
        size = path.stat().st_size
        if any(e.compress_type != zipfile.ZIP_STORED for e in entries) or sum(e.file_size for e in entries) > size:
            raise CardError(
                f"{path}: an archive with compressed entries, {sum(e.file_size for e in entries)} bytes in {size}; "
                "torch.save writes none. Save its state dict again where you trust it."
            )
    file.seek(0)


def _check_sizes(where: str, path: Path, state: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are larger than what is stored of them, as views of one value can be."""
    stored = path.stat().st_size
    # Weights that are tied lie in the file once.
    large = [name for name, value in state.items() if value.numel() * value.element_size() > stored]
    total = sum(value.numel() * value.element_size() for value in state.values())
    if large or total > _SHARED * stored:
        raise CardError(
            f"{where}: tensors of {total} bytes in a file of {stored}{', first ' + large[0] if large else ''}. Save "
            "the state dict with every tensor made contiguous."
        )


def _namespace_allowed() -> AbstractContextManager[object]:
    # The published training scripts store their arguments beside the weights. torch 2.4 has no such context.
    allowed = getattr(torch.serialization, "safe_globals", None)
    return nullcontext() if allowed is None else allowed([Namespace])


def _unwrapped(path: Path, raw: Any) -> Checkpoint:
    entry: list[str] = []
    while isinstance(raw, Mapping) and not _is_state(raw):
        name = next((name for name in ENTRIES if isinstance(raw.get(name), Mapping)), None)
        if name is None:
            break
        entry.append(name)
        raw = raw[name]
    where = f"{path}: entry {'.'.join(entry)}" if entry else f"{path}"
    if not isinstance(raw, Mapping) or not raw:
        raise CardError(f"{where}: expected tensors by name, got {type(raw).__name__}. Save a state dict.")
    wrong = next(((k, v) for k, v in raw.items() if not (isinstance(k, str) and isinstance(v, Tensor))), None)
    if wrong is not None:
        raise CardError(
            f"{where}: {wrong[0]!r} is {type(wrong[1]).__name__}, expected tensors by name, or a training checkpoint "
            f"with one of the entries {', '.join(ENTRIES)}. Save the state dict alone."
        )
    state = {_stripped(name): tensor for name, tensor in raw.items()}
    _check_sizes(where, path, state)
    if len(state) != len(raw):
        raise CardError(f"{where}: some names differ only by {' or '.join(PREFIXES)}. Save one state dict.")
    return Checkpoint(state, ".".join(entry))


def _is_state(raw: Mapping[Any, Any]) -> bool:
    return bool(raw) and all(isinstance(value, Tensor) for value in raw.values())


def _stripped(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.removeprefix(next(prefix for prefix in PREFIXES if name.startswith(prefix)))
    return name
