"""Whole requests whose content is checked or changed: `validate`, `transform` and `waf`, beside those without them.

The bodies are those of the benchmarks of these names, of 1 KB; a response that is transformed comes with its head.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from bench.micro.exchange import Plane, configuration
from bench.micro.heads import REQUESTS
from bench.micro.mapping import products
from bench.micro.timing import Room
from bench.micro.validation import LINE, ORDER

GET = REQUESTS[0]
ORDERS = orjson.dumps({"lines": [LINE] * 8})
WRONG = ORDERS.replace(b'"n":3', b'"n":0')
FIELDS = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
RULES = {"allow": ["total", "items.*.id", "items.*.name", "items.*.price"], "rename": {"items.*.id": "sku"}}


def rooms() -> Iterator[Room]:
    answer = _answer(b'{"bytes":1024,"crc32":1234567890}')
    post = _post(ORDERS)
    validate = {"validate": {"body": {"inline": ORDER}}}
    yield from _room("a POST of 1 KB", post, answer, {})
    yield from _room("a POST of 1 KB, validated", post, answer, validate)
    yield from _refused("a POST of 1 KB, refused", _post(WRONG), validate)
    yield from _room("a POST of 1 KB, firewall", post, answer, {"waf": {}})
    yield from _room("a GET", GET, answer, {})
    yield from _room("a GET, firewall", GET, answer, {"waf": {}})
    products_answer = _answer(products(7))
    yield from _room("1 KB of JSON", GET, products_answer, {})
    yield from _room("1 KB of JSON, transformed", GET, products_answer, {"transform": {"response": {"json": RULES}}})


def _post(body: bytes) -> bytes:
    head = GET.replace(b"GET ", b"POST ", 1).removesuffix(b"\r\n")
    return head + FIELDS % len(body) + body


def _answer(body: bytes) -> bytes:
    return ANSWER % (len(body), body)


def _room(name: str, request: bytes, answer: bytes, filters: dict[str, Any]) -> Iterator[Room]:
    with TemporaryDirectory() as folder, closing(_plane(folder, filters)) as plane:
        plane.connect(request, answer)
        yield Room(name, plane.exchange, [(request, answer)], plane.turn)


def _refused(name: str, request: bytes, filters: dict[str, Any]) -> Iterator[Room]:
    with TemporaryDirectory() as folder, closing(_plane(folder, filters)) as plane:

        def refuse(request: bytes) -> None:
            plane.client.receive(request)
            plane.client.written.clear()

        def prove() -> None:
            plane.client.receive(request)
            assert b" 400 Bad Request\r\n" in b"".join(plane.client.written), plane.client.written
            plane.client.written.clear()

        plane.turn(prove)
        yield Room(name, refuse, [request], plane.turn)


def _plane(folder: str, filters: dict[str, Any]) -> Plane:
    configured = configuration([f"{folder}/access.log"])
    return Plane(Path(folder), {**configured, "filters": filters})
