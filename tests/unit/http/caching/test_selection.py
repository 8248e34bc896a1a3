"""Selection of a stored response: keys, variants, query rules, No-Vary-Search, and what a change invalidates."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.caching.cache_status import Forwarded, forwarded_status, hit_status
from fastgw.http.caching.invalidation import find_invalidated, invalidates
from fastgw.http.caching.key_text import swapped_key
from fastgw.http.caching.keys import (
    NO_QUERY,
    QueryRule,
    filter_query,
    primary_key,
    resource_text,
    search_key,
)
from fastgw.http.caching.no_vary_search import SearchVariance, normalize_query, parse_search_variance
from fastgw.http.caching.vary import find_varying, join_varying, normalized_value, variant_key
from tests.support.table import for_each
from tests.unit.http.caching.heads import request, response

WITHOUT_TRACKING = QueryRule((b"utm_*", b"fbclid"), keep=False)
ONLY_PAGE = QueryRule((b"page",), keep=True)


@for_each(
    ("query", "rule", "kept"),
    [
        (None, WITHOUT_TRACKING, None),
        (b"a=1&b", None, b"a=1&b"),
        (b"", None, b""),
        (b"", WITHOUT_TRACKING, None),
        (b"a=1&utm_x=2&b", WITHOUT_TRACKING, b"a=1&b"),
        (b"%75tm_x=2&fbclid=1", WITHOUT_TRACKING, None),
        (b"utm%5Fx=2&utm+x=1", WITHOUT_TRACKING, b"utm+x=1"),
        (b"utm_x=1;evil=2&a=1", WITHOUT_TRACKING, b"a=1"),  # nothing of it reaches the upstream
        (b"a=1;utm_x=2", WITHOUT_TRACKING, b"a=1;utm_x=2"),  # all of it is in the key
        (b"xutm_=1&UTM_a=2", WITHOUT_TRACKING, b"xutm_=1&UTM_a=2"),
        (b"utm_%0a=1", WITHOUT_TRACKING, None),
        (b"a=1&page=2&page=3&pages", ONLY_PAGE, b"page=2&page=3"),
        (b"a=1", NO_QUERY, None),
    ],
)
def test_the_query_of_the_key_is_the_query_of_the_upstream(
    query: bytes | None, rule: QueryRule | None, kept: bytes | None
) -> None:
    assert filter_query(query, rule) == kept


@for_each(
    ("pattern", "matching", "others"),
    [
        (b"*_id", [b"_id", b"ad_id", b"a_id_id", b"\n_id"], [b"id", b"ad_ids", b"ad_ID"]),
        (b"a*b", [b"ab", b"abb", b"a1b2b"], [b"a", b"b", b"abc", b"xab"]),
        (b"aba*aba", [b"abaaba", b"aba1aba"], [b"aba", b"ababa"]),
        (b"a*b*", [b"ab", b"axbx"], [b"a", b"ax", b"ba"]),
        (b"*a*b*c*", [b"abc", b"1a2b3c4"], [b"acb", b"ab"]),
        (b"*ab*b*", [b"abb", b"aab1b"], [b"ab", b"bab"]),
        (b"a**b", [b"ab", b"a1b"], [b"a", b"abc"]),
        (b"*", [b"", b"a", b"\r\n"], []),
        (b"**", [b"", b"a"], []),
        (b"a.*", [b"a.", b"a.b"], [b"ab"]),
        (b"a", [b"a"], [b"", b"aa", b"a\n"]),
    ],
)
def test_a_star_stands_for_any_characters_wherever_it_is(
    pattern: bytes, matching: list[bytes], others: list[bytes]
) -> None:
    only = QueryRule((b"none", pattern), keep=True)
    assert [name for name in [*matching, *others] if only.keeps(name)] == matching
    all_but = QueryRule((b"none", pattern), keep=False)
    assert [name for name in [*matching, *others] if all_but.keeps(name)] == others


def matches(pattern: bytes, name: bytes) -> bool:
    """Whether a name matches, by trying each length that a star may stand for."""
    if not pattern:
        return not name
    if pattern[:1] == b"*":
        return any(matches(pattern[1:], name[at:]) for at in range(len(name) + 1))
    return pattern[:1] == name[:1] and matches(pattern[1:], name[1:])


@given(
    st.lists(st.text("ab*.", max_size=8).map(str.encode), max_size=3),
    st.text("ab.\n", max_size=10).map(str.encode),
)
def test_names_with_stars_match_as_when_each_length_is_tried(patterns: list[bytes], name: bytes) -> None:
    expected = any(matches(pattern, name) for pattern in patterns)
    assert QueryRule(patterns, keep=True).keeps(name) is expected


def test_many_stars_do_not_try_all_ways_to_divide_a_long_name() -> None:
    """That would not end: there are more of them than 10 to the 60th."""
    rule = QueryRule((b"*a" * 20 + b"*ab*b", b"*" + b"a*" * 20 + b"b"), keep=True)
    assert not rule.keeps(b"a" * 10_000)
    assert rule.keeps(b"a" * 10_000 + b"b")


def key(**parts: object) -> bytes:
    query = parts.pop("query", None)
    return primary_key(resource(**parts), query)  # type: ignore[arg-type]


def resource(**parts: object) -> bytes:
    usual = {"endpoint": b"https:443", "authority": b"a.test", "path": b"/a", "sent_path": None, "upstream": b"u"}
    return resource_text(**{**usual, "parts": (), **parts})  # type: ignore[arg-type]


def test_the_key_without_a_query_and_the_search_key_tell_each_other() -> None:
    primary = primary_key(resource(), None)
    assert primary != search_key(resource()) == swapped_key(primary)
    assert primary == swapped_key(search_key(resource()))


def test_every_part_of_a_key_counts_and_none_passes_for_another() -> None:
    keys = [
        key(),
        key(endpoint=b"http:443"),
        key(endpoint=b"https:8443"),
        key(authority=b"b.test"),
        key(authority=b"a.tes", path=b"t/a"),
        key(path=b"/A"),
        key(path=b"/b", sent_path=b"/a"),
        key(path=b"/a", sent_path=b"/b"),
        key(path=b"/a", sent_path=b""),
        key(query=b""),
        key(query=b"/a"),
        key(upstream=b"v"),
        key(parts=[None]),
        key(parts=[b""]),
        key(parts=[b"", b""]),
        key(parts=[b"1:x"]),
        key(parts=[b"x", b"y"]),
        key(parts=[b"x1:y"]),
    ]
    keys.append(search_key(resource()))
    assert len(set(keys)) == len(keys)
    assert {len(each) for each in keys} == {16}
    assert key() == key()


@pytest.mark.parametrize(
    ("lines", "names"),
    [
        ((), ()),
        ((b"Vary: B, a", b"Vary: , A"), (b"a", b"b")),
        ((b"Vary:",), ()),
        ((b"Vary: *",), None),
        ((b"Vary: a, *",), None),
        ((b"Vary: a", b"Vary: *"), None),
        ((b"Vary: a b",), None),
    ],
)
def test_the_names_of_vary(lines: tuple[bytes, ...], names: tuple[bytes, ...] | None) -> None:
    assert find_varying(response(*lines).values(b"vary")) == names


def test_names_of_several_responses_are_joined_up_to_a_bound() -> None:
    assert join_varying((b"b",), (b"a", b"b")) == (b"a", b"b")
    assert join_varying([b"%d" % n for n in range(16)], (b"x",)) is None


@for_each(
    ("name", "lines", "others", "same"),
    [
        (b"foo", [b"1, 2"], [b"1", b"2"], True),
        (b"foo", [b"1,2"], [b" 1 ,\t2 "], True),
        (b"foo", [b"1,2"], [b"2,1"], False),
        (b"foo", [b"a"], [b"A"], False),
        (b"foo", [b'"a, b"'], [b'"a,b"'], False),
        (b"foo", [], [b""], False),
        (b"accept-language", [b"en, de"], [b"eN,  De"], True),
        (b"accept-language", [b"en, de"], [b"de, en"], False),  # the order may mean a preference
        (b"accept-encoding", [b"gzip, br;q=0.50"], [b"BR; q=0.5", b"x-gzip;q=1.0,"], True),
        (b"accept-encoding", [b"gzip, br"], [b"gzip, br;q=0"], False),
        (b"accept-encoding", [b"gzip"], [b"gzip, br;q=2"], False),  # what is invalid may mean something to a server
        (b"accept-encoding", [b"gzip"], [b"gzip, lzma"], False),
        (b"accept-encoding", [], [b""], False),
        (b"user-agent", [b"a, b"], [b"a,b"], False),
        (b"cookie", [b"a=1"], [b"a=2"], False),
    ],
)
def test_values_that_select_the_same_variant(name: bytes, lines: list[bytes], others: list[bytes], same: bool) -> None:
    assert (normalized_value(name, lines) == normalized_value(name, others)) is same


def test_variants_are_told_apart_by_each_field() -> None:
    names = (b"a", b"b")
    asked = [(), (b"a:",), (b"a: 1",), (b"b: 1",), (b"a: 1", b"b: 1"), (b"a: 1, 1",), (b"a: 1:b=1",)]
    keys = {variant_key(b"k" * 16, names, request(*lines)) for lines in asked}
    assert len(keys) == len(asked)
    assert variant_key(b"j" * 16, names, request()) not in keys
    assert variant_key(b"k" * 16, names, request(b"a: 1", b"c: 5")) in keys


@for_each(
    ("value", "rule"),
    [
        (b"", None),
        (b"key-order", SearchVariance(any_order=True)),
        (b"params", SearchVariance(ignores_others=True)),
        (b'params=("a" "b")', SearchVariance(names=(b"a", b"b"))),
        (b'params, except=("a")', SearchVariance(ignores_others=True, names=(b"a",))),
        (b'key-order, params=("a+b" "c%20d")', SearchVariance(any_order=True, names=(b"a b", b"c d"))),
        (b"params=?0", None),
        (b"key-order=?0", None),
        (b'params=("a" b)', None),
        (b"params=a", None),
        (b'except=("a")', None),
        (b'params=("a"), except=("b")', None),
        (b"key-order=1", None),
        (b"&", None),
        (b'params=("%b")' % (b"a" * 3000), None),
    ],
)
def test_rules_of_no_vary_search(value: bytes, rule: SearchVariance | None) -> None:
    assert parse_search_variance([value] if value else []) == rule


@for_each(
    ("rule", "one", "other", "same"),
    [
        (SearchVariance(any_order=True), b"a=1&b=2", b"b=2&a=1", True),
        (SearchVariance(any_order=True), b"a=1&a=2", b"a=2&a=1", False),
        (SearchVariance(), b"a=1&b=2", b"b=2&a=1", False),
        (SearchVariance(names=(b"a",)), b"a=1&b=2", b"b=2", True),
        (SearchVariance(names=(b"a",)), b"%61=1&b=2", b"b=2&a", True),
        (SearchVariance(names=(b"a",)), b"a=1", None, True),
        (SearchVariance(names=(b"a",)), b"A=1", None, False),
        (SearchVariance(ignores_others=True), b"x=1", None, True),
        (SearchVariance(ignores_others=True, names=(b"a",)), b"x=1&a=1", b"a=1&y", True),
        (SearchVariance(ignores_others=True, names=(b"a",)), b"a=1", b"a=2", False),
        (SearchVariance(any_order=True), b"a=1%26b=2", b"a=1&b=2", False),
        (SearchVariance(any_order=True), b"a=+", b"a=%20", True),
        (SearchVariance(any_order=True), b"a", b"a=", True),
    ],
)
def test_queries_that_make_no_difference(
    rule: SearchVariance, one: bytes | None, other: bytes | None, same: bool
) -> None:
    assert (normalize_query(one, rule) == normalize_query(other, rule)) is same


@settings(max_examples=100)
@given(st.text("ab=&%+;1", max_size=12), st.text("ab=&%+;1", max_size=12))
def test_without_a_rule_that_applies_different_parameters_are_different(one: str, other: str) -> None:
    """A rule about a parameter that neither query has merges only queries that a form's parser reads as equal."""
    from urllib.parse import parse_qsl

    rule = SearchVariance(names=(b"absent",))
    same = normalize_query(one.encode(), rule) == normalize_query(other.encode(), rule)
    assert same is (parse_qsl(one, keep_blank_values=True) == parse_qsl(other, keep_blank_values=True))


