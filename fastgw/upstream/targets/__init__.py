"""The targets of an upstream: their names looked up in DNS, their addresses, their TLS."""
