"""Draw the figures of docs/explanation/performance.md from the tables of that page.

    python examples/performance_figures.py [--out FOLDER]

The tables hold what the commands beside them measured; a figure can therefore say nothing else than its table.
"""

import argparse
import re
from pathlib import Path
from typing import Any

from snntorch_smixer.viz import draw_bars
from snntorch_smixer.viz.style import write_both

PAGE = Path(__file__).parents[1] / "docs" / "explanation" / "performance.md"
MEMORY = {"fp32": "no pruning", "fp32, ps = 0.3, t = 1": "ps = 0.3, t = 1"}
COLUMNS = {
    "naive": "plain loop",
    "snnTorch": "loop over snn.Leaky",
    "reference": "ours, nothing left out",
    "fused": "ours, fused",
    "recompute": "ours, recompute",
}
STEPS = {
    "naive": "plain loop",
    "snnTorch, layer by layer": "loop over snn.Leaky",
    "reference": "ours, nothing left out",
    "fused": "ours, fused",
    "fused, compiled": "ours, fused, compiled",
    "recompute": "ours, recompute",
    "recompute, compiled": "ours, recompute, compiled",
}
PLACES = {"no pruning": "no pruning", "stem": "behind the stem"} | {
    f"lif{i}": f"at neuron {i} of the stem" for i in (4, 3, 2, 1)
}


def table(text: str, *columns: str) -> dict[str, dict[str, str]]:
    """The first table of a page that has all these columns: rows by their first cell, cells by column."""
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.strip().splitlines()]
        if set(columns) <= set(head):
            return {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    raise SystemExit(f"{PAGE}: no table with the columns {', '.join(columns)}")


def first(cell: str) -> float:
    """The first number of a cell."""
    return float(re.search(r"[\d.]+", cell).group())  # type: ignore[union-attr]


def memory(text: str) -> Any:
    rows = table(text, *COLUMNS)
    series = {words: [first(rows[row][column]) for column in COLUMNS] for row, words in MEMORY.items()}
    return draw_bars(
        list(COLUMNS.values()), series, unit="MiB per image, kept for the backward pass", title="smixer-4-384"
    )


def train_step(text: str) -> Any:
    rows = table(text, "no pruning", "ps = 0.3, t = 1", "kernels")
    series = {column: [first(rows[row][column]) for row in STEPS] for column in ("no pruning", "ps = 0.3, t = 1")}
    unit = "time of a training step, of the plain loop without pruning"
    return draw_bars(list(STEPS.values()), series, unit=unit, title="smixer-4-384, fp32, batch 8")


def prune_place(text: str) -> Any:
    rows = table(text, "place", "training", "inference")
    series = {column: [first(rows[row][column]) for row in PLACES] for column in ("training", "inference")}
    unit = "time, of the plain loop without pruning"
    return draw_bars(list(PLACES.values()), series, unit=unit, title="Where steps are dropped, ps = 0.3, t = 1")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/images"), help="folder of the pictures")
    out = parser.parse_args().out
    page = PAGE.read_text(encoding="utf-8")
    for draw in (memory, train_step, prune_place):
        write_both(draw(page), out / f"bench_{draw.__name__}.png")