@for_each(
    ("method", "status", "wanted"),
    [
        (b"GET", 200, False),
        (b"HEAD", 200, False),
        (b"OPTIONS", 200, False),
        (b"POST", 200, True),
        (b"PUT", 204, True),
        (b"DELETE", 303, True),
        (b"M-SEARCH", 200, True),
        (b"get", 200, True),
        (b"POST", 400, False),
        (b"POST", 502, False),
    ],
)
def test_which_responses_invalidate(method: bytes, status: int, wanted: bool) -> None:
    assert invalidates(method, status) is wanted


@for_each(
    ("line", "found"),
    [
        (b"Location: /b?c", [(b"/b", b"c")]),
        (b"Location: b", [(b"/x/b", None)]),
        (b"Location: //a.test/b", [(b"/b", None)]),
        (b"Location: https://A.test/b", [(b"/b", None)]),
        (b"Content-Location: https://a.test", [(b"/", None)]),
        (b"Location: https://a.test:443/b", [(b"/b", None)]),
        (b"Location: https://a.test:9443/b?c", [(b"/b", b"c")]),
        (b"Content-Location: https://a.test:9443/b", [(b"/b", None)]),
        (b"Location: https://b.test:9443/b", []),
        (b"Location: https://a.test:80/b", []),
        (b"Location: https://b.test/b", []),
        (b"Location: http://a.test/b", []),
        (b"Location: https://a.test:8443/b", []),
        (b"Location: https://a.test.evil.test/b", []),
        (b"Location: https://a.test@evil.test/b", []),
        (b"Location: https://[::/b", []),
        (b"Location: https://a.test:99999/b", []),
        (b"Location: /" + b"a" * 9000, []),
    ],
)
def test_urls_of_the_same_origin_are_invalidated_too(line: bytes, found: list[tuple[bytes, bytes | None]]) -> None:
    """The URL is one without the port of the listener, 9443, which absolute references have."""
    assert list(find_invalidated(b"https", b"a.test", b"/x/y?z", response(line, status=201), 9443)) == found


def test_a_port_that_is_not_the_listeners_is_one_of_another_origin() -> None:
    """Behind a mapped port, clients see another one."""
    for line, found in ((b"Location: http://a.test:81/b", [(b"/b", None)]), (b"Location: http://a.test/b", [])):
        assert list(find_invalidated(b"http", b"a.test:81", b"/", response(line, status=201), 8080)) == found


def test_cache_status() -> None:
    assert hit_status(5) == b"fastgw; hit; ttl=5"
    assert hit_status(-5, detail=b"stale-if-error") == b"fastgw; hit; ttl=-5; detail=stale-if-error"
    assert forwarded_status(Forwarded.URI_MISS) == b"fastgw; fwd=uri-miss"
    whole = forwarded_status(Forwarded.STALE, upstream_status=304, stored=True, collapsed=True, ttl=60, detail=b"a")
    assert whole == b"fastgw; fwd=stale; fwd-status=304; ttl=60; stored; collapsed; detail=a"
