"""Tables and units for the reports of `cost`: columns of one width, and energies in the unit that fits."""

from __future__ import annotations

import re
from collections.abc import Sequence

PJ_PER_MJ = 10**9
_WIDTH = 110
_LEAST_NAME = 16
_SHORT = {"spike events": "events", "act x act": "a x a", "elementwise": "elem."}
_SI = re.compile(r"(\d) ([kMGT])$")
_LEFT_OUT = ("dense", "packets")
"""Columns that a terminal has no room for; markdown and CSV have them."""


def narrow(cells: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table without columns that are empty or have no room, and with long names cut in the middle."""
    head, *body = cells
    shown = [
        i
        for i, name in enumerate(head)
        if name not in _LEFT_OUT and (not name or any(line[i].strip("0") for line in body))
    ]
    texts = [[_SHORT.get(line[i], line[i]) for i in shown] for line in cells]
    table = [[line[0], *(_SI.sub(r"\1\2", cell) for cell in line[1:])] for line in texts]
    others = sum(max(len(line[i]) for line in table) for i in range(1, len(shown)))
    columns = len(shown) - 1
    gap = 2 if _WIDTH - others - 2 * columns >= _LEAST_NAME else 1
    room = max(_LEAST_NAME, _WIDTH - others - gap * columns)
    return aligned([[_cut(line[0], room), *line[1:]] for line in table], gap=gap)


def _cut(name: str, room: int) -> str:
    """A name of at most so many characters, its middle left out."""
    front = (room - 2) // 2
    return name if len(name) <= room else f"{name[:front]}..{name[len(name) - (room - 2 - front) :]}"


def aligned(cells: Sequence[Sequence[str]], left: int = 3, *, gap: int = 2) -> list[str]:
    """Lines of a table with a rule below the head and above the last line; the first ``left`` columns flush left."""
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    texts = [
        [f"{c:{'<' if i < left else '>'}{w}}" for i, (c, w) in enumerate(zip(line, widths, strict=True))]
        for line in cells
    ]
    lines = [(" " * gap).join(text).rstrip() for text in texts]
    return [lines[0], "-" * max(map(len, lines)), *lines[1:-1], "-" * max(map(len, lines)), lines[-1]]


def si(value: float) -> str:
    """A count with three digits and k, M, G or T."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def mj(energy: float) -> str:
    """An energy given in mJ, in mJ, uJ, nJ or pJ."""
    for size, unit in ((1.0, "mJ"), (1e-3, "uJ"), (1e-6, "nJ")):
        if abs(energy) >= size:
            return f"{energy / size:.4g} {unit}"
    return f"{energy / 1e-9:.4g} pJ" if energy else "0 mJ"


def uj(pj: float) -> str:
    """An energy given in pJ, in uJ; empty for none."""
    return f"{pj / 1e6:.4g}" if pj else ""
