"""asyncio servers on sockets that outlive them."""

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, Final

_KEPT: Final[dict[str, Any]] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
"""Arguments that keep the path of a unix socket: CPython 3.13 removes it with the server, but its owner does that, and
another process may already listen there.
"""


async def serve_on(
    listening: socket.socket, protocol: Callable[[], asyncio.BaseProtocol], **more: Any
) -> asyncio.Server:
    """Serve a TCP or unix listening socket. The server closes the socket at its end, and keeps the path.

    `more`: arguments of `loop.create_server`.
    """
    loop = asyncio.get_running_loop()
    if listening.family == socket.AF_UNIX:
        return await loop.create_unix_server(protocol, sock=listening, **more, **_KEPT)
    return await loop.create_server(protocol, sock=listening, **more)
