"""The request `$connect` of one client: its response decides whether the connection is accepted."""

from typing import TYPE_CHECKING, Final, final

from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, Trailers
from fastgw.http.messages import ResponseHead
from fastgw.upstream.client.subrequest import SubrequestFailed
from fastgw.upstream.client.subrequest_service import SubrequestService
from fastgw.websocket_api.event_headers import lines_of_client

if TYPE_CHECKING:
    from fastgw.websocket_api.action import CompiledEvent, WebsocketApiAction
    from fastgw.websocket_api.connection import ApiConnection

MOST_REFUSAL: Final = 64 * 1024
"""Maximum bytes of a response that refuses a connection."""
_PROTOCOL: Final = b"sec-websocket-protocol"
_PASSED: Final = (
    *(b"content-type", b"content-encoding", b"www-authenticate", b"retry-after", b"location", b"cache-control"),
)
"""Headers of a response that refuses a connection which reach the client."""


@final
class ConnectRequest(SubrequestService):
    """Service side of the exchange until the connection is accepted, and listener to the response."""

    __slots__ = ("_action", "_body", "_connection", "_head")

    def __init__(self, action: "WebsocketApiAction", exchange: Exchange, connection: "ApiConnection") -> None:
        super().__init__(exchange)
        self._action, self._connection = action, connection
        self._body = bytearray()
        self._head: ResponseHead | None = None

    def __repr__(self) -> str:
        return f"<ConnectRequest of {self._connection!r}>"

    def start(self, event: "CompiledEvent") -> None:
        exchange = self._exchange
        assert exchange is not None
        self._send(
            exchange,
            self,
            event.forward,
            target=_with_query(event.target, exchange.query_shown),
            method=b"POST",
            fields=[*lines_of_client(exchange), *self._connection.lines, *event.lines],
            body=b"",
            timeout=self._action.settings.timeout,
            is_streamed=False,
        )

    def _fail(self, fault: Fault, why: str) -> None:
        exchange = self._exchange
        if exchange is not None:
            self.cancel()
            exchange.service = None
            exchange.fail(fault, why=f"$connect: {why or fault.label}")

    def cancel(self) -> None:
        """Handle the end of the exchange, or a failure: the service, which may have accepted the connection, gets
        `$disconnect`.
        """
        exchange, sent = self._exchange, self._sent
        self._exchange = None
        self._cancel_sent()
        if exchange is None:
            return
        if sent is None:
            self._connection.leave_journal()
        else:
            self._connection.cancel()

    # calls of the sub-request

    def on_response(self, head: ResponseHead) -> None:
        self._head = head

    def on_data(self, payload: bytes) -> None:
        if len(self._body) + len(payload) > MOST_REFUSAL:
            self._fail(Fault.RESPONSE_TOO_LARGE, f"the response has more than {MOST_REFUSAL} bytes")
        else:
            self._body += payload

    def on_end(self, trailers: Trailers) -> None:
        self._sent = None
        exchange, head = self._exchange, self._head
        if exchange is None:
            return
        assert head is not None
        self._exchange = exchange.service = None
        if 200 <= head.status < 300:
            self._connection.open(exchange, _protocol_of(exchange, head))
        else:
            self._connection.leave_journal()
            exchange.why = f"$connect: the response has the status {head.status}"
            fields = [(name, value) for name in _PASSED for value in head.values(name)]
            exchange.reply(Reply(head.status, bytes(self._body), fields))

    def on_failure(self, failure: SubrequestFailed) -> None:
        sent, self._sent = self._sent, None
        if sent is not None and sent.exchange.sent and self._exchange is not None:
            self._connection.cancel()
        self._fail(failure.fault, failure.why)


def _protocol_of(exchange: Exchange, head: ResponseHead) -> bytes | None:
    """Return the subprotocol that the response selects of those that the client offers."""
    chosen = head.first(_PROTOCOL)
    offered = {each.strip() for value in exchange.values(_PROTOCOL) for each in value.split(b",")}
    return chosen if chosen in offered else None


def _with_query(target: bytes, query: bytes | None) -> bytes:
    """Return the path of `$connect` with the client's query after its own."""
    return target if query is None else target + (b"&" if b"?" in target else b"?") + query
