"""Conditional requests: entity tags, dates, and the order of conditions."""

import pytest

from fastgw.http.http1.made_request import build_request
from fastgw.http.messages import RequestHead
from fastgw.http.preconditions import (
    PreconditionResult,
    Validators,
    applicable_range,
    evaluate,
    is_not_modified,
    is_strongly_equal,
    is_weakly_equal,
    meets_if_range,
    parse_entity_tags,
)
from tests.support.table import for_each

NOW = 1_790_000_000
MODIFIED = 784_111_777
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
EARLIER, LATER = b"Sun, 06 Nov 1994 08:49:36 GMT", b"Sun, 06 Nov 1994 08:49:38 GMT"
FILE = Validators(b'"a"', MODIFIED, NOW)
WEAK = Validators(b'W/"a"', MODIFIED, NOW)
BARE = Validators(None, None, NOW)


def request(*lines: tuple[bytes, bytes], method: bytes = b"GET") -> RequestHead:
    return build_request(method, b"files.test", b"/a", lines)


@pytest.mark.parametrize(
    ("one", "other", "strongly", "weakly"),
    [  # RFC 9110 section 8.8.3.2
        (b'W/"1"', b'W/"1"', False, True),
        (b'W/"1"', b'W/"2"', False, False),
        (b'W/"1"', b'"1"', False, True),
        (b'"1"', b'W/"1"', False, True),
        (b'"1"', b'"1"', True, True),
        (b'""', b'""', True, True),
        (b'w/"1"', b'W/"1"', False, False),
        (b'"1"', None, False, False),
    ],
)
def test_entity_tags_are_compared(one: bytes, other: bytes | None, strongly: bool, weakly: bool) -> None:
    assert (is_strongly_equal(one, other), is_weakly_equal(one, other)) == (strongly, weakly)


@for_each(
    ("value", "tags"),
    [
        (b'"a"', [b'"a"']),
        (b'"a","b" ,\tW/"c"', [b'"a"', b'"b"', b'W/"c"']),
        (b',, "a",,', [b'"a"']),
        (b'"a,b", "\xfc!"', [b'"a,b"', b'"\xfc!"']),
        (b'"a\\"', [b'"a\\"']),  # no escapes in entity tags
        (b'"a" "b"', []),
        (b'"a"b', []),
        (b'"a", b', []),
        (b'"a b"', []),
        (b"a", []),
        (b"'a'", []),
        (b'w/"a"', []),
        (b'W/ "a"', []),
        (b'"a', []),
        (b'"a\x7f"', []),
        (b'*, "a"', []),
        (b"", []),
        (b"," * 30_000 + b'"a', []),
    ],
)
def test_lists_of_entity_tags_are_parsed(value: bytes, tags: list[bytes]) -> None:
    assert parse_entity_tags(value) == tags


