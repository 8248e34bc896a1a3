"""A browser can read a refusal; a route cannot drop the gateway's block list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import Uvicorn, program, run
from tests.support.browser import Browser
from tests.support.forked import FASTGW, ran
from tests.support.gateway import Gateway

GATEWAY = """\
version: 1
listeners:
  main:
    address: 127.0.0.1:0
    trusted_proxies: [127.0.0.1]
consumers:
  - {{name: alice, key_auth: [{{key: of-alice-0123456789}}]}}
  - {{name: bob, groups: [admin], key_auth: [{{key: of-bob-0123456789}}]}}
filters:
  cors:
    origins: ["https://app.example", "{page}"]
    headers: [X-Api-Key]
  blocklist:
    type: ip
    deny: [203.0.113.0/24]
    enforced: true
routes:
  - name: user
    paths: ["/users/{{id}}"]
    respond: {{body: a user}}
    filters:
      auth:
        any_of:
          - jwt: {{algorithms: [HS256], secret: "{secret}"}}
          - key_auth: {{key_names: [x-api-key]}}
      authorize: {{groups: {{any: [admin]}}}}
"""
TENANT = """\
version: 1
include: [gw.yaml]
routes:
  - name: of-a-tenant
    paths: ["/tenant/*"]
    respond: {body: ok}
    filters:
      blocklist: null
  - name: of-another
    paths: ["/other/*"]
    respond: {body: ok}
    filters:
      blocklist: {type: ip, allow: [0.0.0.0/0]}
"""
SECRET = "planted-secret-" * 4


async def page(scope: Any, receive: Any, send: Any) -> None:
    fields = [(b"content-type", b"text/html"), (b"content-length", b"16")]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": b"<title>a</title>"})


@pytest.fixture(scope="module")
def pages() -> Iterator[str]:
    """An origin with a page of its own."""
    with Uvicorn(page) as origin:
        yield origin.url


@pytest.fixture(scope="module")
def gateway(pages: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    configuration = GATEWAY.format(page=pages, secret=SECRET)
    with Gateway(configuration, tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


def answer(gateway: Gateway, *fields: str, origin: str = "https://app.example", more: tuple[str, ...] = ()) -> str:
    given = [each for field in (f"Origin: {origin}", *fields) for each in ("-H", field)]
    return run("curl", "-si", *given, *more, f"{gateway.url()}/users/1")


def fields_of(told: str, *names: str) -> dict[str, list[str]]:
    lines = [line.partition(": ") for line in told.split("\n\n")[0].splitlines()[1:]]
    return {name: [value for known, _, value in lines if known.lower() == name] for name in names}


def test_a_browser_can_read_a_refusal(gateway: Gateway) -> None:
    told = answer(gateway)
    assert told.startswith("HTTP/1.1 401 Unauthorized\n")
    fields = fields_of(told, "content-type", "www-authenticate", "access-control-allow-origin", "vary")
    assert fields["content-type"] == ["application/problem+json"]
    assert fields["access-control-allow-origin"] == ["https://app.example"]
    assert "Origin" in fields["vary"]
    assert any(re.match('Bearer realm="', each) for each in fields["www-authenticate"])
    assert len(fields["www-authenticate"]) == 2  # of each way to show who one is


@pytest.mark.landing
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ("X-Api-Key: nobody's", 401),
        ("X-Api-Key: of-alice-0123456789", 403),
        ("X-Api-Key: of-bob-0123456789", 200),
        ("Authorization: Bearer e30.e30.e30", 401),
        ("X-Forwarded-For: 203.0.113.9", 403),
    ],
)
def test_every_answer_can_be_read_whoever_made_it(gateway: Gateway, sent: str, status: int) -> None:
    told = answer(gateway, sent)
    assert told.startswith(f"HTTP/1.1 {status} ")
    assert fields_of(told, "access-control-allow-origin") == {"access-control-allow-origin": ["https://app.example"]}
    other = answer(gateway, sent, origin="https://evil.example")
    assert other.startswith(f"HTTP/1.1 {status} ")
    assert fields_of(other, "access-control-allow-origin") == {"access-control-allow-origin": []}


def test_who_is_on_the_block_list_is_told_so_before_all_else(gateway: Gateway) -> None:
    told = answer(gateway, "X-Api-Key: of-bob-0123456789", "X-Forwarded-For: 203.0.113.9")
    assert "urn:fastgw:fault:client_address_denied" in told


@pytest.mark.landing
def test_a_preflight_needs_no_credentials(gateway: Gateway) -> None:
    asked = ("Access-Control-Request-Method: GET", "Access-Control-Request-Headers: x-api-key")
    told = answer(gateway, *asked, more=("-X", "OPTIONS"))
    assert told.startswith(("HTTP/1.1 204 ", "HTTP/1.1 200 "))
    assert fields_of(told, "access-control-allow-origin")["access-control-allow-origin"] == ["https://app.example"]


def test_a_page_of_another_origin_reads_why_it_was_refused(gateway: Gateway, pages: str, tmp_path: Path) -> None:
    """In a real browser: with a preflight, as the field is not one of the simple ones."""
    asking = """
        fetch('%s/users/1', {headers: {'X-Api-Key': '%s'}})
          .then(answer => answer.text().then(text => answer.status + ' ' + text), () => 'unreadable')
    """
    with Browser(program("chromium"), tmp_path) as browser, browser.page() as opened:
        opened.go(pages)
        assert opened.run(asking % (gateway.url(), "of-bob-0123456789")) == "200 a user"
        refused = opened.run(asking % (gateway.url(), "nobodys"))
        assert refused.startswith("401 {")
        assert "credentials_invalid" in refused
        opened.go(pages.replace("127.0.0.1", "localhost"))  # another origin, which is not listed
        assert opened.run(asking % (gateway.url(), "of-bob-0123456789")) == "unreadable"


def test_a_route_cannot_drop_what_the_gateway_enforces(tmp_path: Path) -> None:
    (tmp_path / "gw.yaml").write_text(GATEWAY.format(page="http://127.0.0.1:1", secret=SECRET))
    (tmp_path / "tenant.yaml").write_text(TENANT)
    ended = ran([FASTGW, "check", "tenant.yaml"], cwd=tmp_path)
    assert ended.returncode == 1
    where = "enforced by the gateway (gw.yaml:13)"
    assert (ended.stdout + ended.stderr).splitlines()[:2] == [
        f"tenant.yaml:8:7: routes[0].filters.blocklist: {where}; a route cannot switch it off",
        f"tenant.yaml:13:7: routes[1].filters.blocklist: {where}; a route cannot replace it",
    ]
