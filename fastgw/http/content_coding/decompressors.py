"""Decompressors of gzip, Brotli and Zstandard, with bounds on output, ratio, window and number of parts.

The bounds hold while a body arrives: output is never larger than allowed, whatever the input declares. Brotli returns
up to twice as much as it is asked for, so its output may exceed the bound by one such step before it is refused.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, final

import brotli
from isal import isal_zlib

from fastgw.http.content_coding.compressors import BROTLI, GZIP, ZSTD

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

RATIO_FREE: Final = 1024 * 1024
"""Bytes of output for which the ratio does not count: a small body may well be 1000 times smaller."""
MAX_PARTS: Final = 256
"""Maximum number of members of gzip or frames of Zstandard in one body: each takes some CPU, also if it is empty."""
_GZIP_WINDOW: Final = 31  # with header and trailer
_ZSTD_WINDOW_LOG: Final = 23  # 8 MiB, the most that the coding `zstd` allows (RFC 9659)
_STEP: Final = 256 * 1024
"""Bytes of output that are asked for at once."""

_ERRORS: Final[Any] = (isal_zlib.error, brotli.error, zstd.ZstdError)


class Undecodable(Exception):
    """Raised for data that does not follow its coding. The text is for people."""


class Excessive(Exception):
    """Raised for a body that decompresses to more than allowed. The text is for people."""


def _gzip_part() -> Any:
    return isal_zlib.decompressobj(wbits=_GZIP_WINDOW)


def _zstd_part() -> Any:
    return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: _ZSTD_WINDOW_LOG})


@final
class Decompressor:
    """Decompressor of one body. `max_bytes`: of output; `max_ratio`: output to input, beyond `RATIO_FREE`."""

    __slots__ = ("_input", "_make", "_max_bytes", "_max_ratio", "_output", "_part", "_parts", "_run")

    def __init__(self, coding: bytes, max_bytes: int, max_ratio: int) -> None:
        """Create it. Raises `KeyError` for an unknown coding."""
        self._make, self._run = _CODINGS[coding]
        self._max_bytes, self._max_ratio = max_bytes, max_ratio
        self._input = self._output = 0
        self._part = self._make()
        self._parts = 1

    def feed(self, data: bytes) -> bytes:
        """Return the output for the next piece. Raises `Undecodable` and `Excessive`."""
        pieces: list[bytes] = []
        self.feed_into(pieces, data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def feed_into(self, pieces: list[bytes], data: bytes) -> None:
        """Append the output for the next piece, also that which is one byte too long. Raises as `feed` does."""
        self._input += len(data)
        try:
            self._run(self, data, pieces)
        except _ERRORS as error:
            raise Undecodable(str(error) or "invalid data") from error

    def end(self) -> None:
        """Check that the body is complete. Raises `Undecodable`."""
        finished = self._part.is_finished() if self._make is brotli.Decompressor else self._part.eof
        if not finished:
            raise Undecodable("the compressed data is incomplete")

    def _asked(self) -> int:
        """Return the number of bytes to ask for: one more than allowed, so that an excess is noticed."""
        return min(_STEP, self._limit() - self._output + 1)

    def _limit(self) -> int:
        return min(self._max_bytes, max(RATIO_FREE, self._max_ratio * self._input))

    def _take_piece(self, piece: bytes, pieces: list[bytes]) -> None:
        self._output += len(piece)
        if piece:
            pieces.append(piece)
        if self._output > self._limit():
            if self._output > self._max_bytes:
                raise Excessive(f"the body decompresses to more than {self._max_bytes} bytes")
            raise Excessive(f"the body decompresses to more than {self._max_ratio} times its size")

    def _next_part(self) -> None:
        """Begin the next member or frame."""
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Undecodable(f"the compressed data has more than {MAX_PARTS} parts")
        self._part = self._make()

    def _run_gzip(self, data: bytes, pieces: list[bytes]) -> None:
        while True:
            if self._part.eof:
                if not data:
                    return
                self._next_part()
            part, asked = self._part, self._asked()
            piece = part.decompress(data, asked)
            self._take_piece(piece, pieces)
            data = part.unused_data if part.eof else part.unconsumed_tail
            if not data and len(piece) < asked:
                return

    def _run_zstd(self, data: bytes, pieces: list[bytes]) -> None:
        while True:
            if self._part.eof:
                if not data:
                    return
                self._next_part()
            part = self._part
            self._take_piece(part.decompress(data, self._asked()), pieces)
            data = part.unused_data if part.eof else b""
            if not part.eof and part.needs_input:
                return

    def _run_brotli(self, data: bytes, pieces: list[bytes]) -> None:
        part = self._part
        if data and part.is_finished():
            raise Undecodable("there is data after the end of the compressed data")
        while True:
            piece = part.process(data, output_buffer_limit=self._asked())
            self._take_piece(piece, pieces)
            if part.is_finished() or (part.can_accept_more_data() and not piece):
                return  # without a piece: it may have output left although it accepts more data (Brotli 1.2.1)
            data = b""


_CODINGS: Final[dict[bytes, tuple[Callable[[], Any], Callable[[Decompressor, bytes, list[bytes]], None]]]] = {
    GZIP: (_gzip_part, Decompressor._run_gzip),
    BROTLI: (brotli.Decompressor, Decompressor._run_brotli),
    ZSTD: (_zstd_part, Decompressor._run_zstd),
}


def decompress_beginning(data: bytes, coding: bytes, most: int, *, is_whole: bool) -> bytes:
    """Return the output for the beginning of a body: at most `most` bytes, and one more if there are more.

    `most`: at most `RATIO_FREE`. `is_whole`: nothing follows `data`. Raises `Undecodable`, and `KeyError` for an
    unknown coding.
    """
    pieces: list[bytes] = []
    decompressor = Decompressor(coding, most, max_ratio=1)
    with suppress(Excessive):
        decompressor.feed_into(pieces, data)
        if is_whole:
            decompressor.end()
    return b"".join(pieces)[: most + 1]
