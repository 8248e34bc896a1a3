"""The response to a request in which the gateway has a defect."""

from fastgw.errors import Fault
from fastgw.exchange import Exchange
from fastgw.exchange.states import ANSWERING
from fastgw.operator_events import OperatorEvent, log_event


def answer_defect(exchange: Exchange | None, ip: str) -> bool:
    """Answer 500. False: there is no exchange, its response has begun, or this one has the same defect, such as in an
    error page, which is logged. `ip`: the client's.
    """
    if exchange is None or exchange.state >= ANSWERING:
        return False
    try:
        exchange.fail(Fault.INTERNAL)
    except Exception:  # the edge of this exchange, again
        log_event(OperatorEvent.DEFECT, "a defect in an error response to %s", ip, error=True)
        return False
    return True
