"""Responses from stored objects: whole, not modified, or a range; of complete objects, and of those that still grow.

The response has the head that the upstream has sent, with the present age, parsed again, so the response steps of
filters see what they would see of the upstream's own response. Rule: an object that is read stays pinned until its last
byte was sent.
"""

from typing import Final, final

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.shared.watches import KeyWatch
from fastgw.cache.store import StoredObject
from fastgw.cache.tiers.disk_object import DiskObject
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Response
from fastgw.exchange.reply import NO_CONTENT
from fastgw.files.file_body import FileBody, FilePart
from fastgw.filters.policies.cache.encoded_forms import StoredForms
from fastgw.filters.policies.cache.policy import CachePolicy
from fastgw.http.byte_ranges import ByteRange, unsatisfied_range
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.validation import (
    KNOWN_OF_UNCHANGED,
    find_part,
    is_unchanged_for,
    not_modified_lines,
    part_lines,
)
from fastgw.http.http1.parser import parse_response
from fastgw.http.messages import ResponseHead

AT_ONCE: Final = 64 * 1024
"""Maximum bytes of a body that are sent together with the head; more are sent in pieces of this size."""
PER_TURN: Final = 4
"""Maximum pieces of one body that are sent in one turn of the event loop. Filters of the body get one in a turn: they
may compress it."""
MOST_FIELDS: Final = 1000
"""Maximum header lines of a stored head: more than an upstream may send."""
_PARTIAL, _NOT_MODIFIED, _UNSATISFIED = 206, 304, 416


def answer_from(
    exchange: Exchange,
    policy: CachePolicy,
    found: StoredObject,
    record: StoredHead,
    age: int,
    dropped: frozenset[bytes],
) -> None:
    """Answer a GET or HEAD with a stored object, which is released at the end. `dropped`: as of `Response.dropped`."""
    head, now = exchange.head, policy.clock()
    first, end = 0, found.size
    status, reason, lines = record.status, record.reason, record.lines
    if is_unchanged_for(head, record, now):
        found.release()
        made = _head(_NOT_MODIFIED, b"Not Modified", not_modified_lines(record), age, b"GET")
        _send_head(exchange, made, dropped | KNOWN_OF_UNCHANGED)
        return
    if end is not None:
        may_be_part = exchange.method == b"GET" and b"range" not in exchange.request_dropped
        part = find_part(head, record, end, now) if may_be_part else None
        if part is not None and not part:
            found.release()
            lines = b"Content-Range: %b\r\nContent-Length: 0\r\n" % unsatisfied_range(end)
            _send_head(exchange, _head(_UNSATISFIED, b"Range Not Satisfiable", lines, age, b"GET"), dropped)
            return
        if part is not None:
            status, reason, lines = _PARTIAL, b"Partial Content", part_lines(record, part[0], end)
            first, end = part[0].first, part[0].last + 1
        if status not in NO_CONTENT:
            lines += b"Content-Length: %d\r\n" % (end - first)
    made = _head(status, reason, lines, age, exchange.method)
    if exchange.method == b"HEAD" or not made.has_body:
        found.release()
        _send_head(exchange, made, dropped)
        return
    response = Response(status, made, dropped=dropped)
    if status == 200 and found.is_complete and exchange.chain.treats_responses:
        response.encoded_forms = StoredForms(policy.store, found)
    if isinstance(found, DiskObject):
        _send_file(exchange, found, response, first, found.length if end is None else end)
        return
    if end is not None and end - first <= AT_ONCE and found.length >= end:
        payload = b"".join(found.pieces(first))[: end - first]
        found.release()
        exchange.response_bytes = len(payload)
        exchange.respond(response, payload, True)
        return
    exchange.service = body = StoredBody(exchange, policy.store, policy.worker_loop, found, first, end)
    exchange.respond(response, b"", False)
    if exchange.service is body:  # otherwise a filter has replaced the response, or the client has disconnected
        body.send_more()


