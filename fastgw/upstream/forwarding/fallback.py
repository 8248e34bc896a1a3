"""Fallback for an upstream that has failed before its response began: a reply, or another upstream.

Rule 1: another upstream does not get a request that the first may have acted on, unless its method is idempotent. Rule
2: it gets no credentials that the gateway has added for the first, unless they are meant for both.

The request to another upstream is not a sub-request of the exchange (`client/subrequest.py`), but its next forwarding:
its response goes to the client like any other, with interim responses, tunnels, the route's filters and the client's
backpressure. A sub-request has a listener in place of the client, which would have to copy all of that.
"""

from collections.abc import Mapping
from typing import Final, final

from fastgw.config.settings.gateway import FallbackCondition
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply
from fastgw.exchange.states import ATTEMPT_FAILED, FORWARDING
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.forwarding.forwarding import NOBODY
from fastgw.upstream.policies.retry import IDEMPOTENT

FAULTS: Final[Mapping[FallbackCondition, frozenset[Fault]]] = {
    "unavailable": NOBODY,
    "unreachable": frozenset(
        (
            *(Fault.CONNECT_REFUSED, Fault.CONNECT_TIMEOUT, Fault.UPSTREAM_UNREACHABLE, Fault.STREAM_REFUSED),
            *(Fault.DNS_FAILED, Fault.TLS_FAILED),
        )
    ),
    "broken": frozenset((Fault.CONNECTION_LOST, Fault.UPSTREAM_MALFORMED, Fault.UPSTREAM_INCOMPLETE)),
    "timeout": frozenset((Fault.UPSTREAM_TIMEOUT,)),
}
"""Faults of each condition."""


@final
class Fallback:
    """Fallback of a route: either `reply` or `forward`. `shares`: the fallback upstream also gets additions meant for
    the first only.

    `told`: its action and condition in words.
    """

    __slots__ = ("_faults", "_forward", "_reply", "_shares", "description")

    def __init__(
        self,
        conditions: tuple[FallbackCondition, ...],
        reply: Reply | None = None,
        forward: Forward | None = None,
        shares: bool = False,
    ) -> None:
        self._faults = frozenset[Fault]().union(*(FAULTS[condition] for condition in conditions))
        self._reply, self._forward, self._shares = reply, forward, shares
        deed = f"upstream {forward.upstream.name}" if forward is not None else f"answers {reply.status if reply else 0}"
        self.description = f"{deed}, on {', '.join(conditions)}"

    @property
    def keeps_calls(self) -> bool:
        """Whether a gRPC call reaches no other upstreams by it than such of gRPC."""
        return self._forward is None or self._forward.grpc

    def __call__(self, exchange: Exchange, fault: Fault) -> bool:
        """Answer a failed exchange whose response has not begun. False: the fallback does not apply."""
        if fault not in self._faults:
            return False
        if self._reply is not None:
            exchange.fault = fault  # for log and metrics; the client gets the fallback reply
            exchange.reset_code = None
            exchange.refuse_late(self._reply)
            return True
        forward = self._forward
        assert forward is not None
        if exchange.upstream == forward.upstream.name or not _may_be_sent(exchange):
            return False
        exchange.why = f"{fault.label} of upstream {exchange.upstream}"
        exchange.break_off()
        if exchange.request_body is not None:
            exchange.request_body.detach()
        if exchange.state is FORWARDING:
            exchange.state = ATTEMPT_FAILED[FORWARDING]
        if not self._shares:
            exchange.leave_behind()
        forward.begin(exchange)
        return True


def _may_be_sent(exchange: Exchange) -> bool:
    """Whether the request is complete, and either idempotent or not processed by any upstream."""
    body = exchange.request_body
    return (body is None or body.kept is not None) and (not exchange.sent or exchange.method in IDEMPOTENT)
