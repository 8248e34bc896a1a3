"""Session of a client without requests, over TCP or UDP: the selection of its target, with retries, and its record for
observers.
"""

import asyncio
from collections.abc import Mapping
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

from fastgw.errors import Fault, Retry
from fastgw.eventloop.timer_wheel import Timed
from fastgw.http.messages import RequestHead
from fastgw.upstream.forwarding.retry_decision import decide_retry
from fastgw.upstream.policies.retry import CONNECT_FAILURE, NEVER
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

if TYPE_CHECKING:
    from fastgw.downstream.server import Listener, Server
    from fastgw.shm.node_limits import AddressLimit

CONNECTED: Final = 200
"""Status, in log and metrics, of a session that was connected to a target, whatever happened later."""


class Outcome(NamedTuple):
    status: int


CONNECTED_OUTCOME: Final = Outcome(CONNECTED)
_NO_PARAMETERS: Final[Mapping[str, bytes]] = {}


class RelayedSession(Timed):
    """A client whose bytes are relayed to one target. For observers it acts as an exchange, for balancers as a
    request.
    """

    # constants that only requests have
    consumer = request_body = None
    shadowed = cache_result = grpc_status = ""
    subrequests = trace = None
    path = raw_path = b""
    params = _NO_PARAMETERS

    def __init__(
        self, server: "Server", listener: "Listener", client_ip: str, scheme: bytes, head: RequestHead
    ) -> None:
        assert listener.tcp is not None
        self._server = server
        self._wheel = server.worker_loop.wheel
        self.listener = listener
        self.route = listener.tcp
        self.client_ip = client_ip
        self.scheme, self.head = scheme, head
        self.request_id = b""
        self.begun_at = monotonic()
        self.fault: Fault | None = None
        self.why = ""
        self.response: Outcome | None = None
        self.request_bytes = self.response_bytes = self.retries = 0
        self.upstream = self.target = ""
        self.upstream_s = -1.0
        self._address_limit: AddressLimit | None = None
        self._idle = self._total_at = inf
        self._upstream: Upstream | None = None
        self._target: Target | None = None
        self._tried: tuple[Target, ...] = ()
        self._selected: Target | None = None
        self._record: AttemptRecord | None = None
        self._retried = 0
        self._in_retry_budget = False
        self._timer: asyncio.TimerHandle | None = None

    def _use(self, upstream: Upstream) -> None:
        """Set the upstream of the session."""
        self._upstream, self.upstream = upstream, upstream.name
        upstream.active += 1
        self._total_at = self._wheel.now + upstream.total_timeout
        self._idle = upstream.settings.timeouts.tunnel_idle

    def _begin_attempt(self) -> Target | None:
        """Select a target, and return it; None: none is available."""
        self._timer = None
        upstream = self._upstream
        assert upstream is not None
        target, self._selected = self._selected or upstream.balancer.pick(cast(Any, self), self._tried), None
        if target is not None:
            self._target, self.target = target, target.label
            if upstream.attempt_listeners or self._retried:
                self._record = self._new_record().report_begun()
        return target

    def _new_record(self) -> AttemptRecord:
        assert self._upstream is not None
        assert self._target is not None
        kind = AttemptKind.RETRY if self._retried else AttemptKind.FIRST
        return AttemptRecord(cast(Any, self), self._upstream, self._target, kind, 1 + self._retried, monotonic())

    def _note_connect(self) -> None:
        if self._record is not None:
            self._record.connect(False, monotonic())

    def _note_answer(self) -> None:
        """Record that the target is there."""
        now = monotonic()
        self.response, self.upstream_s = CONNECTED_OUTCOME, now - self.begun_at
        if self._record is not None:
            self._record.answer(CONNECTED, now)

    def _give_up_attempt(self, fault: Fault, why: str) -> None:
        record, self._record = self._record, None
        (self._new_record() if record is None else record).give_up(fault, why, monotonic())

    def _retry(self, fault: Fault, due_at: float) -> float:
        """Return the seconds until another attempt begins, which is counted; inf: none follows."""
        upstream, target = self._upstream, self._target
        assert upstream is not None
        assert target is not None
        self._tried += (target,)
        condition = CONNECT_FAILURE if fault.retry is Retry.SAFE else NEVER
        decision = decide_retry(
            upstream, cast(Any, self), upstream.rules, condition, self._retried, self._tried, due_at, 0.0
        )
        if decision.wait == inf:
            return inf
        if not (decision.is_free or self._in_retry_budget):
            self._in_retry_budget = upstream.retry_budget.try_take(upstream.active)
            if not self._in_retry_budget:
                return inf
        self._retried += 1
        self._selected = decision.target
        return decision.wait

    def _leave_upstream(self) -> None:
        """End the attempt, and release what the session has of its upstream."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        record, self._record = self._record, None
        if record is not None and self.response is not None:
            record.end(monotonic())
        elif record is not None:
            record.give_up(None, "", monotonic())
        if self._upstream is not None:
            self._upstream.active -= 1
            if self._in_retry_budget:
                self._upstream.retry_budget.give_back()

    def _tell(self) -> None:
        """Count and log the session, once."""
        if self.response is None:
            self.response = Outcome(CONNECTED if self.fault is None else self.fault.status)
        self._server.finish(cast(Any, self))
