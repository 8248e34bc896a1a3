"""Cache directives: the grammar of Cache-Control, and of targeted fields."""

from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.caching.directives import (
    LONGEST,
    RequestDirectives,
    ResponseDirectives,
    parse_request,
    parse_response,
    split_directives,
)
from tests.support.table import for_each
from tests.unit.http.caching.heads import request, response


def stated(directives: object) -> dict[str, object]:
    """The values of all fields of directives."""
    return {name: getattr(directives, name) for name in dir(directives) if not name.startswith("_")}


@for_each(
    ("line", "found"),
    [
        (b"", {}),
        (b"no-store", {b"no-store": [None]}),
        (b" , No-Store ,,", {b"no-store": [None]}),
        (b"max-age=1, MAX-AGE=2", {b"max-age": [b"1", b"2"]}),
        (b'max-age="60"', {b"max-age": [b"60"]}),
        (b'a="max-age=1, b", c', {b"a": [b"max-age=1, b"], b"c": [None]}),
        (b'a="\\"b, no-store", c', {b"a": [b'"b, no-store'], b"c": [None]}),
        # An unterminated string hides nothing that follows.
        (b'a="b, no-store', {b"a": [b'="b'], b"no-store": [None]}),
        (b'a"b, no-store"', {b"a": [b'"b'], b"no-store": [b'"']}),
        (b"max-age =60", {b"max-age": [b" =60"]}),
        (b"max-age= 60", {b"max-age": [b"= 60"]}),
        (b"max-age='60'", {b"max-age": [b"'60'"]}),
        (b"max-age=60 s", {b"max-age": [b"=60 s"]}),
        (b"max-age=", {b"max-age": [b"="]}),
        (b'max-age=""', {b"max-age": [b""]}),
        (b"=60, \xff, no-store", {b"no-store": [None]}),
        (b"private;x=1", {b"private": [b";x=1"]}),
    ],
)
def test_members_of_cache_control(line: bytes, found: dict[bytes, list[bytes | None]]) -> None:
    assert split_directives([line]) == found


def test_a_line_that_is_too_long_allows_nothing() -> None:
    assert split_directives([b"x=" + b"1" * 5000, b"max-age=60"]) == {b"no-store": [None], b"max-age": [b"60"]}


@settings(max_examples=100)
@given(st.lists(st.text("=\",\\ a1-'", max_size=12).map(str.encode), max_size=4))
def test_no_store_is_found_behind_anything_but_an_open_string(junk: list[bytes]) -> None:
    """A member `no-store` counts whatever is before it, if the quotes before it are in pairs."""
    line = b",".join([*(part.replace(b'"', b"") for part in junk), b"no-store"])
    assert b"no-store" in split_directives([line])


@for_each(
    ("lines", "max_age"),
    [
        ((b"Cache-Control: max-age=60",), 60),
        ((b"Cache-Control: max-age=0060",), 60),
        ((b"Cache-Control: max-age=99999999999",), LONGEST),
        ((b"Cache-Control: max-age=%b" % (b"9" * 40),), LONGEST),
        ((b"Cache-Control: max-age=%b" % (b"0" * 40),), 0),
        ((b"Cache-Control: max-age=-1",), 0),
        ((b"Cache-Control: max-age=60.0",), 0),
        ((b"Cache-Control: max-age=60a",), 0),
        ((b"Cache-Control: max-age",), 0),
        ((b"Cache-Control: max-age= 60",), 0),
        ((b"Cache-Control: max-age=60, max-age=60",), 60),
        ((b"Cache-Control: max-age=60, max-age=1",), 0),  # contradictory
        ((b"Cache-Control: max-age=60", b"Cache-Control: max-age=1"), 0),
        ((b"Cache-Control: public",), None),
    ],
)
def test_freshness_that_is_invalid_or_contradictory_is_none(lines: tuple[bytes, ...], max_age: int | None) -> None:
    assert parse_response(response(*lines)).max_age == max_age


