"""Client of a registry's HTTP API: one connection for each request, over TCP, TLS or a unix socket.

Everything is bounded: connecting, each wait for bytes, and the size of an answer. Redirects are not followed.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import h11

from fastgw.config.base.value_types import Url
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.routing.table import at_once
from fastgw.upstream.targets.dns import TargetAddress, look_up
from fastgw.upstream.targets.tls import client_tls, material_of

MOST_BYTES: Final = 8 * 1024 * 1024
"""Maximum bytes of an answer."""
MOST_HEAD: Final = 64 * 1024
CONNECT_S: Final = 5.0
"""Timeout for connecting to one address, with the TLS handshake."""
_PIECE: Final = 64 * 1024
_SHOWN: Final = 200
_OWED: Final = (h11.IDLE, h11.SEND_RESPONSE)
"""States of a peer that has not sent the head of its answer."""

Resolve = Callable[[str, int], Awaitable[list[TargetAddress]]]
Headers = Iterable[tuple[str, str]]


class SourceFailed(Exception):
    """A source did not deliver. The text is for people, and shows no secret."""


class SourceRefused(SourceFailed):
    """A source has answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class ServiceAnswer:
    """Answer of a service."""

    status: int
    headers: Mapping[str, str]
    """Headers by name in lower case; of repeated ones the last."""
    body: bytes


async def resolve_here(host: str, port: int) -> list[TargetAddress]:
    """Call the system's resolver at once, in a loop that has nothing else to do. Raises `OSError`, `UnicodeError`."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [TargetAddress(family, sockaddr) for family, _, _, _, sockaddr in found]


class ServiceClient:
    """Client of one service. `files`: contents of the files of its TLS settings."""

    def __init__(self, address: Url, tls: UpstreamTls, files: Mapping[str, bytes], resolve: Resolve = look_up) -> None:
        self._address = address
        self._tls = tls
        self._files = files
        self._resolve = resolve
        self._context: ssl.SSLContext | None = None

    def __repr__(self) -> str:
        return f"<ServiceClient of {self._address}>"

    async def request(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Headers = (),
        body: bytes = b"",
        timeout: float,
        most: int = MOST_BYTES,
    ) -> ServiceAnswer:
        """Send a request; `target`: path and query below the address. Raises `SourceFailed`."""
        content = bytearray()
        try:
            async with asyncio.timeout(timeout):
                opened = self.stream(target, method=method, headers=headers, body=body, timeout=timeout)
                async with opened as (head, pieces):
                    async for piece in pieces:
                        content += piece
                        if len(content) > most:
                            raise SourceFailed(f"{self._address}: an answer of more than {most} bytes")
        except TimeoutError as error:
            raise self._timed_out(timeout) from error
        return ServiceAnswer(head.status, head.headers, bytes(content))

    @asynccontextmanager
    async def stream(
        self,
        target: str,
        *,
        method: str = "GET",
        headers: Headers = (),
        body: bytes = b"",
        timeout: float,
        silence: float | None = None,
    ) -> AsyncIterator[tuple[ServiceAnswer, AsyncIterator[bytes]]]:
        """Send a request, and yield the head of the answer and the pieces of its body. `timeout`: until the head has
        come; `silence`: for each piece, which raises `TimeoutError` when it is over. Raises `SourceFailed`.
        """
        exchange: _Exchange | None = None
        try:
            try:
                async with asyncio.timeout(timeout):
                    exchange = _Exchange(*await self._connect())
                    head = await exchange.send_request(self._head(method, target, headers, body), body)
            except TimeoutError as error:
                raise self._timed_out(timeout) from error
            yield head, exchange.pieces(silence)
        except TimeoutError:
            raise
        except (OSError, UnicodeError, h11.ProtocolError, EOFError) as error:
            raise SourceFailed(f"{self._address}: {_text_of(error)}") from error
        finally:
            if exchange is not None:
                exchange.close()

    def _timed_out(self, timeout: float) -> SourceFailed:
        return SourceFailed(f"{self._address}: timed out after {timeout:g} s")

    def _head(self, method: str, target: str, headers: Headers, body: bytes) -> h11.Request:
        said = [("Host", self._address.authority), ("User-Agent", "fastgw"), ("Connection", "close"), *headers]
        if body or method in ("POST", "PUT"):
            said.append(("Content-Length", str(len(body))))
        return h11.Request(method=method, target=self._address.base_path + target, headers=said)

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        address = self._address
        async with asyncio.timeout(CONNECT_S):
            if address.socket:
                return await asyncio.open_unix_connection(address.socket, limit=_PIECE)
            tls: dict[str, Any] = {}
            if address.tls:
                if self._context is None:
                    self._context = await asyncio.to_thread(self._new_context)
                tls = {"ssl": self._context, "server_hostname": self._tls.fixed_server_name or address.host}
            error: OSError = OSError(f"{address.host} has no address")
            for family, sockaddr in await self._resolve(address.host, address.port):
                connecting = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                try:
                    await asyncio.get_running_loop().sock_connect(connecting, sockaddr)
                    return await asyncio.open_connection(sock=connecting, limit=_PIECE, **tls)
                except OSError as failed:
                    connecting.close()
                    error = failed
                except BaseException:
                    connecting.close()
                    raise
            raise error

    def _new_context(self) -> ssl.SSLContext:
        return at_once(client_tls(self._tls, material_of(self._tls, self._files)))


class _Exchange:
    """One request on its connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MOST_HEAD)

    def close(self) -> None:
        self._writer.close()
        if (transport := self._writer.transport) is not None:
            transport.abort()

    async def send_request(self, head: h11.Request, body: bytes) -> ServiceAnswer:
        """Send the request, and return the head of the answer."""
        sent = self._http.send(head) or b""
        if body:
            sent += self._http.send(h11.Data(data=body)) or b""
        self._writer.write(sent + (self._http.send(h11.EndOfMessage()) or b""))
        await self._writer.drain()
        event = await self._next()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next()
        if not isinstance(event, h11.Response):
            raise EOFError("the connection was closed without an answer")
        headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
        return ServiceAnswer(event.status_code, headers, b"")

    async def pieces(self, silence: float | None) -> AsyncIterator[bytes]:
        """Return the body in pieces. Raises `TimeoutError` if one takes longer than `silence`."""
        while isinstance(event := await self._next(silence), h11.Data):
            yield bytes(event.data)

    async def _next(self, silence: float | None = None) -> Any:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            async with asyncio.timeout(silence):
                received = await self._reader.read(_PIECE)
            if not received and self._http.their_state in _OWED:
                raise EOFError("the connection was closed without an answer")
            self._http.receive_data(received)
        return event


def _text_of(error: Exception) -> str:
    """Return the reason of a failed exchange, for people."""
    if (
        isinstance(error, OSError)
        and error.errno is not None
        and not isinstance(error, (ssl.SSLError, socket.gaierror))
    ):
        return os.strerror(error.errno).lower()  # asyncio's own text has a number and a tuple
    return " ".join(str(error).split())[:_SHOWN] or type(error).__name__
