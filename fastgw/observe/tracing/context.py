"""Trace context in headers: W3C Trace Context (levels 1 and 2) and B3, read strictly.

A header that breaks its grammar is treated as missing. Headers of a client are never forwarded as they came:
the gateway writes those of all configured formats itself (`trace.py`).
"""

import re
from typing import Final, NamedTuple, Protocol

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

# Section 3.2.2: a later version may append fields after another dash; version ff is invalid.
_TRACEPARENT: Final = re.compile(
    rb"(?:00|(?!ff)([0-9a-f]{2}))-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?", re.DOTALL
).fullmatch
_VERSION_00: Final = 55
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

    def first(self, name: bytes) -> bytes | None: ...
    def values(self, name: bytes) -> list[bytes]: ...


class Parent(NamedTuple):
    """Context that a request was received with. Ids are lower-case hexadecimal digits."""

    trace_id: bytes
    """32 digits; b"" = the sender has only decided about sampling."""
    span_id: bytes
    is_sampled: bool | None
    """The sender's sampling decision; None = it leaves the decision to the gateway."""
    is_random: bool = False
    state: bytes = b""
    """`tracestate` to forward."""


def read_tracecontext(head: ContextHeaders) -> Parent | None:
    """Return the context of `traceparent` and `tracestate`; None: there is none, or it is invalid."""
    values = head.values(b"traceparent")
    if len(values) != 1:
        return None
    text = values[0].strip(b" \t")
    match = _TRACEPARENT(text)
    if match is None or (match[1] is None and len(text) != _VERSION_00):
        return None
    flags = int(match[4], 16)
    state = read_tracestate(head.values(b"tracestate"))
    return Parent(match[2], match[3], bool(flags & SAMPLED), bool(flags & RANDOM), state)


def read_tracestate(values: list[bytes]) -> bytes:
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
    values = head.values(b"b3")
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
    fields = [head.values(name) for name in (b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags")]
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
