"""The targets of an upstream: DNS, addresses, TLS, and listeners to attempts at them."""
