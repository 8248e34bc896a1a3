"""Trace context in headers: W3C Trace Context (levels 1 and 2) and B3, read strictly.

A header that breaks its grammar is treated as missing. Headers of a client are never forwarded as they came:
the gateway writes those of all configured formats itself.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import cython

from fastgw.http.messages import values_of

MOST_MEMBERS: Final = 32
"""Maximum number of list members of `tracestate`; a longer one is discarded (Trace Context section 3.3.1.1)."""
MOST_STATE: Final = 512
"""Maximum length of a forwarded `tracestate`."""
LONG_MEMBER: Final = 128
"""Members above this length are the first to be left out of a `tracestate` that is too long (section 3.3.1.5)."""
_MOST_RECEIVED: Final = 16_384
SAMPLED: Final = 1
RANDOM: Final = 2
"""Flag of level 2: at least the last seven bytes of the trace id are random."""

_VERSION_00: Final = 55
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_DASH: Final = ord("-")
_DIGITS: Final = b"0123456789abcdef"
# Section 3.3.1.3; a value does not end with a space.
_MEMBER: Final = re.compile(rb"([a-z0-9][a-z0-9_\-*/@]{0,255})=[ -+\--<>-~]{0,255}[!-+\--<>-~]").fullmatch

_B3_ID: Final = re.compile(rb"(?!0+\Z)(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{16})").fullmatch
_B3_SPAN: Final = re.compile(rb"(?!0+\Z)[0-9a-fA-F]{16}").fullmatch
_B3: Final = re.compile(
    rb"((?!0+-)(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{16}))-(?!0{16})([0-9a-fA-F]{16})(?:-([01d])(?:-[0-9a-fA-F]{16})?)?"
).fullmatch
_B3_SAMPLED: Final = {b"1": True, b"0": False, b"d": True}
_X_B3_SAMPLED: Final = {b"1": True, b"true": True, b"0": False, b"false": False}

TRACECONTEXT_NAMES: Final = frozenset((b"traceparent", b"tracestate"))
B3_NAMES: Final = frozenset(
    (b"b3", b"x-b3-traceid", b"x-b3-spanid", b"x-b3-parentspanid", b"x-b3-sampled", b"x-b3-flags")
)
NAMES: Final = {"tracecontext": TRACECONTEXT_NAMES, "b3": B3_NAMES}
"""Lower-case names of the headers of each format."""


class ContextHeaders(Protocol):
    """Headers of a received request."""

    def values(self, name: bytes) -> list[bytes]: ...


@cython.cclass
class Parent:
    """Context that a request was received with. Ids are lower-case hexadecimal digits.

    `trace_id`: 32 digits; b"" = the sender has only decided about sampling. `is_sampled`: that decision; None = the
    sender leaves it to the gateway. `state`: `tracestate` to forward.
    """

    def __init__(
        self, trace_id: bytes, span_id: bytes, is_sampled: bool | None, is_random: bool = False, state: bytes = b""
    ) -> None:
        self.trace_id, self.span_id, self.state = trace_id, span_id, state
        self.is_sampled, self.is_random = is_sampled, is_random


def read_tracecontext(head: ContextHeaders) -> Parent | None:
    """Return the context of `traceparent` and `tracestate`; None: there is none, or it is invalid."""
    values = values_of(head, b"traceparent")
    if len(values) != 1:
        return None
    text: bytes = values[0].strip(b" \t")
    length, version = len(text), text[:2]
    # Section 3.2.2: a later version may append fields after another dash; version ff is invalid.
    if length != _VERSION_00 and (length < _VERSION_00 or text[55] != _DASH or version == b"00"):
        return None
    if text[2] != _DASH or text[35] != _DASH or text[52] != _DASH or version == b"ff":
        return None
    trace_id, span_id = text[3:35], text[36:52]
    if text[:_VERSION_00].translate(None, _DIGITS) != b"---" or trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    flags = int(text[53:55], 16)
    state = read_tracestate(values_of(head, b"tracestate"))
    return Parent(trace_id, span_id, flags & SAMPLED != 0, flags & RANDOM != 0, state)


def read_tracestate(values: Sequence[bytes]) -> bytes:
    """Return the combined lines of `tracestate`, within `MOST_STATE`; b"" if one member is invalid.

    Of members with the same key the first, which is the most recent, is kept.
    """
    if not values or sum(map(len, values)) > _MOST_RECEIVED:
        return b""
    members: dict[bytes, bytes] = {}
    count = 0
    for value in values:
        for each in value.split(b","):
            member = each.strip(b" \t")
            if not member:
                continue  # section 3.3.1.2 allows empty members
            match = _MEMBER(member)
            count += 1
            if match is None or count > MOST_MEMBERS:
                return b""
            members.setdefault(match[1], member)
    return _shortened([*members.values()])


def _shortened(members: list[bytes]) -> bytes:
    """Join list members. If that is too long, long ones are left out first, then the last ones."""
    length = sum(map(len, members)) + len(members) - 1
    for index in range(len(members) - 1, -1, -1):
        if length > MOST_STATE and len(members[index]) > LONG_MEMBER:
            length -= len(members[index]) + 1
            del members[index]
    while length > MOST_STATE:
        length -= len(members.pop()) + 1
    return b",".join(members)


def read_b3(head: ContextHeaders) -> Parent | None:
    """Return the context of `b3`, or of the `X-B3-` headers; None: there is none, or it is invalid."""
    values = values_of(head, b"b3")
    if len(values) > 1:
        return None
    if not values:
        return _read_b3_multi(head)
    text = values[0].strip(b" \t")
    if text in _B3_SAMPLED:
        return Parent(b"", b"", _B3_SAMPLED[text])
    match = _B3(text)
    if match is None:
        return None
    sampled = None if match[3] is None else _B3_SAMPLED[match[3]]
    return Parent(match[1].lower().rjust(32, b"0"), match[2].lower(), sampled)


def _read_b3_multi(head: ContextHeaders) -> Parent | None:
    fields = [values_of(head, name) for name in (b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags")]
    if any(len(each) > 1 for each in fields):
        return None
    trace_id, span_id, sampled, flags = (each[0].strip(b" \t") if each else b"" for each in fields)
    decision = True if flags == b"1" else _X_B3_SAMPLED.get(sampled.lower())
    if not trace_id and not span_id:
        return None if decision is None else Parent(b"", b"", decision)
    if not _B3_ID(trace_id) or not _B3_SPAN(span_id):
        return None
    return Parent(trace_id.lower().rjust(32, b"0"), span_id.lower(), decision)


READERS: Final = {"tracecontext": read_tracecontext, "b3": read_b3}


def _tracecontext_lines(trace_id: bytes, span_id: bytes, flags: int, state: bytes) -> bytes:
    line = b"".join((b"traceparent: 00-", trace_id, b"-", span_id, _FLAGS[flags]))
    return b"%btracestate: %b\r\n" % (line, state) if state else line


def _b3_line(trace_id: bytes, span_id: bytes, flags: int, state: bytes) -> bytes:
    return b"b3: %b-%b-%d\r\n" % (trace_id, span_id, flags & SAMPLED)


def _b3_lines(trace_id: bytes, span_id: bytes, flags: int, state: bytes) -> bytes:
    told = trace_id, span_id, flags & SAMPLED
    return b"X-B3-TraceId: %b\r\nX-B3-SpanId: %b\r\nX-B3-Sampled: %d\r\n" % told


_FLAGS: Final = tuple(b"-%02x\r\n" % flags for flags in range(4))
B3_MULTI: Final = "b3 multi"
WRITERS: Final[Mapping[str, Callable[[bytes, bytes, int, bytes], bytes]]] = {
    "tracecontext": _tracecontext_lines,
    "b3": _b3_line,
    B3_MULTI: _b3_lines,
}
"""Functions that return the header lines for trace, span, flags and `tracestate`."""
