"""The dashboard in a real browser: what a reader sees, on a desk and on a phone, and what cannot be done to him."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from fastgw.admin.explanation import Explanation
from fastgw.admin.node_interface import CacheInfo, Effective, Limits, Live, Routes, Status, Upstreams
from tests.e2e.programs import program
from tests.support.admin_stub import AdminStub, Figures, limit_use, rejected, route, table_use, upstream
from tests.support.browser import Browser, Page
from tests.support.gateway import wait_until

HOSTILE = "<img src=x onerror=\"document.title='taken'\">\"'`</script><script>document.title='taken'</script>"
VIEWS = (
    "overview",
    "analytics",
    "routes",
    "upstreams",
    "workers",
    "certificates",
    "consumers",
    "limits",
    "stories",
    "tap",
    "cache",
    "explain",
    "reloads",
    "config",
)
PHONE = 360  # CSS pixels
TOKEN = "open-sesame-\N{CHECK MARK}"

# The heights of a line's points, from the top.
HEIGHTS = """((key) => {
  const path = document.querySelector(`figure div path.${key}`).getAttribute("d");
  return [...path.matchAll(/[ML][0-9.-]+ ([0-9.-]+)/g)].map(([, height]) => Number(height));
})"""
UNKNOWN = "\N{EN DASH}"

# Every text that is shown, with a contrast too low for it (WCAG 2.2, 1.4.3), and every line of a chart (1.4.11).
PALE = """(() => {
  const channel = (value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = (colour) => {
    const all = colour.match(/[0-9.]+/g).map(Number);
    return colour.startsWith("color(") ? all.map((each, place) => place < 3 ? each * 255 : each) : all;
  };
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((value) => channel(value / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      if ((numbers(colour)[3] ?? 1) === 1) return colour;
    }
    return getComputedStyle(document.documentElement).colorScheme === "dark" ? "rgb(0,0,0)" : "rgb(255,255,255)";
  };
  const contrast = (one, other) => {
    const [low, high] = [light(one), light(other)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const pale = [];
  const judge = (element, colour, wanted) => {
    const ratio = contrast(colour, ground(element));
    if (ratio < wanted) pale.push([element.outerHTML.slice(0, 80), colour, ground(element), ratio]);
  };
  for (const element of document.querySelectorAll("body *")) {
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element);
    if (element.matches("path.line")) judge(element, style.stroke, 3);
    const isText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (isText) judge(element, element instanceof SVGElement ? style.fill : style.color, 4.5);
    if (element.placeholder) judge(element, getComputedStyle(element, "::placeholder").color, 4.5);
  }
  return pale;
})()"""

AXE = Path(__file__).parents[1] / "support" / "npm_packages" / "node_modules" / "axe-core" / "axe.min.js"
# What axe-core finds: rule, what it is about, and where.
BARRIERS = """axe.run(document, {resultTypes: ["violations"]}).then(({violations}) =>
  violations.map(({id, help, nodes}) => [id, help, nodes.slice(0, 3).map(({html}) => html.slice(0, 160))]))"""

# From here on `waits` has for how many milliseconds each timer was set; they are `faster` times as fast.
WAITS = """(() => {
  const set = setTimeout;
  Object.assign(window, { waits: [], faster: 1 });
  window.setTimeout = (act, wait) => {
    waits.push(wait);
    return set(act, wait / faster);
  };
})()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(program("chromium"), tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def stub() -> Iterator[AdminStub]:
    with AdminStub() as stub:
        yield stub


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.page() as page:
        page.window(1280)
        yield page


def look(page: Page, stub: AdminStub, view: str = "overview") -> None:
    """Open a view, and wait for its data."""
    page.go(f"{stub.url}#{view}")
    page.until("document.getElementById('state').textContent === 'Serving'")
    if view in ("routes", "upstreams", "workers", "limits", "cache", "reloads"):
        page.until(f"document.querySelector('#table-{view} tbody tr')")
    if view == "config":
        page.until("document.getElementById('config-text').textContent")


def tap(page: Page) -> None:
    page.click("#tap-begin")
    page.until("document.querySelectorAll('#table-tap tbody tr').length === 2")


def certificate(listener: str, days: float) -> dict[str, object]:
    """One that is good for so many days more."""
    shown = {"listener": listener, "certificate": "/a.pem", "names": ["a"], "serial": "0", "problem": ""}
    return shown | {"expires_date": time.time() + days * 86400}


def cells(page: Page, view: str, title: str) -> list[str]:
    """A column of a table, as it is shown."""
    found = page.run(
        f"[...document.querySelectorAll('#table-{view} td[data-title=\"{title}\"]')].map((cell) => cell.innerText)"
    )
    assert isinstance(found, list)
    return found


def tile(page: Page, name: str) -> str:
    return page.text(f"#tile-{name}")


def is_wider_than(page: Page, width: int) -> bool:
    return bool(page.run(f"document.documentElement.scrollWidth > {width}"))


@pytest.mark.parametrize(
    ("made_up", "kind"),
    [
        (Figures().status(), Status),
        (Figures().live(), Live),
        ({"routes": Figures().routes()}, Routes),
        ({"upstreams": Figures().upstreams()}, Upstreams),
        (asyncio.run(Figures().config()), Effective),
        (asyncio.run(Figures().limits()), Limits),
        (asyncio.run(Figures().cache(20)), CacheInfo),
    ],
    ids=lambda each: each.__name__ if isinstance(each, type) else "",
)
def test_what_the_page_is_shown_is_what_the_api_tells(made_up: dict[str, object], kind: type[msgspec.Struct]) -> None:
    """Or these tests would prove nothing of it: the same keys, of the same types."""
    converted = msgspec.convert(made_up, kind)
    assert msgspec.json.decode(msgspec.json.encode(converted)) == msgspec.json.decode(msgspec.json.encode(made_up))


# --- what is going on ---


def test_the_overview_tells_rates_and_percentiles(page: Page, stub: AdminStub) -> None:
    """Out of differences: 100 requests a second, 2 of them 5xx; 98 of 100 within 2.5 to 5 ms, 2 within 25 to 50."""
    look(page, stub)
    page.until("document.getElementById('tile-requests').textContent === '100/s'")
    assert tile(page, "errors") == "2 %"
    assert tile(page, "p50") == "3.78 ms"  # 2.5 + 2.5 * 50 / 98
    assert tile(page, "p99") == "37.5 ms"  # 25 + 25 * 1 / 2
    assert tile(page, "connections") == "340"
    assert tile(page, "workers") == "4 of 4"
    page.until("document.getElementById('tile-targets').textContent === '1 of 5'")
    assert page.run("document.getElementById('tile-targets').className") == "bad"
    assert cells(page, "classes", "Per second") == ["93/s", "0/s", "5/s", "2/s", "0/s"]
    assert cells(page, "faults", "Fault") == ["route_not_found", "connect_refused"]
    assert "p99 37.5 ms" in page.run("document.querySelector('#chart-latency div svg').getAttribute('aria-label')")
    assert page.complaints == []


def test_a_chart_moves_with_the_data(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    page.until(f"{HEIGHTS}('requests').length >= 2")
    quiet = page.run(f"{HEIGHTS}('requests')")
    stub.figures.per_second = 180
    page.until("document.getElementById('tile-requests').textContent === '180/s'")
    risen = page.run(f"{HEIGHTS}('requests')")
    assert len(risen) > len(quiet)
    assert risen[-1] < risen[0]  # y counts downwards


def test_a_restart_is_a_gap_and_no_spike(page: Page, stub: AdminStub) -> None:
    """Counters that are lower than before: nothing is negative, nothing jumps, and the lines begin anew."""
    look(page, stub)
    page.until(f"{HEIGHTS}('requests').length >= 2")
    stub.figures.restart()
    count = "document.querySelector('figure div path.requests').getAttribute('d').match(/M/g).length"
    page.until(f"{count} === 2")
    heights = page.run(f"{HEIGHTS}('requests')")
    assert max(heights) - min(heights) < 1
    assert tile(page, "requests") == "100/s"
    assert "-" not in page.text("#view-overview")


def test_no_requests_have_no_percentile(page: Page, stub: AdminStub) -> None:
    stub.figures.per_second = stub.figures.server_errors = stub.figures.client_errors = 0
    look(page, stub)
    page.until("document.getElementById('tile-requests').textContent === '0/s'")
    assert (tile(page, "p50"), tile(page, "p99"), tile(page, "errors")) == (UNKNOWN, UNKNOWN, UNKNOWN)


def test_what_is_slower_than_the_last_bound_is_told_as_that(page: Page, stub: AdminStub) -> None:
    stub.figures.latency_s = 31.0
    look(page, stub)
    page.until("document.getElementById('tile-p50').textContent === '> 30 s'")


def test_the_pointer_reads_a_chart(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    page.until(f"{HEIGHTS}('requests').length >= 2")
    place = page.run(
        "(({ left, top }) => [left + 5, top + 50])(document.querySelector('figure svg').getBoundingClientRect())"
    )
    page.command("Input.dispatchMouseEvent", type="mouseMoved", x=place[0], y=place[1])
    page.until("document.querySelector('#chart-requests .moment').textContent.endsWith('s ago')")
    assert page.run("getComputedStyle(document.querySelector('#chart-requests .cursor')).visibility") == "visible"


# --- tables ---


def test_workers_have_rates_of_their_own(page: Page, stub: AdminStub) -> None:
    look(page, stub, "workers")
    page.until("document.querySelector('#table-workers td[data-title=\"Per second\"]').textContent === '25/s'")
    assert cells(page, "workers", "Process") == ["4100", "4101", "4102", "4103"]
    assert cells(page, "workers", "CPU") == ["25 %"] * 4
    assert cells(page, "workers", "Memory")[0] == "58.2 MiB"


def test_a_refused_reload_says_where_and_why(page: Page, stub: AdminStub) -> None:
    look(page, stub, "reloads")
    assert cells(page, "reloads", "Result") == ["applied", "refused", "applied", "applied"]
    told = cells(page, "reloads", "Details")[1]
    assert "gateway.yaml:12:5: routes[2].upstream: unknown upstream `oders`; expected one of" in told


def test_a_new_generation_is_shown_at_once(page: Page, stub: AdminStub) -> None:
    look(page, stub, "reloads")
    stub.figures.reload_list.insert(0, {**rejected(4), "ok": True, "problems": [], "summary": "reloaded"})
    stub.figures.generation = 4
    page.until("document.getElementById('generation').textContent === '4'")
    page.until("document.querySelectorAll('#table-reloads tbody tr').length === 5")


def test_targets_in_trouble_come_first_and_are_found(page: Page, stub: AdminStub) -> None:
    look(page, stub, "upstreams")
    assert cells(page, "upstreams", "Health") == ["unhealthy", "healthy", "healthy", "healthy", "healthy"]
    page.type("#search-upstreams", "orders")
    assert cells(page, "upstreams", "Upstream") == ["orders", "orders"]
    assert page.text("#view-upstreams .more") == "2 found among 5 targets"


def test_ten_thousand_routes_are_searched_and_sorted_as_one(page: Page, stub: AdminStub) -> None:
    """A hundred are drawn; search and order are over all."""
    routes = [route(f"route-{number}", requests=number) for number in range(10_000)]
    routes[7_777]["hosts"] = ["Needle.example.org"]
    stub.figures.route_list = routes
    look(page, stub, "routes")
    assert len(cells(page, "routes", "Route")) == 100
    assert page.text("#view-routes .more").startswith("100 of 10,000 routes")

    page.type("#search-routes", "needle get")
    assert cells(page, "routes", "Route") == ["route-7777"]
    assert page.text("#view-routes .more") == "1 found among 10,000 routes"

    page.type("#search-routes", "")
    page.run(
        "[...document.querySelectorAll('#table-routes th button')].find((e) => e.textContent === 'Requests').click()"
    )
    assert cells(page, "routes", "Requests")[:2] == ["9,999", "9,998"]
    assert page.run("document.querySelector('#table-routes th[aria-sort=\"descending\"]').textContent") == "Requests"
    page.click("#view-routes .more button")
    assert len(cells(page, "routes", "Route")) == 200
    assert page.complaints == []


def test_routes_are_asked_for_only_while_they_are_looked_at(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    page.until(f"{HEIGHTS}('requests').length >= 2")
    assert "/routes" not in stub.asked
    assert "/config" not in stub.asked
    page.click("nav a[href='#routes']")
    page.until("document.querySelector('#table-routes tbody tr')")
    assert page.run("document.querySelector('nav a[aria-current]').textContent") == "Routes"


def test_the_configuration_is_shown_as_it_is_told(page: Page, stub: AdminStub) -> None:
    look(page, stub, "config")
    assert '"token": "***"' in page.text("#config-text")
    assert page.text("#config-about") == "Generation 3, hash 5f2a90c1."


# --- who may not do what ---


def test_hostile_names_stay_text(page: Page, stub: AdminStub) -> None:
    """Whatever the configuration or a peer has named, on every view."""
    figures = stub.figures
    hostile = {key: [HOSTILE] for key in ("listeners", "hosts", "paths", "methods", "filters")}
    figures.route_list = [route(HOSTILE, to=HOSTILE, **hostile)]
    figures.upstream_list = [upstream(HOSTILE, 1, algorithm=HOSTILE)]
    figures.upstream_list[0]["targets"][0].update(url=HOSTILE, health=HOSTILE)
    figures.faults[HOSTILE] = 5
    figures.reload_list = [{**rejected(3), "summary": HOSTILE, "source": HOSTILE}]
    figures.configuration = {HOSTILE: HOSTILE}
    for view, column in (("routes", "Route"), ("upstreams", "Target"), ("reloads", "Source")):
        look(page, stub, view)
        assert cells(page, view, column)[0] == HOSTILE
    look(page, stub)
    page.until("document.querySelectorAll('#table-faults tbody tr').length === 3")
    assert HOSTILE in cells(page, "faults", "Fault")
    look(page, stub, "config")
    assert page.run("document.title") == "fastgw"
    assert page.run("document.querySelectorAll('img, main script').length") == 0
    assert page.complaints == []


def test_the_policy_stops_what_would_get_past_it(page: Page, stub: AdminStub) -> None:
    """Markup out of a string, and a script that the page does not know."""
    look(page, stub)
    assert (
        page.run("(() => { try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return error.name; } })()")
        == "TypeError"
    )
    page.run(
        "document.head.append("
        "Object.assign(document.createElement('style'), { textContent: 'main { display: none }' }))"
    )
    assert page.run("getComputedStyle(document.querySelector('main')).display") == "block"
    assert any("Content Security Policy" in each for each in page.complaints)


def test_the_token_is_asked_for_and_becomes_a_cookie_that_no_script_reads(page: Page, stub: AdminStub) -> None:
    stub.token = TOKEN
    page.go(stub.url)
    page.until("document.getElementById('ask').open")
    page.until("document.activeElement.id === 'ask-token'")
    page.type("#ask-token", "wrong")
    page.press("Enter")
    page.until("document.getElementById('ask-why').textContent === 'The token is wrong.'")
    asked = len(stub.asked)
    page.press("Escape")  # there is nothing to be seen behind it
    page.type("#ask-token", TOKEN)
    page.press("Enter")
    page.until("document.getElementById('state').textContent === 'Serving'")
    assert not page.run("document.getElementById('ask').open")
    assert asked < len(stub.asked)
    kept = page.run("[Object.values(sessionStorage), Object.values(localStorage).join(), document.cookie]")
    assert (kept[0], kept[2]) == ([], "")
    assert kept[1]
    assert TOKEN not in kept[1]
    assert {each.partition(" (")[0] for each in page.complaints} <= {
        "Failed to load resource: the server responded with a status of 401"
    }

    page.click("#forget")
    page.until("document.getElementById('ask').open")
    assert page.run("localStorage.length") == 0


def test_a_role_that_may_only_look_has_no_buttons_that_change_something(page: Page, stub: AdminStub) -> None:
    stub.token, stub.read_only_token = TOKEN, "looker"
    changing = "[...document.querySelectorAll('[data-changes]')]"
    page.go(stub.url)
    for token, is_shown in (("looker", False), (TOKEN, True)):
        page.until("document.getElementById('ask').open")
        page.type("#ask-token", token)
        page.press("Enter")
        page.until(f"{changing}.every((each) => each.hidden !== {str(is_shown).lower()})")
        assert page.run(f"{changing}.length") == 5
        page.until("!document.getElementById('forget').hidden")
        page.click("#forget")
    page.until("document.getElementById('ask').open")


def test_the_address_of_the_start_line_signs_in_and_keeps_no_token(page: Page, stub: AdminStub) -> None:
    stub.token = TOKEN
    page.go(f"{stub.url}#token={quote(TOKEN)}")
    page.until("document.getElementById('state').textContent === 'Serving'")
    assert page.run("location.href") == stub.url
    assert not any(each.partition(" (")[0] for each in page.complaints)
    page.go("about:blank")
    page.go(stub.url)  # the cookie is still there
    page.until("document.getElementById('state').textContent === 'Serving'")
    page.go("about:blank")
    page.go(f"{stub.url}#token=wrong")
    page.until("document.getElementById('ask-why').textContent === 'The token is wrong.'")


# --- the connection ---


def test_control_away_is_said_and_it_comes_back(page: Page, stub: AdminStub) -> None:
    """The last data stay, with their age; the charts go on in time, and the line goes on when control is back."""
    look(page, stub)
    page.until(f"{HEIGHTS}('requests').length >= 2")
    stub.leave()
    page.until("document.getElementById('state').textContent === 'No answer'")
    assert page.text("#notice-text") == "The control process is unreachable."
    page.until("document.getElementById('notice-age').textContent.match(/^Last data [0-9]+ s ago.$/)")
    assert tile(page, "connections") == "340"
    assert page.run("document.getElementById('notice-text').role") == "status"
    page.run(AXE.read_text())
    assert page.run(BARRIERS) == []
    stub.come()
    page.until("document.getElementById('state').textContent === 'Serving'")
    page.until("document.getElementById('notice').offsetHeight === 0")
    page.until("document.getElementById('tile-requests').textContent === '100/s'")


def test_it_asks_ever_slower_without_an_answer(page: Page, stub: AdminStub) -> None:
    """After n failures in a row it waits 2 to the n seconds, up to 15. (The clock of its timers runs faster here.)"""
    look(page, stub)
    stub.failing = {"/live": 503}
    page.run(f"{WAITS}; window.faster = 50")
    page.until("waits.filter((wait) => wait === 15000).length >= 3")
    assert [wait for wait in page.run("waits") if wait in (2000, 4000, 8000)] == [2000, 4000, 8000]
    assert max(page.run("waits")) == 15_000


def test_a_document_that_fails_is_named_and_the_rest_goes_on(page: Page, stub: AdminStub) -> None:
    stub.failing["/upstreams"] = 503
    look(page, stub)
    page.until("document.getElementById('notice').offsetHeight")
    assert page.text("#notice") == "The admin API answers 503 to /upstreams. As the test wants."
    assert page.text("#state") == "Serving"
    stub.failing.clear()
    page.click("nav a[href='#upstreams']")
    page.until("document.getElementById('tile-targets').textContent === '1 of 5'")
    page.until("!document.getElementById('notice').offsetHeight")


def test_files_that_are_not_what_runs_are_named_and_why(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    told = {"why": f"/a/team.yaml:3:1: {HOSTILE}", "since_date": 1.7e9}
    kept = [{"file": f"/a/{number}.yaml", "files": 3 if number == 0 else 1, **told} for number in range(7)]
    stub.figures.kept_files = kept
    page.until("document.getElementById('notice-text').textContent.startsWith('/a/0.yaml and 2 more on disk differs')")
    assert page.text("#notice-text").endswith("And 2 more files.")
    assert HOSTILE in page.text("#notice-text")
    stub.figures.kept_files = []
    page.until("!document.getElementById('notice').offsetHeight")


def test_a_redis_that_is_unreachable_is_told_with_what_it_means_for_limits(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    stub.figures.shared_state = {"server": "a:6379", "is_up": False, "reason": HOSTILE, "effect": "limits count alone"}
    page.until("document.getElementById('notice-text').textContent.startsWith('The Redis of state at a:6379 is unr')")
    assert page.text("#notice-text").endswith(f"{HOSTILE}; limits count alone.")
    stub.figures.shared_state = {"server": "a:6379", "is_up": True, "reason": "", "effect": ""}
    page.until("!document.getElementById('notice').offsetHeight")


def test_a_gateway_that_drains_says_so(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    stub.figures.stale = {"reason": "refused", "why": f"gateway.yaml:3:1: {HOSTILE}", "since_date": 1.7e9}
    page.until(
        "document.getElementById('notice-text').textContent.includes('differs from the active configuration: gateway')"
    )
    stub.figures.state = "draining"
    page.until("document.getElementById('state').textContent === 'Draining'")
    assert "is draining" in page.text("#notice-text")


def test_a_hidden_page_asks_less(page: Page, stub: AdminStub) -> None:
    """It asks once more when it is hidden; then its next question is 10 s away, and nothing is asked but /live."""
    look(page, stub)
    page.run("Object.defineProperty(document, 'hidden', { get: () => window.isHidden, configurable: true })")
    page.run(WAITS)
    page.run("window.isHidden = true; document.dispatchEvent(new Event('visibilitychange'))")
    page.until("waits.length >= 5")
    assert min(page.run("waits")) >= 10_000
    page.run("waits.length = 0; window.isHidden = false; document.dispatchEvent(new Event('visibilitychange'))")
    page.until("waits.includes(1000)")


# --- readers ---


@pytest.mark.parametrize("view", VIEWS)
def test_a_phone_shows_every_view_without_scrolling_sideways(page: Page, stub: AdminStub, view: str) -> None:
    long = "a-name-without-an-end-" * 8
    stub.figures.route_list.append(route(long, hosts=[f"{long}.example.com"], paths=[f"/{long}"]))
    stub.figures.upstream_list.append(upstream(long, 1))
    stub.figures.faults[long] = 3
    stub.figures.configuration[long] = long
    page.window(PHONE, 740, is_phone=True)
    look(page, stub, view)
    page.until("document.querySelector('figure div svg')")
    assert not is_wider_than(page, PHONE)
    assert page.run("innerWidth") == PHONE


@pytest.mark.parametrize("width", [320, 400, 640])
def test_on_a_phone_the_navigation_is_a_line_that_shows_where_one_is(page: Page, stub: AdminStub, width: int) -> None:
    page.window(width, 740, is_phone=True)
    look(page, stub)
    assert page.run("new Set([...document.querySelectorAll('nav a')].map((link) => link.offsetTop)).size") == 1
    current = "document.querySelector('nav a[aria-current]')"
    for view in (*VIEWS, *reversed(VIEWS)):
        page.run(f"location.hash = '#{view}'")
        page.until(f"{current}.hash === '#{view}'")
        at = page.run(f"(({{ left, right }}) => [left, right])({current}.getBoundingClientRect())")
        assert 0 <= at[0] < at[1] <= width, view
    assert not is_wider_than(page, width)
    assert page.run("scrollX") == 0


@pytest.mark.parametrize("width", [641, 1024, 1920])
def test_no_window_has_to_be_scrolled_sideways(page: Page, stub: AdminStub, width: int) -> None:
    page.window(width)
    for view in VIEWS:
        look(page, stub, view)
        assert not is_wider_than(page, width)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, PHONE])
def test_axe_finds_nothing_in_any_view(page: Page, stub: AdminStub, scheme: str, width: int) -> None:
    """All of its rules, those for good practice as well; also with a story, an explanation and both dialogs open."""
    page.prefer(prefers_color_scheme=scheme)
    page.window(width, is_phone=width == PHONE)
    stub.figures.client_errors = 3
    look(page, stub)
    page.run(AXE.read_text())
    found = {}
    for view in VIEWS:
        page.run(f"location.hash = {view!r}")
        page.until(f"!document.getElementById('view-{view}').hidden")
        if view == "stories":
            page.until("document.querySelector('#table-stories tbody tr')")
            page.click("#table-stories .pick")
            page.until("!document.getElementById('story').hidden")
        if view == "consumers":
            page.until("document.querySelector('#table-consumers tbody tr')")
            page.click("#table-consumers .pick")
            page.until("document.querySelector('#table-quotas tbody tr')")
        if view == "tap":
            tap(page)
            page.click("#table-tap .pick")
        if view == "reloads":
            page.until("document.querySelector('#table-versions tbody tr')")
            page.click("#table-versions .pick")
            page.until("document.getElementById('version-changes').checkVisibility()")
        found[view] = page.run(BARRIERS)
    page.click("#do-rollback")
    page.until("document.getElementById('confirm').open")
    found["confirm"] = page.run(BARRIERS)
    assert {view: barriers for view, barriers in found.items() if barriers} == {}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_can_be_read_in_light_and_in_dark(page: Page, stub: AdminStub, scheme: str) -> None:
    page.prefer(prefers_color_scheme=scheme)
    stub.figures.state = "draining"  # a notice stands there too
    stub.figures.reload_list.append(rejected(1))
    stub.figures.certificate_list.append(certificate("main", -1.0))
    page.go(stub.url)
    page.until("document.getElementById('state').textContent === 'Draining'")
    for view in VIEWS:
        page.run(f"location.hash = '#{view}'")
        page.until(f"document.getElementById('view-{view}').checkVisibility()")
        if view == "tap":
            tap(page)
        page.until(f"!document.getElementById('table-{view}') || document.querySelector('#table-{view} tbody tr')")
        if view == "explain":
            page.type("#explain-url", "http://a.test/")
            page.press("Enter")
            page.until("!document.getElementById('explain-text').hidden")
        assert page.run(PALE) == []
    stub.token = "asked for"
    page.until("document.getElementById('ask').open")
    assert page.run(PALE) == []


def test_the_theme_follows_the_system_until_it_is_chosen(page: Page, stub: AdminStub) -> None:
    worker_loop = "getComputedStyle(document.body).backgroundColor"
    page.prefer(prefers_color_scheme="light")
    look(page, stub)
    light = page.run(worker_loop)
    page.prefer(prefers_color_scheme="dark")
    dark = page.run(worker_loop)
    assert dark != light
    page.click("#theme")
    assert page.text("#theme") == "Theme: dark"
    page.click("#theme")
    assert (page.text("#theme"), page.run(worker_loop)) == ("Theme: light", light)
    page.go("about:blank")
    page.go(stub.url)
    page.until("document.getElementById('theme').textContent === 'Theme: light'")
    assert page.run(worker_loop) == light


def test_the_keyboard_reaches_everything(page: Page, stub: AdminStub) -> None:
    look(page, stub, "routes")
    reached = []
    for _ in range(22):
        page.press("Tab")
        reached.append(page.run("document.activeElement.id || document.activeElement.textContent"))
    assert reached[:20] == [
        *("Skip to the content", "API", "do-reload", "do-rollback", "do-drain", "theme", "Overview", "Analytics"),
        *("Routes", "Upstreams", "Workers", "Certificates", "Consumers", "Limits", "Stories", "Live tail", "Cache"),
        *("Explain", "Reloads", "Config"),
    ]
    assert reached[20:22] == ["search-routes", "Route"]
    page.press("Enter")
    assert page.run("document.activeElement.closest('th').ariaSort") == "ascending"
    outline = page.run("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"


def test_every_field_and_picture_has_a_name(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    page.until(f"{HEIGHTS}('requests').length >= 2")
    assert page.run("[...document.querySelectorAll('input, textarea')].every((field) => field.labels.length === 1)")
    assert page.run("[...document.querySelectorAll('svg:not([aria-hidden])')].every((each) => each.ariaLabel)")
    assert page.run("[...document.querySelectorAll('table')].every((each) => each.caption?.textContent)")
    assert page.run("document.querySelectorAll('[aria-live], [role=status], [role=alert]').length") == 9


def test_nothing_moves_by_itself(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    assert page.run("document.getAnimations().length") == 0
    assert page.run(
        "[...document.querySelectorAll('*')].every((each) => getComputedStyle(each).transitionDuration === '0s')"
    )


def test_nothing_but_the_admin_api_is_asked(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    for view in VIEWS:
        page.click(f"nav a[href='#{view}']")
    wait_until(lambda: "/config" in stub.asked, "the configuration to be asked for")
    views = {"/history", "/status", "/routes", "/upstreams", "/limits", "/cache", "/stories", "/config"}
    views |= {"/analytics", "/consumers", "/config/history", "/session"}
    assert set(stub.asked) == {"/", "/live", *views}
    told = page.run("performance.getEntriesByType('resource').map((each) => new URL(each.name).origin)")
    assert set(told) == {stub.url.rstrip("/")}
    assert page.complaints == []


def test_a_target_that_fails_is_told_with_its_errors_and_the_last_one(page: Page, stub: AdminStub) -> None:
    """Those that fail stand first."""
    users = stub.figures.upstream_list[0]
    users["targets"][0] |= {
        "health": "failing",
        "errors": {"connect_refused": 12, "status_5xx": 3},
        "recent_errors": {"connect_refused": 2},
        "last_error": {"date": 1_700_000_000.0, "fault": "connect_refused", "reason": "ECONNREFUSED"},
    }
    look(page, stub, "upstreams")
    assert cells(page, "upstreams", "Health")[0] == "failing"
    assert cells(page, "upstreams", "Errors")[0] == "connect_refused 12, status_5xx 3"
    assert cells(page, "upstreams", "Last error")[0].endswith(" connect_refused (ECONNREFUSED)")
    assert cells(page, "upstreams", "p99")[0] == "40 ms"


def test_the_last_hour_is_there_as_soon_as_the_page_is(page: Page, stub: AdminStub) -> None:
    """The gateway keeps it: a page that is opened anew has lost nothing."""
    look(page, stub)
    drawn = "document.querySelector('#chart-hour-requests path.line.requests[d]')?.getAttribute('d').length > 500"
    named = "document.querySelector('#chart-hour-requests svg')?.ariaLabel.includes('line chart of 60 minutes')"
    page.until(f"{drawn} && {named}")
    page.run("window.before = true; location.reload()")
    page.until(f"!window.before && {drawn} && {named}")


def test_certificates_are_told_with_the_days_that_are_left(page: Page, stub: AdminStub) -> None:
    stub.figures.certificate_list += [certificate(f"l{place}", days) for place, days in enumerate((40.5, 3.5, -1.0))]
    stub.figures.certificate_list[0]["certificate"] = "/b.pem"
    stapled = {"responder": "", "expires_date": None, "revoked": True, "next_attempt_date": None}
    stub.figures.ocsp_list.append({"certificate": "/b.pem", "problem": "the certificate is revoked", **stapled})
    look(page, stub)
    page.run("location.hash = '#certificates'")
    page.until("document.querySelectorAll('#table-certificates tbody tr').length === 3")
    assert cells(page, "certificates", "Days left") == ["expired", "3 d", "40 d"]
    assert cells(page, "certificates", "Problem") == ["", "", "OCSP: the certificate is revoked"]


def test_a_request_is_explained_as_it_is_typed(page: Page, stub: AdminStub) -> None:
    """With the keys alone; what is left empty is not sent, and the answer is told in a sentence and in full."""
    look(page, stub, "explain")
    page.run("document.getElementById('explain-method').select(); document.getElementById('explain-method').focus()")
    for place, text in enumerate(("POST", "http://api.example.com/users/7", "X-Tenant: t1\n\n  Accept: */*  ")):
        if place:
            page.press("Tab")
        page.command("Input.insertText", text=text)
    page.press("Tab")  # the client's address
    page.press("Enter")
    page.until("document.getElementById('explain-said').textContent.startsWith('Route user')")
    assert page.text("#explain-said") == "Route user: goes to http://127.0.0.1:9001. Generation 3."
    assert page.text("#explain-text") == stub.figures.explanation_text
    (asked,) = stub.figures.explained
    assert (asked.method, asked.url) == ("POST", "http://api.example.com/users/7")
    assert asked.headers == ["X-Tenant: t1", "Accept: */*"]
    assert (asked.client, asked.listener, asked.certificate) == ("127.0.0.1", None, None)
    assert page.complaints == []


def test_what_cannot_be_explained_is_said_and_hostile_text_stays_text(page: Page, stub: AdminStub) -> None:
    look(page, stub, "explain")
    page.type("#explain-url", "http://a.test/")
    stub.figures.not_explained = HOSTILE
    page.press("Enter")
    page.until("document.getElementById('explain-said').textContent.includes('400')")
    assert HOSTILE in page.text("#explain-said")
    assert page.run("document.getElementById('explain-text').hidden")
    stub.figures.not_explained = ""
    stub.figures.explanation = Explanation(route=HOSTILE, status=404, fault=HOSTILE)
    stub.figures.explanation_text = HOSTILE
    page.press("Enter")
    page.until("!document.getElementById('explain-text').hidden")
    assert page.text("#explain-text") == HOSTILE
    assert page.run("document.title") == "fastgw"


def test_the_route_tester_sends_what_is_needed_to_ask(page: Page, stub: AdminStub) -> None:
    """With a session: the cookie alone would not do."""
    stub.token = TOKEN
    page.go(f"{stub.url}#token={quote(TOKEN)}")
    page.until("document.getElementById('state').textContent === 'Serving'")
    page.click("nav a[href='#explain']")
    page.type("#explain-url", "http://a.test/")
    page.press("Enter")
    page.until("!document.getElementById('explain-text').hidden")
    assert len(stub.figures.explained) == 1


def test_limits_are_told_with_what_is_in_use_and_what_is_not_known(page: Page, stub: AdminStub) -> None:
    figures = stub.figures
    figures.limit_list += [limit_use(HOSTILE, "rate_limit", key="ip", per="1s", most_used=None)]
    figures.limit_list[2] |= {"keys": None, "most_used_by": None, "in_flight": None}
    figures.limit_list += [
        limit_use("idle", "quota", keys=0, most_used=0, most_used_by=None, most_used_of=None, refused=0)
    ]
    figures.limit_list[1]["in_flight"] = 1000
    figures.table_list += [table_use("quota", 0, 524_288, shared=0, overflowed=4, refused=None)]
    look(page, stub, "limits")
    assert cells(page, "limits", "Filter") == ["plan", "crowd", HOSTILE, "idle"]
    assert cells(page, "limits", "In flight") == [UNKNOWN, "1,000", UNKNOWN, UNKNOWN]
    assert cells(page, "limits", "Keys") == ["3", UNKNOWN, UNKNOWN, "0"]
    assert cells(page, "limits", "Most used") == ["950 of 1,000 by alice", UNKNOWN, UNKNOWN, "0"]
    assert cells(page, "limits", "Refused") == ["12", "12", "12", "0"]
    marks = "[...document.querySelectorAll('#table-limits td[data-title=\"In flight\"] span')].map((e) => e.className)"
    assert page.run(marks)[1] == "bad"
    assert cells(page, "tables", "Share") == ["1.7 %", "90.6 %", "0 %"]
    assert cells(page, "tables", "Without a slot") == [UNKNOWN, UNKNOWN, "4"]
    assert page.complaints == []


def test_the_cache_is_shown_with_its_tiers_and_what_is_found_most_often(page: Page, stub: AdminStub) -> None:
    figures = stub.figures
    figures.object_list += [{"store": "big", "url": HOSTILE, "found": 9000, "bytes": 10}]
    figures.store_list[1]["disk"]["is_up"] = False
    look(page, stub, "cache")
    assert cells(page, "cache", "URL") == [HOSTILE, "http://a.test/x?token=***"]
    assert cells(page, "cache", "Found") == ["9,000", "4,321"]
    assert cells(page, "stores", "Objects") == ["1,234", "0"]
    assert cells(page, "stores", "Disk") == [UNKNOWN, "not used"]
    assert cells(page, "stores", "Found on disk") == [UNKNOWN, "7"]
    assert page.complaints == []


@pytest.mark.parametrize("what", ["reload", "rollback", "drain"])
def test_what_changes_the_gateway_is_asked_for_twice(page: Page, stub: AdminStub, what: str) -> None:
    """A click alone does nothing; cancelled, nothing is done."""
    look(page, stub)
    page.click(f"#do-{what}")
    page.until("document.getElementById('confirm').open")
    page.click("#confirm-no")
    page.click(f"#do-{what}")
    assert not stub.figures.asked_to
    page.click("#confirm-yes")
    page.until("document.getElementById('confirm-no').textContent === 'Close'")
    assert stub.figures.asked_to == [what]
    assert page.text("#confirm-said") == (
        "The gateway is draining and then stops." if what == "drain" else f"{what}: done"
    )


# --- what was, and what comes in ---


LINKED_CSV = "fetch(document.getElementById('analytics-csv').href).then((response) => response.text())"


def test_analytics_are_plotted_over_hours_and_days_of_all_routes_or_one(page: Page, stub: AdminStub) -> None:
    look(page, stub, "analytics")
    page.until("document.querySelectorAll('#table-analytics tbody tr').length === 2")
    assert cells(page, "analytics", "5xx share") == ["1 %", "1 %"]
    page.until("document.querySelector('#chart-days-requests svg').getAttribute('aria-label').includes('all 2/s')")
    assert "of 24 hours." in page.run("document.querySelector('#chart-days-requests svg').getAttribute('aria-label')")
    assert f"p99 {UNKNOWN}" in page.run("document.querySelector('#chart-days-latency svg').getAttribute('aria-label')")
    page.click("#table-analytics .pick")
    page.until("document.querySelector('#chart-days-latency svg').getAttribute('aria-label').includes('p99 30 ms')")
    page.run("document.getElementById('analytics-span').value = '30d'")
    page.run("document.getElementById('analytics-span').dispatchEvent(new Event('change'))")
    page.until("document.querySelector('#chart-days-requests svg').getAttribute('aria-label').includes('of 30 days.')")
    assert {query.step for query in stub.figures.queries} == {None, "hour", "day"}
    lines = page.run(LINKED_CSV).splitlines()
    assert lines[0] == "date,route,requests,errors,request_bytes,response_bytes,p50_s,p95_s,p99_s"
    assert {line.split(",", 2)[1] for line in lines[1:]} == {"user"}
    assert len(lines) in (31, 32)
    last = stub.figures.queries[-1]
    assert (last.by, last.step, last.route) == ("route", "day", "user")
    stub.figures.keeps_analytics = False
    page.click("#table-analytics .pick")
    page.until("document.getElementById('analytics-about').innerText.includes('No analytics are kept')")


def test_consumers_and_plans_are_plotted_like_routes(page: Page, stub: AdminStub) -> None:
    """And read by the tools of those who do not see: axe-core looks at this view, too."""

    def choose(by: str) -> None:
        page.run(f"document.getElementById('analytics-by').value = '{by}'")
        page.run("document.getElementById('analytics-by').dispatchEvent(new Event('change'))")

    look(page, stub, "analytics")
    page.until("document.querySelectorAll('#table-analytics tbody tr').length === 2")
    choose("consumer")
    page.until("document.querySelectorAll('#table-analytics tbody tr').length === 3")
    assert cells(page, "analytics", "Name") == ["alice", "bob", "carol"]
    assert page.run("document.getElementById('analytics-kind').innerText") == "Consumer"
    page.until("document.querySelector('#chart-days-requests svg').getAttribute('aria-label').includes('all 3/s')")
    page.click("#table-analytics .pick")
    page.until("document.querySelector('#chart-days-latency svg').getAttribute('aria-label').includes('p99 30 ms')")
    assert (stub.figures.queries[-1].by, stub.figures.queries[-1].consumer) == ("consumer", "alice")
    choose("plan")
    page.until("document.querySelectorAll('#table-analytics tbody tr').length === 2")
    assert cells(page, "analytics", "Name") == ["gold", "(none)"]
    assert page.run("document.getElementById('analytics-name').value") == ""
    page.click("#table-analytics tbody tr:nth-child(2) .pick")
    page.until("document.querySelectorAll('#table-analytics tbody tr').length === 1")
    assert (stub.figures.queries[-1].by, stub.figures.queries[-1].plan) == ("plan", "")
    lines = page.run(LINKED_CSV).splitlines()
    assert lines[0].split(",")[:3] == ["date", "plan", "requests"]
    assert len(lines) in (25, 26)


def test_requests_are_shown_as_they_end_until_somebody_stops_or_leaves(page: Page, stub: AdminStub) -> None:
    look(page, stub, "tap")
    page.type("#tap-status", "5xx, 200")
    page.type("#tap-route", "user")
    page.type("#tap-sample", "50")
    tap(page)
    assert page.text("#tap-begin") == "Stop"
    (order,) = stub.figures.captures
    assert (order.statuses, order.routes, order.ratio) == (("5xx", "200"), ("user",), 0.5)
    assert cells(page, "tap", "Request") == ["POST /orders", "POST /users/7"]
    page.click("#table-tap .pick")
    shown = page.text("#tapped-request")
    assert "Authorization: Bearer ***" in shown
    assert '{"password":"***"}' in shown
    assert page.text("#tapped-response").startswith("502")
    page.type("#search-tap", "users")
    page.until("document.querySelectorAll('#table-tap tbody tr').length === 1")
    page.click("#tap-begin")
    page.until("document.getElementById('tap-about').textContent === 'Ended after 2 requests.'")
    wait_until(lambda: stub.figures.captures_ended == 1, "the end of the tap")
    page.click("#tap-begin")
    page.until("document.getElementById('tap-begin').textContent === 'Stop'")
    page.run("location.hash = 'routes'")
    wait_until(lambda: stub.figures.captures_ended == 2, "the end of the other tap")
    page.run("location.hash = 'tap'")
    page.type("#tap-status", "often")
    page.click("#tap-begin")
    page.until("document.getElementById('tap-about').textContent.includes('is not a status')")


def test_a_consumer_shows_what_it_has_used_of_its_quotas(page: Page, stub: AdminStub) -> None:
    look(page, stub, "consumers")
    page.until("document.querySelectorAll('#table-consumers tbody tr').length === 3")
    page.type("#search-consumers", "gold")
    page.until("document.querySelectorAll('#table-consumers tbody tr').length === 2")
    page.click("#table-consumers .pick")
    page.until("document.querySelector('#table-quotas tbody tr')")
    assert page.text("#quotas-title") == "Quotas of team-1"
    assert (cells(page, "quotas", "Used"), cells(page, "quotas", "Left")) == (["950"], ["50"])
    page.click("#quotas-close")
    page.until("document.activeElement.id === 'search-consumers'")


def test_each_id_of_the_page_is_that_of_one_element(page: Page, stub: AdminStub) -> None:
    look(page, stub)
    ids = page.run("[...document.querySelectorAll('[id]')].map(({ id }) => id)")
    assert len(ids) == len(set(ids))


def test_an_earlier_configuration_shows_what_has_changed_and_is_returned_to(page: Page, stub: AdminStub) -> None:
    look(page, stub, "reloads")
    page.until("document.querySelectorAll('#table-versions tbody tr').length === 2")
    page.click("#table-versions .pick")
    page.until("document.getElementById('version-changes').checkVisibility()")
    generation = stub.figures.generation - 1
    assert page.text("#version-title") == f"Generation {generation}"
    assert page.text("#version-changes") == "route user: removed\nroute new: added"
    lines = page.run("[...document.querySelectorAll('#version-diff span')].map((e) => e.className + e.textContent)")
    assert lines[2:] == ["hunk@@ -1,3 +1,3 @@\n", " routes:\n", "bad-- name: user\n", "good+- name: new\n"]
    page.click("#version-roll-back")
    page.until("document.getElementById('confirm').open")
    assert page.text("#confirm-title") == f"Roll back to generation {generation}?"
    page.click("#confirm-yes")
    page.until("document.getElementById('confirm-said').textContent.includes('done')")
    assert stub.figures.asked_to == [f"rollback to {generation}"]
    assert page.complaints == []
