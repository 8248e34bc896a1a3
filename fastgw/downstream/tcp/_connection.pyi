"""Compiled `connection` and `ends`."""

from fastgw.downstream.server import Listener, Server

def accept(server: Server, listener: Listener, listening: int) -> bool: ...