def _send_file(exchange: Exchange, found: DiskObject, response: Response, first: int, end: int) -> None:
    """Send a part of the body from the file that has it."""
    file = found.file
    assert file is not None
    part = FilePart(b"", ByteRange(file.first + first, file.first + end - 1))
    exchange.service = sender = FileBody(file, (part,)).service(exchange)
    found.release()
    exchange.respond(response, b"", False)
    if exchange.service is sender:  # otherwise a filter has replaced the response, or the client has disconnected
        sender.start_sending()


def _head(status: int, reason: bytes, lines: bytes, age: int, method: bytes) -> ResponseHead:
    return parse_response(b"HTTP/1.1 %d %b\r\n%bAge: %d\r\n\r\n" % (status, reason, lines, age), method, MOST_FIELDS)


def _send_head(exchange: Exchange, head: ResponseHead, dropped: frozenset[bytes]) -> None:
    """Send a response without a body."""
    exchange.response_bytes = 0
    exchange.respond(Response(head.status, head, dropped=dropped), b"", True)


@final
class StoredBody:
    """Service side of an exchange: sends the body of an object, as it grows and as the client reads."""

    __slots__ = ("_at", "_end", "_exchange", "_found", "_is_waiting", "_loop", "_paused", "_watch")

    def __init__(
        self,
        exchange: Exchange,
        store: SharedStore,
        worker_loop: WorkerLoop,
        found: StoredObject,
        first: int,
        end: int | None,
    ) -> None:
        """`first`, `end`: the part of the body; `end` None: up to the end, which is not known yet."""
        self._exchange: Exchange | None = exchange
        self._found, self._at, self._end = found, first, end
        self._loop = worker_loop.loop
        self._paused = self._is_waiting = False
        # Watched before the first look: nothing that happens in between is missed.
        self._watch: KeyWatch | None = None if found.is_complete else store.watch(found.key, self.send_more)

    def __repr__(self) -> str:
        return f"<StoredBody at {self._at} of {self._end}>"

    def send_more(self) -> None:
        """Send what can be sent now."""
        found, left = self._found, 0
        if self._exchange is not None:
            left = PER_TURN if self._exchange.response_sink is self._exchange.client else 1
        while (exchange := self._exchange) is not None and not self._paused and not self._is_waiting:
            # In this order: the object may grow and end in between.
            is_complete, has_failed = found.is_complete, found.has_failed
            end = found.length if self._end is None else min(found.length, self._end)
            if self._at >= end:
                if self._at == self._end or (is_complete and self._end is None):
                    self._finish(exchange)
                elif has_failed or is_complete:
                    self._let_go()
                    exchange.service = None
                    exchange.fail(Fault.UPSTREAM_INCOMPLETE, why="the fetch of a cached response has failed")
                return
            if not left:
                self._schedule()
                return
            left -= 1
            payload = read_piece(found, self._at, min(end - self._at, AT_ONCE))
            self._at += len(payload)
            exchange.response_bytes += len(payload)
            exchange.response_sink.feed(payload)

    def _schedule(self) -> None:
        """Continue in the next turn of the loop; until then, nothing is sent."""
        if not self._is_waiting and self._exchange is not None:
            self._is_waiting = True
            self._loop.call_soon(self._continue)

    def _continue(self) -> None:
        self._is_waiting = False
        self.send_more()

    def _finish(self, exchange: Exchange) -> None:
        self._let_go()
        exchange.service = None
        exchange.response_sink.end(())

    def _let_go(self) -> None:
        self._exchange = None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        self._found.release()

    # calls of the client's side

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        self._paused = False
        self._schedule()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        if self._exchange is not None:
            self._let_go()


def read_piece(found: StoredObject, offset: int, count: int = AT_ONCE) -> bytes:
    """Return this many bytes of the body, or fewer if no more are there."""
    taken = []
    for part in found.pieces(offset):
        taken.append(part[:count])
        count -= len(taken[-1])
        if not count:
            break
    return b"".join(taken)
