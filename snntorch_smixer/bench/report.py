"""Measurements as text for people."""

from __future__ import annotations

from collections.abc import Sequence

from snntorch_smixer.bench.compare import Row


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


def _line(name: str, cells: Sequence[str]) -> str:
    widths = (9, 8, 7, 18, 19, 14)
    return f"{name:<20}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
