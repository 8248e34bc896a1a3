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


def mocked(folder: Path, response: dict[str, Any], request: str = "") -> tuple[str, str, bytes]:
    """Return content type, other headers of interest, and body of the response that is made of this description."""
    described = document({"/x": {"get": operation(responses={"200": {"description": "", **response}})}}, "3.1.0")
    shop = Shop(folder, described, {"mock": True, "upstream": None})
    assert shop.sends(get("/x", *([request] if request else []))) == 200
    lines = [line.partition(": ") for line in shop.received.partition(b"\r\n\r\n")[0].decode().split("\r\n")]
    kind = "".join(value for name, _, value in lines if name == "Content-Type")
    return kind, " ".join(f"{name}={value}" for name, _, value in lines if name.startswith("X-Of-")), shop.body


@pytest.mark.parametrize(
    ("content", "kind", "body"),
    [
        (
            {"*/*": {"schema": {"type": "object", "properties": {"id": {"type": "integer"}}}}},
            "application/json",
            b'{"id":0}',
        ),
        ({"application/*": {"example": {"a": 1}}}, "application/json", b'{"a":1}'),
        ({"*/*": {"schema": {"type": "string"}}}, "application/json", b'"string"'),
        ({"application/*+json; v=1": {"example": [1]}}, "application/json; v=1", b"[1]"),
        ({"*/*": {"example": 1}, "application/json": {"example": 2}}, "application/json", b"2"),
        ({"text/*": {"example": "hello"}}, "text/plain", b"hello"),
        ({"image/*": {"schema": {"type": "string", "format": "binary"}}}, "", b""),
    ],
)
def test_a_media_range_stands_for_one_content_type(
    content: dict[str, Any], kind: str, body: bytes, tmp_path: Path
) -> None:
    """A response has a content type, never a range of them (RFC 9110 section 8.3)."""
    assert mocked(tmp_path, {"content": content}) == (kind, "", body)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ({"examples": {"one": {"value": "hi"}, "two": {"value": "ho"}}, "schema": {"type": "string"}}, "hi"),
        ({"examples": {"one": {"dataValue": 7}}}, "7"),
        ({"example": "a", "examples": {"one": {"value": "b"}}}, "a"),
        ({"schema": {"type": "boolean"}}, "true"),
        ({"example": False}, "false"),
        ({"content": {"text/plain": {"example": "c"}}}, "c"),
        ({"content": {"application/json": {"example": {"a": [1]}}}}, '{"a":[1]}'),
        ({"content": {"application/json": {"examples": {"a": {"serializedValue": "[ 1 ]"}}}}}, "[ 1 ]"),
        ({"example": [1, "b"]}, "1,b"),
        ({"example": {"a": 1, "b": True}}, "a,1,b,true"),
        ({"example": {"a": 1, "b": True}, "explode": True}, "a=1,b=true"),
    ],
)
def test_a_header_has_its_example(header: dict[str, Any], expected: str, tmp_path: Path) -> None:
    assert mocked(tmp_path, {"headers": {"X-Of-Pet": header}})[1] == f"X-Of-Pet={expected}"


COMPONENTS: dict[str, Any] = {
    "Status": {"type": "string", "enum": ["new", "old"]},
    "Tree": {"type": "object", "required": ["of"], "properties": {"of": {"$ref": "#/components/schemas/Tree"}}},
    "Pet": {"type": "object", "properties": {"id": {"type": "integer"}}},
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"type": "string", "examples": ["a", "b"]}, "a"),
        ({"type": "integer", "default": 7}, 7),
        ({"enum": [3, 4]}, 3),
        ({"const": False}, False),
        ({"allOf": [{"type": "string"}, {"enum": ["x"]}]}, "x"),
        ({"allOf": [{"type": "integer"}, {"minimum": 5}], "description": "a"}, 5),
        ({"allOf": [{"$ref": "#/components/schemas/Status"}], "description": "a"}, "new"),
        ({"allOf": [{"$ref": "#/components/schemas/Pet"}, {"properties": {"a": {"const": 1}}}]}, {"id": 0, "a": 1}),
        ({"$ref": "#/components/schemas/Status", "examples": ["old"]}, "old"),
        ({"$ref": "#/components/schemas/Pet", "properties": {"b": {"const": 2}}}, {"id": 0, "b": 2}),
        ({"properties": {"a": {"$ref": "#/components/schemas/Status", "writeOnly": True}}}, {}),
        ({"oneOf": [{"type": "null"}, {"$ref": "#/components/schemas/Pet"}]}, {"id": 0}),
        ({"anyOf": [{"type": "null"}]}, None),
        ({"type": ["null", "boolean"]}, True),
        ({"type": "array", "items": {"type": "integer"}, "minItems": 3}, [0, 0, 0]),
        ({"type": "array", "items": {"type": "integer"}, "maxItems": 0}, []),
        ({"type": "array", "prefixItems": [{"type": "string"}, {"const": 1}], "items": False}, ["string", 1]),
        ({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 2}, "minItems": 3}, [1, 2, 2]),
        ({"type": "string", "format": "date"}, "2024-01-01"),
        ({"type": "string", "format": "uuid"}, "00000000-0000-4000-8000-000000000000"),
        ({"type": "string", "format": "iri"}, "https://example.com/"),
        ({"type": "string", "minLength": 8, "maxLength": 9}, "string.."),
        ({"type": "integer", "exclusiveMaximum": 0}, -1),
        ({"type": "integer", "maximum": -3}, -3),
        ({"type": "integer", "minimum": 2**63 - 1, "maximum": 2**63 - 1}, 2**63 - 1),
        ({"type": "number", "maximum": 1e300, "multipleOf": 5e-324}, 0),
        ({"type": "integer", "minimum": 1.5}, 2),
        ({"type": "integer", "exclusiveMinimum": 4, "multipleOf": 5}, 5),
        ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}, 0.5),
        ({"type": "number", "minimum": 0.1, "multipleOf": 0.5}, 0.5),
    ],
)
def test_a_value_that_is_made_conforms_to_its_schema(schema: dict[str, Any], value: Any, tmp_path: Path) -> None:
    media = {"application/json": {"schema": schema}}
    responses = {"200": {"description": "", "content": media}}
    paths = {
        "/x": {
            "get": operation(responses=responses),
            "post": operation(requestBody={"content": media}, responses=responses),
        }
    }
    described = document(paths, "3.1.0", components={"schemas": COMPONENTS})
    shop = Shop(tmp_path, described, {"mock": True, "upstream": None})
    assert shop.sends(get("/x")) == 200
    assert json.loads(shop.body) == value
    assert shop.sends(post("/x", shop.body)) == 200


