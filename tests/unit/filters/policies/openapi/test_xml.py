"""openapi: XML bodies are what their schemas say, by the keyword `xml`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.unit.filters.policies.openapi.shop import Shop, document, get, operation, post

INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"
PET: dict[str, Any] = {
    "type": "object",
    "required": ["id", "name"],
    "properties": {
        "id": {"type": "integer", "xml": {"attribute": True}},
        "name": {"type": "string", "maxLength": 5, "xml": {"name": "Name"}},
        "age": {"type": "number"},
        "tame": {"type": "boolean"},
        "nick": {"type": "string", "nullable": True},
        "tags": {"type": "array", "maxItems": 2, "xml": {"wrapped": True}, "items": {"type": "string"}},
        "toys": {"type": "array", "items": {"type": "integer", "xml": {"name": "toy"}}},
        "friends": {"type": "array", "items": {"$ref": "#/components/schemas/Pet"}},
    },
    "additionalProperties": False,
}


def xml(body: str | bytes, kind: str = "application/xml") -> bytes:
    return post("/x", body if isinstance(body, bytes) else body.encode(), kind)


def shop(folder: Path, schema: Any, components: Any = None, version: str = "3.0.3") -> Shop:
    body = {"required": True, "content": {"application/xml": {"schema": schema}}}
    held = {} if components is None else {"components": {"schemas": components}}
    return Shop(folder, document({"/x": {"post": operation(requestBody=body)}}, version, **held))


@pytest.fixture
def pets(tmp_path: Path) -> Shop:
    return shop(tmp_path, {"$ref": "#/components/schemas/Pet"}, {"Pet": PET})


@pytest.mark.parametrize(
    "body",
    [
        '<Pet id="1"><Name>Rex</Name></Pet>',
        '<?xml version="1.0" encoding="utf-8"?>\n<Pet id=" 1 ">\n <Name>Rex</Name><age> 1.5 </age><tame>1</tame></Pet>',
        '<Pet id="1"><Name>Rex</Name><tags><tags>a</tags><tags>b</tags></tags></Pet>',
        '<Pet id="1"><Name>Rex</Name><tags/><toy>1</toy><toy>2</toy></Pet>',
        f'<Pet id="1"><Name>&lt;&#65;</Name><nick xmlns:i="{INSTANCE}" i:nil="true"/></Pet>',
        '<Pet id="1"><Name><![CDATA[<a>]]></Name><friends id="2"><Name>Tom</Name></friends></Pet>',
    ],
)
def test_a_document_as_the_schema_says_passes(pets: Shop, body: str) -> None:
    assert pets.sends(xml(body)) == 204
    assert pets.forwarded.endswith(body.encode())


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("<Pet><Name>Rex</Name></Pet>", ("body", "", "required")),
        ('<Pet id="x"><Name>Rex</Name></Pet>', ("body", "/id", "type")),
        ('<Pet id="1"><Name>too long</Name></Pet>', ("body", "/name", "maxLength")),
        ('<Pet id="1"><name>Rex</name></Pet>', ("body", "", "xml")),
        ("<Pet><id>1</id><Name>Rex</Name></Pet>", ("body", "", "xml")),
        ('<Pet id="1"><Name>Rex</Name><Name>Tom</Name></Pet>', ("body", "", "repeated")),
        ('<Pet id="1"><Name><b>Rex</b></Name></Pet>', ("body", "", "xml")),
        ('<Pet id="1">text<Name>Rex</Name></Pet>', ("body", "", "xml")),
        ('<Pet id="1"><Name>Rex</Name><tags><tag>a</tag></tags></Pet>', ("body", "", "xml")),
        ('<Pet id="1"><Name>Rex</Name><tags><tags/><tags/><tags/></tags></Pet>', ("body", "/tags", "maxItems")),
        ('<Pet id="1"><Name>Rex</Name><toy>1</toy><toy>x</toy></Pet>', ("body", "/toys/1", "type")),
        ('<Pet id="1"><Name>Rex</Name><friends id="2"/></Pet>', ("body", "/friends/0", "required")),
        ('<Pet id="1"><Name>Rex</Name><other/></Pet>', ("body", "", "additionalProperties")),
        ('<Pet id="1" other=""><Name>Rex</Name></Pet>', ("body", "", "additionalProperties")),
        ('<Dog id="1"><Name>Rex</Name></Dog>', ("body", "", "xml")),
        ('<p:Pet xmlns:p="urn:p" id="1"><Name>Rex</Name></p:Pet>', ("body", "", "xml")),
        ('<Pet id="1"><Name>Rex</Name>', ("body", "", "xml")),
        ("not XML", ("body", "", "xml")),
    ],
)
def test_another_document_is_refused(pets: Shop, body: str, error: tuple[str, str, str]) -> None:
    assert pets.sends(xml(body)) == 400
    assert pets.errors[0] == error
    assert pets.forwarded == b""
    assert b"Rex" not in pets.received


BOMB = '<!DOCTYPE Pet [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;">]><Pet id="1"><Name>&b;</Name></Pet>'


@pytest.mark.parametrize(
    "body",
    [
        BOMB,
        '<!DOCTYPE Pet SYSTEM "file:///etc/passwd"><Pet id="1"><Name>a</Name></Pet>',
        '<Pet id="1"><Name>&unknown;</Name></Pet>',
        '<?xml version="1.0" encoding="utf-7"?><Pet id="1"><Name>a</Name></Pet>',
        '<Pet id="1"><Name>a</Name></Pet>'.encode("utf-16"),
        b'<Pet id="1"><Name>\xff</Name></Pet>',
        f'<Pet id="1"><Name>a</Name>{"<friends>" * 70}{"</friends>" * 70}</Pet>',
        f'<Pet id="1"><Name>a</Name>{"<toy>1</toy>" * 2501}</Pet>',
        "<Pet " + " ".join(f"a{number}=''" for number in range(2501)) + "/>",
    ],
    ids=[
        "entities",
        "external",
        "undefined",
        "declared",
        "utf-16",
        "utf-8",
        "deep",
        "many elements",
        "many attributes",
    ],
)
def test_a_hostile_document_is_refused(pets: Shop, body: str | bytes) -> None:
    assert pets.sends(xml(body)) == 400
    assert pets.errors[0] == ("body", "", "xml")


def test_a_charset_other_than_utf_8_is_answered_415(pets: Shop) -> None:
    body = '<Pet id="1"><Name>Rex</Name></Pet>'
    assert pets.sends(xml(body, "application/xml; charset=utf-16")) == 415
    assert pets.sends(xml(body, "application/xml; charset=utf-8")) == 204


NAMESPACED = {
    "type": "object",
    "xml": {"name": "order", "namespace": "urn:order", "prefix": "o"},
    "required": ["plain", "own", "inner"],
    "properties": {
        "plain": {"type": "integer"},
        "own": {"type": "integer", "xml": {"namespace": "urn:own"}},
        "any": {"type": "integer", "xml": {"prefix": "x"}},
        "key": {"type": "integer", "xml": {"attribute": True, "namespace": "urn:key", "prefix": "k"}},
        "inner": {
            "type": "object",
            "xml": {"namespace": "urn:inner"},
            "required": ["below"],
            "properties": {"below": {"type": "integer"}},
            "additionalProperties": False,
        },
    },
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ('<order xmlns="urn:order"><plain xmlns="">1</plain>{}</order>', 204),
        ('<z:order xmlns:z="urn:order"><plain>1</plain>{}</z:order>', 204),
        ('<z:order xmlns:z="urn:order" xmlns:w="urn:key" w:key="3"><plain>1</plain>{}</z:order>', 204),
        ('<z:order xmlns:z="urn:order" key="3"><plain>1</plain>{}</z:order>', 400),
        ('<z:order xmlns:z="urn:order"><plain>1</plain><q:any xmlns:q="urn:q">1</q:any>{}</z:order>', 204),
        ('<z:order xmlns:z="urn:order"><z:plain>1</z:plain>{}</z:order>', 400),
        ('<z:order xmlns:z="urn:other"><plain>1</plain>{}</z:order>', 400),
    ],
)
def test_namespaces_are_those_of_the_schema_whatever_the_prefixes(tmp_path: Path, body: str, status: int) -> None:
    inner = '<own xmlns="urn:own">2</own><inner xmlns="urn:inner"><below>3</below></inner>'
    assert shop(tmp_path, NAMESPACED).sends(xml(body.format(inner))) == status


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({"type": "array", "xml": {"name": "list"}, "items": {"type": "integer", "xml": {"name": "n"}}},
         "<list><n>1</n></list>", "<list><n>x</n></list>"),
        ({"type": "object", "properties": {"a": {"type": "integer"}}}, "<any><a>1</a></any>", "<b><a>x</a></b>"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "<r><a>1</a><b>2</b></r>", "<r><a>x</a></r>"),
        ({"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
         '<r y="ok"><x>ok</x></r>', "<r><x>long</x><x>ok</x></r>"),
        ({"type": "object", "additionalProperties": {"type": "string", "maxLength": 3}},
         '<r x="ok"/>', '<r x="long"><x>ok</x></r>'),
        ({"type": "object", "additionalProperties": {"type": "integer"}},
         '<r x="1"/>', '<r xmlns:a="u" a:x="1" x="2"/>'),
        ({"type": "integer", "xml": {"name": "n"}}, "<n>5</n>", "<n>x</n>"),
        ({"allOf": [{"properties": {"a": {"type": "integer"}}}, {"properties": {"b": {"type": "boolean"}}}]},
         "<r><a>1</a><b>true</b></r>", "<r><a>1</a><b>2</b></r>"),
        ({"properties": {"v": {"type": "integer", "xml": {"nodeType": "text"}},
                         "unit": {"type": "string", "maxLength": 2, "xml": {"nodeType": "attribute"}}}},
         '<r unit="kg">5</r>', '<r unit="kilo">5</r>'),
        ({"properties": {"l": {"type": "array", "items": {"type": "integer"}, "xml": {"nodeType": "element"}}}},
         "<r><l><l>1</l></l></r>", "<r><l>1</l></r>"),
    ],
)  # fmt: skip
def test_each_shape_of_a_schema(tmp_path: Path, schema: Any, accepted: str, refused: str) -> None:
    made = shop(tmp_path, schema, version="3.2.0")
    assert made.sends(xml(accepted)) == 204
    assert made.sends(xml(refused)) == 400


def test_a_schema_for_the_text_makes_no_mapping_and_one_without_schema_has_to_be_xml(tmp_path: Path) -> None:
    body = {"content": {"application/xml": {"schema": {"type": "string"}}, "application/a+xml": {}}}
    made = Shop(tmp_path, document({"/x": {"post": operation(requestBody=body)}}))
    assert made.sends(xml("<a/>")) == 204
    assert made.sends(xml("<a/>", "application/a+xml")) == 204
    assert made.sends(xml(BOMB, "application/a+xml")) == 400


def test_responses_in_xml_are_reported(tmp_path: Path) -> None:
    schema = {"type": "object", "xml": {"name": "r"}, "properties": {"a": {"type": "integer"}}}
    responses = {"200": {"description": "", "content": {"text/xml": {"schema": schema}}}}
    described = document({"/x": {"get": operation(responses=responses)}})
    made = Shop(tmp_path, described, {"responses": "report"})
    cases = [(b"<r><a>1</a></r>", ""), (b"<r><a>x</a></r>", "(body /a: type)"), (BOMB.encode(), "(body -: xml)")]
    for payload, told in cases:
        head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/xml\r\nContent-Length: %d\r\n\r\n"
        assert made.sends(get("/x"), head % len(payload) + payload) == 200
        assert made.body == payload
        assert told in made.plane.records[-1].shadowed
        assert bool(made.plane.records[-1].shadowed) is bool(told)
