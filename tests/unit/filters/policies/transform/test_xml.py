"""transform: XML and SOAP from and to JSON, by explicit mappings only."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from fastgw.filters.policies.transform import Transform, xml_reading
from fastgw.filters.policies.transform.compiled_change import compile_change
from fastgw.filters.policies.transform.values import UnmappableBody
from fastgw.testing import ConfigError, configured, run
from tests.support.table import for_each

SOAP = "http://schemas.xmlsoap.org/soap/envelope/"
XML_INPUT = {
    "namespaces": {"s": SOAP, "p": "urn:prices"},
    "root": "s:Envelope/s:Body/p:Response",
    "fields": {
        "price": {"path": "p:Price", "type": "number"},
        "currency": {"path": "p:Price/@currency"},
        "ok": {"path": "@ok", "type": "boolean"},
        "items": {
            "path": "p:Items/p:Item",
            "list": True,
            "fields": {"sku": {"path": "@sku"}, "name": {"path": "p:Name"}, "tags": {"path": "p:Tag", "list": True}},
        },
    },
}
DOCUMENT = f"""<?xml version="1.0" encoding="UTF-8"?>
<e:Envelope xmlns:e="{SOAP}" xmlns="urn:prices"><e:Body><Response ok="1">
  <Price currency="EUR"> 12345678901234567890123.10 </Price>
  <Items><Item sku="a"><Name>A &lt; &quot;B&quot; é</Name><Tag>x</Tag></Item></Items>
