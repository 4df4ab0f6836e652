"""Files of a model folder: hashed, read with limits, written all or none."""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from torch import Tensor

from snntorch_smixer.cards.card import FileRecord
from snntorch_smixer.errors import CardError

_MAX_JSON = 1 << 20
_MAX_HEADER = 100_000_000
"""The limit of the safetensors library itself."""

_MAX_WEIGHTS = 1 << 34
"""Bytes of a file of weights that no card tells the size of."""

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
    _check_size(path, wanted, path.stat().st_size, owner)
    _check_digest(path, wanted, record_of(path).sha256, owner)


def read_checked(path: Path, wanted: FileRecord | None, *, owner: str) -> bytes:
    """Bytes of a file, read once: what is used of them later is what was compared with the card of ``owner``.

    Args:
        path: of the file.
        wanted: what the card says; None where it says nothing.
        owner: of the card, for errors.

    Raises:
        CardError: other bytes than the card says, no file that can be read, or more than 16 GiB.
    """
    with _opened(path) as (file, size):
        if wanted is not None:
            _check_size(path, wanted, size, owner)
        elif size > _MAX_WEIGHTS:
            raise CardError(f"{path}: {size} bytes; more than {_MAX_WEIGHTS} are not loaded. Get it again.")
        content = file.read(size + 1)
    if wanted is not None:
        check_record(path, content, wanted, owner=owner)
    return content


def check_record(path: Path, content: bytes, wanted: FileRecord, *, owner: str) -> None:
    """`check_file` of bytes that are read already."""
    _check_size(path, wanted, len(content), owner)
    _check_digest(path, wanted, record_of_bytes(content).sha256, owner)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[BinaryIO, int]]:
    """A file and its size; what the system says about it is a `CardError`."""
    try:
        # Opening a pipe would wait for somebody who writes.
        if not path.is_file():
            raise CardError(f"{path}: no such file. Restore it, or name another folder.")
        with path.open("rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except (OSError, MemoryError) as error:
        raise CardError(f"{path}: cannot be read: {error or type(error).__name__}. Get it again.") from error


def _check_size(path: Path, wanted: FileRecord, size: int, owner: str) -> None:
    if size != wanted.size_bytes:
        raise CardError(
            f"{path}: {size} bytes, the card of {owner} says {wanted.size_bytes}; the file is truncated or "
            "another one. Get it again."
        )


def _check_digest(path: Path, wanted: FileRecord, digest: str, owner: str) -> None:
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
    with _opened(path) as (file, size):
        content = file.read(_MAX_JSON + 1)
    if max(size, len(content)) > _MAX_JSON:
        raise CardError(f"{path}: {size} bytes; a configuration has at most {_MAX_JSON}. Get it again.")
    return parse_json(path, content)


def parse_json(path: Path, content: bytes) -> dict[str, Any]:
    """`read_json` of bytes that are read already; ``path`` names them in errors."""
    if len(content) > _MAX_JSON:
        raise CardError(f"{path}: {len(content)} bytes; a configuration has at most {_MAX_JSON}. Get it again.")
    try:
        raw = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise CardError(f"{path}: not valid JSON: {error}. Restore the file.") from error
    if not isinstance(raw, dict):
        raise CardError(f"{path}: expected an object, got {type(raw).__name__}. Restore the file.")
    return raw


def tensor_shapes(path: Path, content: bytes | None = None) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file, from its header alone.

    Args:
        path: of the file.
        content: its bytes, where they are read already.

    Raises:
        CardError: no safetensors file, a header that is absurd, or tensors that do not fill the file exactly.
    """
    if content is not None:
        return _shapes(path, io.BytesIO(content), len(content))
    with _opened(path) as (file, size):
        return _shapes(path, file, size)


def _shapes(path: Path, file: BinaryIO, size: int) -> dict[str, tuple[int, ...]]:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > min(_MAX_HEADER, size - 8):
        raise CardError(
            f"{path}: not a readable safetensors file (its header claims {length} bytes of {size}). Get it again."
        )
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_repeats)
        header.pop("__metadata__", None)
        return {name: _shape(entry, size - 8 - length) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CardError(
            f"{path}: not a readable safetensors file (malformed header: {error}). Get it again."
        ) from error


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may take different ones of two entries of the same name.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


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


def read_tensors(path: Path, content: bytes | None = None) -> dict[str, Tensor]:
    """All tensors of a safetensors file.

    Args:
        path: of the file.
        content: its bytes, where they are read already.

    Raises:
        CardError: no safetensors file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    if content is None:
        content = read_checked(path, None, owner="")
    tensor_shapes(path, content)
    try:
        return load(content)
    except (SafetensorError, ValueError, RuntimeError, MemoryError, OverflowError) as error:
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
