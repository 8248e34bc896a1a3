"""Storing: age and lifetime, what is stored, and why not."""

import pytest

from fastgw.http.caching.directives import LONGEST, RequestDirectives
from fastgw.http.caching.freshness import find_initial_age, parse_age
from fastgw.http.caching.records import StoredHead, VariantsRecord, decode_record, encode_record
from fastgw.http.caching.storing import StorePolicy, Times, Unstorable, decide_storing
from fastgw.http.messages import RequestHead, ResponseHead
from tests.support.table import for_each
from tests.unit.http.caching.heads import DATE, EARLIER, LATER, NOW, request, response

POLICY = StorePolicy(stale_when_unreachable=3600)
ASKED = request()


def decide(
    head: ResponseHead,
    policy: StorePolicy = POLICY,
    asked: RequestHead = ASKED,
    directives: RequestDirectives = RequestDirectives(),  # noqa: B008 (frozen)
    *,
    authenticated: bool = False,
    delay: float = 0.0,
) -> StoredHead | Unstorable:
    times = Times(NOW - delay, NOW)
    return decide_storing(asked, directives, head, policy, times, authenticated=authenticated)


@for_each(
    ("lines", "age"),
    [
        ((), 0),
        ((b"Age: 7",), 7),
        ((b"Age: 7, 0",), 7),
        ((b"Age: 0, 7",), 0),
        ((b"Age: 7", b"Age: 0"), 7),
        ((b"Age: 7;a=b",), 0),
        ((b"Age: 7.0",), 0),
        ((b"Age: -7",), 0),
        ((b"Age: abc",), 0),
        ((b"Age: 2147483649",), LONGEST),
        ((b"Age: %b" % (b"9" * 99),), LONGEST),
    ],
)
def test_age_is_the_first_member_of_the_first_line(lines: tuple[bytes, ...], age: int) -> None:
    assert parse_age(response(*lines)) == age


@pytest.mark.parametrize(
    ("lines", "delay", "age"),
    [
        ((), 0, 0),
        ((), 5, 5),  # the time that the answer took
        ((b"Age: 7",), 5, 12),
        ((b"Date: " + EARLIER,), 5, 100),  # apparent age
        ((b"Date: " + EARLIER, b"Age: 200"), 5, 205),
        ((b"Date: " + LATER,), 5, 5),  # the clock of the origin is fast
        ((b"Date: foo", b"Age: 3"), 0, 3),
        ((b"Age: 2147483648",), 5, LONGEST),
    ],
)
def test_initial_age(lines: tuple[bytes, ...], delay: float, age: int) -> None:
    assert find_initial_age(response(*lines), NOW - delay, NOW) == age


@for_each(
    ("lines", "lifetime"),
    [
        ((b"Cache-Control: max-age=60",), 60),
        ((b"Cache-Control: max-age=60, s-maxage=70",), 70),
        ((b"Cache-Control: max-age=60", b"Expires: " + EARLIER), 60),
        ((b"Expires: " + LATER,), 100),
        ((b"Expires: " + LATER, b"Date: " + DATE), 100),
        ((b"Expires: " + LATER, b"Date: foo"), 100),
        ((b"Expires: " + LATER, b"Expires: " + LATER), 100),
        ((b"CDN-Cache-Control: max-age=5", b"Cache-Control: max-age=60"), 5),
        ((b"Last-Modified: Sun, 20 Sep 2026 14:13:20 GMT", b"Date: " + DATE), 8640),
        ((b"Last-Modified: Sun, 20 Sep 2020 14:13:20 GMT",), 86_400),  # no more than a day
    ],
)
def test_lifetime_of_what_is_stored(lines: tuple[bytes, ...], lifetime: int) -> None:
    stored = decide(response(*lines))
    assert isinstance(stored, StoredHead)
    assert (stored.lifetime, stored.no_cache) == (lifetime, False)


