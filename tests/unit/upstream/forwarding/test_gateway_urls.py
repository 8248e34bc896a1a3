"""URLs of targets in responses: which of them become the gateway's, by either way of forwarding."""

from __future__ import annotations

from typing import Any

from fastgw.config.base.value_types import parse_url
from fastgw.upstream.forwarding.gateway_urls import own_origins, parse_reference
from fastgw.upstream.targets.target import Target
from tests.support.memory import Plane
from tests.support.table import for_each

TARGET = "http://10.0.0.5:9000"
HERE = "http://shop.example:8080"
CLIENT = b"GET %b HTTP/1.1\r\nHost: shop.example:8080\r\n\r\n"


def received(
    value: str,
    url: str = TARGET,
    name: str = "Location",
    status: str = "302 Found",
    path: str = "/app/x",
    request: bytes = CLIENT,
    filters: dict[str, Any] | None = None,
    **route: Any,
) -> str:
    """What the client gets in place of a header of the target's, by a new connection and by one that is idle."""
    made = Plane(
        {
            "listeners": {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["10.9.0.0/16"]}},
            "upstreams": {"u": {"targets": [{"url": url}], "protocol": "http1", "retries": {"max": 0}}},
            "routes": [{"name": "all", "upstream": "u", "filters": filters or {}, **route}],
        }
    )
    client = made.client("10.9.0.1" if b"X-Forwarded" in request else "127.0.0.1")
    response = f"HTTP/1.1 {status}\r\n{name}: {value}\r\nContent-Length: 2\r\n\r\nok".encode()
    client.sends(request % path.encode())
    upstream = made.connects()
    upstream.sends(response)
    first = client.received
    client.sends(request % path.encode())
    upstream.sends(response)
    found = []
    for head in (first, client.received[len(first) :]):
        assert head.startswith(f"HTTP/1.1 {status}".encode()), head
        lines = head.decode().split("\r\n")
        found += [line.partition(": ")[2] for line in lines if line.lower().startswith(name.lower() + ":")]
    one, other = found
    assert one == other
    return one


@for_each(
    "value, here",
    [
        (f"{TARGET}/a?b=c#d", f"{HERE}/a?b=c#d"),
        ("HTTP://10.0.0.5:9000/a", f"{HERE}/a"),
        ("https://10.0.0.5:9000/a", f"{HERE}/a"),  # it was told that the client speaks https
        ("//10.0.0.5:9000/a", f"{HERE}/a"),
        (TARGET, f"{HERE}/"),
        ("http://user@10.0.0.5:9000/a", f"{HERE}/a"),  # its credentials are for the target
        ("http://a:b@c@10.0.0.5:9000/a", f"{HERE}/a"),
        (f"{TARGET}/a\r\nlocation: {TARGET}/b", f"{HERE}/a"),  # clients differ in the one that they follow
        (f"/a\r\nLocation: {TARGET}/b", "/a"),
        ("/a\r\nLocation: /a", "/a"),
        (f"{TARGET}//evil.example/a", f"{HERE}//evil.example/a"),
        *[
            (other, other)
            for other in (
                "http://10.0.0.5/a",
                "http://10.0.0.5:9001/a",
                "http://10.0.0.50:9000/a",
                "http://10.0.0.5:9000.evil.example/a",
                "http://10.0.0.5:9000@evil.example/a",
                "ftp://10.0.0.5:9000/a",
                "https://login.example/?next=http://10.0.0.5:9000/a",
                f"{HERE}/a",
                "/a",
                "a",
                "",
            )
        ],
    ],
)
def test_only_urls_of_the_target_change(value: str, here: str) -> None:
    assert received(value) == here


@for_each(
    "url, value",
    [
        ("http://users", "http://users/a"),
        ("http://users", "http://USERS:80/a"),
        ("https://users", "https://users/a"),
        ("https://users", "http://users/a"),
        ("https://users:8443", "http://users:8443/a"),
        ("http://[::1]:9000", "http://[::1]:9000/a"),
        ("unix:/run/a.sock", "http://localhost/a"),
    ],
)
def test_each_form_of_the_targets_origin_is_its_own(url: str, value: str) -> None:
    reference = parse_reference(value.encode())
    assert reference is not None
    assert reference.origin(b"http") in own_origins(Target(parse_url(url)))


