"""The documentation as a site: every page is in its navigation, every link leads somewhere, and nothing is fetched."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.e2e.programs import program
from tests.support.browser import Browser
from tests.support.browser import Page as BrowserPage

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
BUILD_DEADLINE = 120


class Settings(yaml.SafeLoader):
    """mkdocs.yml, whose own tags are not looked at."""


Settings.add_multi_constructor("", lambda *_: None)
SETTINGS = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)


def in_navigation(part: object) -> Iterator[str]:
    """The pages of a part of the navigation."""
    if isinstance(part, str):
        yield part
    elif isinstance(part, dict):
        for each in part.values():
            yield from in_navigation(each)
    elif isinstance(part, list):
        for each in part:
            yield from in_navigation(each)


def test_every_page_is_in_the_navigation_once():
    pages = sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md"))
    assert sorted(in_navigation(SETTINGS["nav"])) == sorted([*pages, "tuning.md"])


def test_the_generated_files_are_what_the_code_says(monkeypatch):
    """If this fails, `make docs` writes them anew."""
    monkeypatch.syspath_prepend(DOCS)  # as it is for a program: its own folder comes first
    spec = spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    generate = module_from_spec(spec)
    spec.loader.exec_module(generate)
    told = {name: made() for name, made in generate.MADE.items()}
    assert told == {name: (DOCS / name).read_text() for name in told}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Built as `make docs-site` builds it, where a link or an anchor that leads nowhere ends the build."""
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [str(Path(sys.executable).parent / "mkdocs"), "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=BUILD_DEADLINE,
    )
    assert built.returncode == 0, built.stdout
    return folder


class Page(HTMLParser):
    """What a page links to, what it fetches, and what may be linked to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attributes}
        self.anchors.update(named[name] for name in ("id", "name") if name in named)
        if tag == "a" and "href" in named:
            self.links.append(named["href"])
        elif tag == "link" and named.get("rel") != "canonical":
            self.fetched.append(named.get("href", ""))
        elif "src" in named:
            self.fetched.append(named["src"])


@pytest.mark.extended
def test_every_link_of_the_site_leads_to_a_place_in_it(site):
    pages = {path: Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > 10
    astray = []
    for path, page in pages.items():
        for link in page.links:
            target, _, anchor = link.partition("#")
            if re.match(r"[a-z]+:", target) or path.name == "404.html":
                continue
            file = (path.parent / target).resolve() if target else path
            file = file / "index.html" if file.is_dir() else file
            if not file.exists() or (anchor and file in pages and anchor not in pages[file].anchors):
                astray.append(f"{path.relative_to(site)}: {link}")
    assert not astray


@pytest.mark.extended
def test_a_page_fetches_nothing_from_elsewhere(site):
    for path in site.rglob("*.html"):
        assert not [each for each in Page(path.read_text()).fetched if "//" in each], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?(?:https?:)?//[^)]*\)", path.read_text()), path


class Handler(SimpleHTTPRequestHandler):
    """Serves the site, silently."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def page(site, tmp_path) -> Iterator[BrowserPage]:
    """A browser's page with the start page of the site, and where that is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(site)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        with Browser(program("chromium"), tmp_path) as browser, browser.page() as page:
            page.window(1400, 1000)
            page.go(f"http://127.0.0.1:{server.server_port}/index.html")
            yield page
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.extended
def test_a_browser_searches_it_in_the_dark_and_fetches_nothing_from_elsewhere(page):
    page.type(".md-search__input", "circuit breaker")
    page.until("document.querySelectorAll('.md-search-result__link').length > 5")
    assert "circuit breakers" in page.text(".md-search-result__link")
    scheme = "document.body.dataset.mdColorScheme"
    assert page.run(scheme) == "default"
    page.prefer(prefers_color_scheme="dark")
    page.until(f"{scheme} === 'slate'")
    fetched = page.run("performance.getEntriesByType('resource').map(each => new URL(each.name).host)")
    assert set(fetched) == {page.run("location.host")}
    assert not page.complaints


@pytest.mark.extended
def test_make_docs_site_installs_what_builds_the_site_and_nothing_else(tmp_path):
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    run = subprocess.run(["make", "-n", "docs-site"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert [line for line in run.stdout.splitlines() if "-m venv" in line] == ["python3 -m venv .venv/site"]
    assert '["optional-dependencies"]["docs"]' in run.stdout
    assert "editable" not in run.stdout
    assert ".venv/site/bin/mkdocs build" in run.stdout