@for_each(
    ("reason", "lines"),
    [
        (Unstorable.NO_FRESHNESS, ()),
        (Unstorable.NO_FRESHNESS, (b'ETag: "a"',)),
        (Unstorable.NO_FRESHNESS, (b"Cache-Control: public",)),
        (Unstorable.NO_FRESHNESS, (b"CDN-Cache-Control: public", b"Expires: " + LATER)),
        (Unstorable.STALE, (b"Cache-Control: max-age=0",)),
        (Unstorable.STALE, (b"Cache-Control: max-age=60", b"Age: 60")),
        (Unstorable.STALE, (b"Cache-Control: max-age=60", b"Date: " + EARLIER)),
        (Unstorable.STALE, (b"Cache-Control: no-cache",)),
        (Unstorable.STALE, (b"Cache-Control: no-cache, max-age=60",)),
        (Unstorable.STALE, (b"Expires: 0",)),
        (Unstorable.STALE, (b"Expires: " + DATE,)),
        (Unstorable.STALE, (b"Expires: " + EARLIER, b"Expires: " + LATER)),
        (Unstorable.STALE, (b"Expires: " + LATER, b"Date: Mon, 21 Sep 2026 14:15:10 GMT")),
        (Unstorable.STALE, (b"Expires: Mon, 21 Sep 2026 14:15:00 UTC",)),
        (Unstorable.NO_STORE, (b"Cache-Control: max-age=60, no-store",)),
        (Unstorable.NO_STORE, (b"CDN-Cache-Control: no-store", b"Cache-Control: max-age=60")),
        (Unstorable.PRIVATE, (b"Cache-Control: max-age=60, private",)),
        (Unstorable.PRIVATE, (b'Cache-Control: max-age=60, private="a"',)),
        (Unstorable.PRIVATE, (b"Cache-Control: private, must-understand, no-store, max-age=60",)),
        (Unstorable.SET_COOKIE, (b"Cache-Control: max-age=60", b"Set-Cookie: a=b")),
        (Unstorable.VARY, (b"Cache-Control: max-age=60", b"Vary: Accept, *")),
        (Unstorable.VARY, (b"Cache-Control: max-age=60", b"Vary:", b"Vary: , *")),
        (Unstorable.VARY, (b"Cache-Control: max-age=60", b"Vary: a b")),
        (Unstorable.VARY, (b"Cache-Control: max-age=60", b"Vary: " + b",".join(b"x%d" % n for n in range(17)))),
    ],
)
def test_what_is_not_stored(reason: Unstorable, lines: tuple[bytes, ...]) -> None:
    assert decide(response(*lines)) is reason


@for_each("status", [200, 203, 204, 299, 301, 302, 307, 400, 404, 410, 499, 500, 503, 599])
def test_every_final_status_is_stored_if_it_says_so(status: int) -> None:
    assert isinstance(decide(response(b"Cache-Control: max-age=60", status=status)), StoredHead)


@pytest.mark.parametrize("status", [206, 304])
def test_what_is_a_part_of_something_else_is_not(status: int) -> None:
    assert decide(response(b"Cache-Control: max-age=60", status=status)) is Unstorable.STATUS


@pytest.mark.parametrize(
    ("status", "line", "stored"),
    [
        (200, b"a", True),
        (201, b"a", False),
        (404, b"a", True),
        (503, b"a", False),
        (599, b"a", False),
        (599, b"public", True),
    ],
)
def test_the_heuristic_is_for_some_statuses(status: int, line: bytes, stored: bool) -> None:
    head = response(b"Last-Modified: " + EARLIER, b"Cache-Control: " + line, status=status)
    assert isinstance(decide(head), StoredHead) is stored


@pytest.mark.parametrize(("status", "stored"), [(200, True), (599, False)])
def test_must_understand_lifts_no_store_for_known_statuses(status: int, stored: bool) -> None:
    head = response(b"Cache-Control: max-age=60, no-store, must-understand", status=status)
    assert isinstance(decide(head), StoredHead) is stored


