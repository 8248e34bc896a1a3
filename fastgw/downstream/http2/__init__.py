"""Client connections over HTTP/2 (RFC 9113): a connection has streams, each the client side of one exchange.

The protocol itself is in `fastgw.http.http2`; here are responses, limits and timeouts.
"""
