"""Repair of sloppy responses: what an upstream may do that RFC 9112 forbids (`upstreams.*.tolerate`).

The parsers stay strict. Text that they refuse is rewritten into the strict text with the same meaning, as far as the
upstream's rules allow, and parsed again. Rule 1: what has no tolerated meaning is left as it is, so that it is refused.
Rule 2: no repair of a value makes framing out of it. Rule 3: after a repair by which the response could end elsewhere
for another reader (`Repair.ambiguous`), the connection is not used again.
"""

import re
from collections.abc import Collection
from typing import Final, final

from fastgw.http.field_names import HOP_BY_HOP
from fastgw.http.grammar import elements
from fastgw.http.http1.body import LONGEST_EXTENSIONS, BodyReader
from fastgw.http.http1.parser import LAST_STATUS, LAST_TOLERATED_STATUS, find_head_end
from fastgw.http.http1.second_parser import disagreement
from fastgw.http.malformed import Malformed

MAX_HEAD: Final = 65536
"""Maximum size of a response head, in bytes, unless the upstream's rules allow more."""
MAX_FIELDS: Final = 100
"""Maximum number of header lines of a response, unless the upstream's rules allow more."""

_EMPTY_LINE: Final = re.compile(rb"\n\r?+\n")
_STATUS_LINE: Final = re.compile(rb"(HTTP/1\.[01] [0-9]{3} )([^\n]*+)")
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16}+)[\t ]*+(;[^\n]*+)?")
# RFC 9110 section 5.5: NUL and CR are replaced by a space, not removed. LF ends a line, and stays.
_SPACES: Final = bytes.maketrans(b"\0\r", b"  ")
_REMOVED: Final = bytes(code for code in (*range(32), 127) if code not in b"\t\n\r\0")
_EXACT: Final = HOP_BY_HOP | {b"content-length"}
"""Lower-case names of headers that decide on the framing and the connection: their values are never cleaned."""


@final
class ResponseRules:
    """Rules of an upstream for its responses: the violations of RFC 9112 that it may commit, and limits of a head."""

    __slots__ = (
        "bare_lf",
        "control_characters",
        "find_head_end",
        "header_bytes",
        "header_count",
        "last_status",
        "length_with_chunked",
        "padded_chunk_sizes",
        "repairs_chunks",
        "repairs_heads",
        "repeated_chunked",
        "repeated_length",
        "transfer_encoding_identity",
    )

    def __init__(
        self, tolerate: Collection[str] = (), header_bytes: int = MAX_HEAD, header_count: int = MAX_FIELDS
    ) -> None:
        """`tolerate`: names as in the settings."""
        self.header_bytes, self.header_count = header_bytes, header_count
        self.length_with_chunked = "content_length_with_chunked" in tolerate
        self.repeated_length = "repeated_content_length" in tolerate
        self.transfer_encoding_identity = "transfer_encoding_identity" in tolerate
        self.repeated_chunked = "repeated_chunked" in tolerate
        self.bare_lf = "bare_lf" in tolerate
        self.padded_chunk_sizes = "padded_chunk_sizes" in tolerate
        self.control_characters = "control_characters" in tolerate
        self.last_status = LAST_TOLERATED_STATUS if "statuses_above_599" in tolerate else LAST_STATUS
        self.find_head_end = _find_lenient_head_end if self.bare_lf else find_head_end
        self.repairs_heads = not {"statuses_above_599", "padded_chunk_sizes"}.issuperset(tolerate)
        self.repairs_chunks = self.bare_lf or self.padded_chunk_sizes or self.control_characters


STRICT: Final = ResponseRules()
"""Rules of upstreams that tolerate nothing."""


def _find_lenient_head_end(buffer: bytes, start: int = 0) -> int:
    """Return the index just past the first empty line, whatever its lines end with; -1: it was not received yet.

    `start`: end of earlier searches.
    """
    found = _EMPTY_LINE.search(buffer, max(0, start - 2))
    return -1 if found is None else found.end()


