"""Every row of the paper map names a file and something that the file defines."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"`(snntorch_smixer/[\w/]+\.py):(\w+)`")


def defined_names(source: str) -> set[str]:
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
    return names


def unresolved(rows: list[tuple[str, str]]) -> list[str]:
    return [
        f"{path}:{name}"
        for path, name in rows
        if not (ROOT / path).is_file() or name not in defined_names((ROOT / path).read_text(encoding="utf-8"))
    ]


def test_every_row_resolves():
    text = (ROOT / "docs/explanation/paper-map.md").read_text(encoding="utf-8")
    rows = ROW.findall(text)
    assert len(rows) == text.count("\n| ") - 1, "each row but the header names its code"
    assert unresolved(rows) == []


def test_a_row_that_leads_nowhere_is_seen():
    rows = [("snntorch_smixer/pruning/siv.py", "nothing"), ("snntorch_smixer/nowhere.py", "siv")]
    assert len(unresolved(rows)) == 2
