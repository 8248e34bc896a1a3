"""Rules of the WAF: requests that pass, one that is refused, and a body."""

from collections.abc import Callable, Iterator
from typing import Any

from bench.micro.filters import exchange, hooks, step
from bench.micro.timing import Room
from fastgw.exchange import Exchange
from fastgw.exchange.body_relay import whole_body
from fastgw.filters.api import BodyHead
from fastgw.filters.policies.waf import Waf

FIELDS = (
    b"Host: a\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\nAccept: */*\r\n"
    b"Accept-Encoding: gzip, br\r\nAuthorization: Bearer abc\r\nX-Request-Id: 7c9e6679-7425-40de-944b-e07fc1f90ae7\r\n"
)
GETS = {
    "GET": b"GET /api/v1/users/12345/orders?limit=10&offset=20&sort=-created_at HTTP/1.1\r\n",
    "GET, encoded query": b"GET /search?q=blue+shoes+%26+socks&category=men%27s HTTP/1.1\r\n",
    "GET, refused": b"GET /?id=1%27%20or%20%271%27=%271 HTTP/1.1\r\n",
}
LINES = b'{"items":[' + b",".join(b'{"sku":"AB-%d","name":"Shoe, blue","n":2}' % each for each in range(48)) + b"]}"


def rooms() -> Iterator[Room]:
    waf = hooks(Waf())
    for name, line in GETS.items():
        yield Room(f"waf: {name}", step(waf.request), [exchange(0, line + FIELDS + b"\r\n")])
    assert isinstance(waf.request_body, BodyHead)
    head = b"POST /orders HTTP/1.1\r\n" + FIELDS + b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    with_body = exchange(0, head)
    with_body.request_body = whole_body(LINES, len(LINES))
    yield Room(f"waf: JSON ({len(LINES)} bytes)", _inspect(waf.request_body.step), [with_body])


def _inspect(of: Callable[[Exchange], Any]) -> Callable[[Exchange], object]:
    def inspect(exchange: Exchange) -> object:
        return of(exchange)

    return inspect
