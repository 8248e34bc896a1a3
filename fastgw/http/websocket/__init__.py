"""WebSocket protocol (RFC 6455): handshake and frames. No I/O, no clock."""