@for_each(
    ("line", "wanted"),
    [
        (b"no-cache", ResponseDirectives(no_cache=True)),
        (b'no-cache="A, b"', ResponseDirectives(no_cache_fields=(b"a", b"b"))),
        (b"no-cache=a", ResponseDirectives(no_cache_fields=(b"a",))),
        (b'no-cache="a", no-cache', ResponseDirectives(no_cache=True)),
        (b'no-cache=""', ResponseDirectives(no_cache=True)),
        (b'no-cache="a b"', ResponseDirectives(no_cache=True)),
        (b'private="a"', ResponseDirectives(private=True)),
        (b"private=?0", ResponseDirectives(private=True)),
        (b"S-MaxAge=5", ResponseDirectives(s_maxage=5)),
        (b"stale-while-revalidate=5, stale-if-error=x", ResponseDirectives(stale_while_revalidate=5, stale_if_error=0)),
        (b"must-revalidate, proxy-revalidate", ResponseDirectives(must_revalidate=True, proxy_revalidate=True)),
        (b"must-understand, public", ResponseDirectives(must_understand=True, public=True)),
    ],
)
def test_directives_of_a_response(line: bytes, wanted: ResponseDirectives) -> None:
    assert stated(parse_response(response(b"Cache-Control: " + line))) == stated(wanted)


@for_each(
    ("lines", "wanted"),
    [
        ((b"CDN-Cache-Control: max-age=60",), ResponseDirectives(max_age=60, targeted=True)),
        ((b"CDN-Cache-Control: no-store",), ResponseDirectives(no_store=True, targeted=True)),
        ((b"CDN-Cache-Control: max-age=60;a=b, foobar",), ResponseDirectives(max_age=60, targeted=True)),
        ((b'CDN-Cache-Control: no-cache="a, B"',), ResponseDirectives(no_cache_fields=(b"a", b"b"), targeted=True)),
        ((b"CDN-Cache-Control: private=?0",), ResponseDirectives(targeted=True)),
        ((b"CDN-Cache-Control: max-age=99999999999",), ResponseDirectives(max_age=LONGEST, targeted=True)),
        # The most specific field wins, whatever their order.
        (
            (b"CDN-Cache-Control: max-age=60", b"fastgw-Cache-Control: max-age=7"),
            ResponseDirectives(max_age=7, targeted=True),
        ),
        # What is not wholly valid is ignored.
        ((b"CDN-Cache-Control: max-age=60, &&&",), ResponseDirectives(max_age=1)),
        ((b'CDN-Cache-Control: max-age="60"',), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: max-age=60.5",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: max-age=-60",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: max-age",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: no-store=1",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: private=(a b)",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: Max-Age=60",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control:",), ResponseDirectives(max_age=1)),
        ((b"CDN-Cache-Control: max-age=60, x=%b" % (b"1" * 5000),), ResponseDirectives(max_age=1)),
        (
            (b"fastgw-Cache-Control: %", b"CDN-Cache-Control: max-age=60"),
            ResponseDirectives(max_age=60, targeted=True),
        ),
    ],
)
def test_a_targeted_field_replaces_cache_control_if_it_is_valid(
    lines: tuple[bytes, ...], wanted: ResponseDirectives
) -> None:
    assert stated(parse_response(response(b"Cache-Control: max-age=1", *lines))) == stated(wanted)


def test_targeted_fields_that_are_not_obeyed_are_not_read() -> None:
    head = response(b"Cache-Control: no-store", b"CDN-Cache-Control: max-age=60")
    assert stated(parse_response(head, ())) == stated(ResponseDirectives(no_store=True))


@for_each(
    ("lines", "wanted"),
    [
        ((), RequestDirectives()),
        ((b"Cache-Control: no-cache",), RequestDirectives(no_cache=True)),
        ((b"Pragma: no-cache",), RequestDirectives(no_cache=True)),
        ((b"Pragma: foo",), RequestDirectives()),
        ((b"Pragma: no-cache", b"Cache-Control: foo"), RequestDirectives()),
        ((b"Cache-Control: no-store, only-if-cached",), RequestDirectives(no_store=True, only_if_cached=True)),
        ((b"Cache-Control: max-age=0",), RequestDirectives(max_age=0)),
        ((b"Cache-Control: max-age=x",), RequestDirectives(max_age=0)),
        ((b"Cache-Control: min-fresh=5",), RequestDirectives(min_fresh=5)),
        ((b"Cache-Control: min-fresh=x",), RequestDirectives(min_fresh=LONGEST)),
        ((b"Cache-Control: max-stale",), RequestDirectives(max_stale=LONGEST)),
        ((b"Cache-Control: max-stale=5",), RequestDirectives(max_stale=5)),
        ((b"Cache-Control: max-stale=x",), RequestDirectives(max_stale=0)),
        ((b"Cache-Control: stale-if-error=5",), RequestDirectives(stale_if_error=5)),
    ],
)
def test_directives_of_a_request(lines: tuple[bytes, ...], wanted: RequestDirectives) -> None:
    assert stated(parse_request(request(*lines))) == stated(wanted)
