"""Forward action of a route: it checks the request, and forwards it.

Each exchange has a `Forwarding`, which makes `Attempt`s.
"""

from __future__ import annotations

from contextlib import suppress
from math import inf
from typing import TYPE_CHECKING, Any, cast, final

from fastgw.errors import Fault
from fastgw.exchange.action import Action
from fastgw.exchange.body_relay import MAX_KEPT, Relay
from fastgw.exchange.exchange import UNCHANGED_QUERY, Exchange
from fastgw.exchange.filter_steps import count_raised
from fastgw.exchange.reply import problem
from fastgw.exchange.staged_body import request_budget
from fastgw.http.grpc.calls import is_grpc, timeout_of
from fastgw.http.malformed import Malformed
from fastgw.observe.access_log.finished_exchange import FinishedExchange, target_of
from fastgw.observe.tracing.spans import LabelledTarget
from fastgw.upstream.forwarding.forwarded_request import ForwardedRequest
from fastgw.upstream.forwarding.forwarding import Forwarding, new_forwarding
from fastgw.upstream.policies.path_rewrite import MissingVariable
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

if TYPE_CHECKING:
    from fastgw.exchange.response_taker import ResponseTaker
    from fastgw.upstream.client.response_action import ResponseAction


class Forward(ForwardedRequest):
    """A route's action: forward to `upstream`, as `ForwardedRequest` says."""

    def unrewritten(self) -> Forward:
        """Return the same action for requests whose path is sent as it is."""
        made: Forward | None = self._unrewritten
        if made is None:
            how = self.how._replace(path_of=None, upgrade=(), folder=b"", checks_path=False, stripped=None)
            made = Forward(self.upstream, how)
            self._unrewritten = made
        return made

    def for_copies(self, upstream: Upstream) -> Forward:
        """Return the action that sends copies of requests to another upstream: the same requests, without the timeouts
        and retries of the route.
        """
        how = self.how._replace(
            upgrade=(), timeout=None, deadline_name=None, retries=None, own_timeouts=None, own_urls=None
        )
        return Forward(upstream, how)

    def begin(self, exchange: Exchange) -> None:
        if exchange.chain.translate_steps and is_translated(exchange, self):
            return
        self._send(exchange)

    def send_for(self, exchange: Exchange, taker: ResponseTaker) -> None:
        """Forward an exchange for a filter that takes part in it: called by its `translate` hook."""
        exchange.taker = taker
        try:
            self._send(exchange)
        except Exception:
            exchange.taker = None
            raise

    def _send(self, exchange: Exchange) -> None:
        upstream = self.upstream
        if not exchange.head.plain and exchange.head.connect_protocol and not self.asked_upgrade(exchange):
            exchange.fail(Fault.NOT_IMPLEMENTED, "No tunnel for this protocol begins here.")
            return
        if self.grpc and self.refuse_non_call(exchange):
            return
        if self.checks_path and self.refuse_path(exchange):
            return
        forwarding: Forwarding = new_forwarding(self, exchange)
        exchange.service = forwarding
        body: Relay | None = exchange.request_body
        if body is not None:
            body.most_kept = most = self.body_bytes
            if most > MAX_KEPT and not body.ended:
                body.count_kept(request_budget(exchange))
        exchange.upstream = upstream.name
        upstream.active += 1
        if self.grpc:
            due_in = timeout_of(exchange.head)
            if due_in is None:
                exchange.fail(Fault.BAD_REQUEST, "The grpc-timeout header is malformed.")
                return
            if due_in != inf or self.timeout != inf:
                # The wheel is behind by a turn of the loop: the server gets no more than the caller has said.
                due_at = min(upstream.worker_loop.wheel.now, exchange.begun_at) + due_in
                forwarding.limit_time(due_at)
                if due_at <= upstream.worker_loop.wheel.now:  # filters have waited so long, or it had no time
                    forwarding.expire(due_at)
                    return
        elif self.timeout != inf:
            forwarding.limit_time()
        forwarding.attempt(False, None, False)

    def refuse_non_call(self, exchange: Exchange, any_version: bool = False) -> bool:
        """Refuse a request to a gRPC upstream that is no gRPC call: servers reset its stream, which would count as a
        failure of theirs. Returns whether it was refused.

        `any_version`: calls are also accepted over HTTP/1.1, by which gRPC is not specified.
        """
        head = exchange.head
        if not is_grpc(head):
            exchange.fail(Fault.UNSUPPORTED_MEDIA_TYPE, "Only gRPC calls are served here.")
        elif head.version < 20 and not any_version and not head.made:
            exchange.fail(Fault.UNSUPPORTED_MEDIA_TYPE, "gRPC calls need HTTP/2.")
        elif exchange.method != b"POST":
            fault = Fault.METHOD_NOT_ALLOWED
            exchange.fail_with(problem(fault, "gRPC calls need the method POST.", ((b"Allow", b"POST"),)), fault)
        else:
            return False
        return True

    def refuse_path(self, exchange: Exchange) -> bool:
        """Refuse a request whose values do not make a path. Returns whether it was refused."""
        if not self.checks_path or self.path_of is None:
            return False
        before, exchange.upstream = exchange.upstream, self.upstream.name
        try:
            self.path_of(exchange)
        except MissingVariable as missing:
            exchange.upstream = before
            exchange.fail(missing.fault, "A value of the path is missing.", why=f"rewrite: {missing}")
        except Malformed as malformed:
            exchange.upstream = before
            exchange.fail(Fault.BAD_REQUEST, malformed.reason)
        else:
            return False
        return True


def sent_target_of(ended: FinishedExchange, target: LabelledTarget) -> bytes:
    """Return the request target that the route of a request that has ended sends to a target."""
    asked: Any = ended
    action = None if asked.route is None else asked.route.action
    sent: bytes | None = None
    if isinstance(action, Forward):
        with suppress(Malformed, MissingVariable):
            sent = action.sent_target(asked, cast(Target, target), getattr(asked, "query_sent", UNCHANGED_QUERY))
    return target_of(ended.head) if sent is None else sent


@final
class CallRecorder(Action):
    """Stand-in for the action of a route: keeps the call that a filter sends by it, for `explain`."""

    def __init__(self, action: Forward) -> None:
        self.action = action
        self.upstream = action.upstream
        self.call: Exchange | None = None

    def unrewritten(self) -> CallRecorder:
        self.action = self.action.unrewritten()
        return self

    def begin(self, call: Exchange) -> None:
        self.call = call
        is_translated(call, self)


def is_translated(exchange: Exchange, forward: Forward | CallRecorder | ResponseAction) -> bool:
    """Whether a filter has taken the exchange over, or has failed to."""
    for translate in exchange.chain.translate_steps:
        try:
            if translate(exchange, forward):
                return True
        except BaseException:  # the edge of a filter: what it could not translate is not forwarded
            exchange.fail(Fault.INTERNAL, why=count_raised(translate, "translate", exchange))
            return True
    return False
