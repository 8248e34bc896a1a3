"""JSON texts: values keep their bytes, and what is refused is what is no strict JSON."""

from __future__ import annotations

import json
import threading
from typing import Any

import orjson
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastgw.http.json.invalid import InvalidJson
from fastgw.http.json.texts import check_text, count_separators, elements_of, merge_objects, opened, value_at
from tests.support.table import for_each


@pytest.mark.parametrize(
    "text",
    [
        b"{}",
        b"[]",
        b' {"a": [1, {"b":\t"c"}]} ',
        b'"\\u00e9\\ud83d\\ude00"',
        '{"gr\u00f6\u00dfe":"\u20ac\U0001f600"}'.encode(),
        b"-0.5e+10",
        b"1.7976931348623157e308",
        b"1e-300",
        b"123456789012345678901234567890",
        b"true",
        b"null",
        b'{"a\\u0062":1,"b":2}',
    ],
)
def test_valid_texts_keep_their_bytes(text: bytes) -> None:
    assert check_text(text) == text.strip()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b'{"a"}',
        b'{"a":1,}',
        b"[1,]",
        b"[1 2]",
        b"01",
        b"1.",
        b".5",
        b"1e400",
        b"+1",
        b"NaN",
        b"tru",
        b'"\x01"',
        b'"\\x"',
        b'"\\ud800"',
        b'"\\ud800\\u0041"',
        b'"\\udc00"',
        b'"\xc0\xaf"',
        b'"\xed\xa0\x80"',
        b'"\xf4\x90\x80\x80"',
        b'"\xff"',
        b'"a',
        b'{"a":1,"a":2}',
        b'{"a":1,"\\u0061":2}',
        b'{"o":{"a":1,"b":1,"a":2}}',
        b'{"a":1}x',
        b"[" * 300 + b"]" * 300,
    ],
)
def test_invalid_texts_are_refused(text: bytes) -> None:
    with pytest.raises(InvalidJson):
        check_text(text)


def test_duplicates_among_many_names_are_found() -> None:
    names = [f"n{number}" for number in range(100)]
    check_text(json.dumps(dict.fromkeys(names, 1)).encode())
    with pytest.raises(InvalidJson):
        check_text(b"{" + b",".join(b'"%b":1' % name.encode() for name in (*names, "n42")) + b"}")


def test_names_that_repeat_themselves_have_different_hashes() -> None:
    """Also where names of several lengths have the same first and last bytes. Equal hashes would be equal names."""
    names = sorted({(piece * 24)[:length] for piece in ("a", "ab", "abc", "1212", "é") for length in range(1, 40)})
    text = json.dumps(dict.fromkeys(names, 1), ensure_ascii=False).encode()
    assert check_text(text) == text
    escaped = json.dumps(dict.fromkeys(names, 1)).encode()
    assert check_text(escaped) == escaped


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a", b"1.10"),
        ("b.c", b'{"d": [0, {"e":"\\u00e9"}]}'),
        ("b.c.d.1.e", b'"\\u00e9"'),
        ("b.c.d.0", b"0"),
        ("b.c.d.2", None),
        ("b.c.d.01.e", b'"\\u00e9"'),
        ("b.c.d.-1", None),
        ("x", None),
        ("a.b", None),
        ('q"\\', b"7"),
        ("0", b"8"),
    ],
)
def test_values_by_their_path(path: str, found: bytes | None) -> None:
    text = b' {"a" : 1.10 ,"b":{"c": {"d": [0, {"e":"\\u00e9"}]}}, "q\\"\\\\":7,"0":8} '
    assert value_at(text, tuple(path.split("."))) == found


def test_a_path_of_members_goes_into_no_array() -> None:
    assert value_at(b'{"a":[1]}', ("a", "0")) == b"1"
    assert value_at(b'{"a":[1]}', ("a", "0"), members_only=True) is None
    assert value_at(b" 7 ", ()) == b"7"


def test_elements() -> None:
    assert elements_of(b' [1, {"a":[2]} ,"x"]', 3) == [b"1", b'{"a":[2]}', b'"x"']
    assert elements_of(b"[ ]", 3) == []
    assert elements_of(b"[1,2,3,4]", 3) == [b"1", b"2", b"3"]
    assert elements_of(b'{"a":1}', 3) is None


def test_a_text_is_opened_to_its_members_or_elements() -> None:
    assert opened(b' { "a" : 1.10 ,"\\u00e9\\"\xc3\xa9":{"b": [ ]}} ') == {"a": b"1.10", 'é"é': b'{"b": [ ]}'}
    assert opened(b' [1, {"a":[2]} ,"x" ] ') == [b"1", b'{"a":[2]}', b'"x"']
    assert opened(b" { } ") == {}
    assert opened(b"[ ]") == []
    assert opened(b'"a"') == b'"a"'
    members: dict[str, Any] = {"a": b"1"}
    assert opened(members) is members


