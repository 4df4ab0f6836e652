"""Every Python block of the README and the documentation runs, and every local link leads somewhere."""

import contextlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from snntorch_smixer.errors import MissingExtra
from snntorch_smixer.extras import torchvision_ready
from snntorch_smixer.train.datasets import DATASETS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("[0-9]*.md"))
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def load(path: Path) -> ModuleType:
    """A script as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


tutorials = load(ROOT / "examples" / "tutorials.py")
ANY_LINK = re.compile(r"\]\(([^)#]+)")
IN_REPOSITORY = re.compile(r"snntorch-smixer/snntorch-smixer/(?:(?:blob|tree)/)?main/(.+)")
LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


@pytest.mark.parametrize("page", [page for page in PAGES if page not in TUTORIALS], ids=lambda page: page.name)
def test_blocks_run(page: Path):
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        if "spikingjelly" in block:
            pytest.importorskip("spikingjelly")
        exec(compile(block, str(page), "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("library", ["lightning", "transformers"])
@pytest.mark.filterwarnings("ignore")  # what these libraries warn of is their own
def test_blocks_for_other_training_libraries_run(library, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A block marked ``py`` needs a library that is no extra; it goes on from the ``python`` block in front of it."""
    with contextlib.suppress(MissingExtra):
        torchvision_ready()  # both import torchvision where there is one
    pytest.importorskip(library, reason=f"{library} is not installed; pip install {library} to run its block")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "how-to" / "other-training-loops.md").read_text(encoding="utf-8")
    before, _, block = re.search(rf"(.*)^```(py)\n([^`]*{library}.*?)^```", page, re.MULTILINE | re.DOTALL).groups()
    namespace = {"__name__": "__main__"}
    for code in (BLOCK.findall(before)[-1], block):
        exec(compile(code, library, "exec"), namespace)


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_a_tutorial_prints_what_it_shows(page: Path, monkeypatch: pytest.MonkeyPatch):
    if "spikingjelly" in page.read_text(encoding="utf-8"):
        pytest.importorskip("spikingjelly")
    monkeypatch.chdir(ROOT)
    assert not tutorials.stale(page)


def test_outputs_are_compared_with_a_tolerance():
    assert tutorials.same("93.4% of 1,000\n", "93.5%  of 1,000")
    assert not tutorials.same("93.4% of 1,000", "83.4% of 1,000")
    assert not tutorials.same("93.4% right", "93.4% wrong")
    assert not tutorials.same("", "1")


def test_every_data_set_has_a_row():
    page = (ROOT / "docs" / "how-to" / "data-sets.md").read_text(encoding="utf-8")
    assert all(
        f"| `{info.name}` | {info.text} | `{info.layout}` | {info.terms} |" in page for info in DATASETS.values()
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path):
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_links_of_the_readme_work_on_the_package_index():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert BLOCK.findall(text)
    assert not LINK.findall(text), "the package index has no files beside the README"
    site = "https://snntorch-smixer.github.io/snntorch-smixer/"
    pages = [link.removeprefix(site).strip("/") for link in ANY_LINK.findall(text) if link.startswith(site)]
    assert len(pages) >= 5
    missing = [page for page in pages if page and not (ROOT / "docs" / f"{page}.md").exists()]
    files = [match for link in ANY_LINK.findall(text) for match in IN_REPOSITORY.findall(link)]
    assert len(files) >= 3
    assert not missing + [path for path in files if not (ROOT / path).exists()]
