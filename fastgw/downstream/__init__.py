"""The client side: client connections, and the data that all connections of one worker share."""

from fastgw.downstream.http1.connection import Http1ClientConnection
from fastgw.downstream.server import DrainSummary, Listener, ListenerTable, Server

__all__ = ["DrainSummary", "Http1ClientConnection", "Listener", "ListenerTable", "Server"]
