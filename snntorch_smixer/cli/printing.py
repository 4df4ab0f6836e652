"""What the commands share in printing: JSON, columns, progress."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def print_json(value: object) -> None:
    """Print a value as one JSON document, see `to_json`."""
    print(to_json(value))


def to_json(value: object) -> str:
    """One JSON document of dictionaries, lists, numbers, strings and dataclasses."""
    return json.dumps(value, indent=2, default=dataclasses.asdict)


def columns(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows as aligned text; columns of numbers to the right."""
    table = [header, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    right = [
        bool(rows) and all(row[i][:1].isdigit() or row[i] in ("", "-") for row in rows) for i in range(len(header))
    ]
    lines = (
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        )
        for row in table
    )
    return "\n".join(line.rstrip() for line in lines)


def shows_progress(args: argparse.Namespace) -> bool:
    """Whether there is a terminal to draw a progress bar on, and nobody asked for quiet."""
    return not args.quiet and sys.stderr.isatty()


def progress(items: Iterable[Item], args: argparse.Namespace, *, text: str, unit: str) -> Iterable[Item]:
    """The items, with a progress bar on the error stream where `shows_progress`."""
    bar: Iterable[Item] = tqdm(items, desc=text, unit=unit, leave=False, disable=not shows_progress(args))
    return bar