def test_only_a_get_is_stored_and_not_if_the_client_forbids_it() -> None:
    head = response(b"Cache-Control: max-age=60")
    assert decide(head, asked=request(method=b"HEAD")) is Unstorable.METHOD
    assert decide(head, asked=request(b"Content-Length: 0", method=b"POST")) is Unstorable.METHOD
    assert decide(head, directives=RequestDirectives(no_store=True)) is Unstorable.REQUEST_NO_STORE


@pytest.mark.parametrize(
    ("line", "with_credentials", "of_consumer"),
    [
        (b"max-age=60", False, False),
        (b"max-age=60, must-revalidate", True, False),
        (b"max-age=60, public", True, True),
        (b"s-maxage=60", True, True),
    ],
)
def test_who_asked_counts_unless_the_answer_says_that_it_does_not(
    line: bytes, with_credentials: bool, of_consumer: bool
) -> None:
    head = response(b"Cache-Control: " + line)
    basic = request(b"Authorization: Basic YTpi")
    assert isinstance(decide(head, asked=basic), StoredHead) is with_credentials
    assert isinstance(decide(head, authenticated=True), StoredHead) is of_consumer
    by_identity = StorePolicy(identity_in_key=True)
    assert isinstance(decide(head, by_identity, basic, authenticated=True), StoredHead)


def test_cookies_count_where_the_answer_states_no_freshness() -> None:
    cookies, heuristic = request(b"Cookie: a=b"), response(b"Last-Modified: " + EARLIER)
    assert decide(heuristic, asked=cookies) is Unstorable.COOKIE
    assert decide(response(), StorePolicy(ttl=60), cookies) is Unstorable.COOKIE
    assert isinstance(decide(heuristic, StorePolicy(cookies_in_key=True), cookies), StoredHead)
    assert isinstance(decide(response(b"Cache-Control: max-age=60"), asked=cookies), StoredHead)
    assert isinstance(decide(response(b"Last-Modified: " + EARLIER, b"Vary: Cookie"), asked=cookies), StoredHead)


def test_settings_state_a_lifetime_where_the_answer_does_not() -> None:
    policy = StorePolicy(ttl=60, ttl_by_status={404: 10})
    for status, lifetime in ((200, 60), (404, 10)):
        stored = decide(response(status=status), policy)
        assert isinstance(stored, StoredHead)
        assert stored.lifetime == lifetime
    stated = decide(response(b"Cache-Control: max-age=5"), policy)
    assert isinstance(stated, StoredHead)
    assert stated.lifetime == 5
    assert decide(response(b"Cache-Control: no-store"), policy) is Unstorable.NO_STORE
    overridden = decide(response(b"Cache-Control: max-age=5"), StorePolicy(override_ttl=60))
    assert isinstance(overridden, StoredHead)
    assert overridden.lifetime == 60


@pytest.mark.parametrize("policy", [StorePolicy(ttl=60), StorePolicy(override_ttl=60)], ids=["ttl", "override_ttl"])
@pytest.mark.parametrize(
    ("status", "lines", "lifetime"),
    [
        *((status, (), 60) for status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501)),
        *((status, (), None) for status in (201, 202, 302, 303, 307, 400, 401, 403, 421, 500, 502, 504)),
        *((status, (b"Retry-After: 1",), None) for status in (429, 503)),
        (401, (b"WWW-Authenticate: Basic",), None),
        *((status, (b"Cache-Control: max-age=5",), 5) for status in (302, 401, 503)),
        (302, (b"Cache-Control: public",), 60),
    ],
)
def test_settings_for_all_statuses_leave_those_that_answer_one_request_or_a_moment(
    policy: StorePolicy, status: int, lines: tuple[bytes, ...], lifetime: int | None
) -> None:
    """RFC 9111 sections 3 and 4.2.2: an error of one client, or of a moment, would be the answer for all."""
    decided = decide(response(*lines, status=status), policy)
    if lifetime is None:
        assert decided is Unstorable.NO_FRESHNESS
    else:
        assert isinstance(decided, StoredHead)
        assert decided.lifetime == lifetime


