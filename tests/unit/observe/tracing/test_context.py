"""Trace context in headers, after the cases of the W3C's test harness (w3c/trace-context, test/test.py)."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgw.http.fields import Fields
from fastgw.observe.tracing import context
from fastgw.observe.tracing.context import MOST_STATE, ContextHeaders, read_tracestate
from tests.support.table import for_each

ID, SPAN = b"12345678901234567890123456789012", b"1234567890123456"
VALID = b"00-%b-%b-01" % (ID, SPAN)


class Head:
    def __init__(self, *lines: tuple[bytes, bytes]) -> None:
        self._fields = Fields(lines)

    def first(self, name: bytes) -> bytes | None:
        return self._fields.get(name)

    def values(self, name: bytes) -> list[bytes]:
        return self._fields.get_all(name)


class Parent(NamedTuple):
    """A context that was read, to compare."""

    trace_id: bytes
    span_id: bytes
    is_sampled: bool | None
    is_random: bool = False
    state: bytes = b""


def told(parent: context.Parent | None) -> Parent | None:
    if parent is None:
        return None
    return Parent(parent.trace_id, parent.span_id, parent.is_sampled, bool(parent.is_random), parent.state)


def read_tracecontext(head: ContextHeaders) -> Parent | None:
    return told(context.read_tracecontext(head))


def read_b3(head: ContextHeaders) -> Parent | None:
    return told(context.read_b3(head))


def parent_of(*values: bytes, state: list[bytes] | None = None) -> Parent | None:
    lines = [(b"traceparent", value) for value in values] + [(b"tracestate", each) for each in state or ()]
    return read_tracecontext(Head(*lines))


def test_a_valid_traceparent_is_read() -> None:
    assert parent_of(VALID) == Parent(ID, SPAN, True, False, b"")
    assert parent_of(b" \t" + VALID + b" ") == Parent(ID, SPAN, True, False, b"")


@pytest.mark.parametrize(
    ("flags", "sampled", "random"),
    [(b"00", False, False), (b"01", True, False), (b"02", False, True), (b"03", True, True), (b"ff", True, True)],
)
def test_flags_beyond_those_of_level_2_are_ignored(flags: bytes, sampled: bool, random: bool) -> None:
    assert parent_of(b"00-%b-%b-%b" % (ID, SPAN, flags)) == Parent(ID, SPAN, sampled, random, b"")


@pytest.mark.parametrize(
    "value",
    [
        b"cc-%b-%b-01" % (ID, SPAN),
        b"cc-%b-%b-01-what-the-future-will-be-like" % (ID, SPAN),
        b"01-%b-%b-01-" % (ID, SPAN),
    ],
)
def test_a_later_version_is_read_as_far_as_it_is_known(value: bytes) -> None:
    assert parent_of(value) == Parent(ID, SPAN, True, False, b"")


@for_each(
    "value",
    [
        b"",
        VALID + b".",
        VALID + b"-what-the-future-will-be-like",
        VALID + b"-",
        b"cc-%b-%b-01.what-the-future-will-be-like" % (ID, SPAN),
        b"ff-%b-%b-01" % (ID, SPAN),
        b".0-%b-%b-01" % (ID, SPAN),
        b"0.-%b-%b-01" % (ID, SPAN),
        b"000-%b-%b-01" % (ID, SPAN),
        b"0-%b-%b-01" % (ID, SPAN),
        b"CC-%b-%b-01" % (ID, SPAN),
        b"00-%b-%b-01" % (b"0" * 32, SPAN),
        b"00-.%b-%b-01" % (ID[1:], SPAN),
        b"00-%b3-%b-01" % (ID, SPAN),
        b"00-%b-%b-01" % (ID[1:], SPAN),
        b"00-%b-%b-01" % (b"ABCDEF" + ID[6:], SPAN),
        b"00-%b-%b-01" % (ID, b"0" * 16),
        b"00-%b-.%b-01" % (ID, SPAN[1:]),
        b"00-%b-%b7-01" % (ID, SPAN),
        b"00-%b-%b-01" % (ID, SPAN[1:]),
        b"00-%b-%b-.0" % (ID, SPAN),
        b"00-%b-%b-0." % (ID, SPAN),
        b"00-%b-%b-001" % (ID, SPAN),
        b"00-%b-%b-1" % (ID, SPAN),
        b"00-%b-%b-0A" % (ID, SPAN),
        b"00-%b-%b" % (ID, SPAN),
    ],
)
def test_an_invalid_traceparent_is_ignored(value: bytes) -> None:
    assert parent_of(value, state=[b"foo=1"]) is None


def test_two_traceparents_are_ignored() -> None:
    assert parent_of(VALID, VALID) is None


KEY = b"abcdefghijklmnopqrstuvwxyz0123456789_-*/"
VALUE = bytes((*range(0x20, 0x2C), *range(0x2D, 0x3D), *range(0x3E, 0x7F)))


@for_each(
    ("values", "state"),
    [
        ([], b""),
        ([b""], b""),
        ([b"foo=1", b""], b"foo=1"),
        ([b"", b"foo=1"], b"foo=1"),
        ([b"foo=1,"], b"foo=1"),
        ([b",foo=1,,bar=2"], b"foo=1,bar=2"),
        ([b"foo=1,bar=2", b"rojo=1,congo=2", b"baz=3"], b"foo=1,bar=2,rojo=1,congo=2,baz=3"),
        ([b"foo=1,foo=2"], b"foo=1"),
        ([b"foo=1", b"foo=1"], b"foo=1"),
        ([b"foo=1 \t , \t bar=2, \t baz=3"], b"foo=1,bar=2,baz=3"),
        ([b"\t foo=1 \t"], b"foo=1"),
        ([KEY + b"=" + VALUE], KEY + b"=" + VALUE),
        ([KEY + b"@a-z0-9_-*/=" + VALUE], KEY + b"@a-z0-9_-*/=" + VALUE),
        ([b"foo@=1,bar=2"], b"foo@=1,bar=2"),
        ([b"foo@@bar=1"], b"foo@@bar=1"),
        ([b"z" * 256 + b"=1"], b"z" * 256 + b"=1"),
        ([b"foo=1", b"t" * 241 + b"@" + b"v" * 14 + b"=1"], b"foo=1," + b"t" * 241 + b"@" + b"v" * 14 + b"=1"),
        ([b"0a=1"], b"0a=1"),
    ],
)
def test_a_valid_tracestate_is_forwarded(values: list[bytes], state: bytes) -> None:
    assert read_tracestate(values) == state


@for_each(
    "value",
    [
        b"foo =1",
        b"FOO=1",
        b"foo.bar=1",
        b"@foo=1,bar=2",
        b"foo",
        b"=1",
        b"foo=bar=baz",
        b"foo=,bar=3",
        b"foo=" + b"x" * 257,
        b"z" * 257 + b"=1",
        b",".join(b"bar%02d=1" % number for number in range(33)),
        b"a=1," * 5000,
    ],
)
def test_an_invalid_tracestate_is_discarded_and_the_traceparent_kept(value: bytes) -> None:
    assert parent_of(VALID, state=[b"first=1", value]) == Parent(ID, SPAN, True, False, b"")


def test_32_members_are_forwarded() -> None:
    state = b",".join(b"bar%02d=1" % number for number in range(32))
    assert read_tracestate([state]) == state


def test_of_a_tracestate_that_is_too_long_long_members_go_first_then_the_last_ones() -> None:
    long = b"long=" + b"x" * 200
    short = [b"k%02d=%b" % (number, b"y" * 30) for number in range(12)]
    assert read_tracestate([b",".join([*short, long])]) == b",".join(short)
    many = [b"k%02d=%b" % (number, b"y" * 30) for number in range(20)]
    assert read_tracestate([b",".join(many)]) == b",".join(many[:14])


@settings(max_examples=100)
@given(st.lists(st.text(alphabet="ab=,;@ \t1\x7f", max_size=40).map(str.encode), max_size=5))
def test_what_is_forwarded_is_a_valid_tracestate(values: list[bytes]) -> None:
    state = read_tracestate(values)
    assert read_tracestate([state]) == state
    assert len(state) <= MOST_STATE


B3_LINES = {
    "single": [(b"b3", b"%b-%b-1" % (ID, SPAN))],
    "single debug": [(b"b3", b"%b-%b-d" % (ID, SPAN))],
    "single with parent": [(b"b3", b"%b-%b-1-%b" % (ID, SPAN, SPAN))],
    "multi": [(b"X-B3-TraceId", ID), (b"X-B3-SpanId", SPAN), (b"X-B3-Sampled", b"1")],
    "multi true": [(b"X-B3-TraceId", ID), (b"X-B3-SpanId", SPAN), (b"X-B3-Sampled", b"true")],
    "multi debug": [(b"X-B3-TraceId", ID), (b"X-B3-SpanId", SPAN), (b"X-B3-Flags", b"1")],
}


@pytest.mark.parametrize("lines", B3_LINES.values(), ids=B3_LINES)
def test_b3_is_read(lines: list[tuple[bytes, bytes]]) -> None:
    assert read_b3(Head(*lines)) == Parent(ID, SPAN, True)


def test_b3_may_leave_the_decision_or_be_nothing_but_one() -> None:
    assert read_b3(Head((b"b3", b"%b-%b" % (ID, SPAN)))) == Parent(ID, SPAN, None)
    assert read_b3(Head((b"b3", b"0"))) == Parent(b"", b"", False)
    assert read_b3(Head((b"X-B3-Sampled", b"0"))) == Parent(b"", b"", False)
    assert read_b3(Head((b"b3", b"%b-%b-0" % (ID, SPAN)))) == Parent(ID, SPAN, False)


def test_a_short_trace_id_of_b3_is_padded_and_case_is_ignored() -> None:
    assert read_b3(Head((b"b3", b"ABCDEF0123456789-%b-1" % SPAN))) == Parent(
        b"0" * 16 + b"abcdef0123456789", SPAN, True
    )


@for_each(
    "lines",
    [
        [(b"b3", b"%b-%b-2" % (ID, SPAN))],
        [(b"b3", b"%b-%b-1" % (b"0" * 32, SPAN))],
        [(b"b3", b"%b-%b-1" % (ID, b"0" * 16))],
        [(b"b3", b"%b-%b-1-x" % (ID, SPAN))],
        [(b"b3", ID)],
        [(b"b3", b"1"), (b"b3", b"1")],
        [(b"X-B3-TraceId", ID)],
        [(b"X-B3-TraceId", ID), (b"X-B3-TraceId", ID), (b"X-B3-SpanId", SPAN)],
        [(b"X-B3-TraceId", b"x" * 32), (b"X-B3-SpanId", SPAN)],
        [(b"X-B3-Sampled", b"maybe")],
        [],
    ],
)
def test_invalid_b3_is_ignored(lines: list[tuple[bytes, bytes]]) -> None:
    assert read_b3(Head(*lines)) is None
