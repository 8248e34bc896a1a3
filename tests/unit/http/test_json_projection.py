"""json_projection: the reference and the compiled module keep the same, and refuse the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.json_projection import CostlyJson, Projection, count_separators
from fastgw.http.strict_json import InvalidJson
from tests.support.table import for_each

NAMES = st.sampled_from(["a", "b", "c", "é", "*", ""])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from([1.5, -0.25, 1e20]) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=12,
)
STEPS = st.sampled_from(["a", "b", "c", "é", "*"])
PATHS = st.lists(st.lists(STEPS, min_size=1, max_size=3).map(tuple), max_size=3)
RENAMES = st.dictionaries(
    st.tuples(STEPS, st.sampled_from("ab")) | st.tuples(st.sampled_from("ab")), st.just("c"), max_size=1
)


def outcome(project: Callable[[bytes], bytes | None], text: bytes) -> bytes | str | None:
    try:
        return project(text)
    except InvalidJson:
        return "invalid"


@settings(max_examples=80, deadline=None)
@given(VALUES, PATHS, PATHS, RENAMES, st.booleans(), st.sampled_from([None, 1]), st.randoms(use_true_random=False))
def test_the_compiled_module_agrees_with_the_reference(
    value: Any,
    allow: list[tuple[str, ...]],
    deny: list[tuple[str, ...]],
    rename: dict[tuple[str, ...], str],
    ascii_only: bool,
    indent: int | None,
    chance: random.Random,
) -> None:
    projection = Projection(allow, deny, rename)
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode(errors="surrogatepass")
    broken = bytearray(text)
    for _ in range(chance.randrange(1, 4)):
        broken[chance.randrange(len(broken))] = chance.choice(b'{}[],:"\\ue01-. \x00\x1f\x80\xc3\xff')
    for each in (text, bytes(broken), b" " + text + b"\n"):
        expected = outcome(projection._project, each)
        compiled = projection._compiled.project(each)
        assert compiled is None or compiled == expected
        assert outcome(projection.apply, each) == expected
    if json.loads(text) == value and ascii_only and b"\\" not in text and not rename:
        assert projection._compiled.project(text) is not None  # the ordinary case is not left to the reference


@for_each(
    "text",
    [
        b"",
        b" ",
        b"{",
        b"[",
        b"{]",
        b"[}",
        b"[1,]",
        b'{"a":1,}',
        b"{,}",
        b"[,]",
        b'{"a"}',
        b'{"a":}',
        b"{a:1}",
        b"{} {}",
        b"[1 2]",
        b'["\\x"]',
        b'["\\u12"]',
        b'["\\u12G4"]',
        b'["\\ud800"]',
        b'["\\ud800\\u0041"]',
        b'["\\udc00"]',
        b'["\\ud83d\\ude0"]',
        b'["\x1f"]',
        b'["\x00"]',
        b'["\xc3"]',
        b'["\xc0\xaf"]',
        b'["\xed\xa0\x80"]',
        b'["\xf5\x80\x80\x80"]',
        b'"text',
        b"1 2",
        b"tru",
        b"1e400",
        b"[01]",
        b"[1.]",
        b"[.5]",
        b"[+1]",
        b"[-]",
        b"[1e]",
        b"[1e+]",
        b"[1e400]",
        b"[1" + b"0" * 400 + b"]",
        b"[0x1]",
        b"[NaN]",
        b"[Infinity]",
        b"[nul]",
        b"[truE]",
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b'[{"a":1,"b":2,"a":3}]',
        b'{"a":1,"\\u0061":2}',
        b"[" * 300 + b"]" * 300,
        b"\xef\xbb\xbf{}",
        b"{}\x00",
        b"\x0b{}",
        b"{} // no",
        b"[1]]",
        b'["a',
        b"{" + b",".join(b'"%d":1' % (number % 39) for number in range(40)) + b"}",
    ],
)
@for_each("paths", [(), (("a",),)])
def test_what_is_no_strict_json_is_refused_also_where_nothing_is_kept(text: bytes, paths: tuple[Any, ...]) -> None:
    for projection in (Projection(paths), Projection((), paths), Projection((), (("*",),))):
        with pytest.raises(InvalidJson):
            projection.apply(text)


@pytest.mark.parametrize(
    "text",
    [
        b'["\\ud83d\\ude00","\xf0\x9f\x98\x80","\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9"]',
        b"[-0,0.0,1E5,1e-99,12345678901234567890123,1.10]",
        b"[true,false,null,{},[]]",
        b"[" * 150 + b"]" * 150,
        b"[" * 254 + b"]" * 254,
        b"{" + b",".join(b'"%d":{"a":[%d]}' % (number, number) for number in range(300)) + b"}",
        b'{"":{"":""}}',
        b'["\x7f 12345678\xc3\xa9"]',
    ],
)
def test_what_is_kept_stays_byte_by_byte(text: bytes) -> None:
    assert Projection().apply(b" " + text + b"\r\n\t ") == text
    assert Projection((), (("none", "x"),)).apply(text) == text  # opened and spliced


@pytest.mark.parametrize("text", [b"null", b"true", b"-1.10", b"12345678901234567890123", b'"a, {[ \\u00e9"', b'""'])
def test_a_text_without_paths_stays_and_is_null_if_something_else_is_allowed(text: bytes) -> None:
    padded = b" " + text + b"\r\n"
    for projection in (Projection(), Projection((), [("*",), ("a", "b")]), Projection((), (), {("a",): "b"})):
        assert projection.apply(padded) == projection._project(padded) == text
    for projection in (Projection([("a",)]), Projection([("*",)]), Projection([("a", "*")], [("b",)])):
        assert projection.apply(padded) == projection._project(padded) == b"null"


def test_paths_below_a_star_hold_for_named_members_too() -> None:
    text = b'{"a":{"x":1,"y":2,"z":3},"b":{"x":4,"y":5}}'
    assert Projection([("*", "x"), ("a", "y")]).apply(text) == b'{"a":{"x":1,"y":2},"b":{"x":4}}'
    assert Projection((), [("*", "x"), ("a", "y")]).apply(text) == b'{"a":{"z":3},"b":{"y":5}}'
    assert (
        Projection((), (), {("*", "x"): "n", ("a", "z"): "m"}).apply(text)
        == b'{"a":{"n":1,"y":2,"m":3},"b":{"n":4,"y":5}}'
    )


def test_a_renamed_member_replaces_the_one_with_its_new_name() -> None:
    renames = Projection((), (), {("a",): "b"})
    assert renames.apply(b'{"a":1,"b":2,"c":3}') == b'{"b":1,"c":3}'
    assert renames.apply(b'{"b":2,"a":1}') == b'{"b":1}'
    assert renames.apply(b'{"b":2}') == b'{"b":2}'
    assert Projection((), (), {("a",): "b", ("b",): "a"}).apply(b'{"a":1,"b":2}') == b'{"b":1,"a":2}'


def test_escaped_names_are_read_by_the_reference_in_texts_with_few_objects_only() -> None:
    projection = Projection([("*", "a")])
    assert projection.apply(b'[{"\\u0061":1,"b":2}]') == b'[{"a":1}]'
    text = b"[" + b",".join([b'{"\\u0061":1}'] * 400) + b"]"
    with pytest.raises(CostlyJson):
        projection.apply(b'{"\\u0061":[' + b"1," * 3200 + b"1]}")
    with pytest.raises(CostlyJson, match="more than 400 objects"):
        projection.apply(text)
    assert projection.apply(text, 500) == text.replace(b"\\u0061", b"a")


NEAR_SEPARATORS = b",[{;kKZ\x5a\x5c\x7a\x7c\xac\xdb\xfb\x0c\x2b\x2d\x00\xff"
"""Commas and opening brackets, and bytes that differ from them in one bit, or by one."""


@given(st.lists(st.sampled_from(NEAR_SEPARATORS), max_size=40).map(bytes))
def test_the_compiled_module_counts_the_same_separators(text: bytes) -> None:
    assert count_separators(text) == sum(text.count(each) for each in (b",", b"[", b"{"))
