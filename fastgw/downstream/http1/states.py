"""The states of a client's HTTP/1 connection and the events that change them. A state changes by an `Event` only.

docs/images/http1-connection.svg is drawn from these tables (`make docs`).
"""

from enum import IntEnum
from typing import Final

from fastgw.exchange.states import Event


class ClientPhase(IntEnum):
    IDLE = 1  # between two requests
    HEAD = 2  # part of a request head was received
    ACTIVE = 3  # an exchange is in flight
    FLUSHING = 4  # its response waits in the transport for a slow client
    TUNNEL = 5
    LINGERING = 6  # the last response was sent; received data is dropped
    CLOSING = 7  # the transport sends its buffered data and closes
    CLOSED = 8


# PERF: module-level names; through the class each access costs 68 ns (CPython 3.11).
IDLE, HEAD, ACTIVE, FLUSHING, TUNNEL, LINGERING, CLOSING, CLOSED = ClientPhase

EVENTS: Final[list[Event]] = []

HEAD_BEGUN: Final = Event("HEAD_BEGUN", {IDLE: HEAD}, EVENTS)
REQUEST: Final = Event(
    "REQUEST",
    {
        IDLE: ACTIVE,
        HEAD: ACTIVE,  # also for invalid input and timeouts, which get a response
    },
    EVENTS,
)
RESPONSE_WAITS: Final = Event("RESPONSE_WAITS", {ACTIVE: FLUSHING}, EVENTS)
NEXT: Final = Event("NEXT", {ACTIVE: IDLE, FLUSHING: IDLE}, EVENTS)
SWITCHED: Final = Event("SWITCHED", {ACTIVE: TUNNEL}, EVENTS)
LAST_RESPONSE: Final = Event("LAST_RESPONSE", {ACTIVE: LINGERING}, EVENTS)
CLOSE: Final = Event(
    "CLOSE",
    {
        IDLE: CLOSING,  # no further requests
        ACTIVE: CLOSING,
        FLUSHING: CLOSING,  # the client has disconnected
        TUNNEL: CLOSING,  # both directions have ended
    },
    EVENTS,
)
LOST: Final = Event("LOST", {phase: CLOSED for phase in ClientPhase if phase is not CLOSED}, EVENTS)