@for_each(
    "name, value, here",
    [
        ("Content-Location", f"{TARGET}/a", f"{HERE}/a"),
        ("Refresh", f"5; url={TARGET}/a", f"5; url={HERE}/a"),
        ("Refresh", f"0;URL='{TARGET}/a'", f"0;URL='{HERE}/a'"),
        ("Refresh", f'1, "{TARGET}/a"', f'1, "{HERE}/a"'),
        ("Refresh", f"1.5 {TARGET}/a ", f"1.5 {HERE}/a"),
        ("Refresh", "5; url=/10.0.0.5:9000", "5; url=/10.0.0.5:9000"),
        ("Refresh", "5", "5"),
        ("Link", f"<{TARGET}/a>", f"<{TARGET}/a>"),
    ],
)
def test_each_header_with_a_place_to_go_to_is_rewritten(name: str, value: str, here: str) -> None:
    for status in "200 OK", "201 Created", "202 Accepted", "302 Found", "404 Not Found":
        assert received(value, name=name, status=status) == here


@for_each(
    "route, base, value, here",
    [
        ({"strip_prefix": "/app"}, "", "/a", "/app/a"),
        ({"strip_prefix": "/app"}, "/one", "/one/a", "/app/a"),
        ({"strip_prefix": "/app"}, "/one", "/one", "/app"),
        ({"strip_prefix": "/app"}, "/one", "/one/../one/a", "/app/a"),
        ({"strip_prefix": "/app"}, "/one", "/oneself", "/oneself"),
        ({"strip_prefix": "/app", "add_prefix": "/two"}, "/one", "/one/two/a", "/app/a"),
        ({"strip_prefix": "/app", "add_prefix": "/two"}, "/one", "/login", "/login"),
        ({"strip_prefix": "/app", "add_prefix": "/"}, "", "/a", "/app/a"),
        ({"add_prefix": "/two"}, "", "/two/a", "/a"),
        ({"rewrite": "/front.php"}, "/one", "/one/a", "/a"),
        ({"rewrite": "/front.php"}, "/one", "/a", "/a"),
    ],
)
def test_what_the_route_does_to_paths_is_undone(route: dict[str, str], base: str, value: str, here: str) -> None:
    assert received(TARGET + value, url=TARGET + base, **route) == HERE + here


