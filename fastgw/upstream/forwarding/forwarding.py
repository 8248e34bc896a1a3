"""Forwarding of one exchange: which attempts are made, in sequence or in parallel.

Rule 1: while another attempt is in flight, a failed one is only dropped. Rule 2: the first response head that is not
refused wins: the other attempts are cancelled, and nothing is retried, except after the target has rejected the
gateway's credentials and a filter has renewed them (`renewal`). Rule 3: the end of the exchange ends its attempts, its
waits and its use of the retry budget (`_end`). Rule 4: a refused response is dropped only in favour of another attempt.
If no attempt is possible, the client gets it: a complete response is held until then, and for an incomplete one the
next target is selected first.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from time import monotonic
from typing import Final

from fastgw.errors import Fault
from fastgw.exchange import Relay
from fastgw.exchange.exchange import Exchange
from fastgw.exchange.filter_steps import abandon, asked_to_renew, rejects_credentials
from fastgw.exchange.reply import Response, received_response
from fastgw.exchange.states import ANSWERING, ATTEMPT_FAILED, HOLDING
from fastgw.http.field_names import EXPECT, Names
from fastgw.http.grpc.status import STATUS_FIELDS, GrpcStatus, parse_status, status_lines
from fastgw.http.messages import ResponseHead, has_field
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.upstream.forwarding.attempt import Attempt, Attempts, new_attempt
from fastgw.upstream.forwarding.credential_renewal import CredentialRenewal, HeldResponse
from fastgw.upstream.forwarding.forwarded_request import ForwardedRequest
from fastgw.upstream.forwarding.gateway_urls import HEADERS
from fastgw.upstream.forwarding.retry_decision import decide_retry
from fastgw.upstream.policies.retry import NEVER, REFUSED, RESET, SAFE, any_untried, asked_wait
from fastgw.upstream.targets.attempt_listener import FIRST, HEDGE, RETRY
from fastgw.upstream.targets.target import Target

_LOCATION, _CONTENT_LOCATION, _REFRESH = HEADERS
NOBODY: Final = frozenset((Fault.NO_HEALTHY_TARGET, Fault.CIRCUIT_OPEN, Fault.POOL_FULL, Fault.POOL_TIMEOUT))
"""Faults without any attempt, now or later."""


def _has_urls(head: ResponseHead) -> bool:
    """Whether a response has a header with a URL that may be a target's."""
    return has_field(head, _LOCATION) or has_field(head, _CONTENT_LOCATION) or has_field(head, _REFRESH)


def targets_without_room(in_use: Sequence[Target], tried: set[Target], may_open: bool) -> set[Target]:
    """Return the targets that no hedge is sent to: those that were `tried`, and, unless a connection may be opened,
    those without a free one.
    """
    if not may_open:
        tried.update(target for target in in_use if not target.idle and not target.shared)
    return tried


