"""Refresh coordinator: redeems refresh tokens in the control process, once per node, whatever the number of workers.

Some providers treat a second use of a refresh token as theft, and end the session. Requests of one browser reach
several workers, which share only its cookie: the first request of a worker is made for all.

The coordinator listens on a unix socket in the abstract namespace. A client has to have the same user, and the key that
the coordinator has sent to the workers.
"""

import asyncio
import os
import socket
import struct
from collections.abc import Sequence
from hmac import compare_digest
from typing import Final, Self, final

import msgspec

from fastgw.filters.api import Fetcher
from fastgw.jose import TokenRefused
from fastgw.jose.strict import members
from fastgw.upstream.client.http_client import FetchFailed
from fastgw.upstream.targets.tls import ClientTls

KEPT_S: Final = 120.0
"""Seconds for which a final result is cached: a browser may still send its previous cookie."""
TIMEOUT_S: Final = 10.0
"""Seconds for a request, including the connect."""
_MOST: Final = 512 * 1024  # bytes of a request or response
_MOST_KEPT: Final = 10_000
_BACKLOG: Final = 512
_PEER: Final = struct.Struct("3i")  # process, user, group


class SessionPlace(msgspec.Struct, frozen=True):
    """Address of a coordinator."""

    name: str
    """Name in the abstract namespace, without the leading NUL."""
    key: str

    def __repr__(self) -> str:
        return f"<SessionPlace {self.name}>"


class RefreshRequest(msgspec.Struct, array_like=True, frozen=True):
    """A POST request for the coordinator to send."""

    key: str
    mark: bytes
    """Requests with the same mark are sent once."""
    url: str
    fields: Sequence[tuple[bytes, bytes]]
    body: bytes

    def __repr__(self) -> str:
        return f"<RefreshRequest {self.url}>"


class RefreshAnswer(msgspec.Struct, array_like=True, frozen=True):
    status: int
    """Status of the response; 0: there is none."""
    body: bytes
    reason: str = ""
    """Reason why there is no token."""

    def __repr__(self) -> str:
        return f"<Answered {self.status} {self.reason}>"


class CoordinatorUnavailable(Exception):
    """The coordinator is unreachable, and the request was not sent."""


@final
class RefreshCoordinator:
    """Coordinator in control, which runs within a `with` block."""

    def __init__(self, fetcher: Fetcher, tls: ClientTls) -> None:
        self.place = SessionPlace(f"fastgw-oidc-{os.urandom(16).hex()}", os.urandom(32).hex())
        self._fetcher = fetcher
        self._tls = tls
        self._known: dict[bytes, asyncio.Task[RefreshAnswer]] = {}
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(_address(self.place))
        self._server = await asyncio.start_unix_server(self._serve, sock=listening, backlog=_BACKLOG)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for asking in self._known.values():
            asking.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                if not _is_ours(writer):
                    return
                asked = msgspec.msgpack.decode(await _read(reader), type=RefreshRequest)
                if compare_digest(asked.key.encode(), self.place.key.encode()):
                    writer.write(_framed(await asyncio.shield(self._shared_refresh(asked))))
                    await writer.drain()
        except (OSError, EOFError, msgspec.DecodeError):
            pass  # the worker has disconnected, or is none
        finally:
            writer.close()

    def _shared_refresh(self, asked: RefreshRequest) -> asyncio.Task[RefreshAnswer]:
        known = self._known.get(asked.mark)
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                del self._known[next(iter(self._known))]
            loop = asyncio.get_running_loop()
            known = self._known[asked.mark] = loop.create_task(self._post_refresh(asked))

            def done(asking: asyncio.Task[RefreshAnswer]) -> None:
                kept_s = KEPT_S if not asking.cancelled() and is_final(asking.result()) else 0.0
                loop.call_later(kept_s, self._known.pop, asked.mark, None)

            known.add_done_callback(done)
        return known

    async def _post_refresh(self, asked: RefreshRequest) -> RefreshAnswer:
        return await post(self._fetcher, asked.url, asked.fields, asked.body, self._tls)


def is_final(answer: RefreshAnswer) -> bool:
    """Whether the refresh token is used up or invalid, so that a further request with it could only fail."""
    return answer.status == 200 or is_invalid_grant(answer)


def is_invalid_grant(answer: RefreshAnswer) -> bool:
    """Whether the provider has rejected the grant itself (RFC 6749 section 5.2), and not the request or the client."""
    if answer.status >= 500 or answer.status == 429:
        return False
    try:
        return members(answer.body, "the answer").get("error") == "invalid_grant"
    except TokenRefused:
        return False


async def post(
    fetcher: Fetcher, url: str, fields: Sequence[tuple[bytes, bytes]], body: bytes, tls: ClientTls
) -> RefreshAnswer:
    try:
        answer = await fetcher.fetch(url, method=b"POST", fields=fields, body=body, tls=tls, most=_MOST // 2)
    except (FetchFailed, ValueError) as error:
        return RefreshAnswer(0, b"", str(error))
    return RefreshAnswer(answer.status, answer.body)


async def request_refresh(place: SessionPlace, asked: RefreshRequest) -> RefreshAnswer:
    """Send a request to the coordinator, from a worker. Raises `CoordinatorUnavailable`."""
    try:
        async with asyncio.timeout(TIMEOUT_S):
            reader, writer = await _connect(place)
            try:
                writer.write(_framed(asked))
                return msgspec.msgpack.decode(await _read(reader), type=RefreshAnswer)
            finally:
                writer.close()
    except (OSError, EOFError, msgspec.DecodeError) as error:  # a TimeoutError is an OSError
        return RefreshAnswer(0, b"", f"the control process closed the channel: {error or type(error).__name__}")


async def _connect(place: SessionPlace) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    asking = socket.socket(socket.AF_UNIX)
    asking.setblocking(False)
    try:
        asking.connect(_address(place))  # succeeds at once or fails
    except OSError as error:
        asking.close()
        raise CoordinatorUnavailable from error
    return await asyncio.open_unix_connection(sock=asking)


def _address(place: SessionPlace) -> str:
    return f"\0{place.name}"


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """Whether the peer has the same user as this process (unix(7))."""
    raw = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _, user, _ = _PEER.unpack(raw)
    return bool(user == os.geteuid())


def _framed(message: RefreshRequest | RefreshAnswer) -> bytes:
    encoded = msgspec.msgpack.encode(message)
    return len(encoded).to_bytes(4, "big") + encoded


async def _read(reader: asyncio.StreamReader) -> bytes:
    length = int.from_bytes(await reader.readexactly(4), "big")
    if length > _MOST:
        raise EOFError("a message that is too long")
    return await reader.readexactly(length)
