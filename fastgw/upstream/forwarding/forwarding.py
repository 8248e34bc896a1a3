"""One exchange's way through its upstream: which attempts are made, one after another or beside each other.

Rule 1: as long as another attempt is under way, one that came to nothing is only dropped. Rule 2: the first head of a
response that is not refused wins: the other attempts are given up, and nothing is tried again, but for a 401 or 403
after which a filter has renewed what the gateway shows (`renewal`). Rule 3: whatever ends the exchange ends its
attempts, what it waits for and its place in the retry budget (`_end`). Rule 4: a response that is refused is only
dropped for another attempt. Where none can be had after all, it is what the client gets: a whole one is held until
then, and for one that is still coming the next target is picked first.
"""

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, Final, final

from fastgw.errors import Fault
from fastgw.eventloop.timer_wheel import Timed
from fastgw.exchange import Exchange, Relay, Response
from fastgw.exchange.chain import RENEWED_ON, abandon, asked_to_renew
from fastgw.exchange.states import ANSWERING, ATTEMPT_FAILED, HOLDING
from fastgw.http.messages import ResponseHead
from fastgw.upstream.connections.stream import UpstreamStream
from fastgw.upstream.forwarding.attempt import Attempt
from fastgw.upstream.forwarding.credential_renewal import CredentialRenewal, HeldResponse
from fastgw.upstream.forwarding.retry_decision import decide_retry
from fastgw.upstream.policies.retry import IDEMPOTENT, NEVER, RESET, SAFE, any_untried, asked_wait
from fastgw.upstream.targets.attempt_listener import AttemptKind, AttemptRecord
from fastgw.upstream.targets.target import Target

if TYPE_CHECKING:
    from fastgw.upstream.forwarding.forward_action import Forward

NOBODY: Final = frozenset((Fault.NO_HEALTHY_TARGET, Fault.CIRCUIT_OPEN, Fault.POOL_FULL, Fault.POOL_TIMEOUT))
"""No target was asked, nor will be."""


