"""Compression of responses: which responses, with which coding, and the stage that does it.

Imported only where the filter is configured: it needs `fastgw[compression]`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from secrets import randbelow
from typing import Final, final

import cython

from fastgw.exchange.exchange import Exchange
from fastgw.exchange.reply import UNKNOWN, EncodedForms, Response
from fastgw.filters.api import BodyStage
from fastgw.filters.policies.content_coding.media_types import Kind, MediaTypes
from fastgw.http.content_coding.accept_encoding import Negotiated, negotiate
from fastgw.http.content_coding.compressors import (
    BROTLI,
    EVENT_CODINGS,
    GZIP,
    MAX_PADDING,
    ZSTD,
    Compressor,
    Level,
    PaddedCompressor,
    open_compressor,
    open_event_compressor,
    whole_compressor,
)
from fastgw.http.field_names import DIGESTS
from fastgw.http.messages import AS_DECLARED, RequestHead
from fastgw.observe.metrics.families import CodingOperation, ContentCoding

LARGEST_AT_ONCE: Final = 1024 * 1024
"""Maximum bytes of a response that is there as a whole and is compressed, in one turn of the event loop. Bodies of
upstreams arrive in reads of 64 KiB; one that another filter has held may be larger."""

LARGEST_HELD: Final = 128 * 1024
"""Maximum bytes of a body of known length that is compressed at its end, in one piece. A compressor would hold back
most of its output until then, too."""

_LEVELS_OF_LARGE: Final[Mapping[bytes, Mapping[Level, Level]]] = {
    BROTLI: {"fast": "fast", "default": "fast", "best": "fast"},
    GZIP: {"fast": "fast", "default": "default", "best": "default"},
    ZSTD: {"fast": "fast", "default": "default", "best": "default"},
}
"""Levels, by coding and configured level, of bodies of more than `LARGEST_HELD` bytes that are compressed in one turn.
They take up to 12 ms for 1 MiB of JSON; `best` takes 22 (zstd), 50 (gzip) and 69 (br), and `default` of br 34."""

SMALLEST_STORED: Final = 4 * 1024
"""Minimum bytes of a cached response whose compressed form is stored: a smaller one is compressed as fast as found."""
LARGEST_STORED: Final = 1024 * 1024
"""Maximum bytes of a compressed form that is stored, and held in memory until its end."""

_RANGE: Final = frozenset((b"range", b"if-range"))
_PARTIAL: Final = frozenset((206, 226))
_NO_BODY: Final = frozenset((204, 205))
_NOT_MODIFIED: Final = 304
_PARTS: Final = b"multipart/byteranges"
_NO_TRANSFORM: Final = re.compile(rb"(?:^|[, \t])no-transform(?:$|[, \t=])", re.IGNORECASE).search
_ACCEPT_ENCODING: Final = b"accept-encoding"
_VARY: Final = b"Vary: Accept-Encoding\r\n"
_COMPRESS: Final = CodingOperation.COMPRESS
OTHER: Final = Kind.OTHER
DOCUMENT: Final = Kind.DOCUMENT
STREAM: Final = Kind.STREAM
_NUMBERS: Final = {coding: ContentCoding.named(coding) for coding in (BROTLI, GZIP, ZSTD)}


class _Chosen:
    """The way in which a response is compressed. `least`: bytes of content from which on. `length`: bytes of the
    content before; `UNKNOWN`. `whole_bytes`, `forms`: as of `Response`.
    """

    def __init__(
        self, coding: bytes, kind: Kind, least: int, length: int, whole_bytes: int, forms: EncodedForms | None
    ) -> None:
        self.coding, self.kind, self.least = coding, kind, least
        self.length, self.whole_bytes, self.forms = length, whole_bytes, forms


class Compression:
    """Compiled settings."""

    def __init__(
        self, types: MediaTypes, encodings: Iterable[str], level: Level, min_bytes: int, random_padding: bool
    ) -> None:
        self._types, self._level, self._min_bytes, self._pads = types, level, min_bytes, random_padding
        self._offered = tuple(each.encode() for each in encodings)
        self._offered_for_streams = tuple(each for each in self._offered if each in EVENT_CODINGS)
        self._whole = {each: whole_compressor(each, level) for each in self._offered}
        self._lines = {each: b"Content-Encoding: %b\r\n" % each for each in self._offered}

    def request(self, exchange: Exchange) -> None:
        """Request no range of content that the client may have in compressed form.

        `If-Range` with a strong ETag is safe, because a compressed response has a weak one. A date would match, and the
        client would append bytes of the content to compressed data; some servers even compare weak ETags.
        """
        validator = exchange.field(b"if-range")
        if validator is None or validator.startswith(b'"'):
            return
        if self._negotiated(exchange.head, DOCUMENT).coding:
            exchange.drop_everywhere(_RANGE)

    def explain(self, exchange: Exchange) -> str:
        if _forbids(exchange.head.values(b"cache-control")):
            return "the request has no-transform: not compressed"
        coding = self._negotiated(exchange.head, DOCUMENT).coding
        if coding is None:
            return f"the client accepts none of {', '.join(map(bytes.decode, self._offered))}: not compressed"
        return f"responses of `types` from {self._min_bytes} bytes are compressed with {coding.decode()}"

    def stage_for(self, exchange: Exchange) -> BodyStage | None:
        """Return the stage that compresses the response of an exchange, and mark the response as compressed."""
        assert exchange.response is not None
        response = exchange.response
        chosen = self._choose(exchange, response)
        if chosen is None:
            return None
        if response.is_held and exchange.method != b"HEAD":  # the length of what the stages before make of it counts
            return _HeldStage(partial(self._stage_for_held, exchange, response, chosen))
        return self._stage(exchange, chosen) if self._takes(response, chosen) else None

    def _stage_for_held(self, exchange: Exchange, response: Response, chosen: _Chosen, length: int) -> BodyStage | None:
        """Return the stage for a whole body of this length, and mark the response as compressed."""
        chosen.length, chosen.whole_bytes = length, UNKNOWN
        return self._stage(exchange, chosen) if self._takes(response, chosen) else None

    def change_whole(self, exchange: Exchange, response: Response, body: bytes) -> bytes | BodyStage | None:
        """Return the compressed body of a response that is complete, and mark the response as compressed; or what
        `stage_for` returns.
        """
        chosen = self._choose(exchange, response)
        if chosen is None or not self._takes(response, chosen):
            return None
        if response.encoded_forms is not None:
            return self._stage(exchange, chosen)
        # PERF: 5 us of CPU less than through a stage (CPython 3.11, micro/content_coding).
        coding: bytes = chosen.coding
        out = self._compressor_of_whole(coding, len(body))(body)
        _count(exchange, coding, len(body), len(out))
        return out

    def _choose(self, exchange: Exchange, response: Response) -> _Chosen | None:
        """Decide about the response to a request, and mark it as one that depends on `Accept-Encoding`. None: it is not
        compressed.
        """
        status = response.status
        if status == _NOT_MODIFIED:
            self._complete_not_modified(exchange.head, response)
            return None
        values = response.reader()
        kind = self._kind_of(values)
        if status in _NO_BODY or (kind is OTHER and not _has_parts(status, values)):
            return None
        if not _varies(values(b"vary")):
            response.added += _VARY
        if status in _PARTIAL or values(b"content-range") or _forbids(exchange.head.values(b"cache-control")):
            return None
        negotiated = self._negotiated(exchange.head, kind)
        coding, whole_bytes = negotiated.coding, response.whole_bytes
        if coding is None or whole_bytes > LARGEST_AT_ONCE:
            return None
        least = 1 if negotiated.identity_refused else max(1, self._min_bytes)
        length = _length_of(exchange.head, response)
        return _Chosen(coding, kind, least, length, whole_bytes, response.encoded_forms)

    def _takes(self, response: Response, chosen: _Chosen) -> bool:
        """Return whether the body is long enough, and mark the response as compressed."""
        if 0 <= chosen.length < chosen.least:
            return False
        response.added += self._lines[chosen.coding]
        return True

    def _stage(self, exchange: Exchange, chosen: _Chosen) -> BodyStage:
        coding, kind, length, whole_bytes = chosen.coding, chosen.kind, chosen.length, chosen.whole_bytes
        forms: EncodedForms | None = chosen.forms
        level = self._level_of(coding, whole_bytes)
        keep: Callable[[bytes], None] | None = None
        if forms is not None and length >= SMALLEST_STORED and not self._pads:
            form = b"%b %b" % (coding, level.encode())
            stored = forms.find(form)
            if stored is not None:
                return _StoredStage(exchange, coding, stored)
            keep = partial(forms.store, form)
        # PERF: 100 KiB of JSON in one piece take 116 us with gzip, 250 with Zstandard; in four pieces 138 and 273
        # (CPython 3.11).
        is_held = whole_bytes >= 0 or (0 < length <= LARGEST_HELD and kind is not STREAM)
        if is_held and not self._pads:
            return _WholeStage(exchange, coding, self._compressor_of_whole(coding, whole_bytes), keep)
        opened = partial(self._open_compressor, coding, kind)
        return _Stage(exchange, coding, opened, kind is STREAM or length == UNKNOWN, keep)

    def _kind_of(self, values: Callable[[bytes], list[bytes]]) -> Kind:
        """Return the treatment of a response by its header. `values`: its `reader`."""
        types = values(b"content-type")
        if len(types) != 1:
            return OTHER
        kind = self._types.kind_of(types[0])
        if kind is not OTHER and (values(b"content-encoding") or _forbids(values(b"cache-control"))):
            return OTHER
        return kind

    def _negotiated(self, head: RequestHead, kind: Kind) -> Negotiated:
        # As the client sent it: other filters may have changed it for the upstream.
        edited = head.edited() is not None
        values = head.received_fields().get_all(_ACCEPT_ENCODING) if edited else head.values(_ACCEPT_ENCODING)
        return negotiate(values, self._offered_for_streams if kind is STREAM else self._offered)

    def _level_of(self, coding: bytes, whole_bytes: cython.Py_ssize_t) -> Level:
        """Return the level for a body. `whole_bytes`: if it is compressed in one turn."""
        return _LEVELS_OF_LARGE[coding][self._level] if whole_bytes > LARGEST_HELD else self._level

    def _compressor_of_whole(self, coding: bytes, whole_bytes: cython.Py_ssize_t) -> Callable[[bytes], bytes]:
        level = self._level_of(coding, whole_bytes)
        return self._whole[coding] if level == self._level else whole_compressor(coding, level)

    def _complete_not_modified(self, asked: RequestHead, response: Response) -> None:
        """Give a 304 what the compressed response has, if it may be for that (RFC 9110 section 15.4.5): `Vary`, and a
        weak ETag, but no length and digest of the uncompressed content (RFC 9110 section 8.6).

        With a strong ETag a cache would not update its stored response (RFC 9111 section 4.3.4). A client with a strong
        ETag has the uncompressed response.
        """
        types = response.values(b"content-type")
        if types and self._types.kind_of(types[0]) is OTHER:
            return
        if response.values(b"content-encoding") or _forbids(response.values(b"cache-control")):
            return
        if not _varies(response.values(b"vary")):
            response.added += _VARY
        if _forbids(asked.values(b"cache-control")):
            return
        etags, held = response.values(b"etag"), asked.values(b"if-none-match")
        is_strong = len(etags) == 1 and etags[0].startswith(b'"')
        compresses = self._negotiated(asked, DOCUMENT).coding is not None
        weakens = is_strong and (b"W/" + etags[0] in b",".join(held) if held else compresses)
        if weakens:
            response.dropped |= {b"etag"}
            response.added += b"ETag: W/%b\r\n" % etags[0]
        if weakens or compresses:
            response.dropped |= DIGESTS
            response.body_length = UNKNOWN

    def _open_compressor(self, coding: bytes, kind: Kind, size: int) -> Compressor:
        """`size`: bytes of the first piece, which may be the whole body that another filter has held."""
        level = self._level_of(coding, size)
        made = open_event_compressor(coding) if kind is STREAM else open_compressor(coding, level)
        return PaddedCompressor(coding, made, 1 + randbelow(MAX_PADDING)) if self._pads else made


def _count(exchange: Exchange, coding: bytes, bytes_in: cython.Py_ssize_t, bytes_out: cython.Py_ssize_t) -> None:
    exchange.client.counts.count_content_coding(exchange, _COMPRESS, _NUMBERS[coding], bytes_in, bytes_out)


def _forbids(values: Sequence[bytes]) -> bool:
    """Whether `Cache-Control` has `no-transform` (RFC 9111 sections 5.2.1.6 and 5.2.2.6)."""
    return bool(values) and _NO_TRANSFORM(b",".join(values)) is not None


def _has_parts(status: int, values: Callable[[bytes], list[bytes]]) -> bool:
    """Whether a response has several parts of a content whose type is only known from its parts: its `Vary` has to be
    that of the 200 (RFC 9110 section 15.3.7), which may be compressed. `values`: its `reader`.
    """
    if status not in _PARTIAL or values(b"content-encoding") or _forbids(values(b"cache-control")):
        return False
    return any(each[: len(_PARTS)].lower() == _PARTS for each in values(b"content-type"))


def _varies(values: Sequence[bytes]) -> bool:
    """Whether `Vary` with these values names `Accept-Encoding` already, or everything."""
    for value in values:
        for member in value.split(b","):
            if member.strip(b" \t").lower() in (b"accept-encoding", b"*"):
                return True
    return False


def _length_of(asked: RequestHead, response: Response) -> int:
    """Return the bytes of the content before compression, as for GET; `UNKNOWN`."""
    head, length = response.head, response.body_length
    if length != AS_DECLARED:
        return length
    if head is None or (response.whole_bytes >= 0 and asked.method != b"HEAD"):
        return response.whole_bytes
    declared = head.body_length
    if declared is None or (asked.method == b"HEAD" and head.first(b"content-length") is None):
        return UNKNOWN
    return declared


@final
class _HeldStage(BodyStage):
    """Stage for a body that another one has held, of which it decides at the end: by its length. `make`: returns the
    stage that compresses a body of this length; None: it stays as it is.
    """

    def __init__(self, make: Callable[[int], BodyStage | None]) -> None:
        self._make: Callable[[int], BodyStage | None] | None = make
        self._pieces: list[bytes] = []

    def feed(self, payload: bytes) -> bytes:
        self._pieces.append(payload)
        return b""

    def end(self) -> bytes:
        assert self._make is not None
        body = b"".join(self._pieces)
        stage = self._make(len(body))
        self.cancel()
        self.changed = stage is not None
        return body if stage is None else stage.feed(body) + stage.end()

    def cancel(self) -> None:
        self._make, self._pieces = None, []


class _CountingStage(BodyStage):
    """Base of stages that compress the body of one response."""

    takes_empty = True

    def __init__(self, exchange: Exchange, coding: bytes) -> None:
        self._exchange: Exchange | None = exchange
        self._coding = coding
        self._bytes_in = self._bytes_out = 0

    def cancel(self) -> None:
        """Count the bytes."""
        exchange, self._exchange = self._exchange, None
        if exchange is not None and self._bytes_in:
            _count(exchange, self._coding, self._bytes_in, self._bytes_out)


@final
class _StoredStage(_CountingStage):
    """Stage that sends the stored compressed form of a cached response in place of the response."""

    def __init__(self, exchange: Exchange, coding: bytes, stored: bytes) -> None:
        super().__init__(exchange, coding)
        self._stored = stored

    def feed(self, payload: bytes) -> bytes:
        self._bytes_in += len(payload)
        out, self._stored = self._stored, b""
        self._bytes_out += len(out)
        return out

    def end(self) -> bytes:
        self.cancel()
        return b""


@final
class _WholeStage(_CountingStage):
    """Stage that compresses a body in one piece, at its end. `keep`: stores the compressed body."""

    def __init__(
        self,
        exchange: Exchange,
        coding: bytes,
        compress: Callable[[bytes], bytes],
        keep: Callable[[bytes], None] | None,
    ) -> None:
        super().__init__(exchange, coding)
        self._compress, self._keep = compress, keep
        self._pieces: list[bytes] = []

    def feed(self, payload: bytes) -> bytes:
        self._bytes_in += len(payload)
        self._pieces.append(payload)
        return b""

    def end(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        out = self._compress(b"".join(pieces))
        self._bytes_out = len(out)
        if self._keep is not None and len(out) <= LARGEST_STORED:
            self._keep(out)
        self.cancel()
        return out


@final
class _Stage(_CountingStage):
    """Stage that compresses a body as it arrives."""

    def __init__(
        self,
        exchange: Exchange,
        coding: bytes,
        opened: Callable[[int], Compressor],
        flushes: bool,
        keep: Callable[[bytes], None] | None,
    ) -> None:
        """Create the stage. `flushes`: after each piece. `keep`: stores the compressed body."""
        super().__init__(exchange, coding)
        self._opened: Callable[[int], Compressor] | None = opened
        self._compressor: Compressor | None = None  # created with the first piece: a response to HEAD has none
        self._flushes = flushes
        self._keep = keep
        self._kept: list[bytes] = []

    def feed(self, payload: bytes) -> bytes:
        self._bytes_in += len(payload)
        compressor = self._open(len(payload))
        out = compressor.compress(payload)
        if self._flushes:
            out += compressor.flush()
        self._take_output(out)
        return out

    def end(self) -> bytes:
        out = self._open(0).finish()
        self._take_output(out)
        if self._keep is not None:
            self._keep(b"".join(self._kept))
        self.cancel()
        return out

    def cancel(self) -> None:
        """Release the compressor, and count the bytes."""
        super().cancel()
        self._compressor = self._opened = self._keep = None
        self._kept = []

    def _take_output(self, out: bytes) -> None:
        self._bytes_out += len(out)
        if self._keep is not None:
            self._kept.append(out)
            if self._bytes_out > LARGEST_STORED:
                self._keep, self._kept = None, []

    def _open(self, size: int) -> Compressor:
        if self._compressor is None:
            assert self._opened is not None
            self._compressor, self._opened = self._opened(size), None
        return self._compressor
