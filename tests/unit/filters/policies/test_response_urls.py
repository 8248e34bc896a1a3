"""response_urls: what of an answer points at the upstream, and what becomes of it; target_errors: whose error it is."""

from __future__ import annotations

import pytest

from tests.support.memory import Plane
from tests.support.table import for_each

API = "http://api.example:9000/v2"
TRUSTED = {"main": {"address": "127.0.0.1:0", "trusted_proxies": ["10.0.0.0/8"]}}


def plane(filters: dict[str, object], url: str = API, **route: object) -> Plane:
    return Plane(
        {
            "listeners": TRUSTED,
            "upstreams": {"u": {"targets": [{"url": url}], "retries": {"max": 0}}},
            "routes": [
                {"name": "all", "upstream": "u", "filters": filters, **({"strip_prefix": "/shop/orders"} | route)}
            ],
        }
    )


def answered(
    fields: bytes,
    status: str = "302 Found",
    path: str = "/shop/orders/a/b?q=1",
    request: bytes = b"",
    ip: str = "127.0.0.1",
    **settings: object,
) -> dict[str, list[str]]:
    """The fields that the client gets, by lower-case name, where the upstream answers with these."""
    urls = {"response_urls": {"urls": [API], "path": "/shop/orders", **settings}}
    made = plane(urls)
    client = made.client(ip)
    client.sends(f"GET {path} HTTP/1.1\r\nHost: Gate.example:8080\r\n".encode() + request + b"\r\n")
    made.connects().sends(f"HTTP/1.1 {status}\r\nContent-Length: 2\r\n".encode() + fields + b"\r\nok")
    assert client.received.endswith(b"\r\n\r\nok")
    found: dict[str, list[str]] = {}
    for line in client.received.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]:
        name, _, value = line.decode("utf-8", "surrogateescape").partition(": ")
        found.setdefault(name.lower(), []).append(value)
    return found


def location(value: str, name: str = "Location", **more: object) -> str:
    (got,) = answered(f"{name}: {value}\r\n".encode("utf-8", "surrogateescape"), **more)[name.lower()]  # type: ignore[arg-type]
    return got


HERE = "http://gate.example:8080/shop/orders"
MOVED = {
    "http://user@api.example:9000/v2/x": f"{HERE}/x",
    "http://api.example:9000/v2/x": f"{HERE}/x",
    "HTTP://API.example:9000/v2/x?a=b#c": f"{HERE}/x?a=b#c",
    "http://api.example:9000/v2": HERE,
    "http://api.example:9000/v2/": f"{HERE}/",
    "http://api.example:9000/v2/a%2Fb(c)//d": f"{HERE}/a%2Fb(c)//d",
    "http://api.example:9000/v2/./a/../b": f"{HERE}/b",
    "/v2/x": f"{HERE}/x",
    "//api.example:9000/v2/x": f"{HERE}/x",
    "/v2/../../v2/x": f"{HERE}/x",
    "http://api.example:9000/../v2/x": f"{HERE}/x",
    "../../../../v2/x": f"{HERE}/x",
    "c?d": f"{HERE}/a/c?d",
    "../c": f"{HERE}/c",
    "?d": f"{HERE}/a/b?d",
    "#d": f"{HERE}/a/b?q=1#d",
    "http://api.example:9000/v2/é/日本?ü=ß#ö": f"{HERE}/é/日本?ü=ß#ö",
    "/v2/é": f"{HERE}/é",
    "é": f"{HERE}/a/é",
    "http://api.example:9000/v2/./x/../é": f"{HERE}/%C3%A9",
    "http://api.example:9000/v2/x?\udce9": f"{HERE}/x?\udce9",
}
OF_THE_HOST = {
    "http://api.example/v2/x": f"{HERE}/x",
    "https://api.example:9000/v2/x?a": f"{HERE}/x?a",
    "https://API.example:1/v2": HERE,
    "//api.example/v2/x": f"{HERE}/x",
}
"""With `any_port`."""
KEPT = [
    "http://api.example/v2/x",  # another port
    "https://api.example:9000/v2/x",
    "http://other.example:9000/v2/x",
    "//other.example/v2/x",
    "//api.example/v2/x",  # another port
    "http://api.example:9000/v20/x",  # beside what the gateway reaches
    "http://api.example:9000/v2/../x",
    "http://api.example:9000/",
    "/x",
    "../../../../x",
    "mailto:a@api.example",
    "http://[::1",
    "http://api.example:9000/v2/%5c..",
    "http:/v2/x",
    "http://api.example:9000/é/x",  # beside what the gateway reaches
    "http://api.example:9000/v2/\udce9",  # not UTF-8
    "http://api.example:9000/v2/\udcc0\udcae\udcc0\udcae/x",  # dots, for a lenient decoder
    "http://apì.example:9000/v2/x",
]


@for_each("url", MOVED)
def test_a_url_of_the_upstream_s_becomes_one_of_the_gateway_s(url):
    assert location(url) == MOVED[url]


@for_each("url", KEPT)
def test_any_other_url_is_left_alone(url):
    assert location(url) == url


@pytest.mark.parametrize("status", ["200 OK", "202 Accepted", "404 Not Found", "500 Oops"])
def test_a_location_means_something_else_in_other_answers(status):
    assert location("/v2/x", status=status) == "/v2/x"


