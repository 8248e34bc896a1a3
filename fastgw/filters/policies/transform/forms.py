"""Forms (`application/x-www-form-urlencoded`) from and to JSON objects."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote_plus, unquote_to_bytes

import orjson

from fastgw.filters.policies.transform.values import UnmappableBody
from fastgw.http.json_tree import opened, text_of

_INVALID: Final = re.compile(rb"%(?![0-9A-Fa-f]{2})").search
MOST_PAIRS: Final = 1000
"""Maximum number of fields of a form."""


def form_to_json(body: bytes) -> bytes:
    """Return the fields of a form as an object of strings; a repeated field is an array. Raises `UnmappableBody`."""
    if body.count(b"&") >= MOST_PAIRS:
        raise UnmappableBody(f"the form has more than {MOST_PAIRS} fields")
    fields: dict[str, str | list[str]] = {}
    for pair in body.split(b"&"):
        if not pair:
            continue
        name, _, value = pair.partition(b"=")
        key, text = _decoded(name), _decoded(value)
        held = fields.get(key)
        if held is None:
            fields[key] = text
        elif isinstance(held, list):
            held.append(text)
        else:
            fields[key] = [held, text]
    return orjson.dumps(fields)


def json_to_form(body: bytes) -> bytes:
    """Return an object of strings, numbers, booleans, nulls (left out) and arrays of these as a form. Raises
    `UnmappableBody`.
    """
    content = opened(body)
    if not isinstance(content, dict):
        raise UnmappableBody("only an object can be a form")
    pairs = []
    for name, node in content.items():
        held = opened(node)
        if isinstance(held, dict):
            raise UnmappableBody("an object within an object cannot be a field of a form")
        for each in held if isinstance(held, list) else [held]:
            if each == b"null":
                continue
            text = text_of(each)
            if text is None:
                raise UnmappableBody("an object or array within an array cannot be a field of a form")
            pairs.append(f"{quote_plus(name)}={quote_plus(text)}")
    return "&".join(pairs).encode()


def _decoded(text: bytes) -> str:
    if _INVALID(text) is not None:
        raise UnmappableBody("the form has an invalid percent-encoding")
    try:
        return unquote_to_bytes(text.replace(b"+", b" ")).decode()
    except UnicodeDecodeError as error:
        raise UnmappableBody("the form is not UTF-8") from error
