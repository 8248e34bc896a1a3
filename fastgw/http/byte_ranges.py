"""Byte ranges (RFC 9110 section 14): Range and Content-Range, and the parts of multipart/byteranges."""

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

MAX_RANGES: Final = 64
"""Most ranges in one request; with more, the whole representation is sent."""

_SET: Final = re.compile(rb"bytes=(.*)", re.IGNORECASE | re.DOTALL)
_SPEC: Final = re.compile(rb"(?P<first>[0-9]*)-(?P<last>[0-9]*)")
_CONTENT_RANGE: Final = re.compile(
    rb"bytes (?:(?P<first>[0-9]++)-(?P<last>[0-9]++)/(?:(?P<complete>[0-9]++)|\*)|\*/(?P<unsatisfied>[0-9]++))",
    re.IGNORECASE,
)
_BEYOND: Final = 1 << 62
"""Position in place of numbers of more than 18 digits, which no representation reaches."""


class ByteRange(NamedTuple):
    """Positions of a part of a representation. `last` is its last byte, so `first` <= `last`."""

    first: int
    last: int

    @property
    def length(self) -> int:
        """Bytes of the part."""
        return self.last - self.first + 1


class ContentRange(NamedTuple):
    """Value of a Content-Range. `part` is None in a 416, `complete` is None for a representation of unknown length."""

    part: ByteRange | None
    complete: int | None


class Multipart(NamedTuple):
    """Frame of a body of type multipart/byteranges: `heads[n]`, the bytes of range n, and after all `end`."""

    content_type: bytes
    heads: tuple[bytes, ...]
    end: bytes
    length: int
    """Bytes of the whole body."""


def select_ranges(value: bytes, length: int) -> tuple[ByteRange, ...] | None:
    """Return the ranges of a representation of `length` bytes that a Range field asks for, in its order.

    `value`: of all its lines, joined with a comma. None: send the whole representation, because the unit is another
    one, the value is invalid, or the ranges are more than `MAX_RANGES` or together longer than the representation
    (overlapping ranges would let a short request cause a large response). Empty: no range is satisfiable (416).
    """
    found = _SET.fullmatch(value)
    if found is None:
        return None
    specs = [spec for part in found[1].split(b",", MAX_RANGES * 2) if (spec := part.strip(b" \t"))]
    if not 0 < len(specs) <= MAX_RANGES:
        return None
    ranges, total = [], 0
    for spec in specs:
        positions = _SPEC.fullmatch(spec)
        if positions is None:
            return None
        first, last = positions["first"], positions["last"]
        if first:
            begin, end = _position(first), _position(last) if last else _BEYOND
            if end < begin:
                return None
        elif last:
            suffix = _position(last)
            if suffix and not length:
                return None  # satisfiable, but no Content-Range can express an empty part
            begin, end = max(length - suffix, 0), _BEYOND
        else:
            return None
        if begin < length:
            ranges.append(ByteRange(begin, min(end, length - 1)))
            total += ranges[-1].length
    return tuple(ranges) if total <= length else None


def content_range(part: ByteRange, complete: int | None) -> bytes:
    """Return the value of Content-Range for a part. `complete`: length of the representation; None: unknown."""
    return b"bytes %d-%d/%b" % (part.first, part.last, b"*" if complete is None else b"%d" % complete)


def unsatisfied_range(complete: int) -> bytes:
    """Return the value of Content-Range in a 416."""
    return b"bytes */%d" % complete


def parse_content_range(value: bytes) -> ContentRange | None:
    """Parse the value of a Content-Range. None: invalid, or of another unit (RFC 9110 section 14.4)."""
    found = _CONTENT_RANGE.fullmatch(value)
    if found is None:
        return None
    if found["unsatisfied"] is not None:
        return ContentRange(None, _position(found["unsatisfied"]))
    part = ByteRange(_position(found["first"]), _position(found["last"]))
    complete = None if found["complete"] is None else _position(found["complete"])
    if part.last < part.first or (complete is not None and complete <= part.last):
        return None
    return ContentRange(part, complete)


def frame_multipart(ranges: Sequence[ByteRange], complete: int, content_type: bytes, boundary: bytes) -> Multipart:
    """Return the frame of a body with several ranges (RFC 9110 section 14.6).

    `content_type`: of the representation; empty: unknown. `boundary`: a token of at most 70 characters that cannot be
    guessed, or a representation made by an attacker could contain it.
    """
    kind = b"Content-Type: %b\r\n" % content_type if content_type else b""
    heads = tuple(
        b"%b--%b\r\n%bContent-Range: %b\r\n\r\n"
        % (b"\r\n" if index else b"", boundary, kind, content_range(each, complete))
        for index, each in enumerate(ranges)
    )
    end = b"\r\n--%b--\r\n" % boundary
    length = sum(map(len, heads)) + sum(each.length for each in ranges) + len(end)
    return Multipart(b"multipart/byteranges; boundary=" + boundary, heads, end, length)


def _position(digits: bytes) -> int:
    return int(digits) if len(digits) <= 18 or len(digits := digits.lstrip(b"0") or b"0") <= 18 else _BEYOND
