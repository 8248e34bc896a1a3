"""Leader: the client for which a response is fetched. It gets it from the fetch directly, or from the stored object.

Rule: a client that has paused reads on from the object, in each turn of the event loop as much as `StoredBody` sends.
"""

from typing import TYPE_CHECKING, final

from fastgw.cache.store import StoredObject
from fastgw.errors import Fault
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange import Exchange, Response, Trailers
from fastgw.exchange.states import ANSWERING, HOLDING
from fastgw.filters.policies.cache.stored_answer import PER_TURN, read_piece
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.validation import CONDITIONS, find_part, has_any, is_unchanged_for

if TYPE_CHECKING:
    from fastgw.filters.policies.cache.fetch import Fetch


@final
class Leader:
    """Service side of the exchange of a client whose request is sent to the upstream.

    `found`: the object that is being stored; None: it is not stored.
    """

    __slots__ = (
        "_fetch",
        "_is_paused",
        "_is_scheduled",
        "_loop",
        "_pending",
        "_sent",
        "_trailers",
        "exchange",
        "found",
    )

    def __init__(self, exchange: Exchange, fetch: "Fetch", worker_loop: WorkerLoop) -> None:
        self.exchange = exchange
        self.found: StoredObject | None = None
        self._fetch: Fetch | None = fetch
        self._loop = worker_loop.loop
        self._is_paused = self._is_scheduled = False
        self._sent = 0
        self._pending: bytes | None = None  # what has come after the object was lost, while the client reads the object
        self._trailers: Trailers | None = None  # the response has ended
        exchange.service = self

    def __repr__(self) -> str:
        return f"<Leader of {self._fetch!r}>"

    @property
    def may_get_less(self) -> bool:
        """Whether it may be answered with a part of the stored object, or without its body."""
        return has_any(self.exchange.head, CONDITIONS)

    # calls of the fetch

    def answer(self, response: Response, payload: bytes, ended: bool, record: StoredHead | None, now: float) -> None:
        """Answer with the response that arrives, with the first part of its body. `ended`: it is the whole body.
        `record`: None if it is not stored.
        """
        exchange, found = self.exchange, self.found
        head = exchange.head
        if record is not None and found is not None:
            part = found.size is not None and find_part(head, record, found.size, now) is not None
            if part or is_unchanged_for(head, record, now):
                self.found = None
                self.answer_from(found, record, max(0, record.initial_age))
                return
        self._sent = exchange.response_bytes = len(payload)
        if ended:
            self.give_up()
        exchange.respond(response, payload, ended)

    def answer_from(self, found: StoredObject, record: StoredHead, age: int) -> None:
        """Answer with a stored object, which sends its body without the fetch."""
        fetch = self._fetch
        assert fetch is not None
        self.give_up()
        fetch.detach_leader(found, record, age)

    def feed(self, payload: bytes) -> None:
        """Take a piece of the response, which was appended to the object if there is one."""
        exchange = self.exchange
        if exchange.state not in (HOLDING, ANSWERING):
            return
        if self._pending is not None:
            self._pending += payload
        elif self._is_behind:
            return  # it is read from the object later
        else:
            self._send(payload)

    def lose_object(self) -> None:
        """The object cannot take the whole response."""
        if self._is_behind:
            self._pending = b""
            assert self._fetch is not None
            self._fetch.upstream_call.pause()
        else:
            self._let_go()

    def end(self, trailers: Trailers) -> None:
        self._trailers = trailers
        if not self._is_behind:
            self._finish()

    def fail(self, fault: Fault) -> None:
        """Abort the response that has begun."""
        self.give_up()
        self.exchange.fail(fault)

    def give_up(self) -> None:
        """Leave the exchange to others."""
        self._fetch = None
        self._let_go()
        if self.exchange.service is self:
            self.exchange.service = None

    # calls of the client's side (`ServiceSide`)

    def pause(self) -> None:
        self._is_paused = True
        if self.found is None and self._fetch is not None:
            self._fetch.upstream_call.pause()

    def resume(self) -> None:
        self._is_paused = False
        if self.found is None:
            self._continue_response()
        else:
            self._schedule()

    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        fetch, self._fetch = self._fetch, None
        self._let_go()
        if fetch is not None:
            fetch.leader_left()

    # the body

    @property
    def _is_behind(self) -> bool:
        """Whether the client reads the object, not what arrives."""
        return self.found is not None and (self._is_paused or self._is_scheduled)

    def _schedule(self) -> None:
        """Send what the client has missed from the next turn of the loop on."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._is_scheduled = False
        left = PER_TURN if self.exchange.response_sink is self.exchange.client else 1
        while True:
            found = self.found
            if found is None or self._is_paused:  # the exchange has ended, or `resume` schedules it
                return
            if not left:
                self._schedule()
                return
            if self._sent >= found.length:
                break
            left -= 1
            self._send(read_piece(found, self._sent))
        pending, self._pending = self._pending, None
        if pending is not None:
            self._let_go()
            if pending:
                self._send(pending)
        if not self._is_paused:
            self._continue_response()

    def _continue_response(self) -> None:
        """Let the upstream send more, or end the response if the upstream has."""
        if self._trailers is not None:
            self._finish()
        elif self._fetch is not None:
            self._fetch.upstream_call.resume()

    def _send(self, payload: bytes) -> None:
        self._sent += len(payload)
        self.exchange.response_bytes += len(payload)
        self.exchange.response_sink.feed(payload)

    def _finish(self) -> None:
        self._fetch = None
        self._let_go()
        exchange = self.exchange
        if exchange.service is self:
            exchange.service = None
            exchange.response_sink.end(self._trailers or ())

    def _let_go(self) -> None:
        found, self.found = self.found, None
        if found is not None:
            found.release()