</Response></e:Body></e:Envelope>"""


def post(body: bytes, kind: bytes = b"text/xml; charset=utf-8") -> bytes:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


def read(body: str | bytes, **xml: Any) -> Any:
    ran = run(
        configured(Transform, request={"input": "xml", "xml": {**XML_INPUT, **xml}}),
        post(body if isinstance(body, bytes) else body.encode()),
    )
    return ran.sent_body if ran.passed else ran.status


def test_soap_becomes_json_with_lists_and_numbers_as_mapped() -> None:
    made = read(DOCUMENT)
    assert made == (
        b'{"price":12345678901234567890123.10,"currency":"EUR","ok":true,'
        b'"items":[{"sku":"a","name":"A < \\"B\\" \xc3\xa9","tags":["x"]}]}'
    )
    assert read(DOCUMENT.replace("<Items>", "<Other>").replace("</Items>", "</Other>")).endswith(b'"items":[]}')


@for_each(
    "document",
    [
        '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>',
        '<!DOCTYPE x SYSTEM "file:///etc/passwd"><x/>',
        "<?xml version='1.0'?><!-- <!DOCTYPE y> --><?p > ?>\r\n\t<!DOCTYPE r [<!ENTITY e 'a'>]><r>&e;</r>",
        "<!--><!DOCTYPE r><r/>",
        "<?p ",
        "<r><!DOCTYPE r></r>",
        "<r/><!DOCTYPE r>",
        '<!DOCTYPE x [<!ENTITY e SYSTEM "http://127.0.0.1/">]><x>&e;</x>',
        "<x>&nbsp;</x>",
        "<x>" * 65 + "</x>" * 65,
        "<x>" * 5_000,
        "<x><y></x></y>",
        "<p:x/>",
        "<x a='1' a='2'/>",
        '<?xml version="1.0" encoding="utf-16"?><x/>',
        "<x/>",
        "",
        "text",
        DOCUMENT.encode("utf-16"),
        b"<x>\xff</x>",
        b"<x>\x00</x>",
        DOCUMENT.replace("12345678901234567890123.10", "1,5"),
        DOCUMENT.replace("12345678901234567890123.10", "<b>1</b>"),
        DOCUMENT.replace("</Price>", "</Price><Price>2</Price>"),
        DOCUMENT.replace('ok="1"', 'ok="yes"'),
    ],
)  # fmt: skip
def test_documents_that_are_refused(document: str | bytes) -> None:
    assert read(document or " ") == 400


CHARSETS = [
    (b"application/xml", True),
    (b'application/soap+xml; charset="UTF-8"; action=a', True),
    (b"text/xml;charset=us-ascii", True),
    (b"application/xml; charset=iso-8859-1", False),
    (b"application/soap+xml; charset=utf-16", False),
    (b"text/xml; charset=utf-8; charset=utf-16", False),
]


@for_each("other_types", ["pass", "refuse"])
@for_each(("kind", "is_read"), CHARSETS)
def test_a_document_has_the_charset_of_its_content_type(kind: bytes, is_read: bool, other_types: str) -> None:
    """RFC 7303 section 3.2: before what the document declares. Who gets it unchanged would read another document."""
    change = {"input": "xml", "xml": XML_INPUT, "other_types": other_types}
    ran = run(configured(Transform, request=change), post(DOCUMENT.encode(), kind))
    assert (ran.status, ran.passed) == (200 if is_read else 415, is_read)
    assert not is_read or ran.sent_body == read(DOCUMENT)


@for_each("large", [False, True])
@for_each(("kind", "is_read"), CHARSETS)
def test_a_document_of_a_response_has_the_charset_of_its_content_type(kind: bytes, is_read: bool, large: bool) -> None:
    text = DOCUMENT.encode() + b" " * (20_000 if large else 0)
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (kind, len(text))
    ran = run(
        configured(Transform, response={"input": "xml", "xml": XML_INPUT}),
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        response=answer + text,
        timeout=60,  # a helper process starts
    )
    assert ran.status == (200 if is_read else 502)
    assert (ran.received.partition(b"\r\n\r\n")[2] == read(DOCUMENT)) is is_read


@pytest.mark.parametrize(
    "before",
    [
        b"\xef\xbb\xbf\xef\xbb\xbf",
        b"\xef\xbb\xbf \xef\xbb\xbf",
        b"text",
        b"\xc2\xa0",
        b"\x0c",
        b"<?p",
        b"<!-- -",
        b"<![CDATA[]]>",
        b"&#32;",
    ],
)
def test_no_parser_sees_a_declaration(monkeypatch: pytest.MonkeyPatch, before: bytes) -> None:
    """Whatever stands before it: the parser would expand its entities."""
    monkeypatch.setattr(xml_reading, "XMLParser", None)
    assert read(before + b'<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">]><x>&b;</x>') == 400


@pytest.mark.parametrize(
    ("document", "accepted"),
    [
        (b"<x>" + b"<y/>" * 4_999 + b"</x>", True),
        (b"<x>" + b"<y/>" * 5_000 + b"</x>", False),
        (b"<x>" + b"<y><![CDATA[<]]></y>" * 4_999 + b"</x>", True),
        (b"<x>" + b"<!-- <y/> -->" * 12_000 + b"</x>", True),
        (b"<x>" * 18_000, False),
    ],
    ids=["5000", "5001", "5000 with CDATA", "comments", "nested"],
)
def test_documents_with_more_than_5000_elements_are_refused(document: bytes, accepted: bool) -> None:
    """Documents of this size are read in helper processes."""
    request = configured(Transform, request={"input": "xml", "xml": {**XML_INPUT, "root": "x"}}).request
    assert request is not None
    change = compile_change(request)
    if accepted:
        assert change(document, lambda name: None) == b'{"items":[]}'
        return
    with pytest.raises(UnmappableBody, match="the XML has more than 5000 elements"):
        change(document, lambda name: None)


@pytest.mark.parametrize(
    "around",
    ["<r>%s<!-- <!DOCTYPE r> --></r>", "<!-- <!DOCTYPE r> --><?p <!DOCTYPE r>?><r>%s</r><!-- <!DOCTYPE r> -->"],
)
def test_the_text_of_a_document_type_declaration_is_text_within_others(around: str) -> None:
    price = "<Price xmlns='urn:prices' currency='%s'>1</Price>"
    assert read(around % price % "<!DOCTYPE html>".replace("<", "&lt;"), root="r") == (
        b'{"price":1,"currency":"<!DOCTYPE html>","items":[]}'
    )
    fields = {"text": {"path": "t"}}
    document = around % "<t><![CDATA[<!DOCTYPE html><p>x</p>]]></t>"
    assert read(document, root="r", fields=fields) == b'{"text":"<!DOCTYPE html><p>x</p>"}'


def test_nil_is_null() -> None:
    nil = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:nil="true"'
    document = f'<r xmlns:p="urn:prices"><p:Price {nil}/></r>'
    assert read(document, root="r") == b'{"price":null,"items":[]}'


TEMPLATE = f"""
<s:Envelope xmlns:s="{SOAP}" xmlns:p="urn:prices">
  <s:Body>
    <p:Request id="{{{{ id }}}}" gone="{{{{ none }}}}" by="{{method}}">
      <p:Item each="items" n="{{{{ n }}}}">{{{{ name }}}}!</p:Item>
      <p:Note>a &amp; b</p:Note>
    </p:Request>
  </s:Body>
