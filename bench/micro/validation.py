"""Validation of bodies and parameters: what conforms, and what is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from bench.micro.filters import exchange, hooks, step
from bench.micro.timing import Room
from fastgw.exchange import Exchange, Hooks
from fastgw.exchange.body_stages import BodyRefused, StageFactory
from fastgw.filters.api import BodyHook
from fastgw.filters.policies.content import Validate
from fastgw.filters.policies.content.validate import BodySchema
from fastgw.filters.policies.openapi import OpenApiOperation

LINE = {"sku": "ab1234", "title": "A thing that is sold", "n": 3, "price": 12.5, "tags": ["new", "sale"], "gift": False}
ITEM = {
    "type": "object",
    "required": ["sku", "n"],
    "properties": {
        "sku": {"type": "string", "pattern": "^[a-z]{2}[0-9]+$"},
        "title": {"type": "string", "maxLength": 100},
        "n": {"type": "integer", "minimum": 1},
        "price": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "gift": {"type": "boolean"},
    },
    "additionalProperties": False,
}
ORDER = {"type": "object", "required": ["lines"], "properties": {"lines": {"type": "array", "items": ITEM}}}
HEAD = (
    b"POST /orders?limit=20&tag=a&tag=b HTTP/1.1\r\nHost: a\r\n"
    b"Content-Type: application/json\r\nContent-Length: 9\r\n\r\n"
)
PARAMETERS = [
    {
        "in": "query",
        "name": "limit",
        "shape": "scalar",
        "types": ["integer"],
        "schema": {"type": "integer", "maximum": 50},
    },
    {"in": "query", "name": "tag", "shape": "array", "types": ["array"], "items": ["string"], "explode": True},
]


def rooms() -> Iterator[Room]:
    small, large = _body(8), _body(800)
    wrong = [each.replace(b'"n":3', b'"n":0') for each in (small, large)]
    validate = hooks(Validate(body=BodySchema(inline=msgspec.json.encode(ORDER).decode())))
    for name, body in (("1 KB", small), ("1 KB, refused", wrong[0]), ("100 KB", large), ("100 KB, refused", wrong[1])):
        yield Room(f"validate: {name} ({len(body)} bytes)", _whole(validate, body), [exchange(0, HEAD)])
    content = {"application/json": {"kind": "json", "schema": ORDER}}
    plan = {"id": "add", "parameters": PARAMETERS, "body": {"required": False, "content": content}}
    settings = OpenApiOperation(operation=msgspec.json.encode(plan).decode(), schemas="openapi://none")
    operation = hooks(settings, {"openapi://none": b"{}"})
    yield Room("openapi: two parameters of the query", step(operation.request), [exchange(0, HEAD)])
    yield Room("openapi: 1 KB", _whole(operation, small), [exchange(0, HEAD)])


def _body(lines: int) -> bytes:
    return msgspec.json.encode({"lines": [LINE] * lines})


def _whole(validation: Hooks, body: bytes) -> Callable[[Exchange], Any]:
    """Return a function that checks a body, as the exchange does once it is complete."""
    hook = validation.request_body
    assert isinstance(hook, BodyHook)
    assert isinstance(hook.step, StageFactory)
    make = hook.step.make

    def check(each: Exchange) -> None:
        stage = make(each)
        assert stage is not None
        try:
            stage.feed(body)
            stage.end()
        except BodyRefused:
            pass

    return check
