"""Client side of HTTP/1: connections, rejected heads, the framing of responses."""
