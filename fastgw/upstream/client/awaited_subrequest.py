"""Sub-requests whose whole response a filter awaits."""

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import Final, TypeAlias, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Relay, Trailers
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.http_client import Fetched
from fastgw.upstream.client.subrequest import OVER, TIMEOUT, SubrequestFailed, send_subrequest
from fastgw.upstream.upstream import Upstream

MOST: Final = 1024 * 1024
"""Default maximum of bytes of a response body that is returned as a whole."""


Subresponse: TypeAlias = Fetched


async def subrequest(
    parent: Exchange,
    upstream: Upstream,
    *,
    target: bytes,
    method: bytes = b"GET",
    fields: Iterable[tuple[bytes, bytes]] = (),
    body: bytes | AsyncIterable[bytes] | Relay | None = b"",
    body_length: int | None = None,
    timeout: float = TIMEOUT,
    most: int = MOST,
) -> Subresponse | SubrequestFailed:
    """Send a request as `send_subrequest` does, and return the whole response. `most`: maximum bytes of its body; a
    longer one fails.
    """
    whole = _WholeResponse(most)
    sent = send_subrequest(
        parent,
        upstream,
        whole,
        target=target,
        method=method,
        fields=fields,
        body=body,
        body_length=body_length,
        timeout=timeout,
    )
    if isinstance(sent, SubrequestFailed):
        return sent
    sent.on_abandoned = whole.abandon
    try:
        return await whole.result
    finally:
        sent.cancel()
        sent.on_abandoned = None  # avoids a reference cycle


@final
class _WholeResponse:
    """Listener that collects the response until it is complete."""

    __slots__ = ("_body", "_head", "_most", "result")

    def __init__(self, most: int) -> None:
        self._most = most
        self._head: ResponseHead | None = None
        self._body = bytearray()
        loop = asyncio.get_running_loop()
        self.result: asyncio.Future[Subresponse | SubrequestFailed] = loop.create_future()

    def _settle(self, result: Subresponse | SubrequestFailed) -> None:
        if not self.result.done():
            self.result.set_result(result)

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        self._body += payload
        if len(self._body) > self._most:  # the awaiting task cancels it in the next loop iteration
            self._settle(SubrequestFailed(Fault.RESPONSE_TOO_LARGE, f"the response has more than {self._most} bytes"))

    def on_end(self, trailers: Trailers) -> None:
        head = self._head
        assert head is not None
        self._settle(Subresponse.of(head, bytes(self._body), trailers))

    def on_failure(self, failure: SubrequestFailed) -> None:
        self._settle(failure)

    def abandon(self) -> None:
        """Handle the end of the parent exchange."""
        self._settle(SubrequestFailed(Fault.CLIENT_LEFT, OVER))
