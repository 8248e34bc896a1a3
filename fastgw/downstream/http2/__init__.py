"""Client connections that speak HTTP/2 (RFC 9113): a connection has streams, each the client's side of one exchange.

What frames mean is known to `fastgw.http.http2`; here is who is answered by them, and how long anybody is waited for.
"""