@for_each(
    "request, here",
    [
        (CLIENT[:-2] + b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: www.example\r\n\r\n", "https://www.example/a"),
        (b"GET %b HTTP/1.1\r\nHost: 10.0.0.5:9000\r\n\r\n", f"{TARGET}/a"),  # it is the client's own
        (b"GET %b HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", "/a"),
    ],
)
def test_the_origin_is_that_of_the_clients_request(request: bytes, here: str) -> None:
    route = {} if b"10.0.0.5" not in request else {"strip_prefix": "/app"}
    assert received(f"{TARGET}/a", request=request, **route) == here


BALANCED = CLIENT[:-2] + b"X-Forwarded-Proto: https\r\n\r\n"


@for_each(
    "value, here, more",
    [
        ("http://shop.example:8080/a/", "https://shop.example:8080/a/", {}),
        ("HTTP://SHOP.example:8080/a?b#c", "https://shop.example:8080/a?b#c", {}),
        ("http://shop.example:8080/a/", "https://shop.example:8080/app/a/", {"strip_prefix": "/app"}),
        ("http://shop.example:8080/a/", "http://shop.example:8080/a/", {"proxy_redirect": "off"}),
        ("http://shop.example:8080/a/", "http://shop.example:8080/a/", {"request": CLIENT}),
        ("https://shop.example:8080/a/", "https://shop.example:8080/a/", {"strip_prefix": "/app"}),
        ("http://shop.example/a/", "http://shop.example/a/", {}),  # of another server
        ("http://user@shop.example:8080/a/", "https://shop.example:8080/a/", {}),
        ("http://other.example:8080/a/", "http://other.example:8080/a/", {}),
        ("//shop.example:8080/a/", "//shop.example:8080/a/", {}),
    ],
)
def test_a_target_that_does_not_know_of_tls_sends_nobody_away_from_it(
    value: str, here: str, more: dict[str, Any]
) -> None:
    """As Apache does for a folder, and all that make URLs of Host and of the scheme of their own connection."""
    assert received(value, **{"request": BALANCED, **more}) == here


@for_each(
    "told, value, here",
    [
        ("X-Forwarded-Host: a.example\nX-Forwarded-Port: 8443", "/a", "https://a.example:8443/a"),
        ("X-Forwarded-Host: [::1]\nX-Forwarded-Port: 8443", "/a", "https://[::1]:8443/a"),
        ("X-Forwarded-Host: a.example:444\nX-Forwarded-Port: 8443", "/a", "https://a.example:444/a"),
        ("X-Forwarded-Host: a.example\nX-Forwarded-Port: 443", "/a", "https://a.example/a"),
        ("X-Forwarded-Host: a.example\nX-Forwarded-Port: 80", "/a", "https://a.example/a"),  # behind the end of TLS
        ("X-Forwarded-Host: a.example\nX-Forwarded-Port: 0", "/a", "https://a.example/a"),
        ("X-Forwarded-Host: 10.0.0.5\nX-Forwarded-Port: 9000", "/a", f"{TARGET}/a"),  # it is the client's own
        ("X-Forwarded-Host: a.example\nX-Forwarded-Prefix: /p", "/a?b", "https://a.example/p/a?b"),
        ("X-Forwarded-Host: a.example\nX-Forwarded-Prefix: /p", "/p/a", "https://a.example/p/a"),  # it knows the prefix
        ("X-Forwarded-Host: a.example\nX-Forwarded-Prefix: /p", "/p?a", "https://a.example/p?a"),
        ("X-Forwarded-Host: a.example\nX-Forwarded-Prefix: /p", "/pa", "https://a.example/p/pa"),
        ("X-Forwarded-Host: a.example\nX-Forwarded-Prefix: //evil.example", "/a", "https://a.example/a"),
    ],
)
def test_port_and_prefix_are_those_that_a_trusted_proxy_reports(told: str, value: str, here: str) -> None:
    """A URL leads to the same place as the one that services make of the headers of forwarding."""
    lines = "".join(f"{line}\r\n" for line in (*told.split("\n"), "X-Forwarded-Proto: https")).encode()
    if here.startswith(TARGET):
        lines = lines.replace(b"https", b"http")
    assert received(TARGET + value, request=CLIENT[:-2] + lines + b"\r\n") == here


@for_each(
    "settings, here",
    [
        ({"proxy_redirect": "off"}, f"{TARGET}/a"),
        ({"filters": {"response_urls": {"urls": [TARGET], "path": "/own"}}}, f"{HERE}/own/a"),
        ({"filters": {"compress": {}}}, f"{HERE}/a"),
        ({"filters": {"headers": {"response": {"set": {"X-A": "1"}}}}}, f"{HERE}/a"),
    ],
)
def test_filters_meet_what_the_client_gets(settings: dict[str, Any], here: str) -> None:
    assert received(f"{TARGET}/a", **settings) == here


def test_a_stored_response_has_the_clients_origin() -> None:
    """Each origin of clients has a key of its own, so that none gets the URL of another."""
    made = Plane(
        {
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"u": {"targets": [{"url": TARGET}]}},
            "routes": [{"name": "all", "upstream": "u", "filters": {"cache": {"ttl": "1h"}}}],
        }
    )
    upstream = None
    for host in "a.example", "b.example":
        for _ in range(2):
            client = made.client()
            client.sends(f"GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            if not client.received:
                upstream = made.connects() if upstream is None else upstream
                upstream.sends(f"HTTP/1.1 301 Moved\r\nLocation: {TARGET}/a\r\nContent-Length: 2\r\n\r\nok".encode())
            assert f"\r\nLocation: http://{host}/a\r\n".encode() in client.received
