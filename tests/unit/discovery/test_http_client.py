"""What the client of registries says of a registry that ends: in words, without numbers of the system."""

from __future__ import annotations

import asyncio

import pytest

from fastgw.config.base.value_types import Url
from fastgw.config.settings.upstreams import UpstreamTls
from fastgw.discovery.http_client import ServiceClient, SourceFailed, resolve_here

HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"


def problem(answered: bytes | None) -> str:
    """Return the problem with a server that sends these bytes and closes; None: there is no server."""

    async def ask() -> str:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answered or b"")
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            if answered is None:
                server.close()
                await server.wait_closed()
            address = Url(scheme="http", host="127.0.0.1", port=port)
            with pytest.raises(SourceFailed) as raised:
                await ServiceClient(address, UpstreamTls(), {}, resolve_here).request("/", timeout=9.0)
        return str(raised.value).removeprefix(f"http://127.0.0.1:{port}: ")

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("answered", "told"),
    [
        (None, "connection refused"),
        (b"", "the connection was closed without an answer"),
        (HEAD[:9], "the connection was closed without an answer"),
        (HEAD + b"ab", "peer closed connection without sending complete message body (received 2 bytes, expected 5)"),
    ],
)
def test_the_end_of_a_registry_is_told_in_words(answered: bytes | None, told: str) -> None:
    assert problem(answered) == told
