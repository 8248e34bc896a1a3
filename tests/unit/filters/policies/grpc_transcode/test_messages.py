"""JSON and messages: what requests become of path, query and body, and what responses look like."""

from __future__ import annotations

import contextlib
import json
from base64 import b64encode
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from fastgw.filters.policies.grpc_transcode.conversions import AT_ONCE, PIECE
from fastgw.filters.policies.grpc_transcode.descriptors import Binding, read_api
from fastgw.filters.policies.grpc_transcode.json_input import InvalidRequest, JsonChecker
from fastgw.filters.policies.grpc_transcode.messages import (
    InvalidResponse,
    JsonFormat,
    RequestReader,
    ResponseTooLarge,
    ResponseWriter,
    status_details,
)
from tests.support.bookstore import api, message
from tests.support.table import for_each

API = read_api(api(), (), True)
STRICT = JsonFormat(False, False, False, False, frozenset())
MOST = 1024 * 1024


def _found(method: str, path: str) -> tuple[Binding, list[bytes]]:
    match, _ = API.table.find(path.encode(), method.encode())
    assert match is not None
    binding = match.get(method.encode())
    assert binding is not None
    return binding, match.segments


def read(line: str, body: bytes = b"", **format: Any) -> Any:
    """The message of a request `METHOD /path?query`."""
    method, _, target = line.partition(" ")
    path, _, query = target.partition("?")
    binding, segments = _found(method, path)
    reader = RequestReader(binding, segments, query.encode() or None, STRICT._replace(**format), API)
    return binding.method.input.FromString(reader.read(body))


def as_dict(read: Any) -> Any:
    return json_format.MessageToDict(read, preserving_proto_field_name=True, descriptor_pool=API.pool)


