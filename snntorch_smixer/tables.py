"""Reading TOML tables, and checking their keys."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from snntorch_smixer.errors import CardError, SettingError, check_name

_MAX_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or a `CardError` that names it."""
    try:
        if not path.is_file():
            raise CardError(f"{path}: no such file. Restore it, or name another folder.")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise CardError(f"{path}: cannot be read: {error}. Restore the file.") from error
    if len(content) > _MAX_BYTES:
        raise CardError(f"{path}: a table has at most {_MAX_BYTES} bytes. Restore the file.")
    try:
        return tomllib.loads(content.decode("utf-8").replace("\r\n", "\n"))
    except (ValueError, RecursionError) as error:
        raise CardError(f"{path}: not valid TOML: {error}. Restore the file.") from error


def check_keys(where: str, cls: type, raw: object) -> None:
    """Raise `SettingError` unless ``raw`` is a table whose keys are all fields of the dataclass ``cls``."""
    if not isinstance(raw, Mapping):
        raise SettingError(f"{where}: expected a table, got {raw!r}. Name the settings.")
    fields = [f.name for f in dataclasses.fields(cls)]
    for key in raw:
        check_name(where, "key", key, fields)
