"""Every Python block of the README and the documentation runs, and every local link leads somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page: Path):
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if "spikingjelly" in block:
            pytest.importorskip("spikingjelly")
        exec(compile(block, str(page), "exec"), {})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_the_readme_has_a_block_and_links():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert BLOCK.findall(text)
    assert len(LINK.findall(text)) >= 3
