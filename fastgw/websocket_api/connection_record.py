"""Record of a connection in the journal of its worker: what `$disconnect` needs if the worker is killed."""

import json
from typing import Any, Self

import msgspec

from fastgw.consumers.index import Consumer
from fastgw.exchange.reply import fields_in
from fastgw.forwarded_headers import Peer
from fastgw.http.http1.made_request import build_request
from fastgw.observe.tracing.tracer import Trace, Tracer
from fastgw.websocket_api.event_call import ConnectionClient


class ConnectionRecord(msgspec.Struct, array_like=True, frozen=True):
    """Client of a connection, in values that another process can read. Later versions may append fields."""

    route: str
    listener: str
    peer: tuple[str, int, int, bytes]
    """Address, port, port of the listener, scheme."""
    client_ip: str
    consumer: Consumer | None
    claims: bytes
    """Verified claims of its token, as JSON."""
    authority: bytes
    lines: list[tuple[bytes, bytes]]
    trace: bytes
    """Header lines that continue its trace; empty: there is none."""
    trusted: bool = False
    """Whether the peer is a trusted proxy."""

    @classmethod
    def of(cls, client: ConnectionClient, route: str) -> Self:
        peer, trace = client.peer, client.trace
        return cls(
            route,
            client.listener.name,
            (peer.ip, peer.port, peer.server_port, peer.scheme),
            client.client_ip,
            client.consumer,
            json.dumps(dict(client.claims), default=str).encode(),
            client.authority,
            client.lines,
            b"" if trace is None else trace.rewrite(frozenset(), b"")[1],
            peer.trusted,
        )

    def make_peer(self) -> Peer:
        ip, port, server_port, scheme = self.peer
        return Peer(ip, port, server_port, self.trusted, scheme)

    def make_claims(self) -> dict[str, Any]:
        claims: dict[str, Any] = json.loads(self.claims)
        return claims

    def make_trace(self, tracer: Tracer | None) -> Trace | None:
        """Continue the trace of the connection, which has ended with its worker."""
        if tracer is None or not self.trace:
            return None
        trace: Trace = tracer.begin_trace(build_request(b"POST", self.authority, b"/", fields_in(self.trace), 0))
        return trace


encode: Any = msgspec.msgpack.Encoder().encode
decode: Any = msgspec.msgpack.Decoder(ConnectionRecord).decode
