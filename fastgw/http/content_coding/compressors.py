"""Compressors of gzip, Brotli and Zstandard, with bounded memory for each stream.

Levels and sizes of tables are fixed here, measured for JSON (CPU of 100 KiB, ratio, memory of a stream): zstd default
125 us, 6.1, 305 KiB; gzip default 91 us, 5.0, 120 KiB; br default 0.9 ms, 6.0, 740 KiB. Event streams stay open for
long, so they have smaller tables: zstd 59 KiB, gzip 38 KiB. Brotli needs 280 KiB at least, so it has no compressor for
event streams.
"""

import sys
import zlib
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Final, Literal, Protocol, TypeAlias, final

import brotli
from isal import isal_zlib

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Level: TypeAlias = Literal["fast", "default", "best"]
GZIP: Final = b"gzip"
BROTLI: Final = b"br"
ZSTD: Final = b"zstd"

MOST_FINISHED: Final = 4
"""Maximum number of contexts of Zstandard that are kept for reuse, for each level; one takes up to 305 KiB."""

_FLUSH_FRAME: Final = zstd.ZstdCompressor.FLUSH_FRAME
_GZIP_HEADER: Final = 10  # bytes that zlib and ISA-L write before the compressed data
_PADDED_GZIP_HEADER: Final = b"\x1f\x8b\x08\x08\0\0\0\0\0\xff"  # FNAME is set: a name follows, and a zero byte
_SKIPPABLE_FRAME: Final = b"\x50\x2a\x4d\x18"  # RFC 8878 section 3.1.2
MAX_PADDING: Final = 256
"""Maximum bytes of padding: the length of one metadata block of Brotli is written in one byte."""


class Compressor(Protocol):
    """Compressor of one stream."""

    def compress(self, data: bytes, /) -> bytes: ...

    def flush(self) -> bytes:
        """Return output with which the receiver can decompress all input so far."""

    def finish(self) -> bytes:
        """Return the rest of the stream. Nothing may be called afterwards."""


@final
class _Deflate:
    __slots__ = ("_flush", "compress")

    def __init__(self, made: Any) -> None:
        self.compress, self._flush = made.compress, made.flush

    def flush(self) -> bytes:
        flushed: bytes = self._flush(zlib.Z_SYNC_FLUSH)
        return flushed

    def finish(self) -> bytes:
        rest: bytes = self._flush(zlib.Z_FINISH)
        return rest


@final
class _Brotli:
    __slots__ = ("compress", "finish", "flush")

    def __init__(self, quality: int, window_log: int) -> None:
        made = brotli.Compressor(quality=quality, lgwin=window_log)
        self.compress, self.flush, self.finish = made.process, made.flush, made.finish


@final
class _Zstd:
    __slots__ = ("_finished", "_flush", "_made", "compress")

    def __init__(self, options: Mapping[int, int], finished: list[Any]) -> None:
        """Create it. `finished`: contexts with these options whose frame is complete, for reuse."""
        # PERF: 173 us for 100 KB of JSON in three pieces, 186 by a new context (CPython 3.11).
        self._made = made = finished.pop() if finished else zstd.ZstdCompressor(options=options)
        self._finished = finished
        self.compress, self._flush = made.compress, made.flush

    def flush(self) -> bytes:
        return self._flush(zstd.ZstdCompressor.FLUSH_BLOCK)

    def finish(self) -> bytes:
        rest = self._flush(_FLUSH_FRAME)
        if len(self._finished) < MOST_FINISHED:
            self._finished.append(self._made)
        return rest


def _zstd_options(level: int, window_log: int, hash_log: int, chain_log: int) -> dict[int, int]:
    of = zstd.CompressionParameter
    return {
        of.compression_level: level,
        of.window_log: window_log,
        of.hash_log: hash_log,
        of.chain_log: chain_log,
    }


_ZSTD_OPTIONS: Final[Mapping[Level, dict[int, int]]] = {
    "fast": _zstd_options(1, 15, 12, 12),
    "default": _zstd_options(3, 16, 14, 13),
    "best": _zstd_options(6, 17, 15, 15),
}
_ZSTD_EVENTS: Final = _zstd_options(3, 12, 10, 10)
_zstd_finished: Final[Mapping[Level, list[Any]]] = {level: [] for level in _ZSTD_OPTIONS}
_BROTLI_LEVELS: Final[Mapping[Level, tuple[int, int]]] = {"fast": (1, 18), "default": (4, 16), "best": (6, 18)}
_GZIP_WINDOW: Final = 31  # 32 KiB, with the header and trailer of gzip
_GZIP_EVENTS: Final = 28  # 4 KiB
_OF_GZIP: Final[Mapping[Level, Callable[[], Any]]] = {
    "fast": lambda: isal_zlib.compressobj(0, wbits=_GZIP_WINDOW),
    "default": lambda: isal_zlib.compressobj(1, wbits=_GZIP_WINDOW),
    "best": lambda: zlib.compressobj(6, wbits=_GZIP_WINDOW),
}


