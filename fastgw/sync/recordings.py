"""Order to record requests, which control sends to all workers, including later ones, as a feed.

Workers send their records to a unix socket of control. If it is gone, so is the recording.
"""

from typing import Final

import msgspec

FEED: Final = "recordings"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""
TOKEN_BYTES: Final = 16
RECORD: Final = b"R"
DROPPED: Final = b"D"
"""First byte of a message of a worker, after its length (4 bytes): a record, or the number of dropped ones (4 bytes).
A connection begins with the token of the recording."""


class RecordingOrder(msgspec.Struct, frozen=True):
    """Selection of the requests to record, and what is kept of them. Empty: none are recorded."""

    address: str = ""
    """Abstract address of the socket, without its leading NUL; "": nothing is recorded."""
    token: str = ""
    """Token of the recording, in hexadecimal digits."""
    ratio: float = 1.0
    """Share of the requests."""
    routes: tuple[str, ...] = ()
    """Names of routes; (): all, and requests without a route."""
    statuses: tuple[str, ...] = ()
    """Statuses, such as `404` or `5xx`; (): all."""
    body_bytes: int = 0
    """Maximum bytes that are kept of a body."""
    redact: tuple[str, ...] = ()
    """Names of headers, query parameters and cookies whose values are masked."""
    keep_cookies: bool = False
    """Whether values of other cookies are recorded."""


class RecordBatch(msgspec.Struct, array_like=True):
    """Response of the admin API to a fetch, as MessagePack."""

    is_over: bool
    dropped: int
    """Dropped records since the beginning."""
    records: list[bytes]


NOTHING: Final = RecordingOrder()


def written(order: RecordingOrder) -> bytes:
    return msgspec.json.encode(order)


def read(value: bytes) -> RecordingOrder:
    """Decode an order. b"": nothing was sent yet."""
    return msgspec.json.decode(value, type=RecordingOrder) if value else NOTHING


def takes_status(statuses: tuple[str, ...], status: int) -> bool:
    """Whether a status is among those listed."""
    text = str(status)
    return not statuses or text in statuses or f"{text[0]}xx" in statuses