</s:Envelope>
"""


def test_values_are_escaped_and_never_markup() -> None:
    transform = configured(Transform, request={"output": "xml", "xml_template": TEMPLATE, "content_type": "text/xml"})
    evil = '</p:Item><x a="1">&e;]]>'
    body = {"id": '" x="1', "items": [{"n": 1.10, "name": evil}, {"n": 2, "name": "b"}, {}]}
    ran = run(transform, post(json.dumps(body).replace("1.1,", "1.10,").encode(), b"application/json"))
    assert ran.sent_fields.get_all(b"content-type") == [b"text/xml"]
    (request,) = ElementTree.fromstring(ran.sent_body)[0]
    assert request.attrib == {"id": '" x="1', "by": "POST"}
    assert [(each.attrib, each.text) for each in request] == [
        ({"n": "1.10"}, evil + "!"), ({"n": "2"}, "b!"), ({}, None), ({}, "a & b"),
    ]  # fmt: skip
    for value in ("\x00", "\x1b", "￿"):
        assert run(transform, post(json.dumps({"id": value}).encode(), b"application/json")).status == 400
    for wrong in ({"items": 1}, {"id": {}}):
        assert run(transform, post(json.dumps(wrong).encode(), b"application/json")).status == 400


def test_white_space_of_values_survives_the_parser_that_reads_them() -> None:
    """XML 1.0 sections 2.11 and 3.3.3: line ends become line feeds, and white space in attributes spaces."""
    template = '<r a="{{ t }}" b="x&#13;y">{{ t }}<s>x&#13;y</s></r>'
    transform = configured(Transform, request={"output": "xml", "xml_template": template})
    ran = run(transform, post(b'{"t":"a\\r\\nb\\t\\rc"}', b"application/json"))
    assert ran.sent_body.endswith(b'<r a="a&#13;&#10;b&#9;&#13;c" b="x&#13;y">a&#13;\nb\t&#13;c<s>x&#13;y</s></r>')
    root = ElementTree.fromstring(ran.sent_body)
    assert (root.text, root.attrib) == ("a\r\nb\t\rc", {"a": "a\r\nb\t\rc", "b": "x\ry"})


@pytest.mark.parametrize(
    ("template", "sent"),
    [
        ("<p>Dear {{ n }} <b>and</b> the {{ n }}</p>", "<p>Dear X <b>and</b> the X</p>"),
        ("<p>\n  Dear {{ n }}\n  <b>and</b>\n  the {{ n }}\n</p>", "<p>Dear X\n  <b>and</b>\n  the X</p>"),
        ("<p><b>{{ n }}</b> <b>{{ n }}</b>\n  <b/> </p>", "<p><b>X</b> <b>X</b><b></b> </p>"),
        ("<p><b> {{ n }}</b>{{ n }}\n</p>", "<p><b> X</b>X</p>"),
        ("<p>\n  {{ n }}\n</p>", "<p>X</p>"),
        ("<p> {{ none }} </p>", "<p>  </p>"),
        ("<p>&#160;{{ n }}&#160;</p>", "<p>\u00a0X\u00a0</p>"),
        ("<p>\n  a <b>\n b\n </b></p>", "<p>\n  a <b>\n b\n </b></p>"),
        ("<p>" + "x" * 8191 + "{{ n }}</p>", "<p>" + "x" * 8191 + "X</p>"),
    ],
)
def test_spaces_between_words_of_a_template_are_sent_and_indentation_is_not(template: str, sent: str) -> None:
    transform = configured(Transform, request={"output": "xml", "xml_template": template})
    ran = run(transform, post(b'{"n":"X"}', b"application/json"))
    assert ran.sent_body.decode().partition("\n")[2] == sent


def test_an_object_is_refused_as_a_text_with_spaces_around_it() -> None:
    """It would be missing within a longer text."""
    for template in ("<p> {{ n }} </p>", "<p>\n  {{ n }}\n</p>"):
        transform = configured(Transform, request={"output": "xml", "xml_template": template})
        assert run(transform, post(b'{"n":{}}', b"application/json")).status == 400


@for_each(
    ("settings", "error"),
    [
        ({"input": "xml"}, "need each other"),
        ({"output": "xml"}, "need each other"),
        ({"input": "xml", "xml": {"root": "q:x", "fields": {"a": {"path": "b"}}}}, 'unknown prefix "q"'),
        ({"input": "xml", "xml": {"root": "x", "fields": {"a": {"path": "b//c"}}}}, "is not a path"),
        ({"input": "xml",
          "xml": {"root": "x", "fields": {"a": {"path": "@b", "fields": {"c": {"path": "."}}}}}}, "attribute"),
        ({"output": "xml", "xml_template": "<a>"}, "not well-formed"),
        ({"output": "xml", "xml_template": "<!DOCTYPE a><a/>"}, "document type"),
        ({"output": "xml", "xml_template": "<q:a/>"}, "not well-formed"),
        ({"output": "xml", "xml_template": "<a>{{ b. }}</a>"}, "not a JMESPath expression"),
        ({"output": "xml", "xml_template": "<a>{nope}</a>"}, "unknown variable {nope}"),
    ],
)  # fmt: skip
def test_mistakes(settings: dict[str, Any], error: str) -> None:
    with pytest.raises(ConfigError) as raised:
        configured(Transform, request=settings)
    assert error in str(raised.value)
