"""Measurements as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from snntorch_smixer.bench.compare import Row
from snntorch_smixer.bench.result import BenchResult, Value


def table(rows: Sequence[Row]) -> str:
    """A comparison as a text table; shares and ratios are against the first row."""
    base = rows[0]
    lines = [_line("", ("accuracy", "tokens", "steps", "dense MACs", "kept for backward", "images/s"))]
    for r in rows:
        macs = f"{r.dense_macs / 1e6:.2f} M ({r.dense_macs / base.dense_macs:.0%})"
        kept = f"{r.saved_bytes / 2**20:.2f} MiB ({r.saved_bytes / base.saved_bytes:.0%})"
        speed = f"{r.images_per_s:.0f} (x{r.images_per_s / base.images_per_s:.2f})"
        lines.append(_line(r.net, (f"{r.accuracy:.1%}", str(r.tokens), str(r.steps), macs, kept, speed)))
    return "\n".join(lines)


def result_table(result: BenchResult) -> str:
    """A benchmark as text: its rows as columns under their keys, then device, versions and command."""
    keys = list(result.rows[0]) if result.rows else []
    cells = [keys, *([_cell(row[key]) for key in keys] for row in result.rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(keys))]
    left = [all(isinstance(row[key], str) for row in result.rows) for key in keys]
    lines = [
        "  ".join(
            cell.ljust(width) if is_text else cell.rjust(width)
            for cell, width, is_text in zip(row, widths, left, strict=True)
        ).rstrip()
        for row in cells
    ]
    about = ", ".join(f"{name} {number}" for name, number in result.versions.items())
    return "\n".join([*lines, "", *result.notes, f"{result.device}; {about}", result.command])


def _cell(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return "-" if value is None else str(value)


def _line(name: str, cells: Sequence[str]) -> str:
    widths = (9, 8, 7, 18, 19, 14)
    return f"{name:<20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
