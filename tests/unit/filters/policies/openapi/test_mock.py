"""Example responses, and the documentation of an API."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.filters.policies.openapi.shop import PET, Shop, document, get, json_body, operation, post


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    pet = {"$ref": "#/components/schemas/Pet"}
    made = {
        "200": {
            "description": "",
            "headers": {"X-Total": {"schema": {"type": "integer"}, "example": 3}, "Content-Length": {"example": 9}},
            "content": {
                "application/json": {"schema": pet, "examples": {"a": {"value": {"id": 1}}, "b": {"value": {"id": 2}}}},
                "text/plain": {"example": "hello"},
            },
        },
        "404": {"description": "", "content": {"application/problem+json": {"example": {"title": "None"}}}},
        "204": {"description": ""},
    }
    paths = {
        "/pets": {
            "get": operation(responses=made),
            "post": operation(
                requestBody=json_body(pet),
                responses={"201": {"description": "", "content": {"application/json": {"schema": pet}}}},
            ),
        },
    }
    described = document(paths, components={"schemas": {"Pet": PET}})
    return Shop(tmp_path, described, {"mock": True, "upstream": None, "docs": "/help"})


def test_an_example_is_the_answer(shop: Shop) -> None:
    assert shop.sends(get("/pets")) == 200
    assert shop.plane.records[-1].route == "GET /pets"
    assert json.loads(shop.body) == {"id": 1}
    assert b"X-Total: 3\r\n" in shop.received
    assert shop.sends(get("/pets", "Prefer: example=b")) == 200
    assert json.loads(shop.body) == {"id": 2}
    assert shop.sends(get("/pets", "Accept: text/plain")) == 200
    assert shop.body == b"hello"
    assert shop.sends(get("/pets", "Prefer: code=404")) == 404
    assert b"Content-Type: application/problem+json\r\n" in shop.received
    assert shop.sends(get("/pets", "Prefer: code=204, example=b")) == 204
    assert shop.sends(get("/pets", "Prefer: code=999")) == 200


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("application/json;q=0.1, text/plain", b"text/plain"),
        ("text/plain, application/json", b"application/json"),  # the document's order
        ("*/*;q=0.1, text/*", b"text/plain"),
        ("*/*, application/json;q=0", b"text/plain"),
        ("TEXT/PLAIN;Q=0.5, application/*;q=0.4", b"text/plain"),
        ("text/plain;q=0.2\r\nAccept: application/json;q=0.3", b"application/json"),
        ("image/png", b"application/json"),  # none is acceptable
        ("application/json;q=0, text/plain;q=0", b"application/json"),
    ],
)
def test_the_client_chooses_by_accept(shop: Shop, accept: str, kind: bytes) -> None:
    """RFC 9110 section 12.5.1: by weight, of the most specific range that includes the media type."""
    assert shop.sends(get("/pets", f"Accept: {accept}")) == 200
    assert b"Content-Type: " + kind + b"\r\n" in shop.received


def test_a_value_is_made_of_the_schema_and_the_request_is_validated_first(shop: Shop) -> None:
    assert shop.sends(post("/pets", b'{"name": "a"}')) == 201
    assert json.loads(shop.body)["name"] == "Rex"
    assert "secret" not in json.loads(shop.body)
    assert shop.sends(post("/pets", b'{"name": 1}')) == 400
    assert shop.sends(get("/dogs")) == 404


def test_documentation_has_no_markup_of_the_document_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    attack = "</title><script src=//evil></script>\"'><img onerror=x>"
    given: list[dict[str, Any]] = [{"name": attack, "in": "query", "schema": {"type": "string"}}]
    described = document(
        {"/x": {"get": operation(summary=attack, description=attack, tags=[attack], parameters=given)}},
        components={"schemas": {"A": {"type": "string", "description": attack}}},
    )
    described["info"]["title"] = attack
    shop = Shop(tmp_path, described, {"docs": "/docs"})
    assert shop.sends(get("/docs")) == 200
    assert b"<script" not in shop.body
    assert b"<img" not in shop.body
    assert b"&lt;script src=//evil&gt;" in shop.body
    assert b"Content-Security-Policy: default-src 'none'" in shop.received
    tag = next(line for line in shop.received.decode().split("\r\n") if line.startswith("ETag: ")).removeprefix(
        "ETag: "
    )
    assert shop.sends(get("/docs", f"If-None-Match: {tag}")) == 304
    assert shop.sends(get("/docs/openapi.json")) == 200
    assert json.loads(shop.body) == described


def test_the_document_is_served_without_the_settings_of_the_gateway(tmp_path: Path) -> None:
    """Its filters may have secrets: of the document, of a path, also one elsewhere in it, and of an operation."""
    secret = {"filters": {"headers": {"request": {"set": {"Authorization": "Bearer backend-secret-123"}}}}}
    said = {"x-fastgw": secret}
    described = document(
        {
            "/a": {"get": operation(**said), **said},
            "/b": {"$ref": "#/components/pathItems/B"},
            "x-shared": [said],
        },
        components={
            "pathItems": {"B": {"get": operation(**said), **said}},
            "schemas": {"S": {"type": "object", **said}},
        },
        **said,
    )
    shop = Shop(tmp_path, described, {"docs": "/docs"})
    assert shop.sends(get("/b")) == 204
    assert b"Authorization: Bearer backend-secret-123\r\n" in shop.forwarded
    assert shop.sends(get("/docs")) == 200
    assert b"backend-secret-123" not in shop.body
    assert shop.sends(get("/docs/openapi.json")) == 200
    assert json.loads(shop.body) == document(
        {"/a": {"get": operation()}, "/b": {"$ref": "#/components/pathItems/B"}, "x-shared": [{}]},
        components={"pathItems": {"B": {"get": operation()}}, "schemas": {"S": {"type": "object"}}},
    )


EXAMPLE = Path(__file__).parents[5] / "examples" / "openapi" / "pets.yaml"


def test_values_that_are_made_conform_to_the_document(tmp_path: Path) -> None:
    """That of the examples, which has a discriminator, `allOf`, cookies and `deepObject`."""
    described = yaml.safe_load(EXAMPLE.read_text())
    described["paths"]["/pets"]["post"]["security"] = []
    del described["paths"]["/pets"]["post"]["x-fastgw"]  # its limit counts in shared memory
    described["paths"]["/pets/{id}/photo"]["put"]["security"] = []
    shop = Shop(tmp_path, described, {"mock": True, "upstream": None})
    assert shop.sends(get("/v1/pets?limit=5&filter[kind]=cat", "Cookie: session=0123456789abcdef")) == 200
    (pet,) = json.loads(shop.body)
    assert pet["kind"] == "cat"
    assert shop.sends(post("/v1/pets", json.dumps(pet).encode())) == 201
    assert shop.plane.records[-1].route == "addPet"
    assert shop.sends(post("/v1/pets", b'{"kind": "dog", "name": "a", "tricks": [1]}')) == 400
    assert shop.errors == [("body", "/tricks/0", "type")]
    assert shop.sends(get("/v1/pets?filter[kind]=fish", "Cookie: session=a")) == 400
    assert shop.errors == [("query", "/filter/kind", "enum"), ("cookie", "/session", "minLength")]