@for_each(
    ("line", "body", "expected"),
    [
        ("GET /v1/shelves/a%2Fb", b"", {"name": "shelves/a%2Fb"}),
        ("GET /v1/shelf-of/a%2Fb", b"", {"name": "a/b"}),
        ("GET /v1/shelves?page_size=3", b"", {"page_size": 3}),
        ("POST /v1/echo", b'{"text": "\\ud83d\\uDE00 \\\\ud800"}', {"text": "\U0001f600 \\ud800"}),
        (
            "POST /v1/echo",
            b'{"any": {"@type": "x/google.protobuf.Empty"}}',
            {"any": {"@type": "x/google.protobuf.Empty"}},
        ),
        ("GET /v1/shelves?pageSize=3", b"", {"page_size": 3}),
        ("POST /v1/shelves?request_id=r", b'{"name": "n"}', {"shelf": {"name": "n"}, "request_id": "r"}),
        ("POST /v1/shelves", b"", {}),
        ("POST /v1/shelves", b"null", {}),
        (
            "PATCH /v1/shelves/7?update_mask=name,displayName",
            b'{"name": "other", "display_name": "d"}',
            {"shelf": {"name": "shelves/7", "display_name": "d"}, "update_mask": "name,displayName"},
        ),
        ("PUT /v1/all/7", b'{"shelf": {"size": "5"}}', {"shelf": {"size": "5"}, "update_id": "7"}),
        ("PUT /v1/all/7", b'{"update_id": "8"}', {"update_id": "7"}),  # the path decides
        ("POST /v1/shelves/7:move", b'{"number": 1}', {"text": "shelves/7", "number": 1}),
        ("POST /v1/numbers", b"[1, 2]", {"numbers": [1, 2]}),
        ("GET /v1/files/a/b%2Fc", b"", {"text": "a/b%2Fc"}),
        ("GET /v1/echo/x/5", b"", {"inner": {"text": "x", "inner": {"number": 5}}}),
        (
            "GET /v1/echo?inner.text=a+b%2B&inner.inner.number=-5",
            b"",
            {"inner": {"text": "a b+", "inner": {"number": -5}}},
        ),
        ("GET /v1/echo?words=a&words=&words=%C3%A4&numbers=1", b"", {"words": ["a", "", "ä"], "numbers": [1]}),
        ("GET /v1/echo?flag=true&maybe_flag=false", b"", {"flag": True, "maybe_flag": False}),
        ("GET /v1/echo?color=RED", b"", {"color": "RED"}),
        ("GET /v1/echo?color=1", b"", {"color": "RED"}),
        ("GET /v1/echo?long_number=9007199254740993", b"", {"long_number": "9007199254740993"}),
        ("GET /v1/echo?long_number=9007199254740993.0", b"", {"long_number": "9007199254740993"}),
        ("GET /v1/echo?number=1.50e1", b"", {"number": 15}),
        ("GET /v1/echo?number=-10e-1&maybe=0.0e999999", b"", {"number": -1, "maybe": "0"}),
        ("POST /v1/echo", b'{"longNumber": 9007199254740993.0}', {"long_number": "9007199254740993"}),
        ("POST /v1/echo", b'{"longNumber": "9.223372036854775807e18"}', {"long_number": "9223372036854775807"}),
        ("POST /v1/echo", b'{"number": 1.0, "numbers": [1e2, "2.0"]}', {"number": 1, "numbers": [100, 2]}),
        ("POST /v1/echo", b'{"maybe": "1e1", "counts": {"a": "1e1"}}', {"maybe": "10", "counts": {"a": 10}}),
        ("POST /v1/echo", b'{"color": 1.0}', {"color": "RED"}),
        (
            "POST /v1/echo",
            b'{"any": {"@type": "type.googleapis.com/bookstore.v1.Everything", "longNumber": "9007199254740993.0"}}',
            {"any": {"@type": "type.googleapis.com/bookstore.v1.Everything", "long_number": "9007199254740993"}},
        ),
        (
            "POST /v1/echo",
            b'{"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}}',
            {"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1s"}},
        ),
        (
            "POST /v1/echo",
            b'{"numbered": {"1": "a", "-1": "b", "010": "c"}}',
            {"numbered": {"1": "a", "-1": "b", "10": "c"}},
        ),
        ("POST /v1/numbers", b'[1.0, "2e0"]', {"numbers": [1, 2]}),
        ("GET /v1/echo?fraction=1e-3", b"", {"fraction": 0.001}),
        ("GET /v1/echo?fraction=-1.7976931348623157e308", b"", {"fraction": -1.7976931348623157e308}),
        (
            "POST /v1/echo",
            b'{"single": 3.4028235e+38}',
            {"single": 3.4028235e38},
        ),  # as it is written: above the largest
        ("POST /v1/echo", b'{"single": "-3.4028235e+38"}', {"single": -3.4028235e38}),
        ("GET /v1/echo?single=0.1", b"", {"single": 0.1}),
        ("GET /v1/echo?lasting=-0.000000001s", b"", {"lasting": "-0.000000001s"}),
        ("GET /v1/echo?at=2020-01-01T00:00:00.5-23:59", b"", {"at": "2020-01-01T23:59:00.500Z"}),
        ("GET /v1/echo?fraction=NaN", b"", {"fraction": "NaN"}),
        ("GET /v1/echo?data=AQI%3D", b"", {"data": "AQI="}),
        ("GET /v1/echo?at=2020-01-01T00:00:00Z&lasting=1.5s", b"", {"at": "2020-01-01T00:00:00Z", "lasting": "1.500s"}),
        ("GET /v1/echo?maybe=5&&", b"", {"maybe": "5"}),
        ("POST /v1/echo", b' {"text": "\\ud83d\\ude00"} ', {"text": "😀"}),
        ("POST /v1/echo", b'{"value": [1, null, {"a": "b"}]}', {"value": [1.0, None, {"a": "b"}]}),
        ("POST /v1/echo", b'{"longNumber": 5, "counts": {"a": 1}}', {"long_number": "5", "counts": {"a": 1}}),
        ("POST /bookstore.v1.Bookstore/Hidden", b'{"text": "t"}', {"text": "t"}),
    ],
)
def test_path_query_and_body_are_the_message(line, body, expected):
    assert as_dict(read(line, body)) == expected


