"""Delivery of lines to an HTTP server: as NDJSON, to Loki, or to the bulk API of Elasticsearch and OpenSearch.

`http.client` is imported by what uses it: it takes 15 ms, and each start imports this module.
"""

from __future__ import annotations

import gzip
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, final

import orjson

from fastgw import VERSION
from fastgw.config.base.value_types import Endpoint, Url
from fastgw.observe.access_log.remote_sink import Undelivered
from fastgw.observe.access_log.sink_tls import connection_reason, sink_context

if TYPE_CHECKING:
    from http.client import HTTPConnection

PASSING: Final = (408, 425, 429)
"""Statuses of 4xx after which a request may be repeated."""
ANSWER_MAX: Final = 8 * 1024 * 1024
"""Maximum size of a response that is read: the bulk API answers each line."""
_GZIP_LEVEL: Final = 1


class LineBody:
    """Content of requests to one kind of server."""

    content_type = "application/x-ndjson"

    def encode(self, lines: Sequence[bytes]) -> bytes:
        return b"\n".join(lines) + b"\n"

    def count_refused(self, lines: Sequence[bytes], answer: bytes) -> int:
        """Return the number of lines refused for ever by a response of 2xx. Raises `Undelivered`."""
        return 0


@final
class LokiBody(LineBody):
    """Lines of one stream, with the date of their delivery: each later than the one before by a nanosecond."""

    content_type = "application/json"

    def __init__(self, labels: Mapping[str, str]) -> None:
        self._labels = {"job": "fastgw", **labels}

    def encode(self, lines: Sequence[bytes]) -> bytes:
        date = time.time_ns()
        values = [(str(date + index), line.decode(errors="replace")) for index, line in enumerate(lines)]
        return orjson.dumps({"streams": [{"stream": self._labels, "values": values}]})


@final
class BulkBody(LineBody):
    """Requests of the bulk API. `create` works for indices and data streams."""

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
        if again:
            raise Undelivered("it takes a part of the lines only, for the moment", again)
        return sum(status >= 300 for status in statuses)


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

    def deliver(self, lines: Sequence[bytes]) -> int:
        content = self._body.encode(lines)
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
        status, retry_after, answer = self._exchange_request(content, fields, lines)
        if 200 <= status < 300:
            return self._body.count_refused(lines, answer)
        if _is_passing(status):
            wait = (
                float(retry_after) if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 6 else 0.0
            )
            raise Undelivered(f"it answers {status}", lines, wait)
        if status in (401, 403, 404):  # its settings are wrong: they may be mended
            raise Undelivered(f"it answers {status}", lines)
        return len(lines)

    def _exchange_request(
        self, content: bytes, fields: Mapping[str, str], lines: Sequence[bytes]
    ) -> tuple[int, str, bytes]:
        from http.client import HTTPException

        is_used = self._connection is not None
        while True:
            try:
                connection = self._connection = self._connection or self._connect()
                connection.request("POST", self._url.target, content, fields)
                response = connection.getresponse()
                answer = response.read(ANSWER_MAX)
                if not response.isclosed():
                    self.close()
                return response.status, response.getheader("Retry-After", ""), answer
            except (OSError, HTTPException, ValueError) as error:
                self.close()
                if is_used:  # an idle connection that the server has closed
                    is_used = False
                    continue
                why = connection_reason(error) if isinstance(error, OSError) else str(error) or type(error).__name__
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


def _unix_connection(origin: Url, timeout: float) -> HTTPConnection:
    from http.client import HTTPConnection

    class UnixConnection(HTTPConnection):
        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(timeout)
            self.sock.connect(origin.socket)

    return UnixConnection("localhost", timeout=timeout)
