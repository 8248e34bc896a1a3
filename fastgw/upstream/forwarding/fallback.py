"""Fallback of an upstream that has failed before its response began: a reply, or another upstream.

Rule 1: another upstream gets nothing that the first may have acted on, unless the method allows it to be done twice.
Rule 2: it gets no credentials that the gateway has brought for the first, unless they are meant for both.

Another upstream is no sub-request of the exchange (`client/subrequest.py`), but its next forwarding: so its response
goes to the client as any does, with interim responses, tunnels, the route's filters and the client's own backpressure.
A sub-request has a listener in place of the client, through which all of that would have to be copied.
"""

from collections.abc import Mapping
from typing import Final, final

from fastgw.config.settings.gateway import FallbackCondition
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply
from fastgw.exchange.states import ATTEMPT_FAILED, FORWARDING
from fastgw.upstream.forwarding.forward_action import Forward
from fastgw.upstream.policies.retry import IDEMPOTENT

FAULTS: Final[Mapping[FallbackCondition, frozenset[Fault]]] = {
    "unavailable": frozenset((Fault.NO_HEALTHY_TARGET, Fault.CIRCUIT_OPEN, Fault.POOL_FULL, Fault.POOL_TIMEOUT)),
    "unreachable": frozenset(
        (
            *(Fault.CONNECT_REFUSED, Fault.CONNECT_TIMEOUT, Fault.UPSTREAM_UNREACHABLE),
            *(Fault.DNS_FAILED, Fault.TLS_FAILED),
        )
    ),
    "broken": frozenset((Fault.CONNECTION_LOST, Fault.UPSTREAM_MALFORMED, Fault.UPSTREAM_INCOMPLETE)),
    "timeout": frozenset((Fault.UPSTREAM_TIMEOUT,)),
}
"""Faults of each condition."""


@final
class Fallback:
    """Fallback of a route. One of `reply` and `forward`. `shares`: that upstream, too, gets what is for the first
    alone.

    `told`: what it does and when, for people.
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

    def __call__(self, exchange: Exchange, fault: Fault) -> bool:
        """Have an exchange that has failed answered otherwise, before its answer has begun. False: it is not for us."""
        if fault not in self._faults:
            return False
        if self._reply is not None:
            exchange.fault = fault  # what is told of it; the client sees the reply
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
        forward(exchange)
        return True


def _may_be_sent(exchange: Exchange) -> bool:
    """Whether all of it is there, and nobody can have acted on it, or it may be done twice."""
    body = exchange.request_body
    return (body is None or body.kept is not None) and (not exchange.sent or exchange.method in IDEMPOTENT)