@final
class Forwarding(Timed):
    """`current`: the attempt under way; None while the next one is waited for. Hedges are those beside it."""

    __slots__ = (
        "_hedged",
        "_hedges",
        "_held",
        "_over",
        "_resort",
        "_retried",
        "_retrying",
        "_timer",
        "_total_at",
        "_tried",
        "begun",
        "continued",
        "current",
        "exchange",
        "forward",
        "head_due_at",
        "upstream",
    )

    def __init__(self, forward: "Forward", exchange: Exchange) -> None:
        self.deadline = self.filed_at = inf
        self.forward = forward
        self.upstream = forward.upstream
        self.exchange = exchange
        self.head_due_at = self._total_at = inf  # by the wheel's clock
        self.continued = False  # we have told the client to go on, in place of a target that cannot
        self.current: Attempt | None = None
        self._hedges: tuple[Attempt, ...] = ()
        self._held: HeldResponse | None = None
        self._tried: tuple[Target, ...] = ()
        self._resort: Target | None = None  # one that is ejected, as no other could be reached
        self._retried = self._hedged = 0
        self.begun = 0  # attempts
        self._retrying = False  # it has a place in the retry budget
        # What is waited for: the time of the next attempt or the next hedge, or whether a filter renews.
        self._timer: asyncio.TimerHandle | CredentialRenewal | None = None
        self._over = False

    def __repr__(self) -> str:
        beside = f" and {len(self._hedges)} beside it" if self._hedges else ""
        return f"<Forwarding by {self.current!r}{beside}>"

    def limit_time(self) -> None:
        """Begin the time that the route gives until the response head, and the upstream for the whole."""
        wheel = self.upstream.worker_loop.wheel
        self._total_at = wheel.now + self.upstream.total_timeout
        self.head_due_at = wheel.now + self.forward.timeout
        wheel.watch(self, self.head_due_at)

    def go_on(self, target: Target, stream: UpstreamStream | None, record: AttemptRecord | None) -> None:
        """An attempt at `target` has begun already."""
        self.begun = 1
        self.current = Attempt(self, target)
        self.current.go_on(stream, record)

    def ask(self) -> None:
        """Ask for a connection, for an attempt that has begun already."""
        assert self.current is not None
        self.current.ask(fresh=False)

    def is_replayable(self) -> bool:
        """Whether the request may be sent again, as far as it is up to the request."""
        exchange = self.exchange
        if exchange.method not in IDEMPOTENT and not self.upstream.rules.any_method:
            return False
        return exchange.may_be_sent_again

    def keeps_body(self) -> bool:
        """Whether the body may have to be sent again."""
        exchange = self.exchange
        return self.is_replayable() or (bool(exchange.chain.renew_steps) and not exchange.renewed)

    # attempts

    def attempt(self, fresh: bool, target: Target | None = None, again: bool = True) -> None:
        """Begin an attempt. `fresh`: on a connection that has carried no request. `again`: it follows another one.

        `target`: as it was picked some time ago; None: it was not. Where it is in use no more another one is picked.
        """
        upstream = self.upstream
        if target is None or (target not in upstream.in_use and target is not self._resort):
            target = upstream.balancer.pick(self.exchange, self._tried)
        if target is None:
            self.fail(upstream.unavailable(), wait=upstream.wait())
            return
        self.begun += 1
        self.current = attempt = Attempt(self, target)
        if upstream.hedging is not None:
            self._plan_hedge()
        attempt.begin(fresh, AttemptKind.RETRY if again else AttemptKind.FIRST)

    def _plan_hedge(self) -> None:
        upstream, exchange, hedging = self.upstream, self.exchange, self.upstream.hedging
        assert hedging is not None
        if self._hedged >= hedging.max or exchange.method not in SAFE or exchange.request_body is not None:
            return
        after = hedging.after()
        if after is not inf and not self.forward.asked_upgrade(exchange):
            self._timer = upstream.worker_loop.loop.call_later(after, self._hedge)

    def _hedge(self) -> None:
        """The attempts under way take long: begin one beside them, at another target."""
        self._timer = None
        upstream, exchange = self.upstream, self.exchange
        assert self.current is not None
        tried = (*self._tried, self.current.target, *(hedge.target for hedge in self._hedges))
        if not any_untried(upstream.in_use, tried) or not self._take_place():
            return
        target = upstream.balancer.pick(exchange, tried)
        if target is None:
            return
        self._hedged += 1
        self.begun += 1
        hedge = Attempt(self, target)
        self._hedges += (hedge,)
        self._plan_hedge()
        hedge.begin(fresh=False, kind=AttemptKind.HEDGE)

    def _drop(self, attempt: Attempt) -> bool:
        """An attempt is over. Whether another one is under way."""
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

    # what an attempt tells

    def informed(self, attempt: Attempt, head: ResponseHead) -> None:
        if attempt is self.current:
            self.exchange.client.send_interim(head)

    def lost(self, attempt: Attempt, fault: Fault, condition: str, why: str = "") -> None:
        """Handle an attempt that came to nothing, or whose response broke off. `condition`: by which another one may
        follow.
        """
        if self._drop(attempt):
            return
        wait = inf if condition == NEVER else self._decide_retry(condition)
        if wait == inf:
            self.fail(fault, why)
        else:
            self._schedule_retry(wait, fresh=condition == RESET, target=self._resort)

    def answered(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool, now: float) -> None:
        """The head of its response, with the first of the body; `ended`: all of it. `now`: monotonic seconds."""
        exchange, upstream = self.exchange, self.upstream
        if exchange.chain.renew_steps and self._renew(attempt, head, payload, ended, now):
            return
        if head.status in upstream.rules.statuses and self._refuse(attempt, head, payload, ended, now):
            return
        self._take_response(attempt.target, now - exchange.begun_at)
        exchange.response_bytes = len(payload)
        if upstream.hedging is not None:
            upstream.hedging.times.add(attempt.seconds())
            self._win(attempt)
        cookie = b"" if upstream.cookies is None else self._cookie(attempt.target)
        marks = self.forward.marks
        if ended:
            self.done(attempt)
        else:
            attempt.deadline = inf
            self.deadline = self._total_at  # the route's `timeout` counts until the response head
            if attempt.stream is not None:
                attempt.stream.give_body_to(exchange.client)
            exchange.keep_no_body()
        response = Response(head.status, head, cookie, marks)
        exchange.respond(response, payload, ended)

    def _take_response(self, target: Target, seconds: float) -> None:
        """Note for the log whose response the client gets, and after how many seconds its head was there."""
        self.exchange.target, self.exchange.upstream_s = target.label, seconds

    def _win(self, attempt: Attempt) -> None:
        """The others are not waited for; how long they have taken is known, and that it was too long."""
        self._stop_timer()
        self.exchange.target = attempt.target.label  # that of a hedge may have been asked since
        if self._hedges:
            assert self.current is not None
            for each in (self.current, *self._hedges):
                if each is not attempt:
                    assert self.upstream.hedging is not None
                    self.upstream.hedging.times.add(each.seconds())
                    each.give_up()
            self.current, self._hedges = attempt, ()

    def switched(self, attempt: Attempt, head: ResponseHead, early: bytes, timeout: float) -> None:
        exchange = self.exchange
        self._take_response(attempt.target, monotonic() - exchange.begun_at)
        self.deadline = inf
        response = Response(101, head, b"", self.forward.marks)
        if self.upstream.cookies is not None:
            response.added = self._cookie(attempt.target)
        exchange.switch(response, early, timeout)

    def _cookie(self, target: Target) -> bytes:
        """The line by which the client stays with its target, if there is to be one."""
        cookies, exchange = self.upstream.cookies, self.exchange
        assert cookies is not None
        return cookies.line_for(exchange.head, exchange.peer, target)

    # further attempts

    def _refuse(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool, now: float) -> bool:
        """Drop a response because another attempt is under way, or follows. False: it is what the client gets."""
        if not self.is_replayable() or self.exchange.renewed:
            return False
        if self._hedges:
            attempt.refuse(head.status)
            self._drop(attempt)
            return True
        wait = self._decide_retry(str(head.status), asked_wait(head))
        if wait == inf:
            return False
        exchange, target = self.exchange, None
        if ended:
            self._held = HeldResponse(attempt.target, head, payload, now - exchange.begun_at)
        else:
            target = self.upstream.balancer.pick(exchange, (*self._tried, attempt.target))
            if target is None:
                return False
        attempt.refuse(head.status)
        self._drop(attempt)
        self._schedule_retry(wait, fresh=False, target=target)
        return True

    def _pass_on(self, held: HeldResponse) -> None:
        """Pass the last response on: no other target can be asked."""
        exchange = self.exchange
        response = Response(held.head.status, held.head, b"", self.forward.marks)
        if self.upstream.cookies is not None:
            response.added = self._cookie(held.target)
        exchange.keep_no_body()
        self._take_response(held.target, held.seconds)
        exchange.response_bytes = len(held.payload)
        self._end()
        exchange.service = None
        exchange.respond(response, held.payload, not held.trailers)
        if held.trailers and exchange.state in (HOLDING, ANSWERING):
            exchange.response_sink.end(held.trailers)

    def _decide_retry(self, condition: str, asked: float = 0.0) -> float:
        """Seconds until another attempt begins, for which a place in the budget is taken; inf: none may follow."""
        decision = decide_retry(self.upstream, condition, self._retried, self._tried, self.head_due_at, asked)
        self._resort = decision.last_resort
        return decision.wait if decision.is_free or self._take_place() else inf

    def _take_place(self) -> bool:
        """Have a place in the retry budget, which is kept until the end."""
        if not self._retrying:
            self._retrying = self.upstream.retry_budget.try_take(self.upstream.active)
        return self._retrying

    def _schedule_retry(self, wait: float, fresh: bool, target: Target | None = None) -> None:
        """Begin another attempt after so many seconds. `target`: as in `attempt`."""
        exchange = self.exchange
        self._retried += 1
        if exchange.request_body is not None:
            exchange.request_body.detach()
        exchange.state = ATTEMPT_FAILED[exchange.state]
        if wait:
            self._timer = self.upstream.worker_loop.loop.call_later(wait, self._waited, fresh, target)
        else:
            self.attempt(fresh, target)

    def _waited(self, fresh: bool, target: Target | None) -> None:
        self._timer = None
        self.attempt(fresh, target)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # once more, with what a filter has renewed

    def _renew(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool, now: float) -> bool:
        """Hold a response back, for a filter may renew what was shown. False: the client gets it."""
        exchange, hedging = self.exchange, self.upstream.hedging
        if head.status not in RENEWED_ON or exchange.renewed:
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
            self._win(attempt)
        self._timer = renewal = CredentialRenewal(self, attempt, head, payload, now)
        renewal.begin(ended, step, outcome)
        return True

    def send_again(self, renewal: CredentialRenewal) -> None:
        """A filter has renewed what is shown: the client gets whatever comes now."""
        exchange, current, target = self.exchange, self.current, None
        if current is None:
            self._held = renewal.held() if renewal.fault is None else None
        else:
            target = self.upstream.balancer.pick(exchange, self._tried)
            if target is None:
                self.pass_on(renewal)
                return
            self.current = None
            current.give_up()
        self._timer = None
        exchange.state = ATTEMPT_FAILED[exchange.state]
        # The target may close a connection after a refusal: what cannot be repeated would be lost on it.
        self.attempt(not self.is_replayable(), target)

    def pass_on(self, renewal: CredentialRenewal) -> None:
        """Pass the held response on, as there was no renewal."""
        exchange, attempt, held = self.exchange, renewal.attempt, renewal.held()
        stream, body = attempt.stream, exchange.request_body
        self._timer = None
        if renewal.fault is not None:
            self.fail(renewal.fault, renewal.why)
            return
        if stream is None:
            self._pass_on(held)
            return
        self._take_response(held.target, held.seconds)
        exchange.response_bytes = len(held.payload)
        response = Response(held.head.status, held.head, b"", self.forward.marks)
        if self.upstream.cookies is not None:
            response.added = self._cookie(held.target)
        # the route's `timeout` counts until the response head
        self.upstream.worker_loop.wheel.watch(self, self._total_at)
        renewal.go_on(stream)
        if body is not None:
            self._send_on(body, attempt, renewal.sent)
        exchange.respond(response, held.payload, False)

    def _send_on(self, body: Relay, attempt: Attempt, sent: int) -> None:
        """Send the rest of a body where `sent` bytes of it have gone."""
        held = body.attach(attempt)
        self.exchange.keep_no_body()
        if attempt.stream is not None:
            attempt.stream.attach_source(body)
        if len(held) > sent:
            attempt.feed(held[sent:])
        if body.ended:
            attempt.end(body.trailers)

    # what the client's side asks

    def feed_raw(self, chunk: bytes) -> None:
        if self.current is not None:
            self.current.feed_raw(chunk)

    def end_raw(self) -> None:
        if self.current is not None:
            self.current.end_raw()

    def pause(self) -> None:
        if self.current is not None and self.current.stream is not None:
            self.current.stream.pause()

    def resume(self) -> None:
        if self.current is not None and self.current.stream is not None:
            self.current.stream.resume()

    def cancel(self) -> None:
        self._end()

    # endings

    def expire(self, now: float) -> None:
        """The time for the whole is up: the route's `timeout` or the upstream's `total`."""
        if isinstance(self._timer, CredentialRenewal):
            self._timer.late()
            return
        exchange, current = self.exchange, self.current
        fault = Fault.UPSTREAM_TIMEOUT
        if exchange.state is ANSWERING:
            fault = Fault.UPSTREAM_STALLED
        elif current is not None:
            fault = current.late_by()
        if current is not None:
            hedges, self.current, self._hedges = self._hedges, None, ()
            current.give_up(fault)
            for hedge in hedges:
                hedge.give_up(hedge.late_by())
        exchange.fail(fault)  # which cancels us

    def done(self, attempt: Attempt) -> None:
        """The response is in."""
        exchange = self.exchange
        exchange.keep_no_body()
        self.current = None
        attempt.release()
        self._end()
        exchange.service = None

    def fail(self, fault: Fault, why: str = "", wait: float = 0.0) -> None:
        """`wait`: seconds after which it is worth while to ask again, where that is known."""
        if self._held is not None and fault in NOBODY:
            self._pass_on(self._held)
            return
        exchange = self.exchange
        self._end()
        exchange.service = None
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
        # It leads back here: only the collector would find the circle.
        del self.exchange, self.forward, self.upstream
