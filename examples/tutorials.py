"""Run the tutorials of the site, and write their outputs, pictures and notebooks.

    python examples/tutorials.py            # runs every page of docs/tutorials, rewrites what changed
    python examples/tutorials.py --check    # changes nothing; fails where a page is stale

A page is Markdown. Its Python blocks run in order in one namespace. What a block prints is shown in the text block that
follows it; a block whose last line is a matplotlib figure is followed by the picture. The same cells make a notebook.
"""

import argparse
import ast
import contextlib
import io
import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib import rc_context

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "tutorials"
PICTURES = ROOT / "docs" / "images" / "tutorials"
NOTEBOOKS = ROOT / "examples" / "notebooks"
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?(?:e[+-]?\d+)?")
SECONDS = re.compile(r'"seconds": [\d.]+')
TOLERANCE = 0.02
"""Relative: what a page shows may differ by this much from what another machine prints."""


@dataclass(frozen=True)
class Cell:
    """A part of a page: text, or code with what it printed and drew."""

    kind: str
    source: str
    shown: str = ""
    figure: Any = None


def cells(page: str) -> list[Cell]:
    """Text and code of a page, in order; ``shown`` is what the page says that the code prints."""
    found, at = [], 0
    for match in BLOCK.finditer(page):
        found.append(Cell("text", page[at : match.start()]))
        found.append(Cell("code", match["code"], match["shown"] or ""))
        at = match.end()
    return [*found, Cell("text", page[at:])]


def run(cell: Cell, namespace: dict[str, Any], name: str) -> Cell:
    """The cell with what it prints, and the figure that its last line is."""
    tree = ast.parse(cell.source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    figure = None
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, name, "exec"), namespace)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), name, "eval"), namespace)
            figure = value if hasattr(value, "savefig") else None
    return Cell("code", cell.source, printed.getvalue(), figure)


def same(shown: str, printed: str) -> bool:
    """True where two outputs have the same words, and values that differ by the tolerance at most."""
    shown, printed = (SECONDS.sub("", text) for text in (shown, printed))
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(abs(a - b) <= TOLERANCE * max(abs(a), abs(b)) + 1e-6 for a, b in (map(_value, pair) for pair in pairs))


def _value(text: str) -> float:
    return float(text.replace(",", ""))


def write_page(path: Path, ran: list[Cell]) -> None:
    """Write the page with the outputs of this run, and its pictures."""
    parts = []
    for number, cell in enumerate(ran):
        if cell.kind == "text":
            parts.append(cell.source)
            continue
        output = f"\n```text\n{cell.shown.rstrip()}\n```\n" if cell.shown.strip() else ""
        parts.append(f"```python\n{cell.source}```\n{output}")
        if cell.figure is not None:
            link = re.search(r"\]\(\.\./images/tutorials/([\w.-]+)\.png\)", ran[number + 1].source)
            if link is None:
                raise SystemExit(f"{path.name}: a block draws a figure, and no picture follows it.\n{cell.source}")
            PICTURES.mkdir(parents=True, exist_ok=True)
            cell.figure.savefig(PICTURES / f"{link[1]}.png", dpi=110)
            with rc_context({"svg.hashsalt": link[1]}):  # the same picture is the same file
                cell.figure.savefig(PICTURES / f"{link[1]}.svg", metadata={"Date": None})
    path.write_text("".join(parts), encoding="utf-8")


def notebook(page: list[Cell]) -> str:
    """The page as a notebook without outputs; pictures and links of the site are left as text."""
    found = []
    for number, cell in enumerate(page):
        source = cell.source.strip("\n")
        if cell.kind == "text":
            source = re.sub(r"^!\[.*?\]\(.*?\)(\{.*?\})?\n*", "", source, flags=re.MULTILINE).strip()
        if not source:
            continue
        kind = {"text": "markdown", "code": "code"}[cell.kind]
        extra = {"execution_count": None, "outputs": []} if kind == "code" else {}
        lines = source.splitlines(keepends=True)
        found.append({"cell_type": kind, "id": f"cell-{number}", "metadata": {}, "source": lines, **extra})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": found, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def stale(path: Path) -> list[str]:
    """What a run of the page prints otherwise than the page shows, and a notebook that differs."""
    page, namespace, wrong = cells(path.read_text(encoding="utf-8")), {"__name__": "__main__"}, []
    for cell in (cell for cell in page if cell.kind == "code"):
        printed = run(cell, namespace, path.name).shown
        if not same(cell.shown, printed):
            wrong.append(f"{path.name} shows\n{cell.shown}\nand prints\n{printed}")
    written = NOTEBOOKS / f"{path.stem}.ipynb"
    if not written.exists() or written.read_text(encoding="utf-8") != notebook(page):
        wrong.append(f"{written.name} is not the notebook of {path.name}")
    return wrong


def refresh(path: Path) -> None:
    """Run the page and write page, pictures and notebook."""
    page, namespace = cells(path.read_text(encoding="utf-8")), {"__name__": "__main__"}
    ran = [run(cell, namespace, path.name) if cell.kind == "code" else cell for cell in page]
    write_page(path, ran)
    NOTEBOOKS.mkdir(exist_ok=True)
    (NOTEBOOKS / f"{path.stem}.ipynb").write_text(notebook(cells(path.read_text(encoding="utf-8"))), encoding="utf-8")


def tutorials() -> list[Path]:
    """The pages, in their order."""
    return sorted(PAGES.glob("[0-9]*.md"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="beginnings of file names; all pages without one")
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a page is stale")
    args = parser.parse_args()
    chosen = [p for p in tutorials() if not args.names or p.name.startswith(tuple(args.names))]
    problems = []
    for path in chosen:
        print(path.name, flush=True)
        problems += stale(path) if args.check else refresh(path) or []
    sys.exit("\n\n".join(problems) or None)
