"""The dashboard of a gateway that runs: what is done to the gateway is seen there."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.admin_calls import admin
from tests.e2e.programs import Nginx, program
from tests.e2e.test_dashboard import HEIGHTS, cells, tile
from tests.e2e.test_processes import ask
from tests.e2e.test_reload import Reloadable
from tests.support.browser import Browser, Page


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    folder = tmp_path / "chromium"
    folder.mkdir()
    with Browser(program("chromium"), folder) as browser, browser.page() as page:
        page.window(1280)
        yield page


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[Nginx]:
    with Nginx(tmp_path / "origin", "location / { return 200 'fine'; }") as origin:
        yield origin


def test_what_is_done_to_a_gateway_is_seen(tmp_path: Path, page: Page, origin: Nginx) -> None:
    config = {
        "workers": 2,
        "upstreams": {"origin": {"targets": [{"url": origin.url}]}},
        "filters": {"request_id": {}},
        "routes": [
            {"name": "forwarded", "paths": ["/forwarded"], "upstream": "origin"},
            {"name": "failing", "paths": ["/failing"], "respond": {"status": 503}},
        ],
    }
    with Reloadable(config, tmp_path) as gateway, gateway.connect() as held:

        def load() -> None:
            for _ in range(20):
                ask(gateway.address(), "/forwarded")
            ask(gateway.address(), "/failing")
            ask(gateway.address(), "/nowhere")

        held.exchange(b"GET /forwarded HTTP/1.1\r\nHost: a\r\n\r\n")
        page.go(f"http://{gateway.ready['admin']}/#token={gateway.token}")
        page.until("document.getElementById('state').textContent === 'Serving'")
        page.until(f"{HEIGHTS}('requests').length >= 1")
        load()
        page.until(f"{HEIGHTS}('requests').some((height) => height < Math.max(...{HEIGHTS}('requests')))")
        page.until("Number.parseFloat(document.getElementById('tile-p99').textContent) > 0")
        assert tile(page, "workers") == "2 of 2"
        assert tile(page, "connections") == "1"
        page.until("document.querySelectorAll('#table-faults tbody tr').length === 1")
        assert cells(page, "faults", "Fault") == ["route_not_found"]

        page.click("nav a[href='#routes']")
        page.until("document.querySelectorAll('#table-routes tbody tr').length === 2")
        assert dict(zip(cells(page, "routes", "Route"), cells(page, "routes", "Requests"), strict=True)) == {
            "forwarded": "21",
            "failing": "1",
        }
        page.type("#search-routes", "request_id origin")
        assert cells(page, "routes", "Route") == ["forwarded"]

        page.click("nav a[href='#upstreams']")
        page.until("document.querySelectorAll('#table-upstreams tbody tr').length === 1")
        assert cells(page, "upstreams", "Target") == [origin.url]

        page.click("nav a[href='#workers']")
        page.until("document.querySelectorAll('#table-workers tbody tr').length === 2")
        assert cells(page, "workers", "Process") == [str(pid) for pid in gateway.worker_pids]

        page.click("nav a[href='#reloads']")
        gateway.change(workers=3)
        gateway.reload()
        page.until("document.getElementById('generation').textContent === '2'")
        page.until("document.querySelectorAll('#table-reloads tbody tr').length >= 1")
        page.until("document.querySelector('#table-versions tbody tr')")
        page.click("#table-versions .pick")
        page.until("document.getElementById('version-changes').textContent.includes('workers')")
        gateway.write("{")
        gateway.signal(signal.SIGHUP)
        page.until("document.querySelectorAll('#table-reloads tbody tr').length >= 2")
        assert cells(page, "reloads", "Result")[:2] == ["refused", "applied"]
        assert cells(page, "reloads", "Details")[0].startswith(f"{gateway.file}:1:2: not valid JSON")

        page.click("nav a[href='#config']")
        page.until("document.getElementById('config-text').textContent.includes('request_id')")
        page.click("nav a[href='#overview']")
        page.until("document.getElementById('tile-workers').textContent === '3 of 3'")
        assert page.complaints == []
        assert admin(gateway, "POST /drain").status == 202
        assert gateway.wait() == 0
        page.until("document.getElementById('state').textContent !== 'Serving'")
