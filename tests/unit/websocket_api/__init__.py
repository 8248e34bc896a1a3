"""Settings of WebSocket APIs; `tests/protocol/test_websocket_api.py` has the connections."""
