"""Request body and lines of a tap, for the admin API and its client."""

import re
import time
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from fastgw.capture.captured_exchange import MOST_BODY, CaptureOrder

MOST_S: Final = 3600.0
"""Maximum duration of a tap in seconds."""
_STATUS: Final = re.compile("[1-5](?:[0-9]{2}|xx)")


def check_status(text: str) -> None:
    """Check a status, such as `404`, or a class, such as `5xx`. Raises `ValueError`."""
    if _STATUS.fullmatch(text) is None:
        raise ValueError(f'"{text[:10]}" is not a status; expected one such as 404 or 5xx')


class TapRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Selection of the requests of a tap. An empty member selects all. Requests that match no route are not shown."""

    routes: Sequence[str] = ()
    """Names of routes."""
    methods: Sequence[str] = ()
    """Methods, in capital letters."""
    statuses: Sequence[str] = ()
    """Statuses, such as `404`, and classes of them, such as `5xx`."""
    path_prefix: str = ""
    """Beginning of the path."""
    consumers: Sequence[str] = ()
    """Names of consumers."""
    ratio: float = 1.0
    """Share of the selected requests to show: 0.1 = one in ten."""
    rate: float = 100.0
    """Maximum number of requests per second and worker."""
    body_bytes: int = 16 * 1024
    """Maximum bytes of each body, at most 1 MiB; the rest is cut off. 0 = no bodies."""
    seconds: float = MOST_S
    """Duration of the tap; at most one hour."""

    def __post_init__(self) -> None:
        for status in self.statuses:
            check_status(status)
        if not 0.0 < self.ratio <= 1.0:
            raise ValueError("`ratio` is not above 0 and at most 1")
        if not 0.0 < self.rate <= 1e6 or not 0.0 < self.seconds <= MOST_S:
            raise ValueError("`rate` and `seconds` must be above 0, and `seconds` at most 3600")
        if not 0 <= self.body_bytes <= MOST_BODY:
            raise ValueError(f"`body_bytes` is not between 0 and {MOST_BODY}")

    def order(self) -> CaptureOrder:
        """Return the order for the workers."""
        return CaptureOrder(
            routes=tuple(self.routes),
            methods=tuple(method.encode() for method in self.methods),
            path_prefix=self.path_prefix.encode(),
            statuses=tuple(self.statuses),
            consumers=tuple(self.consumers),
            ratio=self.ratio,
            rate=self.rate,
            body_bytes=self.body_bytes,
            until_date=time.time() + self.seconds,
        )


class TappedMessage(Struct, frozen=True):
    """A request or a response."""

    headers: Sequence[tuple[str, str]]
    body: str
    """Beginning of the body as text, without secrets."""
    body_bytes: int
    """Length of the whole body, as it was transferred."""
    body_truncated: bool
    body_omitted: str
    """Reason why the body is not shown; "": it is shown."""


class TappedRequest(Struct, frozen=True):
    """Line of a tap."""

    time: str
    duration_s: float
    listener: str
    route: str
    client: str
    consumer: str | None
    method: str
    scheme: str
    host: str
    path: str
    query: str | None
    protocol: str
    status: int
    fault: str | None
    fault_detail: str | None
    upstream: str | None
    target: str | None
    upstream_s: float | None
    retries: int
    cache: str | None
    request_id: str | None
    trace_id: str | None
    request: TappedMessage
    response: TappedMessage
    dropped: int
    """Number of selected requests that were dropped so far, because they were too many or too large."""
