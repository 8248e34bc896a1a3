"""The client's side of HTTP/1: connections, the heads that are rejected, the framing of responses."""
