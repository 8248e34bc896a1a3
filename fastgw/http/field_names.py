"""Names of header fields that mean something to every proxy, in lower case (RFC 9110), whatever the version of HTTP."""

from typing import Final

HOP_BY_HOP: Final = frozenset(
    b"connection content-length keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    b"transfer-encoding upgrade".split()
)
"""Fields for the next peer only (RFC 9110 section 7.6.1), and framing, which each hop makes anew."""

WRITTEN_HERE: Final = HOP_BY_HOP | {b"host"}
"""Fields of a request that the gateway writes for the next peer, whatever the client sent there."""

FORWARDING: Final = frozenset(
    b"forwarded x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto "
    b"x-real-ip".split()
)
"""Fields in which proxies tell who asked."""

READ_IN_REQUESTS: Final = (
    WRITTEN_HERE | FORWARDING | frozenset((b"trailer", b"via", b"x-request-id", b"expect", b"max-forwards"))
)
"""Fields of a request that the gateway reads and has rules of its own for."""

RESERVED: Final = (
    *("Proxy", "X-Original-URL", "X-Original-Host", "X-Rewrite-URL", "X-Url-Scheme", "Front-End-Https"),
    *("True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "Fastly-Client-IP", "X-Client-IP"),
    *("X-Cluster-Client-IP", "Client-Cert", "Client-Cert-Chain", "X-Client-Cert", "X-ARR-ClientCert"),
    *("SSL-Client-*", "X-SSL-Client-*", "X-Forwarded-TLS-Client-Cert*", "X-Forwarded-Prefix", "X-Forwarded-Scheme"),
    *("X-Forwarded-SSL", "X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups"),
    *("X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token"),
)
"""Fields that upstreams believe of whoever sends them: `HTTP_PROXY` of CGI (httpoxy), which page was asked for, by
which scheme and host, who asks, and with which client certificate (RFC 9440 section 2.4 among it). A `*` at the end:
and whatever follows.
"""
