"""websocket: limits, close codes and checks for WebSocket connections."""

from fastgw.filters.policies.websocket.filter import Websocket

__all__ = ["Websocket"]
