"""Reading TOML tables, and checking their keys."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from snntorch_smixer.errors import CardError, SettingError

_MAX_BYTES = 1 << 20


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file, or a `CardError` that names it."""
    if not path.is_file():
        raise CardError(f"{path}: no such file. Restore it, or name another folder.")
    if path.stat().st_size > _MAX_BYTES:
        raise CardError(f"{path}: {path.stat().st_size} bytes; a table has at most {_MAX_BYTES}. Restore the file.")
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise CardError(f"{path}: not valid TOML: {error}. Restore the file.") from error


def check_keys(where: str, cls: type, raw: object) -> None:
    """Raise `SettingError` unless ``raw`` is a table whose keys are all fields of the dataclass ``cls``."""
    if not isinstance(raw, Mapping):
        raise SettingError(f"{where}: expected a table, got {raw!r}. Name the settings.")
    fields = [f.name for f in dataclasses.fields(cls)]
    for key in raw:
        if key not in fields:
            near = get_close_matches(key, fields, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known keys: {', '.join(fields)}."
            raise SettingError(f"{where}: unknown key {key!r}. {hint}")