class Forwarding(Attempts):
    """`current`: the attempt in flight; None while the next one is scheduled. Hedges are the parallel ones."""

    def _begin(self, forward: ForwardedRequest, exchange: Exchange) -> None:
        Attempts._begin(self, forward, exchange)
        self._total_at = inf  # end of the time for the whole response, by the wheel's clock
        self.current: Attempt | None = None
        self._hedges: tuple[Attempt, ...] = ()
        self._held: HeldResponse | None = None
        self._tried: tuple[Target, ...] = ()
        self._retry_target: Target | None = None  # one that is not in use, as of `RetryDecision`
        self._retried = self._hedged = 0
        self._refused = 0  # of the retries: after streams that were refused unprocessed
        self._retrying = False  # counted in the retry budget
        # Current wait: for the next attempt or hedge, or for a renewal.
        self._timer: asyncio.TimerHandle | CredentialRenewal | None = None
        self._over = False

    def __repr__(self) -> str:
        beside = f" and {len(self._hedges)} beside it" if self._hedges else ""
        return f"<Forwarding by {self.current!r}{beside}>"

    def limit_time(self, call_due_at: float = inf) -> None:
        """Start the route's timeout until the response head, and the upstream's timeout for the whole response.

        `call_due_at`: end of the caller's timeout for the whole response.
        """
        wheel = self.upstream.worker_loop.wheel
        self.call_due_at = call_due_at
        self._total_at = min(wheel.now + self.forward.total_timeout, call_due_at)
        self.head_due_at = min(wheel.now + self.forward.timeout, call_due_at)
        wheel.watch(self, self.head_due_at)

    # attempts

    def attempt(self, fresh: bool, target: Target | None = None, again: bool = True, has_probe: bool = False) -> None:
        """Begin an attempt. `fresh`: on a connection that has not carried a request. `again`: it follows another one.

        `target`: target selected earlier; None: select one. If it is no longer in use another one is selected.
        `has_probe`: the attempt before was a probe of the circuit breaker that the target has not processed.
        """
        upstream = self.upstream
        if target is None or (target not in upstream.in_use and target is not self._retry_target):
            if has_probe:
                target = upstream.pick_for_probe(self.exchange, self._tried)
            elif self._tried:
                target = upstream.balancer.pick(self.exchange, self._tried)
            else:
                target = upstream.pick(self.exchange)
        if target is None:
            self.fail(upstream.unavailable(), wait=upstream.wait())
            return
        self.begun += 1
        self.current = attempt = new_attempt(self, target)
        if upstream.hedging is not None:
            self._plan_hedge()
        attempt.start_attempt(fresh, RETRY if again else FIRST)

    def _plan_hedge(self) -> None:
        upstream, exchange, hedging = self.upstream, self.exchange, self.upstream.hedging
        assert hedging is not None
        if self._hedged >= hedging.max or exchange.method not in SAFE or exchange.request_body is not None:
            return
        after = hedging.after()
        if after != inf and not self.forward.asked_upgrade(exchange):
            self._timer = upstream.worker_loop.loop.call_later(after, self._hedge)

    def _hedge(self) -> None:
        """Begin a hedge at another target, because the attempts in flight are slow. Only where it gets a connection at
        once: it must not wait in the queue, where it would take the places of requests. And not while the circuit
        breaker is half-open: it would take the place of a request that may pass, and double the load of a test.
        """
        self._timer = None
        upstream, exchange = self.upstream, self.exchange
        if upstream.is_recovering:
            return
        assert self.current is not None
        tried = {*self._tried, self.current.target, *(hedge.target for hedge in self._hedges)}
        tried = targets_without_room(upstream.in_use, tried, upstream.pool.may_open())
        if not any_untried(upstream.in_use, tried) or not self._take_place():
            return
        target = upstream.balancer.pick(exchange, tried)
        if target is None:
            return
        self._hedged += 1
        self.begun += 1
        hedge = new_attempt(self, target)
        self._hedges += (hedge,)
        self._plan_hedge()
        hedge.start_attempt(False, HEDGE)

    def _drop(self, attempt: Attempt) -> bool:
        """Remove a finished attempt. Returns whether another one is in flight."""
        self._tried += (attempt.target,)
        if attempt is not self.current:
            self._hedges = tuple(each for each in self._hedges if each is not attempt)
        elif self._hedges:
            self.current, *rest = self._hedges
            self._hedges = tuple(rest)
        else:
            self.current = None
            self._stop_timer()
        return self.current is not None

    # calls of an attempt

    def _let_take_over(self) -> None:
        """Let the filter that takes part take the exchange over: this is the forwarding of the filter's request now."""
        exchange, current = self.exchange, self.current
        taker, exchange.taker = exchange.taker, None
        assert taker is not None
        exchange.service = None
        sent = taker.take_over(exchange)
        sent.upstream, sent.target, sent.begun_at = exchange.upstream, exchange.target, exchange.begun_at
        sent.service, sent.state, sent.sent, sent.retries = self, exchange.state, exchange.sent, exchange.retries
        exchange.state = ATTEMPT_FAILED[exchange.state]
        self.exchange = sent
        if current is not None:
            current.hand_over(sent)

    def informed(self, attempt: Attempt, head: ResponseHead) -> None:
        """Handle an interim response."""
        if self.exchange.taker is not None:
            self._let_take_over()
        if attempt is not self.current:
            return
        exchange = self.exchange
        if head.status == 100 and exchange.head.expects_continue:
            if self.continued or exchange.request_dropped >= EXPECT:  # by a target, or by the gateway itself
                return
            self.continued = True
            exchange.drop_everywhere(EXPECT)  # it is met: another attempt need not ask
        exchange.client.send_interim(head)

    def attempt_lost(
        self,
        attempt: Attempt,
        fault: Fault,
        condition: str,
        why: str = "",
        reset_code: int | None = None,
        is_probe: bool = False,
    ) -> None:
        """Handle an attempt that has failed, or whose response was aborted. `condition`: the retry condition that it
        meets. `reset_code`: of its stream. `is_probe`: of the circuit breaker, and not processed.
        """
        if self.exchange.taker is not None:
            self._let_take_over()
        if self._drop(attempt):
            return
        wait = inf if condition == NEVER else self._decide_retry(condition, self._tried)
        if wait == inf:
            self.fail(fault, why, reset_code=reset_code)
        else:
            # The loss of an HTTP/2 connection affects many requests: they share the next one.
            fresh = condition == RESET and attempt.target.capacity == 1
            self._schedule_retry(wait, fresh=fresh, target=self._retry_target, has_probe=is_probe)

    def response_received(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool) -> None:
        exchange, upstream = self.exchange, self.upstream
        if exchange.taker is not None and not self._take_response(head, ended):
            exchange = self.exchange
            if exchange is None:
                return  # it has failed
        if (
            exchange.chain.renew_steps
            and rejects_credentials(head.status, attempt.grpc_status)
            and self._renew(attempt, head, payload, ended)
        ):
            return
        retried = self.forward.retried_statuses
        if retried and head.status in retried and self._refuse(attempt, head, payload, ended, str(head.status)):
            return
        if attempt.grpc_status is not None and self.forward.rules.grpc_statuses:
            condition = self.forward.rules.grpc_statuses.get(parse_status(attempt.grpc_status))
            if condition is not None and self._refuse(attempt, head, payload, ended, condition):
                return
        self._note_response(attempt.target, attempt.head_at - exchange.begun_at)
        exchange.response_bytes = len(payload)
        if upstream.hedging is not None:
            upstream.hedging.times.add(attempt.seconds())
            self._cancel_others(attempt)
        cookie = b"" if upstream.cookies is None else self._cookie(attempt.target)
        marks = self.forward.marks
        if attempt.invalid_status:
            marks |= STATUS_FIELDS
            cookie += status_lines(GrpcStatus.UNKNOWN, attempt.invalid_status)
        response = self._response(attempt.target, head, cookie, marks)
        if ended:
            self.done(attempt)
        else:
            attempt.deadline = inf
            self.deadline = self._total_at  # the route's `timeout` counts until the response head
            if attempt.stream is not None:
                attempt.stream.give_body_to(exchange.client)
            if exchange.request_body is not None:
                exchange.keep_no_body()
        exchange.respond(response, payload, ended)

    def _held_response(self, held: HeldResponse) -> Response:
        cookie = b"" if self.upstream.cookies is None else self._cookie(held.target)
        return self._response(held.target, held.head, cookie, self.forward.marks)

    def _response(self, target: Target, head: ResponseHead, added: bytes, dropped: Names) -> Response:
        """Return the response for the client, with URLs of the target changed to the gateway's."""
        response = received_response(head, added, dropped)
        urls = self.forward.own_urls
        if urls is not None and self._has_own_url(head, target):
            urls.rewrite(response, self.exchange, target)
        return response

    def _take_response(self, head: ResponseHead, ended: bool) -> bool:
        """Let the filter that takes part have the response. False: it takes the exchange over."""
        taker, current = self.exchange.taker, self.current
        assert taker is not None
        assert current is not None
        # What is not sent as it was received is not stored so.
        is_changed = self.upstream.cookies is not None or self._has_own_url(head, current.target)
        if ended and head.whole and head.has_body and not is_changed:
            try:
                if taker.take_response(head):
                    self.exchange.taker = None
                    return True
            except Exception:  # the edge of a filter: data that it could not check is not forwarded
                log_event(OperatorEvent.FILTER_RAISED, "what stores a response", error=True)
                self._let_take_over()
                self.exchange.fail(Fault.INTERNAL, why="a filter could not take the response")
                return False
        self._let_take_over()
        return False

    def _has_own_url(self, head: ResponseHead, target: Target) -> bool:
        """Whether a header of the response may have a URL that becomes the gateway's."""
        urls = self.forward.own_urls
        if urls is None or not _has_urls(head):
            return False
        return urls.has_own(head, target, self.exchange.peer)

    def _note_response(self, target: Target, seconds: float) -> None:
        """Record for the log the target of the response, and the seconds until its head."""
        self.exchange.target, self.exchange.upstream_s = target.label, seconds

    def _cancel_others(self, attempt: Attempt) -> None:
        """Cancel the other attempts; their time so far is a lower bound of their latency."""
        self._stop_timer()
        self.exchange.target = attempt.target.label  # a hedge may have been sent to another target since
        if self._hedges:
            assert self.current is not None
            for each in (self.current, *self._hedges):
                if each is not attempt:
                    assert self.upstream.hedging is not None
                    self.upstream.hedging.times.add(each.seconds())
                    each.give_up()
            self.current, self._hedges = attempt, ()

    def switched(self, attempt: Attempt, head: ResponseHead, early: bytes, timeout: float) -> None:
        """Handle a 101; see `ClientSide.tunnel`."""
        exchange = self.exchange
        self._note_response(attempt.target, monotonic() - exchange.begun_at)
        self.deadline = inf
        response = Response(101, head, b"", self.forward.marks)
        if self.upstream.cookies is not None:
            response.added = self._cookie(attempt.target)
        exchange.switch(response, early, timeout)

    def _cookie(self, target: Target) -> bytes:
        """Return the `Set-Cookie` line of the sticky session, if one is needed. While others are in use, a target that
        is not, such as a backup that a retry was sent to, gets no session: the client would stay there.
        """
        cookies, exchange, in_use = self.upstream.cookies, self.exchange, self.upstream.in_use
        assert cookies is not None
        line = cookies.line_for(exchange.head, exchange.peer, target)
        return b"" if line and in_use and target not in in_use else line

    # further attempts

    def _refuse(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool, condition: str) -> bool:
        """Drop a response because another attempt is in flight, or follows. False: the client gets it."""
        if not self.is_replayable() or self.exchange.renewed:
            return False
        if self._hedges:
            attempt.refuse(head.status)
            self._drop(attempt)
            return True
        tried = (*self._tried, attempt.target)
        wait = self._decide_retry(condition, tried, asked_wait(head))
        if wait == inf:
            return False
        exchange, target = self.exchange, self._retry_target
        if ended:
            self._held = HeldResponse(attempt.target, head, payload, attempt.head_at - exchange.begun_at)
        elif target is None:
            target = self.upstream.balancer.pick(exchange, tried)
            if target is None:
                return False
        attempt.refuse(head.status)
        self._drop(attempt)
        self._schedule_retry(wait, fresh=False, target=target)
        return True

    def _pass_on(self, held: HeldResponse) -> None:
        """Forward the last response, because no further attempt is possible."""
        exchange = self.exchange
        response = self._held_response(held)
        exchange.keep_no_body()
        self._note_response(held.target, held.seconds)
        exchange.response_bytes = len(held.payload)
        self._end()
        exchange.service = None
        exchange.respond(response, held.payload, not held.trailers)
        if held.trailers and exchange.state in (HOLDING, ANSWERING):
            exchange.response_sink.end(held.trailers)

    def _decide_retry(self, condition: str, tried: tuple[Target, ...], asked: float = 0.0) -> float:
        """Return the seconds until another attempt begins, which is counted in the retry budget; inf: none may
        follow.
        """
        retried = self._refused if condition == REFUSED else self._retried - self._refused
        decision = decide_retry(
            self.upstream, self.exchange, self.forward.rules, condition, retried, tried, self.head_due_at, asked
        )
        self._retry_target = decision.target
        if condition == REFUSED:
            self._refused += 1
        return decision.wait if decision.is_free or self._take_place() else inf

    def _take_place(self) -> bool:
        """Count a retry in the retry budget, until the end of the exchange."""
        if not self._retrying:
            self._retrying = self.upstream.retry_budget.try_take(self.upstream.active)
        return self._retrying

    def _schedule_retry(self, wait: float, fresh: bool, target: Target | None = None, has_probe: bool = False) -> None:
        """Begin another attempt after this many seconds. `target`, `has_probe`: as in `attempt`."""
        exchange = self.exchange
        self._retried += 1
        if exchange.request_body is not None:
            exchange.request_body.detach()
        exchange.state = ATTEMPT_FAILED[exchange.state]
        if wait:
            self._timer = self.upstream.worker_loop.loop.call_later(wait, self._waited, fresh, target, has_probe)
        else:
            self.attempt(fresh, target, True, has_probe)

    def _waited(self, fresh: bool, target: Target | None, has_probe: bool) -> None:
        self._timer = None
        if target is not None and target is self._retry_target:  # it may have become unavailable meanwhile
            target = self._retry_target = self.upstream.backup(self.exchange, self._tried)
        self.attempt(fresh, target, True, has_probe)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # retry with renewed credentials

    def _renew(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool) -> bool:
        """Hold a response back, because a filter may renew the credentials. False: the client gets it."""
        exchange, hedging = self.exchange, self.upstream.hedging
        if exchange.renewed:
            return False
        exchange.renewed = True
        asked = asked_to_renew(exchange, head)
        if asked is None:
            return False
        step, outcome = asked
        if not exchange.may_be_sent_again:
            abandon(outcome)
            return False
        if hedging is not None:
            hedging.times.add(attempt.seconds())
            self._cancel_others(attempt)
        self._timer = renewal = CredentialRenewal(self, attempt, head, payload)
        renewal.renew_credential(ended, step, outcome)
        return True

    def renew_for_others(self) -> None:
        """Let a filter renew the credentials that a call was rejected with after its response had begun: the next calls
        get newer ones.
        """
        exchange = self.exchange
        head = None if exchange.response is None else exchange.response.head
        if head is None or exchange.renewed:
            return
        exchange.renewed = True
        asked = asked_to_renew(exchange, head)
        if asked is not None:
            abandon(asked[1])

    def send_again(self, renewal: CredentialRenewal) -> None:
        """Send the request again with renewed credentials: the client gets the second response."""
        exchange, current, target = self.exchange, self.current, None
        if current is None:
            self._held = renewal.held_response() if renewal.fault is None else None
        else:
            target = self.upstream.balancer.pick(exchange, self._tried)
            if target is None:
                self.pass_on(renewal)
                return
            self.current = None
            current.give_up()
        self._timer = None
        exchange.state = ATTEMPT_FAILED[exchange.state]
        # The target may close a connection after a refusal: a request that cannot be repeated could be lost on it.
        self.attempt(not self.is_replayable(), target)

    def pass_on(self, renewal: CredentialRenewal) -> None:
        """Forward the held response, because there was no renewal."""
        exchange, attempt, held = self.exchange, renewal.attempt, renewal.held_response()
        stream, body = attempt.stream, exchange.request_body
        self._timer = None
        if renewal.fault is not None:
            self.fail(renewal.fault, renewal.why, reset_code=renewal.reset_code)
            return
        if stream is None:
            self._pass_on(held)
            return
        self._note_response(held.target, held.seconds)
        exchange.response_bytes = len(held.payload)
        response = self._held_response(held)
        # the route's `timeout` counts until the response head
        self.upstream.worker_loop.wheel.watch(self, self._total_at)
        renewal.forward_response(stream)
        if body is not None:
            self._send_on(body, attempt, renewal.sent)
        exchange.respond(response, held.payload, False)

    def _send_on(self, body: Relay, attempt: Attempt, sent: int) -> None:
        """Send the rest of a body of which `sent` bytes were sent."""
        held = body.attach(attempt)
        self.exchange.keep_no_body()
        if attempt.stream is not None:
            attempt.stream.attach_source(body)
        if len(held) > sent:
            attempt.feed(held[sent:])
        if body.ended:
            attempt.end(body.trailers)

    # calls of the client's side

    def feed_raw(self, chunk: bytes) -> None:
        if self.current is not None:
            self.current.feed_raw(chunk)

    def end_raw(self) -> None:
        if self.current is not None:
            self.current.end_raw()

    def pause(self) -> None:
        if self.exchange.taker is not None:
            self._let_take_over()
        if self.current is not None and self.current.stream is not None:
            self.current.stream.pause()

    def resume(self) -> None:
        if self.current is not None and self.current.stream is not None:
            self.current.stream.resume()

    def cancel(self) -> None:
        exchange = self.exchange
        if exchange is not None and exchange.taker is not None:
            self._let_take_over()
            service, exchange.service = exchange.service, None
            if service is not None:
                service.cancel()  # the filter's request may go on
        else:
            self._end()

    # endings

    def expire(self, now: float) -> None:
        """Handle the end of the route's `timeout` or the upstream's `total`."""
        if isinstance(self._timer, CredentialRenewal):
            self._timer.late()
            return
        if self.exchange.taker is not None:
            self._let_take_over()
        exchange, current = self.exchange, self.current
        fault, why = Fault.UPSTREAM_TIMEOUT, ""
        is_callers = self.call_due_at <= now  # a deadline of the caller says nothing about the target
        if exchange.state in (HOLDING, ANSWERING):
            fault = Fault.UPSTREAM_STALLED
            is_of_call = self._total_at == self.call_due_at
            why = "grpc-timeout of the call" if is_of_call else f"timeouts.total: {self.forward.total_timeout:g} s"
        elif current is not None and not is_callers:
            fault = current.late_by()
        if current is not None:
            hedges, self.current, self._hedges = self._hedges, None, ()
            for attempt in (current, *hedges):
                clients = attempt.clients_fault(now)
                if clients is Fault.REQUEST_TIMEOUT:
                    why = why or "the client was slow to send the request"
                own = fault if attempt is current else attempt.late_by()
                attempt.give_up(None if is_callers else clients or own)
        exchange.fail(fault, why=why)  # it cancels this forwarding

    def done(self, attempt: Attempt) -> None:
        exchange = self.exchange
        if exchange.request_body is not None:
            exchange.keep_no_body()
        self.current = None
        attempt.release()
        self._end()
        exchange.service = None

    def fail(self, fault: Fault, why: str = "", wait: float = 0.0, reset_code: int | None = None) -> None:
        """Answer with a fault. `wait`: seconds until a retry is useful, if known. `reset_code`: of the stream."""
        if self._held is not None and fault in NOBODY:
            self._pass_on(self._held)
            return
        if self.exchange.taker is not None:
            self._let_take_over()
        exchange = self.exchange
        self._end()
        exchange.service = None
        exchange.reset_code = reset_code  # not that of an upstream before, whose fallback this one is
        exchange.fail(fault, why=why, wait=wait)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        if self.filed_at != inf:
            self.upstream.worker_loop.wheel.drop(self)
        if self._timer is not None:
            self._stop_timer()
        if self.current is not None:
            current, hedges, self.current, self._hedges = self.current, self._hedges, None, ()
            for attempt in (current, *hedges):
                attempt.give_up()
        upstream = self.upstream
        upstream.active -= 1
        if self._retrying:
            upstream.retry_budget.give_back()
        # Avoids a reference cycle.
        self.exchange = self.forward = self.upstream = None  # type: ignore[assignment]


def new_forwarding(forward: ForwardedRequest, exchange: Exchange) -> Forwarding:
    """Return the forwarding of an exchange, of which no attempt has begun."""
    forwarding: Forwarding = Forwarding.__new__(Forwarding)
    forwarding._begin(forward, exchange)
    return forwarding
