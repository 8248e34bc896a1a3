"""One exchange's way through its upstream: which attempts are made, one after another or beside each other.

Rule 1: as long as another attempt is under way, one that came to nothing is only dropped. Rule 2: the first head of a
response that is not refused wins: the other attempts are given up, and nothing is tried again. Rule 3: whatever ends
the exchange ends its attempts, its timer and its place in the retry budget (`_end`).
"""

import asyncio
from math import inf
from time import monotonic
from typing import TYPE_CHECKING, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Response
from fastgw.exchange.states import ANSWERING, ATTEMPT_FAILED, NEXT
from fastgw.node.timers import Timed
from fastgw.upstream.attempt import Attempt
from fastgw.upstream.connection import UpstreamConnection
from fastgw.upstream.retry import CONNECT_FAILURE, IDEMPOTENT, NEVER, RESET, SAFE, any_untried, asked_wait
from fastgw.upstream.target import Target
from fastgw.wire.framing import ResponseHead

if TYPE_CHECKING:
    from fastgw.upstream.forward import Forward


@final
class Forwarding(Timed):
    """`current`: the attempt under way; None while the next one is waited for. Hedges are those beside it."""

    __slots__ = (
        "_hedged",
        "_hedges",
        "_over",
        "_retried",
        "_retrying",
        "_timer",
        "_total_at",
        "_tried",
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
        self._tried: tuple[Target, ...] = ()
        self._retried = self._hedged = 0
        self._retrying = False  # it has a place in the retry budget
        self._timer: asyncio.TimerHandle | None = None  # until the next attempt, or the next hedge
        self._over = False

    def __repr__(self) -> str:
        beside = f" and {len(self._hedges)} beside it" if self._hedges else ""
        return f"<Forwarding by {self.current!r}{beside}>"

    def limit_time(self) -> None:
        """Begin the time that the route gives until the response head, and the upstream for the whole."""
        wheel = self.upstream.ground.wheel
        self._total_at = wheel.now + self.upstream.patience
        self.head_due_at = wheel.now + self.forward.patience
        wheel.watch(self, self.head_due_at)

    def go_on(self, target: Target, connection: UpstreamConnection | None, begun_at: float) -> None:
        """An attempt at `target` has begun already, then (monotonic seconds)."""
        self.current = Attempt(self, target)
        self.current.go_on(connection, begun_at)

    def ask(self) -> None:
        """Ask for a connection, for an attempt that has begun already."""
        assert self.current is not None
        self.current.ask(fresh=False)

    def is_replayable(self) -> bool:
        """Whether the request may be sent again, as far as it is up to the request."""
        exchange = self.exchange
        if exchange.method not in IDEMPOTENT and not self.upstream.rules.any_method:
            return False
        body = exchange.request_body
        return body is None or body.kept is not None

    # attempts

    def attempt(self, fresh: bool) -> None:
        """Pick a target and begin an attempt. `fresh`: on a connection that has carried no request."""
        upstream = self.upstream
        target = upstream.balancer.pick(self.exchange, self._tried)
        if target is None:
            self.fail(upstream.unavailable(), wait=upstream.wait())
            return
        if self._retried:
            self.exchange.retries += 1
        self.current = attempt = Attempt(self, target)
        if upstream.hedging is not None:
            self._plan_hedge()
        attempt.begin(fresh)

    def _plan_hedge(self) -> None:
        upstream, exchange, hedging = self.upstream, self.exchange, self.upstream.hedging
        assert hedging is not None
        if self._hedged >= hedging.max or exchange.method not in SAFE or exchange.request_body is not None:
            return
        after = hedging.after()
        if after is not inf and not self.forward.asked_upgrade(exchange):
            self._timer = upstream.ground.loop.call_later(after, self._hedge)

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
        exchange.retries += 1
        upstream.count_hedge()
        hedge = Attempt(self, target)
        self._hedges += (hedge,)
        self._plan_hedge()
        hedge.begin(fresh=False)

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
            self.exchange.client.inform(head)

    def lost(self, attempt: Attempt, fault: Fault, condition: str, why: str = "") -> None:
        """It came to nothing, or its response broke off. `condition`: by which another one may follow."""
        if self._drop(attempt):
            return
        wait = inf if condition == NEVER else self._wait(condition)
        if wait == inf:
            self.fail(fault, why)
        else:
            self._follow(wait, fresh=condition == RESET)

    def answered(self, attempt: Attempt, head: ResponseHead, payload: bytes, ended: bool, now: float) -> None:
        """The head of its response, with the first of the body; `ended`: all of it. `now`: monotonic seconds."""
        exchange, upstream = self.exchange, self.upstream
        if head.status in upstream.rules.statuses and self._refuse(attempt, head, ended):
            return
        exchange.upstream_s = now - exchange.begun_at
        exchange.response_bytes = len(payload)
        if upstream.hedging is not None:
            upstream.hedging.times.add(attempt.seconds())
            self._win(attempt)
        cookie = b"" if upstream.cookies is None else self._cookie(attempt)
        if ended:
            self.done(attempt)
        else:
            attempt.deadline = inf
            self.deadline = self._total_at  # the route's `timeout` counts until the response head
            body = exchange.request_body
            if body is not None:
                body.kept = None  # nothing is sent again from here on
        response = Response(head.status, head)
        if cookie:
            response.added = cookie
        exchange.respond(response, payload, ended)

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

    def switched(self, attempt: Attempt, head: ResponseHead, early: bytes, patience: float) -> None:
        exchange = self.exchange
        exchange.upstream_s = monotonic() - exchange.begun_at
        self.deadline = inf
        response = Response(101, head)
        if self.upstream.cookies is not None:
            response.added = self._cookie(attempt)
        exchange.switch(response, early, patience)

    def _cookie(self, attempt: Attempt) -> bytes:
        """The line by which the client stays with its target, if there is to be one."""
        cookies, exchange = self.upstream.cookies, self.exchange
        assert cookies is not None
        return cookies.line_for(exchange.head, exchange.peer, attempt.target)

    # further attempts

    def _refuse(self, attempt: Attempt, head: ResponseHead, ended: bool) -> bool:
        """Drop a response because another attempt is under way, or follows. False: it is what the client gets."""
        if not self.is_replayable():
            return False
        if self._hedges:
            attempt.release(ended)
            self._drop(attempt)
            return True
        wait = self._wait(str(head.status), asked_wait(head))
        if wait == inf:
            return False
        attempt.release(ended)
        self._drop(attempt)
        self._follow(wait, fresh=False)
        return True

    def _wait(self, condition: str, asked: float = 0.0) -> float:
        """Seconds until another attempt begins, for which a place in the budget is taken; inf: none may follow.

        `asked`: what the target has asked for. Where nobody was reached, another target is the first to have any work
        of it: that takes no place, or most requests would be lost while one of two targets is down.
        """
        upstream, rules = self.upstream, self.upstream.rules
        if not rules.allow(condition, self._retried):
            return inf
        others = any_untried(upstream.in_use, self._tried)
        wait = rules.wait(condition, self._retried, others, asked)
        if upstream.ground.wheel.now + wait >= self.head_due_at:
            return inf
        if (others and condition == CONNECT_FAILURE) or self._take_place():
            return wait
        return inf

    def _take_place(self) -> bool:
        """Have a place in the retry budget, which is kept until the end."""
        if not self._retrying:
            self._retrying = self.upstream.may_retry()
        return self._retrying

    def _follow(self, wait: float, fresh: bool) -> None:
        """Begin another attempt after so many seconds."""
        exchange = self.exchange
        self._retried += 1
        if exchange.request_body is not None:
            exchange.request_body.detach()
        exchange.state = NEXT[exchange.state][ATTEMPT_FAILED]
        if wait:
            self._timer = self.upstream.ground.loop.call_later(wait, self._waited, fresh)
        else:
            self.attempt(fresh)

    def _waited(self, fresh: bool) -> None:
        self._timer = None
        self.attempt(fresh)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # what the client's side asks

    def feed_raw(self, chunk: bytes) -> None:
        if self.current is not None:
            self.current.feed_raw(chunk)

    def end_raw(self) -> None:
        if self.current is not None:
            self.current.end_raw()

    def pause(self) -> None:
        if self.current is not None and self.current.connection is not None:
            self.current.connection.pause()

    def resume(self) -> None:
        if self.current is not None and self.current.connection is not None:
            self.current.connection.resume()

    def cancel(self) -> None:
        self._end()

    # endings

    def expire(self, now: float) -> None:
        """The time for the whole is up: the route's `timeout` or the upstream's `total`."""
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
        if exchange.request_body is not None:
            exchange.request_body.kept = None  # nothing is sent again from here on
        self.current = None
        attempt.release(whole=True)
        self._end()
        exchange.service = None

    def fail(self, fault: Fault, why: str = "", wait: float = 0.0) -> None:
        """`wait`: seconds after which it is worth while to ask again, where that is known."""
        exchange = self.exchange
        self._end()
        exchange.service = None
        exchange.fail(fault, why=why, wait=wait)

    def _end(self) -> None:
        if self._over:
            return
        self._over = True
        self.deadline = inf
        if self._timer is not None:
            self._stop_timer()
        if self.current is not None:
            current, hedges, self.current, self._hedges = self.current, self._hedges, None, ()
            for attempt in (current, *hedges):
                attempt.give_up()
        upstream = self.upstream
        upstream.active -= 1
        if self._retrying:
            upstream.retried()
        # The wheel may have us for as long as we were given, which is longer than anybody needs these.
        del self.exchange, self.forward, self.upstream
