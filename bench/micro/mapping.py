"""JSON mapping of the filter `transform`: 1 KB and 100 KB, floors 15 and 400 us."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from bench.micro.timing import Room
from fastgw.filters.policies.transform import Transform
from fastgw.filters.policies.transform.json_mapping import JsonFunction, compile_mapping
from fastgw.filters.policies.transform.values import variable_text
from fastgw.testing import configured

RULES: dict[str, dict[str, Any]] = {
    "select": {"allow": ["total", "items.*.id", "items.*.name", "items.*.price"]},
    "select, rename, set": {
        "deny": ["items.*.stock", "page"],
        "rename": {"items.*.id": "sku", "total": "count"},
        "set": {"version": 2},
        "group": "data",
    },
    "set in each element": {"set": {"items.*.currency": "EUR"}},
}

NO_EXCHANGE: Any = None  # no rule has a value of the request


def rooms() -> Iterator[Room]:
    for name, rules in RULES.items():
        mapped = _mapping(rules)
        for title, items in (("1 KB", 7), ("100 KB", 620)):
            text = _products(items)
            yield Room(f"{name}, {title}", partial(_applied, mapped), [text])


def _applied(mapped: JsonFunction, body: bytes) -> bytes:
    return mapped(body, partial(variable_text, NO_EXCHANGE))


def _mapping(rules: Mapping[str, Any]) -> JsonFunction:
    request = configured(Transform, request={"json": rules}).request
    assert request is not None
    assert request.json is not None
    return compile_mapping(request.json)


def _products(count: int) -> bytes:
    stock = {"berlin": 4, "paris": 7}
    items = [
        {"id": number, "name": f"Product {number}", "price": number * 1.5, "active": True, "tags": ["a", "b", "c"],
         "stock": stock, "description": "A thing of some use"} for number in range(count)
    ]  # fmt: skip
    return orjson.dumps({"total": count, "page": 1, "items": items})