@for_each(
    ("lines", "validators", "outcome"),
    [
        ([], FILE, PreconditionResult.PROCEED),
        # If-Match compares strongly
        ([(b"If-Match", b'"a"')], FILE, PreconditionResult.PROCEED),
        ([(b"If-Match", b'"b", "a"')], FILE, PreconditionResult.PROCEED),
        ([(b"If-Match", b'"b"'), (b"If-Match", b'"a"')], FILE, PreconditionResult.PROCEED),
        ([(b"If-Match", b"*")], FILE, PreconditionResult.PROCEED),
        ([(b"If-Match", b"*")], BARE, PreconditionResult.PROCEED),
        ([(b"If-Match", b'"b"')], FILE, PreconditionResult.FAILED),
        ([(b"If-Match", b'W/"a"')], FILE, PreconditionResult.FAILED),
        ([(b"If-Match", b'"a"')], WEAK, PreconditionResult.FAILED),
        ([(b"If-Match", b'"a"')], BARE, PreconditionResult.FAILED),
        ([(b"If-Match", b"a")], FILE, PreconditionResult.FAILED),
        ([(b"If-Match", b"")], FILE, PreconditionResult.FAILED),
        # If-Unmodified-Since, only without If-Match
        ([(b"If-Unmodified-Since", DATE)], FILE, PreconditionResult.PROCEED),
        ([(b"If-Unmodified-Since", LATER)], FILE, PreconditionResult.PROCEED),
        ([(b"If-Unmodified-Since", EARLIER)], FILE, PreconditionResult.FAILED),
        ([(b"If-Unmodified-Since", EARLIER)], BARE, PreconditionResult.PROCEED),
        ([(b"If-Unmodified-Since", b"yesterday")], FILE, PreconditionResult.PROCEED),
        ([(b"If-Unmodified-Since", EARLIER), (b"If-Unmodified-Since", EARLIER)], FILE, PreconditionResult.PROCEED),
        ([(b"If-Match", b'"a"'), (b"If-Unmodified-Since", EARLIER)], FILE, PreconditionResult.PROCEED),
        # If-None-Match compares weakly
        ([(b"If-None-Match", b'"a"')], FILE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-None-Match", b'W/"a"')], FILE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-None-Match", b'"a"')], WEAK, PreconditionResult.NOT_MODIFIED),
        ([(b"If-None-Match", b'"b",W/"a"')], FILE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-None-Match", b"*")], BARE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-None-Match", b'"b"')], FILE, PreconditionResult.PROCEED),
        ([(b"If-None-Match", b'"A"')], FILE, PreconditionResult.PROCEED),
        ([(b"If-None-Match", b'"a')], FILE, PreconditionResult.PROCEED),
        ([(b"If-None-Match", b'"a", oops')], FILE, PreconditionResult.PROCEED),
        ([(b"If-None-Match", b'"a"')], BARE, PreconditionResult.PROCEED),
        # If-Modified-Since, only without If-None-Match
        ([(b"If-Modified-Since", DATE)], FILE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-Modified-Since", LATER)], FILE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-Modified-Since", b"Sunday, 06-Nov-94 08:49:37 GMT")], FILE, PreconditionResult.NOT_MODIFIED),
        ([(b"If-Modified-Since", EARLIER)], FILE, PreconditionResult.PROCEED),
        ([(b"If-Modified-Since", DATE)], BARE, PreconditionResult.PROCEED),
        ([(b"If-Modified-Since", b"0")], FILE, PreconditionResult.PROCEED),
        ([(b"If-Modified-Since", DATE), (b"If-Modified-Since", DATE)], FILE, PreconditionResult.PROCEED),
        ([(b"If-None-Match", b'"b"'), (b"If-Modified-Since", DATE)], FILE, PreconditionResult.PROCEED),
        # 412 comes before 304
        ([(b"If-Match", b'"b"'), (b"If-None-Match", b'"a"')], FILE, PreconditionResult.FAILED),
        ([(b"If-Match", b'"a"'), (b"If-None-Match", b'"a"')], FILE, PreconditionResult.NOT_MODIFIED),
    ],
)
@for_each("method", [b"GET", b"HEAD"])
def test_conditions_are_evaluated_in_order(
    lines: list[tuple[bytes, bytes]], validators: Validators, outcome: PreconditionResult, method: bytes
) -> None:
    assert evaluate(request(*lines, method=method), validators, NOW) is outcome


def test_other_methods_fail_where_a_get_is_not_modified() -> None:
    assert evaluate(request((b"If-None-Match", b"*"), method=b"PUT"), FILE, NOW) is PreconditionResult.FAILED
    assert evaluate(request((b"If-Modified-Since", DATE), method=b"PUT"), FILE, NOW) is PreconditionResult.PROCEED


def test_a_cache_leaves_the_conditions_of_the_origin_alone() -> None:
    assert is_not_modified(request((b"If-Match", b'"b"'), (b"If-None-Match", b'"a"')), FILE, NOW)


@for_each(
    ("value", "validators", "met"),
    [
        (b'"a"', FILE, True),
        (b'W/"a"', FILE, False),
        (b'"a"', WEAK, False),
        (b'W/"a"', WEAK, False),
        (b'"b"', FILE, False),
        (b'"a", "b"', FILE, False),
        (b"*", FILE, False),
        (b"a", FILE, False),
        (DATE, FILE, True),
        (b"Sun Nov  6 08:49:37 1994", FILE, True),
        (LATER, FILE, False),
        (EARLIER, FILE, False),
        (DATE, BARE, False),
        (DATE, Validators(None, MODIFIED, MODIFIED), False),  # it may change again within this second
        (DATE, Validators(None, MODIFIED, MODIFIED + 1), True),
        (DATE, Validators(None, MODIFIED, MODIFIED - 5), False),
    ],
)
def test_if_range_needs_a_strong_validator(value: bytes, validators: Validators, met: bool) -> None:
    assert meets_if_range(value, validators, NOW) is met


def test_a_range_applies_to_a_get_whose_if_range_is_met() -> None:
    wanted = (b"Range", b"bytes=0-1")
    assert applicable_range(request(wanted), FILE, NOW) == b"bytes=0-1"
    assert applicable_range(request(wanted, (b"If-Range", b'"a"')), FILE, NOW) == b"bytes=0-1"
    assert applicable_range(request(wanted, (b"If-Range", b'"b"')), FILE, NOW) is None
    assert applicable_range(request(wanted, (b"If-Range", b'"a"'), (b"If-Range", b'"a"')), FILE, NOW) is None
    assert applicable_range(request(wanted, method=b"HEAD"), FILE, NOW) is None
    assert applicable_range(request(wanted, method=b"POST"), FILE, NOW) is None
    assert applicable_range(request((b"If-Range", b'"a"')), FILE, NOW) is None
    assert applicable_range(request(wanted, (b"Range", b"bytes=2-3")), FILE, NOW) == b"bytes=0-1, bytes=2-3"
