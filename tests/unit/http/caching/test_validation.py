"""Validation: conditions for the upstream, what a 304 changes, and the conditions and ranges of clients."""

import pytest

from fastgw.http.byte_ranges import ByteRange
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.storing import RequestIdentity as Identity
from fastgw.http.caching.storing import StorePolicy, Times, Unstorable, decide_storing_for
from fastgw.http.caching.validation import find_part, freshen, is_unchanged_for, make_conditions, not_modified_lines
from tests.support.table import for_each
from tests.unit.http.caching.heads import DATE, EARLIER, LATER, NOW, request, response

POLICY = StorePolicy()
TIMES = Times(NOW, NOW)


def store(*lines: bytes, status: int = 200, identity: Identity = Identity.NONE) -> StoredHead:
    made = decide_storing_for(identity, False, response(*lines, status=status), POLICY, TIMES)
    assert isinstance(made, StoredHead), made
    return made


def validated(
    stored: StoredHead,
    *of_304: bytes,
    identity: Identity = Identity.NONE,
    cookies: bool = False,
    policy: StorePolicy = POLICY,
    now: float = NOW,
) -> StoredHead | Unstorable:
    """What is stored after a 304 with these headers. `identity`, `cookies`: of the request."""
    return freshen(stored, response(*of_304, status=304), policy, Times(now, now), identity, cookies)


FRESH = b"Cache-Control: max-age=60"
TAGGED = store(FRESH, b'ETag: "a"', b"Last-Modified: " + EARLIER, b"Date: " + DATE)


def test_both_validators_are_sent() -> None:
    assert make_conditions(TAGGED) == [(b"If-None-Match", b'"a"'), (b"If-Modified-Since", EARLIER)]
    assert make_conditions(store(FRESH)) == []


@pytest.mark.parametrize(
    ("of_304", "changed"),
    [
        ((), b'X: 1\r\nContent-Type: text/a\r\nETag: "a"\r\n'),
        ((b"X: 2", b"x: 3"), b'Content-Type: text/a\r\nETag: "a"\r\nX: 2\r\nx: 3\r\n'),
        ((b"Content-Type: text/b", b"Content-Length: 9"), b'X: 1\r\nContent-Type: text/a\r\nETag: "a"\r\n'),
        ((b"Content-Encoding: gzip", b"Set-Cookie: a=b"), b'X: 1\r\nContent-Type: text/a\r\nETag: "a"\r\n'),
        ((b'ETag: W/"a"',), b'X: 1\r\nContent-Type: text/a\r\nETag: "a"\r\n'),
        ((b"Connection: Y", b"Y: 1", b"Keep-Alive: 2"), b'X: 1\r\nContent-Type: text/a\r\nETag: "a"\r\n'),
    ],
)
def test_fields_of_a_304_replace_the_stored_ones(of_304: tuple[bytes, ...], changed: bytes) -> None:
    stored = store(FRESH, b"X: 1", b"Content-Type: text/a", b'ETag: "a"')
    made = validated(stored, *of_304, now=NOW + 100)
    assert isinstance(made, StoredHead)
    assert made.lines == b"Cache-Control: max-age=60\r\n%bDate: %b\r\n" % (changed, LATER)  # it has none itself
    assert (made.status, made.stored_date, made.initial_age) == (200, NOW + 100, 0)


STRONG, WEAK, CODED = (b'ETag: "a"',), (b'ETag: W/"a"',), (b'ETag: W/"a"', b"Content-Encoding: gzip")
DATED, LATER_DATED = b"Last-Modified: " + EARLIER, b"Last-Modified: " + DATE