HALF = "The JSON has half of a surrogate pair."
REFUSED = [
    ("GET /v1/echo?nothing=1", b"", 'The query parameter "nothing" is not a field of bookstore.v1.Everything.'),
    ("GET /v1/echo?inner=1", b"", 'The query parameter "inner" is a message; expected one of its fields.'),
    ("GET /v1/echo?inner.x=1", b"", 'The query parameter "inner.x" is not a field of bookstore.v1.Everything.'),
    ("GET /v1/echo?inners.text=1", b"", 'The query parameter "inners.text" is not a field of bookstore.v1.Everything.'),
    ("GET /v1/echo?counts=1", b"", 'The query parameter "counts" is a message; expected one of its fields.'),
    ("GET /v1/echo?object=1", b"", 'The query parameter "object" is a message; expected one of its fields.'),
    ("GET /v1/echo?text.x=1", b"", 'The query parameter "text.x" is not a field of bookstore.v1.Everything.'),
    ("GET /v1/echo?text=1&text=2", b"", 'The query parameter "text" is given 2 times.'),
    ("GET /v1/echo?long_number=1&longNumber=2", b"", '"longNumber" and "long_number" are the same field.'),
    ("GET /v1/echo?flag=1", b"", 'The query parameter "flag" is not true or false.'),
    ("GET /v1/echo?text=%FF", b"", "The query is not UTF-8."),
    ("GET /v1/echo?" + "&".join(["words=a"] * 1001), b"", "The query has more than 1000 parameters."),
    ("GET /v1/shelf-of/a?name=b", b"", '"name" is in the path and in the query.'),
    ("POST /v1/shelves?shelf.name=b", b"{}", 'The query parameter "shelf.name" is a field of the body.'),
    ("POST /v1/echo?text=a", b"{}", 'The query parameter "text" is unknown: all fields are in the body.'),
    ("GET /v1/echo", b"{}", "This request takes no body."),
    ("POST /v1/echo", b"[]", "The body is not a JSON object."),
    ("POST /v1/echo", b"5", "The body is not a JSON object."),
    (
        "POST /v1/echo",
        b"{",
        "The JSON is malformed: Expecting property name enclosed in double quotes at line 1",
    ),
    ("POST /v1/echo", b"{} {}", "The JSON is malformed: Extra data at line 1 column 4."),
    ("POST /v1/echo", b"\xef\xbb\xbf{}", "The JSON is malformed: "),
    ("POST /v1/echo", b'{"text": "\xff"}', "The JSON is not UTF-8."),
    ("POST /v1/echo", b'{"text": "\\ud800"}', HALF),
    ("POST /v1/echo", b'{"text": "\\udc00\\ud800"}', HALF),
    ("POST /v1/echo", b'{"text": "\\\\\\uDFFF"}', HALF),
    ("POST /v1/echo", b'{"\\ud800": 1}', HALF),
    ("POST /v1/echo", b'{"color": "\\ud800"}', HALF),
    ("POST /v1/echo", b'{"counts": {"\\ud800": 1}}', HALF),
    ("POST /v1/echo", b'{"any": {"@type": "x/\\ud800"}}', HALF),
    ("POST /v1/echo", b'{"text": "a", "text": "b"}', 'The JSON has the key "text" twice in one object.'),
    ("POST /v1/echo", b'{"object": {"a": {"b": 1, "b": 1}}}', 'The JSON has the key "b" twice in one object.'),
    (
        "POST /v1/echo",
        b'{"longNumber": 1, "long_number": 2}',
        "The JSON has the field long_number twice",
    ),
    ("POST /v1/echo", b'{"fraction": NaN}', "The JSON has NaN, which is not a JSON value; expected a string."),
    ("POST /v1/echo", b'{"fraction": -Infinity}', "The JSON has -Infinity, which is not a JSON value"),
    ("POST /v1/echo", b'{"fraction": 1e999}', "The JSON has a number that is too large."),
    ("POST /v1/echo", b'{"value": 1e999}', "The JSON has a number that is too large."),
    ("POST /v1/echo", b'{"value": 1' + b"0" * 4000 + b"}", "The JSON has a number that is too large."),
    ("POST /v1/echo", b'{"number": ' + b"9" * 5000 + b"}", "The JSON has a number that is too long."),
    ("POST /v1/echo", b'{"number": 2147483648}', "Failed to parse number field"),
    ("POST /v1/echo", b'{"number": 1.5}', '"1.5" is not an integer of 64 bits, for "number".'),
    ("POST /v1/echo", b'{"number": "x"}', '"x" is not a number, for "number".'),
    ("POST /v1/echo", b'{"number": true}', 'Expected an integer for "number".'),
    ("POST /v1/echo", b'{"text": 5}', 'Expected a string for "text".'),
    ("POST /v1/echo", b'{"flag": "true"}', 'Expected true or false for "flag".'),
    ("POST /v1/echo", b'{"inner": []}', "Expected a JSON object for bookstore.v1.Inner."),
    ("POST /v1/echo", b'{"words": "a"}', 'Expected an array for "words".'),
    ("POST /v1/echo", b'{"words": [null]}', 'Expected a string for "words".'),
    ("POST /v1/echo", b'{"counts": {"a": "b"}}', '"b" is not a number, for "counts".'),
    ("POST /v1/echo", b'{"color": "BLUE"}', '"BLUE" is not a value of bookstore.v1.Color.'),
    ("POST /v1/echo", b'{"data": "***"}', '"data" is not Base64.'),
    ("POST /v1/echo", b'{"at": "yesterday"}', '"yesterday" is not a time (RFC 3339) such as "2026-01-31T12:00:00Z".'),
    ("GET /v1/echo?at=2020-01-01T00:00:00%2B99:99", b"", '"2020-01-01T00:00:00+99:99" is not a time'),
    ("GET /v1/echo?at=2020-1-01T00:00:00Z", b"", '"2020-1-01T00:00:00Z" is not a time'),
    ("GET /v1/echo?at=2020-02-30T00:00:00Z", b"", "Failed to parse at field"),
    ("POST /v1/echo", b'{"at": 5}', 'Expected a time (RFC 3339) such as "2026-01-31T12:00:00Z" for "at".'),
    ("GET /v1/echo?lasting=1_0s", b"", '"1_0s" is not a duration such as "1.5s".'),
    ("GET /v1/echo?lasting=%201s", b"", '" 1s" is not a duration'),
    ("GET /v1/echo?lasting=1.0000000001s", b"", '"1.0000000001s" is not a duration'),
    ("POST /v1/echo", b'{"lasting": 5}', 'Expected a duration such as "1.5s" for "lasting".'),
    ("POST /v1/echo", b'{"longNumber": "9007199254740992.5"}', '"9007199254740992.5" is not an integer'),
    ("POST /v1/echo", b'{"longNumber": 9007199254740992.5}', '"9007199254740992.5" is not an integer'),
    ("POST /v1/echo", b'{"longNumber": "9.223372036854775808e18"}', "Failed to parse longNumber field"),
    ("GET /v1/echo?long_number=1e400", b"", '"1e400" is not an integer of 64 bits, for "long_number".'),
    ("GET /v1/echo?number=1e999999999", b"", '"1e999999999" is not an integer'),
    ("GET /v1/echo?number=1e-99999999999999999999", b"", '"1e-99999999999999999999" is not an integer'),
    ("POST /v1/echo", b'{"fraction": "1e400"}', '"1e400" is too large, for "fraction".'),
    ("GET /v1/echo?fraction=-1e400", b"", '"-1e400" is too large, for "fraction".'),
    ("POST /v1/echo", b'{"fraction": 1' + b"0" * 400 + b"}", "1000"),
    ("POST /v1/echo", b'{"fraction": true}', 'true is not a number, for "fraction".'),
    ("POST /v1/echo", b'{"single": "1e39"}', '"1e39" is too large, for "single".'),
    ("POST /v1/echo", b'{"single": 3.4028236e+38}', '3.4028236e+38 is too large, for "single".'),
    ("POST /v1/echo", b'{"single": 1e39}', '1e+39 is too large, for "single".'),
    ("POST /v1/echo", b'{"single": 1' + b"0" * 39 + b"}", "1000"),
    ("POST /v1/echo", b'{"color": 1.5}', '"1.5" is not an integer'),
    ("POST /v1/echo", b'{"color": true}', "true is not a value of bookstore.v1.Color."),
    ("POST /v1/echo", b'{"color": 99999999999}', "Failed to parse color field"),
    ("POST /v1/echo", b'{"any": {"@type": "x/no.such.Type"}}', 'The type "x/no.such.Type" of "any" is unknown.'),
    (
        "POST /v1/echo",
        b'{"any": {"@type": "x/google.protobuf.StringValue"}}',
        '"value" is missing in "any", which is a google.protobuf.StringValue.',
    ),
    (
        "POST /v1/echo",
        b'{"any": {"@type": "type.googleapis.com/bookstore.v1.Everything", "color": true}}',
        "true is not a value of bookstore.v1.Color.",
    ),
    (
        "POST /v1/echo",
        b'{"any": {"@type": "type.googleapis.com/google.protobuf.Duration", "value": "1_0s"}}',
        '"1_0s" is not a duration',
    ),
    ("POST /v1/echo", b'{"nothing": 1}', 'Message type "bookstore.v1.Everything" has no field named "nothing"'),
    ("POST /v1/echo", b'{"data": "AAAAA"}', '"data" is not Base64.'),
    ("POST /v1/echo", b'{"inner": ""}', "Expected a JSON object for bookstore.v1.Inner."),
    ("POST /v1/echo", b'{"inners": [{}, []]}', "Expected a JSON object for bookstore.v1.Inner."),
    ("POST /v1/echo", b'{"inner": {"number": "1_0"}}', '"1_0" is not a number, for "number".'),
    ("POST /v1/echo", '{"number": "\u0661"}'.encode(), '"\\u0661" is not a number, for "number".'),
    ("POST /v1/echo", b'{"maybe": "1_0"}', '"1_0" is not a number'),
    ("POST /v1/echo", b'{"counts": {"a": "1_0"}}', '"1_0" is not a number, for "counts".'),
    ("POST /v1/echo", b'{"numbered": {"1": "a", "01": "b"}}', '"01" and "1" are the same key of "numbered".'),
    ("POST /v1/echo", b'{"numbered": {"0": "a", "-0": "b"}}', '"-0" and "0" are the same key of "numbered".'),
    ("POST /v1/echo", b'{"numbered": {"x": "a"}}', '"x" is not a number, for a key of "numbered".'),
    ("POST /v1/echo", b'{"numbered": {"' + b"0" * 5000 + b'": "a"}}', '"0000'),
    ("POST /v1/echo", b'{"fraction": "inf"}', '"inf" is not a number, for "fraction".'),
    ("GET /v1/echo?number=1_0", b"", '"1_0" is not a number, for "number".'),
    ("GET /v1/echo?number=+1", b"", '" 1" is not a number, for "number".'),
    ("GET /v1/echo?number=", b"", '"" is not a number, for "number".'),
    ("GET /v1/echo?color=BLUE", b"", '"BLUE" is not a value of bookstore.v1.Color.'),
    ("POST /v1/numbers", b"{}", 'Expected an array for "numbers".'),
    ("POST /v1/numbers", b"[true]", 'Expected an integer for "numbers".'),
    ("POST /v1/echo", b'{"text": 1.5}', 'Expected a string for "text".'),
    ("POST /v1/echo", b'{"data": {}}', 'Expected a string for "data".'),
    ("POST /v1/echo", b'{"number": []}', 'Expected an integer for "number".'),
    ("POST /v1/echo", b'{"fraction": {}}', 'Expected a number for "fraction".'),
    ("POST /v1/echo", b'{"single": [null]}', 'Expected a number for "single".'),
    ("POST /v1/echo", b'{"maybe": []}', 'Expected an integer for "maybe".'),
    ("POST /v1/echo", b'{"counts": []}', 'Expected an object for "counts".'),
    ("POST /v1/echo", b'{"counts": {"a": null}}', 'Expected an integer for "counts".'),
    ("POST /v1/echo", b'{"object": 1}', 'Expected an object for "object".'),
    ("POST /v1/echo", b'{"any": 1}', 'Expected an object for "any".'),
    ("POST /v1/echo", b'{"any": {"a": 1}}', 'Expected a string for "@type" in "any".'),
    ("POST /v1/echo", b'{"inner": ' * 500 + b"{}" + b"}" * 500, ""),
    ("POST /v1/echo", b'{"value": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "The JSON is nested too deeply."),
    ("POST /v1/echo", b'{"value": ' + b"[" * 300 + b"]" * 300 + b"}", ""),
    ("POST /v1/echo", b"[" * 1_000_000, "The JSON is nested too deeply."),
]


@pytest.mark.parametrize(("line", "body", "why"), REFUSED, ids=range(len(REFUSED)))
def test_a_request_that_is_no_message_is_refused_with_the_reason(line, body, why):
    with pytest.raises(InvalidRequest) as refused:
        read(line, body)
    assert str(refused.value).startswith(why)
    assert len(str(refused.value)) <= 301


def test_null_is_no_request_of_a_single_value():
    with pytest.raises(InvalidRequest) as refused:
        JsonChecker().check(None, message("google.protobuf.Int64Value").DESCRIPTOR)
    assert str(refused.value) == 'Expected an integer for "google.protobuf.Int64Value".'


def test_what_is_unknown_is_ignored_where_that_is_asked():
    assert as_dict(read("GET /v1/echo?nothing=1&text=a", ignores_unknown_fields=True)) == {"text": "a"}
    assert as_dict(read("POST /v1/echo?nothing=1", b'{"nothing": 1, "text": "a"}', ignores_unknown_fields=True)) == {
        "text": "a"
    }
    assert as_dict(read("GET /v1/echo?key=1&text=a", ignored_parameters=frozenset(("key",)))) == {"text": "a"}
    with pytest.raises(InvalidRequest):
        read("GET /v1/echo?other=1&text=a", ignored_parameters=frozenset(("key",)))


def test_one_reader_reads_many_bodies():
    binding, segments = _found("POST", "/v1/sum")
    reader = RequestReader(binding, segments, None, STRICT, API)
    read = [binding.method.input.FromString(reader.read(b'{"number": %d}' % n)).number for n in (1, 0, 2)]
    assert read == [1, 0, 2]


def test_a_body_of_any_type_is_passed_as_it_is():
    binding, segments = _found("POST", "/v1/uploads/x")
    reader = RequestReader(binding, segments, None, STRICT, API)
    made = binding.method.input.FromString(reader.read(b"\xff\0", b"image/png"))
    assert (made.name, made.file.data, made.file.content_type) == ("x", b"\xff\0", "image/png")


@pytest.mark.parametrize(
    ("body", "at_once"),
    [
        (b'{"text": "%b"}' % (b"x" * 4000), True),
        (b'{"words": [%b]}' % b",".join([b'"ab"'] * 50), True),
        (b'{"value": [%b]}' % b",".join([b"[]"] * 100), False),
        (b'{"value": %b%b}' % (b"[" * 99, b"]" * 99), False),
        (b'{"numbers": [%b]}' % b",".join([b"1e2"] * 100), False),
    ],
    ids=range(5),
)
def test_the_cost_of_a_request_counts_its_values(body, at_once):
    binding, segments = _found("POST", "/v1/echo")
    assert (RequestReader(binding, segments, None, STRICT, API).cost(body) <= AT_ONCE) is at_once


def test_the_cost_of_a_request_counts_its_query():
    binding, segments = _found("GET", "/v1/echo")
    few, many = (b"&".join([b"numbers=1e2"] * count) for count in (5, 500))
    assert RequestReader(binding, segments, few, STRICT, API).cost(b"") <= AT_ONCE
    assert RequestReader(binding, segments, many, STRICT, API).cost(b"") > AT_ONCE


def test_a_body_of_any_type_is_cheap():
    binding, segments = _found("POST", "/v1/uploads/x")
    assert RequestReader(binding, segments, None, STRICT, API).cost(b"," * 60_000) <= AT_ONCE


FIELDS = st.sampled_from([field.name for field in message("Everything").DESCRIPTOR.fields] + ["@type", "value"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS | st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(FIELDS, JSON, max_size=4))
def test_any_json_is_a_message_or_refused(value):
    """Never any other error, which would be a 500."""
    with contextlib.suppress(InvalidRequest):
        read("POST /v1/echo", json.dumps(value).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=60) | st.text(max_size=40).map(str.encode), st.text(max_size=40))
def test_any_bytes_are_a_message_or_refused(body, query):
    for line in ("POST /v1/echo", f"GET /v1/echo?{query}", f"POST /v1/shelves?{query}"):
        with contextlib.suppress(InvalidRequest):
            read(line, body)


# responses


def write(line: str, made: Any, **format: Any) -> Any:
    method, _, path = line.partition(" ")
    binding, _ = _found(method, path)
    writer = ResponseWriter(binding, STRICT._replace(**format), API, MOST)
    return json.loads(writer.write(made.SerializeToString()))


def test_responses_are_the_json_of_proto3():
    made = message("Everything")(
        text="ä", long_number=2**53, fraction=float("inf"), data=b"\1\2", color=1, counts={"a": 1}, words=["a"]
    )
    made.at.seconds = 1
    made.maybe.value = 0
    made.any.Pack(message("Inner")(number=5))
    assert write("POST /v1/echo", made) == {
        "text": "ä",
        "longNumber": "9007199254740992",
        "fraction": "Infinity",
        "data": "AQI=",
        "color": "RED",
        "counts": {"a": 1},
        "words": ["a"],
        "at": "1970-01-01T00:00:01Z",
        "maybe": "0",
        "any": {"@type": "type.googleapis.com/bookstore.v1.Inner", "number": 5},
    }


def test_responses_are_written_as_it_is_asked():
    made = message("Shelf")(display_name="d")
    assert write("GET /v1/shelves/7", made) == {"displayName": "d"}
    assert write("GET /v1/shelves/7", made, preserve_proto_field_names=True) == {"display_name": "d"}
    assert write("GET /v1/shelves/7", made, always_print_primitive_fields=True) == {
        "name": "",
        "displayName": "d",
        "size": "0",
    }
    assert write("POST /v1/echo", message("Everything")(color=1), enums_as_integers=True) == {"color": 1}


def test_a_field_of_the_response_may_be_all_of_it():
    shelves = message("ListShelvesResponse")()
    assert write("GET /v1/shelves", shelves) == []
    shelves.shelves.add(name="n")
    assert write("GET /v1/shelves", shelves) == [{"name": "n"}]
    assert write("POST /v1/numbers", message("Everything")(text="t")) == []
    assert write("POST /v1/numbers", message("Everything")(numbers=[0, 1])) == [0, 1]


@pytest.mark.parametrize("content", [b"\xff\xff\xff", b"\x0a\x05ab", b"\x0a\x02\xff\xfe"])
def test_a_message_that_is_none_raises(content):
    binding, _ = _found("POST", "/v1/echo")
    with pytest.raises(InvalidResponse, match=r"a message is not a bookstore.v1.Everything"):
        ResponseWriter(binding, STRICT, API, MOST).write(content)


def test_a_message_without_json_raises():
    made = message("Everything")()
    made.any.type_url, made.any.value = "type.googleapis.com/no.such.Type", b"\1"
    binding, _ = _found("POST", "/v1/echo")
    with pytest.raises(InvalidResponse, match=r"a message cannot be written as JSON"):
        ResponseWriter(binding, STRICT, API, MOST).write(made.SerializeToString())


@given(st.binary(max_size=200))
def test_any_bytes_of_an_upstream_are_json_or_refused(content):
    binding, _ = _found("POST", "/v1/echo")
    with contextlib.suppress(InvalidResponse):
        json.loads(ResponseWriter(binding, STRICT, API, MOST).write(content))


def everything(**fields: Any) -> Any:
    return message("Everything")(**fields)


def packed(**fields: Any) -> Any:
    made = everything()
    made.any.Pack(message("Everything")(**fields))
    return made


@pytest.mark.parametrize(
    ("made", "format"),
    [
        (everything(text="x" * 50), {}),
        (everything(text='"' * 25), {}),  # escaped
        (everything(data=b"x" * 36), {}),
        (everything(numbers=[0] * 20), {}),
        (everything(counts={f"{n:02}": 0 for n in range(8)}), {}),
        (everything(object={"a": [None] * 5, "b": [[], {}, True]}), {}),
        (everything(inners=[{}] * 10), {}),
        (everything(inners=[{}] * 1), {"always_print_primitive_fields": True}),
        (packed(inners=[{}] * 1), {"always_print_primitive_fields": True}),
    ],
    ids=range(9),
)
def test_the_json_of_a_message_is_bounded(made, format):
    """Exactly `message_bytes` are written; one more is refused."""
    binding, _ = _found("POST", "/v1/echo")
    used, content = STRICT._replace(**format), made.SerializeToString()
    whole = ResponseWriter(binding, used, API, MOST).write(content)
    assert ResponseWriter(binding, used, API, len(whole)).write(content) == whole
    with pytest.raises(ResponseTooLarge, match=r"longer than the [0-9]+ bytes allowed"):
        ResponseWriter(binding, used, API, len(whole) - 1).write(content)


@pytest.mark.parametrize(
    ("line", "made", "format"),
    [
        ("POST /v1/echo", everything(inners=[{}] * 100_000), {"always_print_primitive_fields": True}),
        ("POST /v1/echo", packed(inners=[{}] * 100_000), {"always_print_primitive_fields": True}),
        ("POST /v1/echo", everything(object={"a": [None] * 300_000}), {}),
        ("POST /v1/numbers", everything(numbers=[0] * 600_000), {}),
        (
            "GET /v1/shelves",
            message("ListShelvesResponse")(shelves=[{}] * 50_000),
            {"always_print_primitive_fields": True, "preserve_proto_field_names": True},
        ),
    ],
    ids=["defaults", "any", "struct", "field", "names"],
)
def test_json_that_is_too_long_is_refused_before_it_is_made(line, made, format, monkeypatch):
    method, _, path = line.partition(" ")
    binding, _ = _found(method, path)
    monkeypatch.delattr(json_format, "MessageToDict")
    with pytest.raises(ResponseTooLarge):
        ResponseWriter(binding, STRICT._replace(**format), API, MOST).write(made.SerializeToString())


FLAGS = st.fixed_dictionaries(
    {
        name: st.booleans()
        for name in ("preserve_proto_field_names", "always_print_primitive_fields", "enums_as_integers")
    }
)


@pytest.mark.parametrize(
    ("made", "format", "least", "most"),
    [
        (everything(text="x" * 3900), {}, 3900, AT_ONCE),
        (everything(numbers=[0] * 1000), {}, AT_ONCE + 1, PIECE),
        (everything(inners=[{}] * 40), {}, 0, AT_ONCE),
        (everything(inners=[{}] * 40), {"always_print_primitive_fields": True}, AT_ONCE + 1, PIECE),
        (everything(inners=[{}] * 2000), {"always_print_primitive_fields": True}, PIECE + 1, PIECE + 1),
        (everything(text="x" * 60_000), {}, 60_000, PIECE),
        (everything(numbers=[0] * 100_000), {}, PIECE + 1, MOST),
    ],
    ids=range(7),
)
def test_the_cost_of_a_response_counts_its_values(made, format, least, most):
    binding, _ = _found("POST", "/v1/echo")
    writer = ResponseWriter(binding, STRICT._replace(**format), API, MOST)
    assert least <= writer.cost(made.SerializeToString()) <= most


@pytest.mark.parametrize("size", [10, 100_000])
def test_short_and_long_messages_have_the_same_limit(size):
    made = everything(text="x" * size, inners=[{}] * 10)
    binding, _ = _found("POST", "/v1/echo")
    used, content = STRICT._replace(always_print_primitive_fields=True), made.SerializeToString()
    whole = ResponseWriter(binding, used, API, MOST).write(content)
    assert ResponseWriter(binding, used, API, len(whole)).write(content) == whole
    with pytest.raises(ResponseTooLarge):
        ResponseWriter(binding, used, API, len(whole) - 1).write(content)


def check_limit(path: str, content: bytes, format: dict[str, bool]) -> None:
    binding, _ = _found("POST", path)
    used = STRICT._replace(**format)
    with contextlib.suppress(InvalidResponse):
        whole = ResponseWriter(binding, used, API, MOST).write(content)
        try:
            again = ResponseWriter(binding, used, API, len(whole)).write(content)
        except ResponseTooLarge:
            pytest.fail(f"{len(whole)} bytes of JSON are taken for more")
        assert again == whole


@given(st.dictionaries(FIELDS, JSON, max_size=4).map(json.dumps), FLAGS)
def test_json_within_the_limit_is_never_taken_for_longer(value, format):
    with contextlib.suppress(InvalidRequest):
        content = read("POST /v1/echo", value.encode("utf-8", "surrogatepass"), ignores_unknown_fields=True)
        for path in ("/v1/echo", "/v1/numbers"):
            check_limit(path, content.SerializeToString(), format)


@given(st.binary(max_size=200), FLAGS)
def test_any_bytes_within_the_limit_are_never_taken_for_longer(content, format):
    check_limit("/v1/echo", content, format)


@given(st.binary(max_size=100))
def test_details_that_cannot_be_read_do_no_harm(content):
    json.dumps(status_details(b64encode(content), STRICT, API))
    status_details(content, STRICT, API)