@pytest.mark.parametrize("status", ["201 Created", "301 Moved", "303 See Other", "307 Temporary", "308 Permanent"])
def test_what_was_created_and_what_has_moved(status):
    assert location("/v2/x", status=status) == f"{HERE}/x"


def test_a_content_location_is_one_in_any_answer():
    assert location("/v2/x", "Content-Location", status="200 OK") == f"{HERE}/x"


def test_of_two_locations_the_first_counts():
    fields = b"Location: /v2/x\r\nLocation: /v2/y\r\n"
    assert answered(fields)["location"] == [f"{HERE}/x"]


def test_a_path_without_a_slash_behind_it_was_sent_as_one_with_it():
    assert location("c", path="/shop/orders") == f"{HERE}/c"


def test_the_url_is_the_one_that_the_client_uses():
    told = b"X-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
    assert location("/v2/x", request=told, ip="10.0.0.1") == "https://shop.example/shop/orders/x"
    assert location("/v2/x", request=told) == f"{HERE}/x"
    spoilt = b"X-Forwarded-Host: shop.example/evil?\r\n"
    assert location("/v2/x", request=spoilt, ip="10.0.0.1") == f"{HERE}/x"


def test_where_nothing_is_cut_the_path_of_the_url_alone_goes():
    made = plane({"response_urls": {"urls": [API]}}, strip_prefix=None)
    client = made.client()
    client.sends(b"GET /a HTTP/1.1\r\nHost: shop-orders\r\n\r\n")
    made.connects().sends(b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: http://api.example:9000/v2\r\n\r\n")
    assert b"Location: http://shop-orders/\r\n" in client.received


def test_several_urls_are_one_place():
    more = {"urls": ["https://one.example/v1", "unix:/run/api.sock:/x", "http://[::1]:80/y"]}
    for url in ("https://one.example:443/v1/a", "http://localhost/x/a", "http://[::1]/y/a"):
        assert location(url, **more) == f"{HERE}/a"


COOKIES = {
    "a=b; Path=/v2/x; Domain=api.example; Secure": "a=b; Path=/shop/orders/x; Secure",
    "a=b;path=/v2": "a=b; Path=/shop/orders",
    "a=b; Path=/": "a=b; Path=/shop/orders",
    "a=b; Path=/other": "a=b; Path=/other",
    "a=b; HttpOnly": "a=b; HttpOnly",
    "__Host-a=b; Path=/; Secure": "__Host-a=b; Path=/; Secure",
}


@pytest.mark.parametrize("line", COOKIES)
def test_cookies_are_rewritten_where_that_is_asked(line):
    fields = f"Set-Cookie: {line}\r\n".encode()
    assert answered(fields, "200 OK", cookies="rewrite")["set-cookie"] == [COOKIES[line]]
    assert answered(fields, "200 OK")["set-cookie"] == [line]


# --- target_errors ---


def error(told: str, method: str = "GET", fields: bytes = b"", **settings: object) -> tuple[bytes, Plane]:
    made = plane({"target_errors": settings})
    client = made.client()
    client.sends(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    body = b"" if method == "HEAD" else b"body"
    made.connects().sends(f"HTTP/1.1 {told}\r\nContent-Length: 4\r\n".encode() + fields + b"\r\n" + body)
    return client.received, made


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_an_error_of_the_upstream_s_is_a_502_that_tells_it(method):
    answer, made = error("503 Gone Fishing", method, b"Target-System-Status: 200\r\nRetry-After: 3\r\n")
    assert answer.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert answer.count(b"Target-System-Status") == 1
    assert b"Target-System-Status: 503\r\n" in answer
    assert b"Retry-After: 3\r\n" in answer
    assert b"Content-Length: 4\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" if method == "HEAD" else b"\r\n\r\nbody")
    (record,) = made.records
    assert record.status == 502


def test_other_answers_pass_and_cannot_pretend():
    answer, _ = error("404 Not Found", fields=b"Target-System-Status: 500\r\n")
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"Target-System-Status" not in answer


def test_which_errors_are_meant_and_what_they_become():
    assert error("500 Oops", statuses=["503"])[0].startswith(b"HTTP/1.1 500 Oops\r\n")
    answer, _ = error("429 Slow", statuses=["429"], status=503, header="X-Was")
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"X-Was: 429\r\n" in answer


def test_what_the_gateway_answers_itself_stays():
    made = plane({"target_errors": {}})
    client = made.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    made.cannot_connect()
    assert client.received.startswith(b"HTTP/1.1 502 Bad Gateway\r\n")
    assert b"Target-System-Status" not in client.received


@pytest.mark.parametrize(("value", "moved"), OF_THE_HOST.items(), ids=OF_THE_HOST)
def test_another_port_or_scheme_of_the_host_counts_where_it_is_asked_for(value: str, moved: str) -> None:
    assert location(value, any_port=True) == moved
    assert location(value) == value


@pytest.mark.parametrize("value", ["http://other.example:9000/v2/x", "ftp://api.example/v2/x", "http://api.example/v3"])
def test_no_other_host_scheme_or_path_does(value: str) -> None:
    assert location(value, any_port=True) == value


@pytest.mark.parametrize(("root", "moved"), [("slash", f"{HERE}/c"), ("bare", "c")])
def test_what_is_relative_to_the_service_alone_is_so_to_what_was_sent(root: str, moved: str) -> None:
    assert location("c", path="/shop/orders", root=root) == moved