@for_each(
    ("stored", "of_304", "kept"),
    [
        (STRONG, STRONG, STRONG),
        (STRONG, WEAK, STRONG),
        (STRONG, (), STRONG),
        (STRONG, (b'ETag: "b"',), None),
        (STRONG, (b'ETag: W/"b"',), None),
        (STRONG, (DATED,), None),
        (WEAK, WEAK, WEAK),
        (WEAK, STRONG, None),
        (CODED, STRONG, WEAK),  # of the file that was compressed on its way
        (CODED, (b'ETag: "b"',), None),
        ((*STRONG, DATED), (*STRONG, LATER_DATED), (*STRONG, LATER_DATED)),
        ((*STRONG, DATED), (*WEAK, LATER_DATED), (*STRONG, DATED)),
        ((*WEAK, DATED), (*WEAK, LATER_DATED), (*WEAK, DATED)),
        ((*CODED, DATED), (*STRONG, LATER_DATED), (*WEAK, DATED)),
        ((*STRONG, DATED), (DATED,), (*STRONG, DATED)),
        ((*STRONG, DATED), (LATER_DATED,), None),
        ((DATED,), (DATED,), (DATED,)),
        ((DATED,), (), (DATED,)),
        ((DATED,), (LATER_DATED,), None),
        ((DATED,), (DATED, *STRONG), None),
        ((DATED,), WEAK, None),
        ((DATED, b"ETag: a"), (DATED, b"ETag: b"), (DATED, b"ETag: a")),  # no entity tags
        ((), (), ()),
        ((), STRONG, None),
    ],
)
def test_a_304_is_about_the_response_with_its_validators_which_keeps_them(
    stored: tuple[bytes, ...], of_304: tuple[bytes, ...], kept: tuple[bytes, ...] | None
) -> None:
    """RFC 9111 section 4.3.4. Otherwise the old body gets the validator of another, by which clients join both."""
    made = validated(store(FRESH, *stored), *of_304)
    if kept is None:
        assert made is Unstorable.OTHER_VALIDATOR
        return
    assert isinstance(made, StoredHead)
    expected = store(FRESH, *kept)
    assert (made.etag, made.last_modified) == (expected.etag, expected.last_modified)
    for name in ("ETag", "Last-Modified"):
        assert made.fields.get_all(name.encode()) == expected.fields.get_all(name.encode())


def test_freshness_of_a_304_counts_from_then_on() -> None:
    made = validated(TAGGED, b"Cache-Control: max-age=5", b"Age: 3")
    assert isinstance(made, StoredHead)
    assert (made.lifetime, made.initial_age) == (5, 3)


@pytest.mark.parametrize(
    ("of_304", "reason"),
    [
        ((b'ETag: "b"',), Unstorable.OTHER_VALIDATOR),
        ((b"Cache-Control: no-store",), Unstorable.NO_STORE),
        ((b"Cache-Control: private, max-age=60",), Unstorable.PRIVATE),
        ((b"Vary: *",), Unstorable.VARY),
    ],
)
def test_after_some_304_the_stored_response_is_not_used_again(of_304: tuple[bytes, ...], reason: Unstorable) -> None:
    assert validated(TAGGED, *of_304) is reason


def test_what_was_stored_as_public_for_one_client_is_not_kept_when_it_no_longer_is() -> None:
    stored = store(FRESH + b", public", b'ETag: "a"', identity=Identity.CONSUMER)
    assert validated(stored, FRESH) is Unstorable.AUTHORIZATION
    assert isinstance(validated(TAGGED, FRESH), StoredHead)


@pytest.mark.parametrize(
    ("identity", "cookies", "of_304", "reason"),
    [
        (Identity.AUTHORIZATION, False, FRESH, Unstorable.AUTHORIZATION),
        (Identity.CONSUMER, False, FRESH, Unstorable.AUTHORIZATION),
        (Identity.CONSUMER, False, FRESH + b", must-revalidate", Unstorable.AUTHORIZATION),
        (Identity.NONE, True, b"X: 1", Unstorable.COOKIE),
        (Identity.AUTHORIZATION, False, FRESH + b", public", None),
        (Identity.AUTHORIZATION, False, FRESH + b", must-revalidate", None),
        (Identity.CONSUMER, False, b"Cache-Control: s-maxage=60", None),
        (Identity.NONE, True, FRESH, None),
        (Identity.NONE, True, b"Cache-Control: no-cache", None),
    ],
)
def test_a_304_to_a_client_with_credentials_changes_nothing_for_others(
    identity: Identity, cookies: bool, of_304: bytes, reason: Unstorable | None
) -> None:
    """RFC 9111 section 3.5: it is judged like a whole response, though the stored one was made for nobody."""
    made = validated(TAGGED, of_304, identity=identity, cookies=cookies)
    if reason is not None:
        assert made is reason
    else:
        assert isinstance(made, StoredHead)
        assert (made.identity, made.cookies) == (identity, cookies)


