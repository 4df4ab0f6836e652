"""What a benchmark found, as plain data."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from snntorch_smixer.errors import SettingError

Value = str | int | float | bool | None
"""What a cell of a row may hold."""

_PACKAGES = ("snntorch-smixer", "torch", "snntorch", "spikingjelly", "numpy")


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that a benchmark may run."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def device_name(device: torch.device | str = "cpu") -> str:
    """The device in words: of a GPU its model, of a CPU its architecture and the number of threads."""
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return device.type


@dataclass(frozen=True)
class BenchResult:
    """Result of one benchmark.

    Attributes:
        name: of the benchmark, for example "memory".
        rows: one mapping per line, all with the same keys; units in the keys (``saved_mb``, ``ratio``).
        command: what reproduces it.
        device: see `device_name`.
        versions: see `versions`.
        notes: what a reader has to know, one sentence each.
    """

    name: str
    rows: Sequence[Mapping[str, Value]]
    command: str
    device: str = field(default_factory=device_name)
    versions: Mapping[str, str] = field(default_factory=versions)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [list(row) for row in self.rows]
        wrong = next((k for k in keys if k != keys[0]), None)
        if wrong is not None:
            raise SettingError(
                f"BenchResult: {self.name}: a row has the keys {', '.join(wrong)}, the first one {', '.join(keys[0])}. "
                "Give every row the same keys, None where there is no value."
            )

    def to_json(self) -> str:
        """JSON text with a final newline; `from_json` reads it."""
        return json.dumps(asdict(self), indent=2, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> BenchResult:
        """The inverse of `to_json`."""
        raw: dict[str, Any] = json.loads(text)
        return cls(**{**raw, "notes": tuple(raw["notes"])})

    def save(self, path: str | Path) -> Path:
        """Write the JSON text; missing folders are made, and a file of this name is replaced."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json(), encoding="utf-8")
        return path
