"""OpenAPI 3.1 document of the admin API, generated from its operations and the structs of their responses."""

import re
from collections.abc import Mapping, Sequence
from inspect import cleandoc
from typing import Any, Final

import msgspec

from fastgw import VERSION
from fastgw.admin.browser_sessions import CSRF
from fastgw.admin.node_interface import JSON, PROBLEM, Refusal
from fastgw.admin.operation import Operation
from fastgw.http.reason_phrases import PHRASES

_REFERENCE: Final = "#/components/schemas/{name}"


def document(operations: Sequence[Operation]) -> dict[str, Any]:
    """Return the document as JSON types."""
    types = [Refusal]
    for each in operations:
        types += [kind for kind in (*each.answers.values(), *each.takes.values()) if not isinstance(kind, str | tuple)]
    types = [*dict.fromkeys(types)]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    for each in components.values():
        each["description"] = cleandoc(each["description"])  # CPython 3.13 and later remove the indentation themselves
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for each in operations:
        paths.setdefault(each.path, {})[each.method.lower()] = _operation(each, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "fastgw admin API",
            "version": VERSION,
            "summary": "Observe the gateway, and change its configuration without losing requests.",
        },
        "security": [{"token": []}, {"certificate": []}, {"session": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "certificate": {"type": "mutualTLS"},
                "session": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": "fastgw-admin-PORT",
                    "description": f"Cookie set by `POST /session`; requests that change something also need `{CSRF}`.",
                },
            },
            "schemas": components,
        },
    }


def _operation(operation: Operation, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"summary": operation.summary}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", operation.path)
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "boolean", "default": False}}
        for name, meaning in operation.flags.items()
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "string"}}
        for name, meaning in operation.asks.items()
    ]
    parameters += [
        {"name": name, "in": "query", "description": meaning, "schema": {"type": "array", "items": {"type": "string"}}}
        for name, meaning in operation.repeats.items()
    ]
    if parameters:
        described["parameters"] = parameters
    if operation.takes:
        described["requestBody"] = {
            "content": {
                kind: {} if struct is bytes else {"schema": schema_of[struct]}
                for kind, struct in operation.takes.items()
            }
        }
    described["responses"] = {
        str(status): {"description": PHRASES[status], "content": _content(kind, schema_of)}
        for status, kind in operation.answers.items()
    }
    described["responses"]["default"] = {
        "description": "Error, with the reason",
        "content": {PROBLEM: {"schema": schema_of[Refusal]}},
    }
    return described


def _content(kind: Any, schema_of: Mapping[Any, Any]) -> dict[str, Any]:
    if isinstance(kind, str):
        kind = (kind,)
    return {each: {} for each in kind} if isinstance(kind, tuple) else {JSON: {"schema": schema_of[kind]}}