def test_a_304_to_a_client_with_cookies_needs_no_freshness_that_the_settings_state() -> None:
    policy = StorePolicy(override_ttl=60)
    assert isinstance(validated(TAGGED, b"X: 1", cookies=True, policy=policy), StoredHead)


@for_each(
    ("lines", "unchanged"),
    [
        ((b'If-None-Match: "a"',), True),
        ((b'If-None-Match: W/"a"',), True),
        ((b'If-None-Match: "b", "a"',), True),
        ((b"If-None-Match: *",), True),
        ((b'If-None-Match: "b"',), False),
        ((b"If-None-Match: a",), False),
        ((b'If-None-Match: "b"', b"If-Modified-Since: " + LATER), False),
        ((b'If-None-Match: "a"', b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT"), True),
        ((b"If-Modified-Since: " + EARLIER,), True),
        ((b"If-Modified-Since: " + LATER,), True),
        ((b"If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT",), False),
        ((b"If-Modified-Since: yesterday",), False),
        ((), False),
    ],
)
def test_conditions_of_clients(lines: tuple[bytes, ...], unchanged: bool) -> None:
    assert is_unchanged_for(request(*lines), TAGGED, NOW) is unchanged


@pytest.mark.parametrize(("since", "unchanged"), [(DATE, True), (LATER, True), (EARLIER, False)])
def test_without_last_modified_a_response_is_as_old_as_its_date(since: bytes, unchanged: bool) -> None:
    stored = store(FRESH, b"Date: " + DATE)
    assert is_unchanged_for(request(b"If-Modified-Since: " + since), stored, NOW + 50) is unchanged


def test_only_a_200_can_be_unchanged() -> None:
    assert not is_unchanged_for(request(b'If-None-Match: "a"'), store(FRESH, b'ETag: "a"', status=404), NOW)


def test_a_304_has_the_fields_that_do_not_describe_the_content() -> None:
    common = (
        FRESH,
        b"Content-Type: text/a",
        b"Content-Location: /b",
        b"Vary: a",
        b"X: 1",
        b"Last-Modified: " + EARLIER,
        b"Date: " + DATE,
    )
    lines = not_modified_lines(store(*common, b'ETag: "a"')).replace(b"Content-Type: text/a\r\n", b"")  # not sent
    assert lines == (
        b'Cache-Control: max-age=60\r\nContent-Location: /b\r\nVary: a\r\nX: 1\r\nDate: %b\r\nETag: "a"\r\n' % DATE
    )
    assert b"Last-Modified: " in not_modified_lines(store(*common))


@for_each(
    ("lines", "part"),
    [
        ((b"Range: bytes=0-1",), (ByteRange(0, 1),)),
        ((b"Range: bytes=1-",), (ByteRange(1, 9),)),
        ((b"Range: bytes=-1",), (ByteRange(9, 9),)),
        ((b"Range: bytes=10-",), ()),
        ((b"Range: bytes=0-1,3-4",), None),
        ((b"Range: lines=0-1",), None),
        ((b"Range: bytes=0-1", b'If-Range: "a"'), (ByteRange(0, 1),)),
        ((b"Range: bytes=0-1", b'If-Range: W/"a"'), None),
        ((b"Range: bytes=0-1", b'If-Range: "b"'), None),
        ((b"Range: bytes=0-1", b"If-Range: " + EARLIER), (ByteRange(0, 1),)),
        ((b"Range: bytes=0-1", b"If-Range: " + LATER), None),
        ((), None),
    ],
)
def test_ranges_of_a_stored_response(lines: tuple[bytes, ...], part: tuple[ByteRange, ...] | None) -> None:
    assert find_part(request(*lines), TAGGED, 10, NOW) == part


def test_a_date_that_is_as_young_as_the_response_is_too_weak_for_a_range() -> None:
    young = store(FRESH, b"Last-Modified: " + DATE, b"Date: " + DATE)
    assert find_part(request(b"Range: bytes=0-1", b"If-Range: " + DATE), young, 10, NOW) is None


def test_only_a_200_has_ranges() -> None:
    assert find_part(request(b"Range: bytes=0-1"), store(FRESH, status=404), 10, NOW) is None
