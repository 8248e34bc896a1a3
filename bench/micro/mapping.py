"""JSON mapping of the filter `transform`: 1 KB and 100 KB, floors 15 and 400 us. Bodies of which more values are opened
than the event loop may wait for are left to a helper process."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import orjson

from bench.micro.timing import Room
from fastgw.filters.policies.transform import Transform
from fastgw.filters.policies.transform.json_mapping import JsonFunction, compile_mapping
from fastgw.filters.policies.transform.values import AT_ONCE, IN_HELPER, variable_text
from fastgw.filters.policies.transform.xml_reading import compile_xml_input
from fastgw.filters.policies.transform.xml_writing import compile_xml_template
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

XML = (
    '<list count="{{ total }}"><item each="items" id="{{ id }}"><name>{{ name }}</name><price>{{ price }}</price>'
    "<berlin>{{ stock.berlin }}</berlin></item></list>"
)
XML_INPUT: dict[str, Any] = {
    "root": "list",
    "fields": {
        "count": {"path": "@count", "type": "integer"},
        "items": {
            "path": "item",
            "list": True,
            "fields": {"id": {"path": "@id", "type": "integer"}, "name": {"path": "name"},
                       "price": {"path": "price", "type": "number"}},
        },
    },
}  # fmt: skip
NO_EXCHANGE: Any = None  # no rule has a value of the request


def rooms() -> Iterator[Room]:
    for name, rules in RULES.items():
        for title, items in (("1 KB", 7), ("100 KB", 620)):
            opened = items > AT_ONCE and any("*" in path for path in rules.get("set", ()))
            mapped = _mapping(rules, IN_HELPER if opened else AT_ONCE)
            shown = f"{name}, {title}" + (" (helper)" if opened else "")
            yield Room(shown, partial(_applied, mapped), [products(items)])
    build = compile_xml_template(XML)
    yield Room("XML written, 1 KB", lambda text: build(text, partial(variable_text, NO_EXCHANGE)), [products(7)])
    change = configured(Transform, request={"input": "xml", "xml": XML_INPUT}).request
    assert change is not None
    assert change.xml is not None
    read = compile_xml_input(change.xml)
    yield Room("XML read, 1 KB", read, [build(products(7), partial(variable_text, NO_EXCHANGE))])


def _applied(mapped: JsonFunction, body: bytes) -> bytes:
    return mapped(body, partial(variable_text, NO_EXCHANGE))


def _mapping(rules: Mapping[str, Any], most: int) -> JsonFunction:
    request = configured(Transform, request={"json": rules}).request
    assert request is not None
    assert request.json is not None
    return compile_mapping(request.json, most)


def products(count: int) -> bytes:
    stock = {"berlin": 4, "paris": 7}
    items = [
        {"id": number, "name": f"Product {number}", "price": number * 1.5, "active": True, "tags": ["a", "b", "c"],
         "stock": stock, "description": "A thing of some use"} for number in range(count)
    ]  # fmt: skip
    return orjson.dumps({"total": count, "page": 1, "items": items})
