"""Error pages in a real browser: rendered, readable in light and dark, and values from clients are text."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.programs import program
from tests.e2e.test_dashboard import PALE
from tests.support.browser import Browser
from tests.support.gateway import Gateway

HOSTILE = "\"><script>document.title='taken'</script><img/src=x/onerror=\"document.title='taken'\">&lt;'{status}"
"""A request id, which a client may choose: visible ASCII."""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
<meta name="viewport" content="width=device-width"><title>{status} {title}</title>
<style>body {background: Canvas; color: CanvasText}</style></head>
<body><h1>{status} {title}</h1><p id="detail">{detail}</p><p id="id" title="{request_id}">{request_id}</p>
</body></html>"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    settings = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "error_pages": {"5xx": {"html": PAGE}},
        "filters": {"request_id": {}},
        "routes": [{"name": "down", "upstream": "http://127.0.0.1:1"}],
    }
    with Gateway(settings, tmp_path_factory.mktemp("pages")) as running:
        yield running


def test_a_page_is_rendered_readable_and_its_values_are_text(
    gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with Browser(program("chromium"), tmp_path_factory.mktemp("chromium")) as browser, browser.page() as page:
        page.window(1280)
        page.command("Network.enable")
        page.command("Network.setExtraHTTPHeaders", headers={"X-Request-Id": HOSTILE})
        page.go(f"{gateway.url()}/")
        page.until("document.getElementById('id')")
        assert page.run("document.compatMode") == "CSS1Compat"
        assert page.text("h1") == "502 Connect refused"
        assert page.run("document.title") == "502 Connect refused"
        assert page.text("#id") == HOSTILE
        assert page.run("document.getElementById('id').title") == HOSTILE
        assert page.run("document.querySelectorAll('script, img').length") == 0
        for scheme in ("light", "dark"):
            page.prefer(prefers_color_scheme=scheme)
            page.until(f"matchMedia('(prefers-color-scheme: {scheme})').matches")
            assert page.run(PALE) == []
