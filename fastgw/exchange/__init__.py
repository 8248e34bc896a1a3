"""The exchange: one request and its response, with their states; how their bytes are transported is not known here.

Rule: no I/O and no event loop in this folder. An exchange stands between two sides: the client's (`ClientSide`,
`downstream`) and the service's (`ServiceSide`, `upstream.forwarding`). Both are interfaces: HTTP/1 implements them, or
another version. Filters use the exchange only.
"""

from fastgw.exchange.body_relay import MAX_KEPT, Relay, Trailers
from fastgw.exchange.chain import Chain, FilterInstance
from fastgw.exchange.exchange import CallSide, ClientSide, Exchange, ServiceSide
from fastgw.exchange.filter_steps import run_request
from fastgw.exchange.hooks import Hooks, Outcome, RequestStep
from fastgw.exchange.reply import Reply, Response, problem
from fastgw.exchange.route import Division, Route
from fastgw.exchange.states import EVENTS, Event, ExchangeState, IllegalTransition

__all__ = [
    "EVENTS",
    "MAX_KEPT",
    "CallSide",
    "Chain",
    "ClientSide",
    "Division",
    "Event",
    "Exchange",
    "ExchangeState",
    "FilterInstance",
    "Hooks",
    "IllegalTransition",
    "Outcome",
    "Relay",
    "Reply",
    "RequestStep",
    "Response",
    "Route",
    "ServiceSide",
    "Trailers",
    "problem",
    "run_request",
]
