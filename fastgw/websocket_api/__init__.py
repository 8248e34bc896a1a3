"""API of a WebSocket gateway: the gateway holds connections, and back ends receive their events as HTTP requests."""
