"""JSON projection: what the paths say is kept as it was written, and what is no strict JSON is refused."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.projection import Projection
from fastgw.http.json.strict import parse_json
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
    st.tuples(STEPS, st.sampled_from("abc")) | st.tuples(st.sampled_from("abc")), st.sampled_from("acé"), max_size=4
)


def projected(value: Any, allow: Any, deny: Any, rename: Any) -> Any:
    """Return the projection of a value, plainly; `...`: nothing is left of it. Paths begin at the value."""
    if allow == [] or () in deny:
        return ...
    if allow is not None and () in allow:
        allow = None
    if not isinstance(value, dict | list):
        return value if allow is None else ...
    kept = []
    for name, inner in value.items() if isinstance(value, dict) else (("*", each) for each in value):
        rest = [[path[1:] for path in paths or () if path[0] in (name, "*")] for paths in (allow, deny)]
        renamed = {path[1:]: new for path, new in rename.items() if path[0] == "*" and path[1:]}
        renamed |= {path[1:]: new for path, new in rename.items() if path[0] == name and path[1:]}
        chosen = projected(inner, None if allow is None else rest[0], rest[1], renamed)
        prunes = isinstance(value, dict) and allow is not None and () not in rest[0]
        if chosen is not ... and not (prunes and chosen in ({}, [])):
            kept.append((name, chosen))
    if isinstance(value, list):
        return ... if allow is not None and all(path[0] != "*" for path in allow) else [each for _, each in kept]
    rank = {path[0]: at for at, path in enumerate(rename) if len(path) == 1}
    made: dict[str, Any] = {}
    ranks: dict[str, int] = {}
    for name, inner in kept:
        final, of_name = rename.get((name,), name), rank.get(name, -1)
        if final not in made or of_name > ranks[final]:
            made[final], ranks[final] = inner, of_name
    return made


@settings(max_examples=300, deadline=None)
@given(VALUES, PATHS, PATHS, RENAMES, st.booleans(), st.sampled_from([None, 1]), st.randoms(use_true_random=False))
def test_what_is_kept_is_what_the_paths_say(
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
        try:
            read = parse_json(each)
        except InvalidJson as error:
            with pytest.raises(InvalidJson, match=str(error)):
                projection.apply(each)
            continue
        expected = projected(read, allow or None, deny, rename)
        if expected is ...:
            expected = {} if isinstance(read, dict) else [] if isinstance(read, list) else None
        assert parse_json(projection.apply(each)) == expected


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
        assert projection.apply(padded) == text
    for projection in (Projection([("a",)]), Projection([("*",)]), Projection([("a", "*")], [("b",)])):
        assert projection.apply(padded) == b"null"


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


def test_of_members_that_get_the_same_name_that_of_the_last_renaming_stays() -> None:
    renames = Projection((), (), {("a",): "x", ("b",): "x", ("c",): "y"})
    assert renames.apply(b'{"a":1,"b":2,"n":0}') == b'{"x":2,"n":0}'
    assert renames.apply(b'{"b":2,"n":0,"a":1,"x":3}') == b'{"x":2,"n":0}'
    assert renames.apply(b'{"x":3,"y":{},"n":0,"a":1,"c":4,"b":2}') == b'{"n":0,"y":4,"x":2}'
    assert renames.apply(b'{"x":3,"y":5}') == b'{"x":3,"y":5}'
    kept = Projection([("x",), ("a", "z")], (), {("a",): "x"})
    assert kept.apply(b'{"a":{"b":1},"x":2}') == b'{"x":2}'  # nothing is left of the renamed one


def test_escaped_names_are_those_that_they_stand_for_and_stay_as_they_were_written() -> None:
    assert Projection([("*", "a")]).apply(b'[{"\\u0061":1,"b":2}]') == b'[{"\\u0061":1}]'
    assert Projection((), [("\\\u00e9",)]).apply(b'{"\\\\\\u00e9":1,"\\\\u00e9":2}') == b'{"\\\\u00e9":2}'
    renames = Projection((), (), {("a",): 'b"', ("c",): "d"})
    assert renames.apply(b'{"\\u0061":1,"\\u0062\\"":2,"\\u0064":3}') == b'{"b\\"":1,"\\u0064":3}'


def test_a_star_may_be_a_name_like_any_other() -> None:
    text = b'{"*":{"a":1,"b":2},"a":{"a":3},"l":[{"a":4}]}'
    assert Projection([("*", "a"), ("l", "*")], each=None).apply(text) == b'{"*":{"a":1}}'
    assert Projection((), [("*", "a")], {("a",): "*"}, each=None).apply(text) == b'{"*":{"a":3},"l":[{"a":4}]}'
