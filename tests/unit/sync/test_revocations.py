"""Lists of what was revoked: what they cover, how they end, and that they merge in any order."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.admin.revocations import KEPT_S, LEEWAY_S, Revocation, read
from fastgw.filters.authentication.revocation_keys import mark_of_jti, mark_of_subject, mark_of_token, marks_of
from fastgw.redis.url import check_url, server_of
from fastgw.sync.revocations import (
    ALWAYS_DATE,
    LATEST_DATE,
    LENGTH,
    MARK,
    RevocationList,
    mark_of,
    record_of,
    records_in,
)
from tests.support.tokens import b64, signer

NOW = 1_790_000_000.0
ONE, TWO = mark_of_jti("https://i", "1"), mark_of_jti("https://i", "2")


def revoked(*records: bytes, most: int = 100, now: float = NOW) -> RevocationList:
    made = RevocationList(most)
    made.add(b"".join(records), now)
    return made


def test_a_mark_is_revoked_until_its_record_ends() -> None:
    known = revoked(record_of(ONE, NOW + 10))
    assert known.covers([(TWO, 0.0), (ONE, 0.0)], NOW + 9.9)
    assert not known.covers([(ONE, 0.0)], NOW + 10)
    assert not known.covers([(TWO, 0.0)], NOW)
    assert len(known) == 1
    assert known.joined(NOW + 10) == b""
    assert len(known) == 0


def test_what_was_issued_later_is_not_meant() -> None:
    mark = mark_of_subject("https://i", "ann")
    known = revoked(record_of(mark, NOW + 10, before_date=NOW + 0.5))
    for issued, covered in ((0.0, True), (NOW - 1, True), (NOW, True), (NOW + 0.5, True), (NOW + 1, False)):
        assert known.covers([(mark, issued)], NOW) is covered


def test_dates_beyond_all_measure_are_the_latest_that_there_is() -> None:
    known = revoked(record_of(ONE, 1e300), record_of(TWO, NOW + 5, before_date=1e300), record_of(MARK * b"x", -5.0))
    assert known.covers([(ONE, 1e12)], LATEST_DATE - 1) is False  # issued after `ALWAYS_DATE`: no date that is taken
    assert known.covers([(ONE, 253_402_300_799.0)], LATEST_DATE - 1)
    assert known.covers([(TWO, 253_402_300_799.0)], NOW)
    assert len(known) == 2


def test_what_says_nothing_new_is_not_told_again() -> None:
    known, mark = RevocationList(), mark_of("subject", "a", "b")
    first = record_of(mark, NOW + 10, NOW)
    assert known.add(first, NOW) == first
    assert known.add(first, NOW) == b""
    assert known.add(record_of(mark, NOW + 5, NOW - 5), NOW) == b""
    later = record_of(mark, NOW + 5, NOW + 1)
    assert known.add(later, NOW) == record_of(mark, NOW + 10, NOW + 1)  # the most of both
    assert known.add(record_of(ONE, NOW, NOW), NOW) == b""  # it has ended
    assert known.add(b"x" * (LENGTH - 1), NOW) == b""
    assert len(known) == 1


def test_a_full_list_forgets_who_would_end_first() -> None:
    known = RevocationList(most=3)
    marks = [mark_of("jti", str(number)) for number in range(5)]
    for place, left in enumerate((30, 10, 20)):
        known.add(record_of(marks[place], NOW + left), NOW)
    assert known.dropped == 0
    assert known.add(record_of(marks[3], NOW + 5), NOW) == b""  # it would be the first
    known.add(record_of(marks[4], NOW + 15), NOW)
    assert [known.covers([(mark, 0.0)], NOW) for mark in marks] == [True, False, True, False, True]
    assert known.dropped == 2
    known.add(record_of(marks[2], NOW + 40), NOW)  # longer: its old place in the order counts no more
    known.add(record_of(marks[1], NOW + 50), NOW)
    assert [known.covers([(mark, 0.0)], NOW) for mark in marks] == [True, True, True, False, False]
    assert len(known) == 3


RECORDS = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-3, 9), st.sampled_from([0.0, NOW - 1, NOW, NOW + 0.25, ALWAYS_DATE])).map(
        lambda drawn: record_of(mark_of("jti", str(drawn[0])), NOW + drawn[1], drawn[2])
    ),
    max_size=12,
)


@given(RECORDS, RECORDS, st.randoms())
def test_lists_that_have_heard_the_same_in_any_order_are_equal(
    ours: list[bytes], theirs: list[bytes], lot: Any
) -> None:
    one, two = revoked(*ours), revoked(*theirs)
    said_by_one = one.lacking(two.joined(NOW))
    one.add(two.lacking(one.joined(NOW)), NOW)
    two.add(said_by_one, NOW)
    everything = [*ours, *theirs]
    lot.shuffle(everything)
    at_once, later = revoked(*everything), revoked(*everything)
    later.add(b"".join(everything), NOW)
    assert sorted(records_in(one.joined(NOW))) == sorted(records_in(two.joined(NOW)))
    assert sorted(records_in(one.joined(NOW))) == sorted(records_in(at_once.joined(NOW)))
    assert sorted(records_in(at_once.joined(NOW))) == sorted(records_in(later.joined(NOW)))
    assert one.lacking(two.joined(NOW)) == b""


def test_parts_of_a_mark_are_told_apart() -> None:
    marks = {mark_of("jti", *parts) for parts in (("a", "b"), ("ab", ""), ("", "ab"), ("a", "b", ""), ("2:ab",))}
    assert len(marks | {mark_of("subject", "a", "b")}) == 6
    assert all(len(mark) == MARK for mark in marks)
    assert mark_of("jti", "\ud800", b"\xff")


def test_a_signed_token_is_known_without_its_signature_and_any_other_as_a_whole() -> None:
    """RFC 7515: (r, n - s) is as good a signature as (r, s) with ECDSA, so the same token can be written twice."""
    token = signer("ES256").token()
    signed, _, _ = token.rpartition(b".")
    assert mark_of_token(token) == mark_of_token(signed + b".another")
    assert mark_of_token(token) != mark_of_token(token + b".x")
    assert mark_of_token(b"v4.local.one") != mark_of_token(b"v4.local.two")
    assert mark_of_token(b"opaque") != mark_of_token(b"opaque2")
    spaced = b64(b' \n{"alg": "ES256"}') + b".e30."
    assert mark_of_token(spaced + b"one") == mark_of_token(spaced + b"two")


def test_a_token_is_known_by_itself_its_jti_and_its_subject() -> None:
    marks = marks_of({"iss": "i", "jti": "1", "sub": "ann", "iat": 5}, ONE)
    assert marks == ((ONE, 0.0), (mark_of_jti("i", "1"), 0.0), (mark_of_subject("i", "ann"), 5.0))
    assert marks_of({"sub": "ann"}, ONE, "i") == ((ONE, 0.0), (mark_of_subject("i", "ann"), 0.0))
    assert marks_of({"jti": 7, "sub": None}, ONE) == ((ONE, 0.0),)


# --- what the admin API is asked for ---


def test_what_is_asked_for_becomes_records() -> None:
    now = time.time()
    records, about = read(Revocation(issuer="i", jti="1", expires=now + 60))
    assert records == record_of(mark_of_jti("i", "1"), now + 60)
    assert (about.kind, about.issuer, about.jti, about.expires_date) == ("jti", "i", "1", now + 60)
    records, about = read(Revocation(issuer="i", subject="ann"))
    known = revoked(records, now=now)
    assert known.covers([(mark_of_subject("i", "ann"), now - 1)], now)
    assert not known.covers([(mark_of_subject("i", "ann"), time.time() + 1)], now)
    assert about.expires_date == pytest.approx(now + KEPT_S, abs=60)


def test_a_token_that_is_asked_for_says_itself_how_long_it_is_good() -> None:
    now = time.time()
    token = signer("ES256").token({"iss": "i", "jti": "1", "exp": now + 60, "sub": "ann"})
    records, about = read(Revocation(token=token.decode()))
    assert [record[:MARK] for record in records_in(records)] == [mark_of_token(token), mark_of_jti("i", "1")]
    assert about.expires_date == pytest.approx(now + 60 + LEEWAY_S)
    assert (about.kind, about.issuer, about.subject, about.jti) == ("token", "i", "ann", "1")
    _, about = read(Revocation(token=signer("ES256").token({"exp": None}).decode()))
    assert about.expires_date == LATEST_DATE
    for text in ("opaque", "a.b.c", "e30.e30.", "\ud800"):
        records, about = read(Revocation(token=text, expires=now + 60))
        assert len(records) == LENGTH
        assert (about.kind, about.issuer, about.expires_date) == ("token", "", now + 60)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"token": ""},
        {"token": "a", "jti": "1"},
        {"jti": "1"},
        {"issuer": "i"},
        {"issuer": "i", "jti": ""},
        {"issuer": "i", "subject": ""},
        {"issuer": "i", "jti": "1", "subject": "ann"},
        {"token": "a", "expires": 5.0},
        {"token": "a", "expires": 1e300},
        {"token": "a", "expires": float("nan")},
    ],
    ids=str,
)
def test_what_is_asked_for_in_no_way_or_in_two_is_refused(wanted: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"expected|expires"):
        read(Revocation(**wanted))


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://:secret@a:7/0", "a:7"),
        ("rediss://user:secret@a.example", "a.example:6379"),
        ("redis://[::1]:7/", "::1:7"),
        ("unix:///run/redis.sock?db=1", "unix:/run/redis.sock"),
    ],
)
def test_the_place_of_a_redis_is_told_without_its_password(url: str, place: str) -> None:
    assert server_of(url) == place
    check_url(url)


@pytest.mark.parametrize(
    "url",
    ["secret", "http://secret", "redis://", "redis://secret:x/", "redis://a/secret", "unix:secret", "redis://[secret"],
)
def test_what_is_no_url_of_a_redis_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="not a URL such as") as raised:
        check_url(url)
    assert "secret" not in str(raised.value)
