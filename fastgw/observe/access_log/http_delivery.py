"""Delivery of lines to an HTTP server: as NDJSON, to Loki, or to the bulk API of Elasticsearch and OpenSearch.

`http.client` is imported by what uses it: it takes 15 ms, and each start imports this module.
"""

from __future__ import annotations

import gzip
import io
import re
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, Final, final

import orjson

from fastgw import VERSION
from fastgw.config.base.value_types import Endpoint, Url
from fastgw.http.retry_after import wait_in
from fastgw.observe.access_log.line_dates import date_ns_of
from fastgw.observe.access_log.remote_sink import Undelivered
from fastgw.observe.access_log.sink_tls import connection_reason, sink_context

if TYPE_CHECKING:
    from http.client import HTTPConnection, HTTPResponse

PASSING: Final = (408, 425, 429)
"""Statuses of 4xx after which a request may be repeated."""
OF_SETTINGS: Final = (401, 403, 404, 405, 407)
"""Statuses that tell of wrong settings, which may be mended; a redirect does as well."""
BAD_REQUEST: Final = 400
SWITCHING_PROTOCOLS: Final = 101
HEAD_MAX: Final = 64 * 1024
"""Maximum size of a response's head, with interim responses."""
ANSWER_MAX: Final = 64 * 1024
BULK_ANSWER_MAX: Final = 8 * 1024 * 1024
"""Maximum sizes of a response that is read: the bulk API answers each line."""
_GZIP_LEVEL: Final = 1
_TOO_OLD: Final = (b"too far behind", b"timestamp too old", b"out of order")
"""Texts of Loki's refusals of dates."""
_IGNORED: Final = re.compile(rb"total ignored: ([0-9]{1,9}) out of [0-9]+").search
"""Finds how many entries of a request Loki has refused."""


class LineBody:
    """Content of requests to one kind of server."""

    content_type = "application/x-ndjson"
    answer_max = ANSWER_MAX
    refusal = "it refuses lines"

    def encode(self, lines: Sequence[bytes]) -> bytes:
        return b"\n".join(lines) + b"\n"

    def count_refused(self, lines: Sequence[bytes], answer: bytes) -> int:
        """Return the number of lines refused for ever by a response of 2xx. Raises `Undelivered`."""
        return 0

    def encode_again(self, lines: Sequence[bytes], answer: bytes) -> bytes | None:
        """Return the content of a second request after a response of 400. None: there is none."""
        return None


@final
class LokiBody(LineBody):
    """Lines of one stream, with the dates of their requests: each later than the one before, by a nanosecond at least.
    Dates that Loki refuses, because the stream has much later ones, are replaced by that of the delivery.
    """

    content_type = "application/json"

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = {"job": "fastgw", **labels}

    def encode(self, lines: Sequence[bytes]) -> bytes:
        now_ns = time.time_ns()
        return self._encode_dated(lines, (date_ns_of(line, now_ns) for line in lines))

    def encode_again(self, lines: Sequence[bytes], answer: bytes) -> bytes | None:
        if not any(each in answer for each in _TOO_OLD):
            return None
        refused = _IGNORED(answer)
        if refused is not None:  # Loki has stored the others; dates ascend, so that these are the first ones
            lines = lines[: int(refused[1])]
        return self._encode_dated(lines, repeat(time.time_ns()))

    def _encode_dated(self, lines: Sequence[bytes], dates: Iterable[int]) -> bytes:
        values, last_ns = [], 0
        for line, date_ns in zip(lines, dates, strict=False):
            last_ns = max(date_ns, last_ns + 1)
            values.append((str(last_ns), line.decode(errors="replace")))
        return orjson.dumps({"streams": [{"stream": self._labels, "values": values}]})


@final
class BulkBody(LineBody):
    """Requests of the bulk API. `create` works for indices and data streams."""

    answer_max = BULK_ANSWER_MAX

    def __init__(self, index: str) -> None:
        self._action = orjson.dumps({"create": {"_index": index}}) + b"\n"

    def encode(self, lines: Sequence[bytes]) -> bytes:
        return b"".join(b"%b%b\n" % (self._action, line) for line in lines)

    def count_refused(self, lines: Sequence[bytes], answer: bytes) -> int:
        try:
            told = orjson.loads(answer)
            if not told["errors"]:
                return 0
            statuses = [int(next(iter(item.values()))["status"]) for item in told["items"]]
            again = [line for line, status in zip(lines, statuses, strict=True) if _is_passing(status)]
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
            raise Undelivered("its answer is not one of the bulk API", lines) from error
        refused = [status for status in statuses if status >= 300 and not _is_passing(status)]
        if refused:
            self.refusal = f"it answers {refused[0]} to single lines"
        if again:
            raise Undelivered("it takes a part of the lines only, for the moment", again, refused=len(refused))
        return len(refused)


def _is_passing(status: int) -> bool:
    return status in PASSING or status >= 500


