"""The built site: what it holds, that it asks for nothing elsewhere, and how it looks on a phone and a desktop."""

import functools
import http.server
import re
import subprocess
import sys
import threading
import time

import browser
import pytest
from conftest import ROOT

from scripts.docs.names import ATTACKS, ERRORS, METHOD_CLASSES, METRICS, PUBLIC


pytest.importorskip("mkdocs", reason="needs the extra docs")
pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")

# All pages are opened in a browser, which takes its time on a busy machine.
pytestmark = pytest.mark.timeout(900)

# Width and height in CSS pixels.
SIZES = {"phone": (390, 844), "tablet": (820, 1180), "desktop": (1440, 900)}
OF_EACH_KIND = (
    "index.html",
    "how_to/class.html",
    "methods.html",
    "reference/python.html",
    "reference/commands/run.html",
)
NEEDS_BROWSER = pytest.mark.skipif(not (browser.CHROMIUM and browser.DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Built anew, with every warning an error."""
    folder = tmp_path_factory.mktemp("site")
    config = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = config.replace("build/docs_source", str(folder / "source")).replace("build/site", str(folder / "site"))
    config = config.replace("paths: [.]", f"paths: [{ROOT}]").replace("[scripts/docs/", f"[{ROOT}/scripts/docs/")
    (folder / "mkdocs.yml").write_text(config, encoding="utf-8")
    for words in (
        ["scripts.docs.pages", str(folder / "source")],
        ["mkdocs", "build", "--strict", "--config-file", str(folder / "mkdocs.yml")],
    ):
        done = subprocess.run([sys.executable, "-m", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return folder / "site"


@pytest.fixture(scope="module")
def pages(site):
    return {str(path.relative_to(site)): path.read_text(encoding="utf-8") for path in site.rglob("*.html")}


def test_every_name_has_a_place_to_link_to(pages):
    ids = {name: set(re.findall(r'id="([^"]+)"', page)) for name, page in pages.items()}
    assert {*PUBLIC.values(), *ERRORS.values()} <= ids["reference/python.html"]
    assert set(METHOD_CLASSES.values()) <= ids["reference/methods.html"] | ids["reference/python.html"]
    assert set(ATTACKS.values()) <= ids["reference/attacks.html"]
    assert {f"hf_unlearn.metrics.{name}.{name}" for name in METRICS} <= ids["reference/metrics.html"]
    assert "run-forget_class" in ids["reference/commands/run.html"]


def test_docstrings_are_read(pages):
    """No mark of their form is left, and what they link to is a link."""
    for name, page in pages.items():
        if name.startswith("reference/") and "commands" not in name:
            # A notation for links that Markdown does not know.
            assert not re.search(r"\[<code>~?[\w.]+</code>\](?!\()", page), name
            assert "*optional*" not in page and "Args:" not in page, name


@pytest.fixture(scope="module")
def url(site):
    """Where a server on this machine has the site."""
    handler = functools.partial(Quiet, directory=str(site))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words) -> None:
        pass


def tell(page, command: str, **values) -> None:
    """A command of the browser's own protocol."""
    browser.post(f"{page.session}/goog/cdp/execute", {"cmd": command, "params": values})


@NEEDS_BROWSER
def test_every_page_fits_and_asks_for_nothing_elsewhere(site, url, pages, tmp_path):
    """On a phone, a tablet and a desktop. Wide tables scroll in themselves, every picture shows."""
    seen = """
        const asked = performance.getEntriesByType("resource").map(entry => entry.name);
        const missing = [...document.images].filter(image => image.complete && !image.naturalWidth);
        return [document.documentElement.scrollWidth, asked, missing.map(image => image.src)];
    """
    with browser.open_page(site / "index.html", tmp_path) as page:
        for size, (width, height) in SIZES.items():
            mobile = size == "phone"
            tell(
                page,
                "Emulation.setDeviceMetricsOverride",
                width=width,
                height=height,
                deviceScaleFactor=1,
                mobile=mobile,
            )
            # Where a phone has room, wider ones have: one page of each kind will do.
            for name in sorted(pages) if mobile else OF_EACH_KIND:
                browser.post(f"{page.session}/url", {"url": f"{url}/{name}"})
                across, asked, missing = page.run(seen)
                assert across <= width, (size, name)
                assert asked and all(one.startswith(url) for one in asked), (size, name, asked)
                assert not missing, (size, name, missing)


@NEEDS_BROWSER
def test_search_finds_a_flag_and_a_class(site, url, tmp_path):
    count = "return document.querySelector('.md-search-result__meta').textContent"
    with browser.open_page(site / "index.html", tmp_path) as page:
        for words in ("forget_column", "JiTTrainer"):
            browser.post(f"{page.session}/url", {"url": f"{url}/start.html?q={words}"})
            deadline = time.monotonic() + 60
            while not re.search(r"[1-9]\d* matching", page.run(count)):
                assert time.monotonic() < deadline, page.run(count)
                time.sleep(0.2)


@NEEDS_BROWSER
def test_dark_is_dark(site, url, tmp_path):
    with browser.open_page(site / "index.html", tmp_path) as page:
        brightness = []
        for scheme in ("light", "dark"):
            tell(page, "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            browser.post(f"{page.session}/url", {"url": f"{url}/start.html"})
            colour = page.run("return getComputedStyle(document.body).backgroundColor")
            brightness.append(sum(map(int, re.findall(r"\d+", colour)[:3])))
        assert brightness[0] > 600 > 200 > brightness[1], brightness
