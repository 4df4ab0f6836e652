"""Files of a model folder: hashed, read with limits, written all or none."""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from snntorch_smixer.cards.card import FileRecord
from snntorch_smixer.errors import CardError

_MAX_JSON = 1 << 20
_MAX_HEADER = 100_000_000
"""The limit of the safetensors library itself."""

_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32}
_BITS |= {"F64": 64, "I64": 64, "U64": 64, "F8_E4M3": 8, "F8_E5M2": 8}

PICKLES = (".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth", ".tar")
"""Endings of files that torch.load would run."""


def record_of(path: Path) -> FileRecord:
    """Size and SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return FileRecord(digest.hexdigest(), path.stat().st_size)


def record_of_bytes(content: bytes) -> FileRecord:
    """Size and SHA-256 of what a file will hold."""
    return FileRecord(hashlib.sha256(content).hexdigest(), len(content))


def check_file(path: Path, wanted: FileRecord, *, owner: str) -> None:
    """Raise `CardError` unless the file has the size and SHA-256 that the card of ``owner`` says."""
    size = path.stat().st_size
    if size != wanted.size_bytes:
        raise CardError(
            f"{path}: {size} bytes, the card of {owner} says {wanted.size_bytes}; the file is truncated or "
            "another one. Get it again."
        )
    digest = record_of(path).sha256
    if digest != wanted.sha256:
        raise CardError(
            f"{path}: SHA-256 {digest[:12]}..., the card of {owner} says {wanted.sha256[:12]}...; the file is "
            "corrupt or another one. Get it again."
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of at most 1 MiB.

    Raises:
        CardError: no such file, too large, no JSON, or no object.
    """
    if not path.is_file():
        raise CardError(f"{path}: no such file. Restore it, or name another folder.")
    if path.stat().st_size > _MAX_JSON:
        raise CardError(f"{path}: {path.stat().st_size} bytes; a configuration has at most {_MAX_JSON}. Get it again.")
    try:
        raw = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CardError(f"{path}: not valid JSON: {error}. Restore the file.") from error
    if not isinstance(raw, dict):
        raise CardError(f"{path}: expected an object, got {type(raw).__name__}. Restore the file.")
    return raw


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header alone.

    Raises:
        CardError: no safetensors file, a header that is absurd, or tensors that do not fill the file exactly.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(_MAX_HEADER, size - 8):
            raise CardError(
                f"{path}: not a readable safetensors file (its header claims {length} bytes of {size}). Get it again."
            )
        text = file.read(length)
    try:
        header = json.loads(text)
        header.pop("__metadata__", None)
        return {name: _shape(entry, size - 8 - length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CardError(
            f"{path}: not a readable safetensors file (malformed header: {error}). Get it again."
        ) from error


def _shape(entry: Mapping[str, Any], data_bytes: int) -> tuple[int, ...]:
    shape = tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if (
        not all(type(side) is int and 0 <= side < 1 << 63 for side in (*shape, begin, end))
        or not begin <= end <= data_bytes
    ):
        raise ValueError(f"shape {shape} at {begin}..{end} of {data_bytes} bytes")
    if math.prod(shape) * _BITS[entry["dtype"]] // 8 != end - begin:
        raise ValueError(f"shape {shape} of {entry['dtype']} in {end - begin} bytes")
    return shape


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Raises:
        CardError: no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensor_shapes(path)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise CardError(f"{path}: not a readable safetensors file ({error}). Get it again.") from error


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files into ``folder``: all are complete before the first one takes its place."""
    folder.mkdir(parents=True, exist_ok=True)
    blocked = [name for name in files if (folder / name).is_dir()]
    if blocked:
        raise CardError(f"{folder / blocked[0]}: a folder stands where a file is to be written. Move it away.")
    with tempfile.TemporaryDirectory(prefix=".writing-", dir=folder) as scratch:
        for name, content in files.items():
            (Path(scratch) / name).write_bytes(content)
        for name in files:
            (Path(scratch) / name).replace(folder / name)
