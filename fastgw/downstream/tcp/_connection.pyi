"""Compiled `connection` and `ends`."""

from fastgw.downstream.server import Listener, Server
from fastgw.eventloop.socket_accept import AcceptedSocket

def serve(server: Server, listener: Listener, client: AcceptedSocket) -> None:
    """Serve an accepted connection of a TCP listener that does not terminate TLS."""