def open_compressor(coding: bytes, level: Level) -> Compressor:
    """Open a compressor for a stream. Raises `KeyError` for an unknown coding or level."""
    if coding == ZSTD:
        return _Zstd(_ZSTD_OPTIONS[level], _zstd_finished[level])
    if coding == BROTLI:
        return _Brotli(*_BROTLI_LEVELS[level])
    return _Deflate(_OF_GZIP[level]())


EVENT_CODINGS: Final = frozenset((GZIP, ZSTD))
"""Codings with a compressor for event streams."""


def open_event_compressor(coding: bytes) -> Compressor:
    """Open a compressor with small tables, for an event stream. `coding`: of `EVENT_CODINGS`."""
    if coding == ZSTD:
        return _Zstd(_ZSTD_EVENTS, [])
    return _Deflate(zlib.compressobj(6, zlib.DEFLATED, _GZIP_EVENTS, 5))


WholeCompressor: TypeAlias = Callable[[bytes], bytes]
"""Compressor of contents that are complete, one after the other."""

# PERF: for 1 KB of JSON 1 us less than a stream that ends at once (CPython 3.11, ISA-L level 1).
_GZIP_WHOLE: Final[Mapping[Level, WholeCompressor]] = {
    "fast": lambda data: isal_zlib.compress(data, 0, _GZIP_WINDOW),
    "default": lambda data: isal_zlib.compress(data, 1, _GZIP_WINDOW),
    "best": lambda data: zlib.compress(data, 6, _GZIP_WINDOW),
}


@cache
def _whole_zstd(level: Level) -> WholeCompressor:
    """Return the compressor of all contents with this level. Its context is ready for the next one after each frame,
    and is reset after an error.
    """
    # PERF: a new context of Zstandard takes 10 us, a used one 1 (CPython 3.11, 1 KB of JSON).
    compress = zstd.ZstdCompressor(options=_ZSTD_OPTIONS[level]).compress
    return lambda data: compress(data, _FLUSH_FRAME)


def whole_compressor(coding: bytes, level: Level) -> WholeCompressor:
    """Return a function that compresses contents which are complete, one after the other. Raises `KeyError` for an
    unknown coding or level.
    """
    if coding == ZSTD:
        return _whole_zstd(level)
    if coding == BROTLI:
        levels = _BROTLI_LEVELS[level]
        return lambda data: brotli.compress(data, brotli.MODE_GENERIC, *levels)
    return _GZIP_WHOLE[level]


@final
class PaddedCompressor:
    """Compressor whose output is longer by a random number of bytes, which receivers ignore.

    gzip: a file name in its header (RFC 1952); Brotli: a metadata block (RFC 7932 section 9.2); Zstandard: a skippable
    frame (RFC 8878 section 3.1.2). With it, the length of a response does not tell whether a guess of a secret in it
    was right (BREACH; Palacios et al., "Heal the Breach").
    """

    __slots__ = ("_made", "_prefix", "_skipped")

    def __init__(self, coding: bytes, made: Compressor, padding: int) -> None:
        """Create it. `padding`: bytes, from 1 to `MAX_PADDING`."""
        self._made = made
        self._skipped = 0  # bytes of the compressor's output to leave out
        fill = b"x" * padding
        if coding == ZSTD:
            self._prefix = _SKIPPABLE_FRAME + padding.to_bytes(4, "little") + fill
        elif coding == BROTLI:
            # The flush ends the stream's header at a full byte. Bits of the block's header, from the lowest: not the
            # last, no size (11), reserved 0, a length of one byte (01), the length less one, padding to a full byte.
            bits = 0b010110 | (padding - 1) << 6
            self._prefix = made.flush() + bits.to_bytes(2, "little") + fill
        else:
            self._prefix, self._skipped = _PADDED_GZIP_HEADER + fill + b"\0", _GZIP_HEADER

    def compress(self, data: bytes, /) -> bytes:
        return self._padded(self._made.compress(data))

    def flush(self) -> bytes:
        return self._padded(self._made.flush())

    def finish(self) -> bytes:
        return self._padded(self._made.finish())

    def _padded(self, out: bytes) -> bytes:
        if self._skipped:
            skipped = min(self._skipped, len(out))
            self._skipped -= skipped
            out = out[skipped:]
        if self._prefix:
            out, self._prefix = self._prefix + out, b""
        return out
