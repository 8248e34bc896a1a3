"""The targets of an upstream: their names in DNS, their addresses, their TLS, and who listens to attempts at them."""