def test_later_members_replace_earlier_ones_in_their_position() -> None:
    texts = [b'{"a": 1.10, "b":2}', b"{}", b'{"c":3,"a":[ 1 ]}', b'{"\\u0063":4}']
    assert merge_objects(texts) == b'{"a":[ 1 ],"b":2,"c":4}'
    assert merge_objects([]) == b"{}"


def test_escaped_names_stay_as_they_were_written() -> None:
    name = b'\\u0041\\/\\\\\\"\\u001f\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\\u007f'
    made = merge_objects([b'{"%b":1}' % name, '{"A/\\\\\\"\\u001f\\b\\f\\n\\r\\t\u00e9\U0001f600\x7f":2}'.encode()])
    assert made == b'{"%b":2}' % name


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=12,
)
OBJECTS = st.lists(st.dictionaries(st.text('ab\u00e9"\\\x01', max_size=2), JSON, max_size=5), max_size=4)


@settings(max_examples=150, deadline=None)
@given(OBJECTS, st.booleans(), st.booleans())
def test_the_union_has_the_members_of_all(objects: list[dict[str, Any]], escaped: bool, spaced: bool) -> None:
    separators = (" , ", " : ") if spaced else (",", ":")
    texts = [json.dumps(each, ensure_ascii=escaped, separators=separators).encode(errors="ignore") for each in objects]
    texts = [text for text in texts if _is_valid(text)]
    expected: dict[str, Any] = {}
    for text in texts:
        expected |= json.loads(text)
    made = merge_objects(texts)
    assert list(json.loads(made).items()) == list(expected.items())


def _is_valid(text: bytes) -> bool:
    try:
        return check_text(text) == text.strip()
    except InvalidJson:
        return False


@settings(max_examples=300, deadline=None)
@given(JSON, st.integers(0, 60), st.binary(max_size=2))
def test_damaged_texts_are_judged_like_plain_parsers_do(value: Any, at: int, piece: bytes) -> None:
    text = json.dumps(value).encode()
    damaged = text[:at] + piece + text[at + 1 :]
    assert _is_valid(damaged) == _is_strict(damaged)


DIGITS = st.text("0123456789", min_size=1, max_size=4) | st.sampled_from(
    ["0", "1" * 199, "1" * 201, "1" * 308, "2" * 309]
)
NUMBERS = st.tuples(
    st.sampled_from(["", "-"]),
    DIGITS,
    st.just("") | DIGITS.map(".{}".format),
    st.just("") | st.tuples(st.sampled_from(["e", "E-", "e+"]), DIGITS | st.just("308")).map("".join),
).map("".join)


@settings(max_examples=500, deadline=None)
@given(NUMBERS)
@example("1.7976931348623157e308")
@example("1.7976931348623159e308")
@example("0.0000000001e317")
@example("0e99999999999999999999")
@example("1e-99999999999999999999")
@example("0." + "0" * 400 + "1e700")
@example("9" * 100_000)
@example("0." + "9" * 100_000)
def test_numbers_within_a_double_are_valid(number: str) -> None:
    assert _is_valid(number.encode()) == _is_strict(number.encode())


@for_each("levels", [(200, True), (254, True), (255, False), (300, False)])
def test_as_many_levels_are_valid_as_can_be_written(levels: tuple[int, bool]) -> None:
    count, valid = levels
    assert _is_valid(b"[" * count + b"]" * count) is valid
    assert _is_valid(b'{"a":' * count + b"1" + b"}" * count) is valid


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError
    return dict(pairs)


def _is_strict(text: bytes) -> bool:
    """Whether orjson reads a text, and no object in it has a name twice."""
    try:
        orjson.loads(text)
        json.loads(text, object_pairs_hook=_unique, parse_int=len)
    except ValueError:
        return False
    return True


def test_long_texts_are_processed_beside_other_threads() -> None:
    """While one thread works, another one gets the interpreter: it counts more than a few turns."""
    text = b"{" + b",".join(b'"\\u0061%d":1' % number for number in range(200_000)) + b"}"
    assert len(text) > 100_000
    done = threading.Event()

    made: list[bytes] = []

    def work() -> None:
        try:
            made.extend(merge_objects([check_text(text), b'{"a7":2}']) for _ in range(3))
        finally:
            done.set()

    thread = threading.Thread(target=work)
    thread.start()
    turns = 0
    while not done.is_set():
        turns += 1
    thread.join(60)
    assert turns > 10
    assert len(made) == 3


def test_long_texts_that_are_invalid_are_refused() -> None:
    text = b"[" + b",".join([b"1"] * 100_000) + b",]"
    with pytest.raises(InvalidJson):
        check_text(text)


NEAR_SEPARATORS = b",[{;kKZ\x5a\x5c\x7a\x7c\xac\xdb\xfb\x0c\x2b\x2d\x00\xff"
"""Commas and opening brackets, and bytes that differ from them in one bit, or by one."""


@given(st.lists(st.sampled_from(NEAR_SEPARATORS), max_size=40).map(bytes))
def test_separators_are_counted(text: bytes) -> None:
    assert count_separators(text) == sum(text.count(each) for each in (b",", b"[", b"{"))
