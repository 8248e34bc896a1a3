"""Connections of a worker that has ended without sending their `$disconnect`: another worker sends it.

Rule 1: a record is removed from the journal once its request has ended, whatever the result, so that it is sent at
least once even if this worker is killed too. Rule 2: `CONCURRENCY` requests at a time, and none after `GIVE_UP_S`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol, final

import msgspec

from fastgw.config.settings.gateway import Timeouts
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange.exchange_counts import ExchangeCounts
from fastgw.exchange.shadow_exchange import Nobody
from fastgw.http.websocket.frames import NO_CLOSE
from fastgw.observe.tracing.tracer import Tracer
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.shm.connection_journal import ConnectionJournal
from fastgw.shm.held_body_budget import HeldBodyBudget
from fastgw.upstream.client.subrequest import Subrequests
from fastgw.websocket_api import connection_record
from fastgw.websocket_api.action import WebsocketApiAction
from fastgw.websocket_api.connection_record import ConnectionRecord
from fastgw.websocket_api.event_call import ConnectionClient, EventAnswer, EventCall
from fastgw.websocket_api.event_headers import CLOSE_CODE

CONCURRENCY: Final = 16
"""Requests at a time."""
GIVE_UP_S: Final = 300.0
"""Seconds after which no further requests are sent for the connections of one worker."""

FindAction = Callable[[str, str], tuple[Any, Any] | None]
"""Returns the listener and the action of a route, both by name, as they are configured now; None: there is none."""


class RequestCounting(Protocol):
    """Server of this worker. Its counters change with the configuration."""

    timeouts: Timeouts
    tracer: Tracer | None

    counts: ExchangeCounts


@final
class _NoClient(Nobody):
    """Client side of requests for a connection that does not exist any more."""

    def __init__(self, server: RequestCounting, held_body_budget: HeldBodyBudget) -> None:
        self._server = server
        self.counts = server.counts
        self.held_body_budget = held_body_budget

    def filter_timeout(self) -> float:
        return self._server.timeouts.filters


@final
class LostConnections:
    """The connections in one journal. `ended`: called once all requests have ended."""

    def __init__(
        self,
        worker_loop: WorkerLoop,
        journal: ConnectionJournal,
        find_action: FindAction,
        server: RequestCounting,
        ended: Callable[["LostConnections"], None],
    ) -> None:
        self._worker_loop, self._journal, self._find_action = worker_loop, journal, find_action
        self._server, self._ended = server, ended
        self._client = _NoClient(server, worker_loop.held_body_budget)
        self._records: Iterator[tuple[int, bytes]] = journal.records()
        self._give_up_at = worker_loop.loop.time() + GIVE_UP_S
        self._active = self._sent = self._failed = self._unsent = 0
        self._why = ""
        self._is_working = self._is_over = False

    def __repr__(self) -> str:
        return f"<LostConnections {self._sent} sent, {self._failed} failed, {self._active} in flight>"

    def start(self) -> None:
        self._work()

    def stop(self) -> None:
        """Leave the rest to another worker, because this one ends."""
        self._is_over = True
        self._journal.close()

    def _work(self) -> None:
        if self._is_working or self._is_over:
            return  # a request has ended at once: the loop below continues
        self._is_working = True
        try:
            while self._active < CONCURRENCY and (found := next(self._records, None)) is not None:
                self._disconnect(*found)
        finally:
            self._is_working = False
        if not self._active:
            self._end()

    def _disconnect(self, number: int, encoded: bytes) -> None:
        if self._worker_loop.loop.time() >= self._give_up_at:
            self._unsent += 1
            self._journal.remove(number)
            return
        try:
            record: ConnectionRecord = connection_record.decode(encoded)
        except msgspec.MsgspecError as error:
            self._note_end(number, f"its record cannot be read: {error}")
            return
        found = self._find_action(record.route, record.listener)
        if found is None or not isinstance(found[1], WebsocketApiAction) or found[1].disconnect is None:
            self._journal.remove(number)  # the route is gone, or does not ask for it any more
            return
        listener, action = found
        event, settings = action.disconnect, action.settings
        client = ConnectionClient(
            *(self._client, listener, record.make_peer(), record.client_ip, record.consumer),
            *(record.make_claims(), record.authority, record.lines),
            *(record.make_trace(self._server.tracer), Subrequests()),
        )
        self._active += 1
        call = EventCall(0, False, self._worker_loop.held_body_budget, partial(self._answered, number))
        lines = [*event.lines, (CLOSE_CODE, b"%d" % NO_CLOSE)]
        call.send(client, event.forward, event.target, lines, b"", settings.timeout)

    def _answered(self, number: int, answer: EventAnswer) -> None:
        self._active -= 1
        self._note_end(number, answer.why)
        self._work()

    def _note_end(self, number: int, why: str) -> None:
        self._journal.remove(number)
        if why:
            self._failed += 1
            self._why = why
        else:
            self._sent += 1

    def _end(self) -> None:
        self._is_over = True
        self._journal.discard()
        self._journal.close()
        if self._sent or self._failed or self._unsent:
            failed = f"; {self._failed} failed, the last one because {self._why}" if self._failed else ""
            late = f"; {self._unsent} not sent within {GIVE_UP_S:g} s" if self._unsent else ""
            text = f"connections of a worker that has ended: $disconnect sent for {self._sent}{failed}{late}"
            log_event(OperatorEvent.CONNECTIONS_LOST, "%s", text)
        self._ended(self)