class HttpTransport:
    """One connection, opened on first use and again after a failure."""

    def __init__(
        self,
        url: Endpoint,
        body: LineBody,
        authorization: Callable[[], str | None],
        timeout: float,
        files: tuple[str | None, str | None, str | None],
        compresses: bool,
    ) -> None:
        """`authorization`: returns the value of `Authorization` for each request, because secrets are renewed; raises
        `ValueError`. `files`: of TLS, as `sink_context` takes them; they are read for each connection."""
        self._url, self._body, self._authorization, self._timeout = url, body, authorization, timeout
        self._files, self._compresses = files, compresses
        self._connection: HTTPConnection | None = None
        self.refusal = ""

    def deliver(self, lines: Sequence[bytes]) -> int:
        status, retry_after, answer = self._send(self._body.encode(lines), lines)
        if status == BAD_REQUEST and (content := self._body.encode_again(lines, answer)) is not None:
            status, retry_after, answer = self._send(content, lines)
        if 200 <= status < 300:
            try:
                return self._body.count_refused(lines, answer)
            finally:
                self.refusal = self._body.refusal
        if _is_passing(status):
            raise Undelivered(f"it answers {status}", lines, wait_in(retry_after.strip().encode("latin-1", "replace")))
        if status in OF_SETTINGS or status < 400:
            raise Undelivered(f"it answers {status}", lines)
        self.refusal = f"it answers {status}"
        return len(lines)

    def _send(self, content: bytes, lines: Sequence[bytes]) -> tuple[int, str, bytes]:
        """Return status, `Retry-After` and content of the response. Raises `Undelivered`."""
        fields = {"Content-Type": self._body.content_type, "User-Agent": f"fastgw/{VERSION}"}
        if self._compresses:
            content = gzip.compress(content, _GZIP_LEVEL, mtime=0)
            fields["Content-Encoding"] = "gzip"
        try:
            authorization = self._authorization()
        except ValueError as error:
            raise Undelivered(str(error), lines) from error
        if authorization is not None:
            fields["Authorization"] = authorization
        return self._exchange_request(content, fields, lines)

    def _exchange_request(
        self, content: bytes, fields: Mapping[str, str], lines: Sequence[bytes]
    ) -> tuple[int, str, bytes]:
        from http.client import HTTPException

        is_used = self._connection is not None
        while True:
            until = time.monotonic() + self._timeout
            try:
                connection = self._connection = self._connection or self._connect()
                if connection.sock is not None:
                    connection.sock.settimeout(self._timeout)
                connection.request("POST", self._url.target, content, fields)
                limited = _LimitedAnswer(connection.sock, until)
                connection.response_class = limited.response_class  # type: ignore[assignment]  # called alike
                response = connection.getresponse()
                limited.left = 2 * self._body.answer_max  # chunks have a frame
                answer = response.read(self._body.answer_max)
                if not response.isclosed():
                    self.close()
                return response.status, response.getheader("Retry-After", ""), answer
            except (OSError, HTTPException, ValueError) as error:
                self.close()
                if is_used and not isinstance(error, TimeoutError):  # an idle connection that the server has closed
                    is_used = False
                    continue
                why = connection_reason(error) if isinstance(error, OSError) else "its answer is not valid HTTP"
                raise Undelivered(why, lines) from error

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _connect(self) -> HTTPConnection:
        from http.client import HTTPConnection, HTTPSConnection

        origin = self._url.origin
        if origin.socket:
            return _unix_connection(origin, self._timeout)
        if origin.tls:
            return HTTPSConnection(origin.host, origin.port, timeout=self._timeout, context=sink_context(*self._files))
        return HTTPConnection(origin.host, origin.port, timeout=self._timeout)


@cache
def _final_response() -> type[HTTPResponse]:
    from http.client import HTTPResponse

    class FinalResponse(HTTPResponse):
        """Response after all interim ones (RFC 9110 section 15.2): `http.client` skips 100 alone. 101 is final: no
        other protocol was requested.
        """

        def begin(self) -> None:
            super().begin()
            while 100 < self.status < 200 and self.status != SWITCHING_PROTOCOLS:
                self.headers = self.msg = None  # type: ignore[assignment]  # as before the first one
                super().begin()

    return FinalResponse


@final
class _LimitedAnswer(io.RawIOBase):
    """Response of a server, read until a time (monotonic) and up to `left` bytes: a server that sends without end, or a
    byte at a time, does not hold the thread for longer.
    """

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection, self._until = connection, until
        self._source = connection.makefile("rb", buffering=0)
        self.left = HEAD_MAX

    def response_class(self, _: object, **options: Any) -> HTTPResponse:
        """Return the response that is read from here."""
        return _final_response()(self, **options)  # type: ignore[arg-type]  # it uses `makefile` alone

    def makefile(self, *_: object) -> io.BufferedReader:
        return io.BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        wait_s = self._until - time.monotonic()
        if wait_s <= 0.0:
            raise TimeoutError
        if self.left <= 0:
            raise ValueError("the answer is too long")
        self._connection.settimeout(wait_s)
        count = self._source.readinto(memoryview(buffer)[: self.left])
        self.left -= count or 0
        return count

    def close(self) -> None:
        self._source.close()
        super().close()


def _unix_connection(origin: Url, timeout: float) -> HTTPConnection:
    from http.client import HTTPConnection

    class UnixConnection(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(origin.socket)

    return UnixConnection("localhost", timeout=timeout)
