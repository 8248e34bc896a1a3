"""Strings of JSON that the firewall searches: the compiled function reads any body as the reference does."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.filters.policies.waf import json_values
from tests.support import waf_texts
from tests.support.table import for_each

SIGNS = b"\"\\{}[]:=,; \t\r\n\x1e\0'/ab1-+.eE\x0c\x7f\x80\xff"
PIECES = st.sampled_from(
    [
        *(bytes((each,)) for each in SIGNS),
        *(b"\xef\xbb\xbf", b"\xef", b"\xbb", b"\xbf", b'{"', b'":"', b'","', b'"}', b'":{', b'":[', b"true", b"null"),
        *(
            b'\\"',
            b"\\\\",
            b"\\n",
            b"\\u0041",
            b"\\ud800",
            b"\\u00e9",
            b"\\u12",
            b"\\x",
            b"//",
            b"/*",
            b"<script>",
            b"' or 1=1",
        ),
    ]
)
HOSTILE = st.lists(PIECES, max_size=24).map(b"".join)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)
DOCUMENTS = st.builds(
    lambda value, is_ascii, indent, encoding: json.dumps(value, ensure_ascii=is_ascii, indent=indent).encode(
        encoding, "replace"
    ),
    VALUES,
    st.booleans(),
    st.sampled_from([None, 1]),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"]),
)


@given(HOSTILE)
@example(b"")
@example(b'"')
@example(b'"\\')
@example(b'"a\\\\')
@example(b'"a\\"')
@example(b'"a" \t\r\n: "b"')
@example(b'"a"\x0c:"b"')
@example(b'{"a":"b","c":["d",{"e":"f"},"g"],"h":{"i":1},"j":"k"}]}"l"')
@example(b'{"a":"b", c: "d", "e" = "f", g => "h"}')
@example(b"\xef\xbb\xbf{}")
@example(b'\xef"a"\xbb"b"\xbf{}')
@example(b'\xef\xbb"a"\xbf\xbf')
@example(b"{}\xef\xbb\xbf")
@example(b"\xef\xbb")
@example(b"\xef\xbb\xbf;")
def test_hostile_bodies_are_read_alike(body: bytes) -> None:
    assert json_values.json_values(body) == waf_texts.json_values(body)


@given(DOCUMENTS, st.integers(0, 400))
def test_documents_and_beginnings_of_them_are_read_alike(document: bytes, length: int) -> None:
    for body in (document, document[:length], document[length:], b"\x1e".join((document, document))):
        assert json_values.json_values(body) == waf_texts.json_values(body)


@for_each("piece", [b'"', b'""', b'"\\', b"[", b"]", b"{", b'{"a":', b'"a":"b",', b'[":', b"x"])
def test_long_bodies_are_read_alike(piece: bytes) -> None:
    assert json_values.json_values(piece * 3000) == waf_texts.json_values(piece * 3000)


def test_strings_have_the_name_of_their_member() -> None:
    body = b'{"a": "b", "c\\n": ["d", {"e": "f\\u00e9"}, "g"], h: "i", "j": {"k": 1}, "l": "m"}'
    assert json_values.json_values(body) == (
        [
            *((b"a", b""), (b"a", b"b"), (b"c\n", b""), (b"c\n", b"d"), (b"e", b""), (b"e", b"f\xc3\xa9")),
            *((b"c\n", b"g"), (b"", b"i"), (b"j", b""), (b"k", b""), (b"l", b""), (b"l", b"m")),
        ],
        True,
    )


def test_the_last_string_may_be_cut_off() -> None:
    for body, text in (
        (b'["ab', b"ab"),
        (b'["ab\\', b"ab"),
        (b'["a\\"', b'a"'),
        (b'["', b""),
        (b'["a\\u00', b"a\\u00"),
    ):
        assert json_values.json_values(body) == ([(b"", text)], False)


@pytest.mark.parametrize(
    "beside", [b"'a'", b"x", b";", b"=", b"\0", b"\\", b"{}\xef\xbb\xbf", b"\xef\xbb", b"\xef\xbb\xbfx"]
)
def test_anything_else_than_json_beside_the_strings_is_noticed(beside: bytes) -> None:
    assert json_values.json_values(beside) == ([], True)
    assert json_values.json_values(b'["a"] ' + beside + b'"b"')[1]


@pytest.mark.parametrize(
    "body", [b"", b"\xef\xbb\xbf", b'\xef\xbb\xbf\x1e{"a": [1.5e+3, -2E5, true, false, null]}\r\n']
)
def test_json_alone_has_nothing_beside_its_strings(body: bytes) -> None:
    assert not json_values.json_values(body)[1]
