"""The site: built strictly by both builders, and looked at in a browser."""

import functools
import http.server
import importlib.util
import inspect
import os
import re
import shutil
import subprocess
import sys
import threading
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urlparse

import pytest

ROOT = Path(__file__).parents[1]
SITE_URL = "https://snntorch-smixer.github.io/snntorch-smixer/"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: make docs"),
]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(folder)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Links(HTMLParser):
    """What a page loads and leads to, and the places that one can link to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.ids.add(values.get("id", ""))
        if tag == "a" and "href" in values:
            self.leads.append(values["href"])
        elif "src" in values:
            self.loads.append(values["src"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preload"):
            self.loads.append(values["href"])


def pages(site: Path) -> dict[Path, Links]:
    return {path: Links(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}


def target(site: Path, page: Path, link: str) -> Path:
    path = unquote(urlparse(link).path)
    found = (site / path.lstrip("/")) if path.startswith("/") else (page.parent / path)
    return (found / "index.html" if path.endswith("/") or found.is_dir() else found).resolve() if path else page


def test_no_page_loads_from_another_host(site: Path):
    assert not [(page, url) for page, links in pages(site).items() for url in links.loads if urlparse(url).netloc]
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert not re.findall(r"url\(['\"]?https?:", styles)


def test_every_link_and_picture_leads_somewhere(site: Path):
    all_pages, broken = pages(site), []
    for page, links in all_pages.items():
        if page.name == "404.html":
            continue
        for link in [*links.leads, *links.loads]:
            if urlparse(link).scheme:
                continue
            where, anchor = target(site, page, link), urldefrag(link)[1]
            if not where.exists() or (anchor and unquote(anchor) not in all_pages[where].ids):
                broken.append(f"{page.relative_to(site)}: {link}")
    assert not broken


def test_every_public_name_is_in_the_reference(site: Path):
    import snntorch_smixer
    from snntorch_smixer import cost, dstsp

    for module, page in ((snntorch_smixer, "snntorch_smixer"), (dstsp, "dstsp"), (cost, "cost")):
        ids = Links((site / "reference" / page / "index.html").read_text(encoding="utf-8")).ids
        missing = [name for name in module.__all__ if f"{module.__name__}.{name}" not in ids]
        assert not [name for name in missing if not inspect.ismodule(getattr(module, name))], missing


def test_zensical_builds_the_same_configuration(tmp_path: Path):
    if shutil.which("zensical", path=str(Path(sys.executable).parent)) is None:
        pytest.skip("zensical is not installed: pip install zensical")
    for name in ("docs", "snntorch_smixer"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    command = [str(Path(sys.executable).parent / "zensical"), "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "tutorials" / "01-quickstart" / "index.html").exists()


@pytest.fixture(scope="module")
def address(site: Path):
    """The address at which the site is served on this machine."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=[(1280, 900), (390, 844)], ids=["desktop", "phone"])
def browser(request: pytest.FixtureRequest):
    """Headless Chromium at the width of a desktop and of a phone."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed: pip install selenium")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("Chromium is not installed: apt-get install chromium chromium-driver")
    options = selenium.ChromeOptions()
    width, height = request.param
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "no-first-run", "disable-background-networking"):
        options.add_argument(f"--{argument}")
    for argument in ("disable-component-update", "disable-sync", "disable-quic", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.binary_location = shutil.which("chromium")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    emulated = {"deviceMetrics": {"width": width, "height": height, "pixelRatio": 1.0}}
    options.add_experimental_option("mobileEmulation", emulated)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def wait_for(browser, script: str):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 15).until(lambda driver: driver.execute_script(f"return {script}"))


def test_pages_fit_the_screen_and_say_no_error(browser, address: str, site: Path):
    wide = []
    for page in sorted(site.rglob("index.html")):
        browser.get(address + page.parent.relative_to(site).as_posix() + "/")
        if browser.execute_script("return document.documentElement.scrollWidth > innerWidth + 1"):
            wide.append(page.parent.name)
        broken = "[...document.images].filter(i => i.complete && i.naturalWidth === 0 && i.loading !== 'lazy').length"
        assert browser.execute_script(f"return {broken}") == 0, page
    assert not wide
    # The version switch of the theme asks the forge for its facts; nothing else may fail.
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]


def test_search_finds_a_word(browser, address: str):
    browser.get(address)
    browser.execute_script("document.querySelector('#__search').click()")
    box = "document.querySelector('.md-search__input')"
    browser.execute_script(
        f"{box}.value = 'softmatch'; {box}.dispatchEvent(new KeyboardEvent('keyup', {{bubbles: true}}))"
    )
    browser.execute_script(f"{box}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    assert wait_for(browser, "document.querySelectorAll('.md-search-result__item').length > 0")


def test_dark_and_light(browser, address: str):
    browser.get(address)
    first = browser.execute_script("return document.body.getAttribute('data-md-color-scheme')")
    browser.execute_script("document.querySelector('form[data-md-component=palette] label:not([hidden])').click()")
    assert wait_for(browser, f"document.body.getAttribute('data-md-color-scheme') !== '{first}'")


def test_navigation_leads_from_the_first_page_to_a_tutorial(browser, address: str):
    browser.get(address)
    browser.execute_script(
        "[...document.querySelectorAll('article a')].find(a => a.href.includes('quickstart')).click()"
    )
    assert wait_for(browser, "document.title.includes('Quickstart')")