NODE = "#/components/schemas/Node"
RECURSIVE: dict[str, Any] = {
    "Node": {
        "type": "object",
        "required": ["v"],
        "properties": {
            "v": {"type": "integer"},
            "next": {"$ref": NODE},
            "kids": {"type": "array", "items": {"$ref": NODE}},
            "pair": {"type": "array", "items": {"$ref": NODE}, "minItems": 2},
        },
    },
    "Nullable": {
        "type": ["object", "null"],
        "required": ["up"],
        "properties": {"up": {"$ref": "#/components/schemas/Nullable"}},
    },
    "Sum": {
        "type": "object",
        "required": ["left"],
        "properties": {"left": {"$ref": "#/components/schemas/Expression"}},
    },
    "Expression": {"oneOf": [{"$ref": "#/components/schemas/Sum"}, {"type": "integer"}]},
    "Base": {"type": "object", "properties": {"best": {"$ref": "#/components/schemas/Derived"}, "n": {"const": 1}}},
    "Derived": {
        "allOf": [{"$ref": "#/components/schemas/Base"}, {"required": ["d"], "properties": {"d": {"const": 2}}}]
    },
    "Described": {"required": ["v"], "properties": {"v": {"$ref": NODE, "description": "beside"}}},
}
DEEP: dict[str, Any] = {"const": 1}
for _ in range(12):
    DEEP = {"type": "object", "required": ["a"], "properties": {"a": DEEP}}
WIDE = {f"m{n}": {"const": n} for n in range(600)}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"$ref": NODE}, {"v": 0, "kids": []}),
        (
            {"type": "object", "properties": {"a": {"$ref": NODE}, "b": {"$ref": NODE}}},
            {"a": {"v": 0, "kids": []}, "b": {"v": 0, "kids": []}},
        ),
        ({"$ref": "#/components/schemas/Nullable"}, {"up": None}),
        ({"$ref": "#/components/schemas/Sum"}, {"left": 0}),
        ({"$ref": "#/components/schemas/Expression"}, 0),
        ({"$ref": "#/components/schemas/Derived"}, {"n": 1, "d": 2}),
        ({"$ref": "#/components/schemas/Described"}, {"v": {"v": 0, "kids": []}}),
        (DEEP, json.loads('{"a":' * 12 + "1" + "}" * 12)),
        ({"required": [*WIDE], "properties": WIDE}, {name: each["const"] for name, each in WIDE.items()}),
    ],
)
def test_a_value_of_a_schema_that_refers_to_itself_conforms_to_it(
    schema: dict[str, Any], value: Any, tmp_path: Path
) -> None:
    """What is optional is left out where it leads back; large values have all that is required."""
    media = {"application/json": {"schema": schema}}
    responses = {"200": {"description": "", "content": media}}
    paths = {"/x": {"post": operation(requestBody={"content": media}, responses=responses)}}
    shop = Shop(tmp_path, document(paths, "3.1.0", components={"schemas": RECURSIVE}), {"mock": True, "upstream": None})
    assert shop.sends(post("/x", json.dumps(value).encode())) == 200
    assert json.loads(shop.body) == value


@pytest.mark.parametrize(
    ("statuses", "expected"),
    [
        (["404", "201", "200"], 200),
        (["404", "2XX"], 200),
        (["2xx", "204"], 204),
        (["404", "default"], 200),
        (["302", "404"], 302),
        (["205"], 205),
    ],
)
def test_a_response_of_success_is_the_answer(statuses: list[str], expected: int, tmp_path: Path) -> None:
    responses = {each: {"description": "", "content": {"application/json": {"example": each}}} for each in statuses}
    described = document({"/x": {"get": operation(responses=responses)}})
    shop = Shop(tmp_path, described, {"mock": True, "upstream": None})
    assert shop.sends(get("/x")) == expected
    assert (shop.body == b"") == (expected in (204, 205))


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
