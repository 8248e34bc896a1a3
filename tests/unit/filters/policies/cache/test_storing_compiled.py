"""The compiled decision about storing, and the records it encodes, are those of the reference."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastgw.http.caching.records import StoredHead, VariantsRecord, encode_record
from fastgw.http.caching.storing import RequestIdentity, StorePolicy, Times, Unstorable, decide_storing_for
from fastgw.http.dates import format_date, parse_date
from fastgw.http.http1.serializer import end_to_end
from tests.unit.http.caching.heads import DATE, EARLIER, LATER, NOW, response

DIRECTIVES = (
    b"no-store|private|public|max-age=60|max-age=0|max-age=x|s-maxage=9|must-revalidate|proxy-revalidate|no-cache|"
    b'no-cache="a"|must-understand|stale-while-revalidate=9|stale-if-error=300|max-age=99999999999|foo=bar'
).split(b"|")
LINES = (
    *(b"Date: " + DATE, b"Date: " + EARLIER, b"Date: " + LATER, b"Date: mon, 21 sep 2026 14:13:20 gmt"),
    *(b"Date: yesterday", b"Date: Mon Sep 21 14:13:20 2026", b"Age: 7", b"Age: 7, 9", b"Age: x", b"Age: 9999999999"),
    *(b"Age: 07", b"Age: 0", b"Age:", b"Age: 999999999"),
    *(b'ETag: "a"', b'ETag: W/"a"', b"ETag: a", b'ETag: "a", "b"', b'ETag: ""', b'etag: "\xff"'),
    *(b"Last-Modified: " + EARLIER, b"Last-Modified: 0", b"Last-Modified: Thu, 29 Feb 1900 00:00:00 GMT"),
    *(b"Last-Modified: Thu, 01 Jan 0001 00:00:00 GMT", b"Expires: " + LATER, b"Set-Cookie: a=b"),
    *(b"Vary: Accept, Cookie", b"Vary: *", b"Vary:", b"Vary: a b", b"CDN-Cache-Control: max-age=9"),
    *(b"Connection: X-A", b"X-A: b", b"Keep-Alive: 3", b"Trailer: a", b"X-B: " + b"c" * 300),
)
POLICIES = st.builds(
    StorePolicy,
    ttl=st.sampled_from([None, 9]),
    ttl_by_status=st.sampled_from([{}, {404: 70_000, 503: 5}]),
    override_ttl=st.sampled_from([None, 0, 2**31]),
    stale_while_revalidate=st.sampled_from([0, 300]),
    stale_if_error=st.sampled_from([0, 70_000]),
    stale_when_unreachable=st.sampled_from([0, 3600]),
    store_set_cookie=st.booleans(),
    content_types=st.sampled_from([frozenset(), frozenset((b"text/*",))]),
    storage_ttl=st.sampled_from([None, 30]),
    ignores_cache_control=st.booleans(),
)


def compiled() -> Any:
    return import_module("fastgw.filters.policies.cache._storing")


@given(
    st.lists(st.lists(st.sampled_from(DIRECTIVES), min_size=1, max_size=3), max_size=2),
    st.lists(st.sampled_from(LINES), max_size=5),
    st.sampled_from([200, 204, 206, 302, 304, 404, 503, 599]),
    POLICIES,
    st.sampled_from(RequestIdentity),
    st.booleans(),
    st.sampled_from([0.0, 0.4, 0.5, 1.5, 2.5, -3.0]),
)
def test_what_it_decides_is_what_the_reference_decides(
    stated: list[list[bytes]],
    lines: list[bytes],
    status: int,
    policy: StorePolicy,
    identity: RequestIdentity,
    cookies: bool,
    waited: float,
) -> None:
    head = response(*(b"Cache-Control: " + b", ".join(each) for each in stated), *lines, status=status)
    times = Times(NOW + 0.25 - waited, NOW + 0.25)
    found = compiled().decide(head, policy, identity, cookies, *times)
    if found is not None:
        judged = decide_storing_for(identity, cookies, head, policy, times, end_to_end)
        assert found == (encode_record(judged) if isinstance(judged, StoredHead) else judged)


@pytest.mark.parametrize(
    ("lines", "decided"),
    [
        ((b"Cache-Control: max-age=60", b"Date: " + DATE, b'ETag: "a"', b"Last-Modified: " + EARLIER), None),
        ((b"Cache-Control: public, s-maxage=9", b"Vary: Accept-Encoding"), None),
        ((b"Cache-Control: private",), Unstorable.PRIVATE),
        ((b"Cache-Control: no-store, no-cache",), Unstorable.NO_STORE),
        ((b"Cache-Control: max-age=60", b"Set-Cookie: a=b"), Unstorable.SET_COOKIE),
        ((), Unstorable.NO_FRESHNESS),
    ],
)
def test_usual_responses_are_ordinary(lines: tuple[bytes, ...], decided: Unstorable | None) -> None:
    found = compiled().decide(response(*lines), StorePolicy(), 0, False, NOW, NOW)
    assert (None if type(found) is bytes else found) is decided
    assert found is not None


@given(
    st.integers(min_value=-62135596800, max_value=253402300799).map(format_date)
    | st.from_regex(rb"[A-Z][a-z]{2}, [0-3][0-9] [A-Z][a-z]{2} [0-9]{4} [0-2][0-9]:[0-6][0-9]:[0-6][0-9] GMT")
    | st.binary(min_size=29, max_size=29)
)
@example(b"Sat, 29 Feb 2020 23:59:60 GMT")
@example(b"Sat, 29 Feb 2021 00:00:00 GMT")
@example(b"Sat, 31 Dec 9999 23:59:59 gmt")
@example(b"Sat, 01 Jan 0000 00:00:00 GMT")
def test_it_reads_dates_as_the_reference(text: bytes) -> None:
    if len(text) == 29:
        assert compiled().fixdate(text) == parse_date(text, NOW)


@given(st.lists(st.sampled_from([b"accept", b"a" * 200, b"x-a"]), max_size=16), st.binary(min_size=16, max_size=16))
def test_the_record_of_a_resource_with_one_variant(names: list[bytes], key: bytes) -> None:
    assert compiled().variant(tuple(names), key) == encode_record(VariantsRecord(tuple(names), (key,)))