@pytest.mark.parametrize("status", [302, 401, 500, 503])
def test_a_lifetime_for_one_status_is_for_any(status: int) -> None:
    stored = decide(response(status=status), StorePolicy(ttl=60, override_ttl=90, ttl_by_status={status: 10}))
    assert isinstance(stored, StoredHead)
    assert stored.lifetime == 10


@for_each(
    ("line", "while_revalidate", "if_error", "unreachable"),
    [
        (b"max-age=60", 1, 2, 3),
        (b"max-age=60, stale-while-revalidate=10, stale-if-error=20", 10, 20, 3),
        (b"s-maxage=60", 0, 0, 0),
        (b"s-maxage=60, stale-while-revalidate=10", 10, 0, 0),
        (b"s-maxage=60, stale-if-error=20", 0, 20, 0),
        (b"max-age=60, must-revalidate, stale-if-error=20", 0, 0, 0),
        (b"max-age=60, proxy-revalidate, stale-while-revalidate=20", 0, 0, 0),
        (b"max-age=60, no-cache, stale-if-error=20", 0, 0, 0),
        (b"max-age=0", 0, 0, 0),
        (b"max-age=0, stale-if-error=20", 0, 20, 0),
    ],
)
def test_how_long_a_response_may_be_sent_stale(
    line: bytes, while_revalidate: int, if_error: int, unreachable: int
) -> None:
    policy = StorePolicy(stale_while_revalidate=1, stale_if_error=2, stale_when_unreachable=3)
    stored = decide(response(b"Cache-Control: " + line, b'ETag: "a"'), policy)
    assert isinstance(stored, StoredHead)
    found = (stored.stale_while_revalidate, stored.stale_if_error, stored.stale_when_unreachable)
    assert found == (while_revalidate, if_error, unreachable)


def test_the_stored_lines_are_those_of_the_representation() -> None:
    stored = decide(
        response(
            b'Cache-Control: max-age=60, no-cache="x-secret, set-cookie"',
            b"Connection: x-hop",
            b"X-Hop: 1",
            b"Keep-Alive: 1",
            b"Proxy-Authenticate: Basic",
            b"Proxy-Authentication-Info: a",
            b"Age: 3",
            b"Content-Length: 0",
            b"X-Secret: 1",
            b"Set-Cookie: a=b",
            b'ETag: "a"',
            b"Last-Modified: " + EARLIER,
            b"Date: " + DATE,
            b"Vary: B, a",
        )
    )
    assert isinstance(stored, StoredHead)
    names = [name for name, _ in stored.fields]
    assert names == [b"Cache-Control", b"ETag", b"Last-Modified", b"Date", b"Vary"]
    assert (stored.etag, stored.last_modified, stored.date) == (b'"a"', NOW - 100, NOW)
    assert (stored.vary, stored.initial_age, stored.lifetime) == ((b"a", b"b"), 3, 60)


@pytest.mark.parametrize("line", [b"ETag: a", b'ETag: w/"a"', b'ETag: "a", "b"'])
def test_an_invalid_validator_is_none(line: bytes) -> None:
    stored = decide(response(b"Cache-Control: max-age=60", line, b"Last-Modified: yesterday"))
    assert isinstance(stored, StoredHead)
    assert (stored.etag, stored.last_modified) == (None, None)


def test_records_are_read_again_and_damaged_ones_are_not() -> None:
    stored = decide(response(b"Cache-Control: max-age=60", b"Vary: a"))
    assert isinstance(stored, StoredHead)
    assert decode_record(encode_record(stored)) == stored
    variants = VariantsRecord((b"a",), (b"k" * 16,))
    assert decode_record(memoryview(encode_record(variants))) == variants
    assert decode_record(b"") is None
    assert decode_record(encode_record(stored)[:-1]) is None
    assert decode_record(b"\x93\x63\x01\x02") is None