@final
class Repair:
    """Repairs of one response, and of the interim ones before it."""

    __slots__ = ("ambiguous", "rules")

    def __init__(self, rules: ResponseRules) -> None:
        self.rules = rules
        self.ambiguous = False
        """Whether another reader could find another end of the response."""

    def repair_head(self, raw: bytes) -> bytes:
        """Return a head, from its first byte to its empty line, without what the rules tolerate."""
        rules = self.rules
        if rules.bare_lf:
            self.ambiguous |= raw.count(b"\n") != raw.count(b"\r\n")
            start, *lines = [line.removesuffix(b"\r") for line in raw.split(b"\n")[:-2]]
        else:
            start, *lines = raw.split(b"\r\n")[:-2]
        if rules.control_characters:
            if (said := _STATUS_LINE.fullmatch(start)) is not None:
                start = said[1] + _clean(said[2])
            lines = [_clean_line(line) for line in lines]
        return b"\r\n".join([start, *self._settle_framing(lines), b"", b""])

    def _settle_framing(self, lines: list[bytes]) -> list[bytes]:
        """Return the lines with one meaning of `Transfer-Encoding` and `Content-Length`, if the rules tell which."""
        rules = self.rules
        codings, lengths = _values(lines, b"transfer-encoding"), _values(lines, b"content-length")
        if codings:
            said = elements(b",".join(codings))
            kept = [each for each in said if each != b"identity"] if rules.transfer_encoding_identity else said
            if rules.repeated_chunked and set(kept) == {b"chunked"}:
                kept = [b"chunked"]
            if kept != said and kept in ([], [b"chunked"]):
                self.ambiguous = True
                codings, lines = kept, _with_one(lines, b"Transfer-Encoding", kept)
        if lengths and rules.repeated_length:
            numbers = {each.strip(b"\t ") for each in b",".join(lengths).split(b",")}
            if len(numbers) == 1 and min(numbers).isdigit():
                lengths, lines = [*numbers], _with_one(lines, b"Content-Length", [*numbers])
        is_chunked = [each.lower() for each in codings] == [b"chunked"]
        if rules.length_with_chunked and is_chunked and len(lengths) == 1 and lengths[0].isdigit():
            self.ambiguous = True
            lines = _with_one(lines, b"Content-Length", [])
        return lines


def _values(lines: list[bytes], name: bytes) -> list[bytes]:
    """Return the values of the header with this lower-case name."""
    return [line[len(name) + 1 :].strip(b"\t ") for line in lines if _is_of(line, name)]


def _with_one(lines: list[bytes], name: bytes, value: list[bytes]) -> list[bytes]:
    """Return the lines with one value of a header, or none, in place of all its lines."""
    others = [line for line in lines if not _is_of(line, name.lower())]
    return [*others, *(b"%b: %b" % (name, each) for each in value)]


def _is_of(line: bytes, name: bytes) -> bool:
    return line[: len(name) + 1].lower() == name + b":"


def _clean(value: bytes) -> bytes:
    return value.translate(_SPACES, _REMOVED)


def _clean_line(line: bytes) -> bytes:
    name, colon, value = line.partition(b":")
    return line if name.lower() in _EXACT else name + colon + _clean(value) if colon else line


@final
class RepairedChunks(BodyReader):
    """Reader of a body in chunks that repairs the lines around them for a strict reader."""

    __slots__ = (
        "_after_payload",
        "_ended",
        "_held",
        "_in_trailers",
        "_left",
        "_reader",
        "_repair",
    )

    def __init__(self, reader: BodyReader, repair: Repair) -> None:
        self._reader = reader
        self._repair = repair
        self._left = 0  # remaining payload bytes of the current chunk
        self._after_payload = False  # the line end of the chunk is still to come
        self._in_trailers = self._ended = False
        self._held = b""  # an incomplete line

    def is_in_line(self) -> bool:
        return bool(self._held) or self._reader.is_in_line()

    def feed(self, chunk: bytes) -> bytes:
        if self.done:
            self.rest += chunk
            return b""
        if len(chunk) <= self._left:
            self._left -= len(chunk)
            return self._reader.feed(chunk)
        buffer = self._held + chunk
        strict: list[bytes] = []
        at = 0
        while at < len(buffer) and not self._ended:
            if self._left:
                strict.append(buffer[at : at + self._left])
                at += len(strict[-1])
                self._left -= len(strict[-1])
                continue
            end = buffer.find(b"\n", at) + 1
            if not end:
                if len(buffer) - at > (self._repair.rules.header_bytes if self._in_trailers else LONGEST_EXTENSIONS):
                    raise Malformed("A line of a chunked body is too long.")
                break
            strict.append(self._repair_line(buffer[at:end]))
            at = end
        self._held, self.rest = (b"", buffer[at:]) if self._ended else (buffer[at:], b"")
        payload = self._reader.feed(b"".join(strict)) if strict else b""
        self.done, self.trailers = self._reader.done, self._reader.trailers
        if self.done != self._ended:
            raise disagreement()
        return payload

    def eof(self) -> None:
        self._reader.eof()

    def _repair_line(self, raw: bytes) -> bytes:
        """Return a line without what the rules tolerate. The strict reader refuses the rest."""
        rules = self._repair.rules
        line = raw[:-1].removesuffix(b"\r")
        if len(raw) - len(line) == 1:
            if not rules.bare_lf:
                raise Malformed("A line ends with a bare LF.")
            self._repair.ambiguous = True
        if self._after_payload:
            self._after_payload = False
        elif self._in_trailers:
            self._ended = not line
            line = _clean_line(line) if rules.control_characters else line
        elif (said := _SIZE_LINE.fullmatch(line)) is not None:
            if rules.padded_chunk_sizes:
                line = said[1] + (said[2] or b"").rstrip(b"\t ")
            self._left = int(said[1], 16)
            self._in_trailers = not self._left
            self._after_payload = bool(self._left)
        return line + b"\r\n"
