"""Ready answer: a whole response as bytes, which a filter or an action keeps for plain requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import cython

from fastgw.exchange.reply import NO_CONTENT, NO_NAMES, Reply, Response
from fastgw.http.dates import format_date
from fastgw.http.fields import Fields, folded
from fastgw.http.http1 import serializer
from fastgw.typed_fields import expose_fields

if TYPE_CHECKING:
    pass


class ReadyAnswer:
    """A response to a plain GET request: `head` without the lines of the connection and the empty line, and `body`.

    `cache_result`: as of `Exchange`. It is the same object for all requests: `head` changes with the time.
    """

    def __init__(self, status: int, cache_result: str, length: int) -> None:
        self.status, self.cache_result, self.length = status, cache_result, length
        self.head = self.body = b""


def recorded_answer(status: cython.int, head: bytes) -> Response:
    """Return a ready answer as the response of its exchange, for the log. `head`: status line and header lines."""
    return Response(status, None, head[head.find(b"\r\n") + 2 :])


@final
class ReadyReply:
    """A reply of the gateway that many requests get: its bytes are ready, but for `Date`.

    PERF: a fixed answer takes 9.9 us of CPU, as a `Reply` 13.5 (CPython 3.11, `respond` under wrk, by hand).
    """

    __slots__ = ("_lines", "_second", "answer")

    def __init__(self, status: int, body: bytes, lines: bytes) -> None:
        self.answer = ReadyAnswer(status, "", len(body))
        self.answer.body = body
        self._lines = lines
        self._second = -1

    @classmethod
    def of(cls, reply: Reply, dropped: frozenset[bytes] = NO_NAMES, added: bytes = b"") -> ReadyReply | None:
        """Return the bytes of a reply, without `dropped` names and with `added` lines (`Response`). None: its headers
        depend on the request.
        """
        body = reply.body
        if not isinstance(body, bytes):
            return None
        if any(folded(name) in serializer.REQUEST_IDS or name.lower() == b"date" for name, _ in reply.fields):
            return None
        block = serializer.own_lines(reply.status, Fields(reply.fields), dropped)
        lines = serializer.status_line(reply.status) + block + added
        if reply.status in NO_CONTENT:
            return cls(reply.status, b"", lines)
        return cls(reply.status, body, b"%bContent-Length: %d\r\n" % (lines, len(body)))

    def at(self, now: float) -> ReadyAnswer:
        """Return the answer with its `Date`. `now`: seconds since the epoch."""
        second = int(now)
        if second != self._second:
            self._second = second
            self.answer.head = b"%bDate: %b\r\n" % (self._lines, format_date(second))
        return self.answer


expose_fields(ReadyAnswer)
