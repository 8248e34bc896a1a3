"""Names of header fields that every proxy has to process, in lower case (RFC 9110), for all versions of HTTP."""

from typing import Final

HOP_BY_HOP: Final = frozenset(
    b"connection content-length keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    b"transfer-encoding upgrade".split()
)
"""Hop-by-hop fields (RFC 9110 section 7.6.1), and framing, which each hop writes itself."""

WRITTEN_HERE: Final = HOP_BY_HOP | {b"host"}
"""Fields of a request that the gateway sets itself, replacing those of the client."""

FORWARDING: Final = frozenset(
    b"forwarded x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto "
    b"x-real-ip".split()
)
"""Fields in which proxies send the address of the client."""

CHOSEN: Final = frozenset(b":" + name for name in FORWARDING)
"""Marks among the names that filters drop, which no field can have: the operator sets or removes this field of
`FORWARDING` by name, so the gateway's own line is not sent. The name alone drops that of the client only."""

READ_IN_REQUESTS: Final = (
    WRITTEN_HERE | FORWARDING | frozenset((b"trailer", b"via", b"x-request-id", b"expect", b"max-forwards"))
)
"""Fields of a request that the gateway reads and processes by special rules."""

DEBUG_TOKEN: Final = b"x-fastgw-debug"
"""Field of a request with a token for its story. It is for the gateway alone, and never forwarded."""

EXPECT: Final = frozenset((b"expect",))

DIGESTS: Final = frozenset((b"content-digest", b"content-md5", b"digest", b"repr-digest"))
"""Fields that hold a digest of the body (RFC 9530 and its predecessors)."""

NOT_IN_TRAILERS: Final = frozenset(
    # framing and hop-by-hop
    b"connection content-length keep-alive proxy-connection te trailer transfer-encoding upgrade "
    # routing, request modifiers and conditions
    b"expect forwarded host if-match if-modified-since if-none-match if-range if-unmodified-since max-forwards range "
    b"via x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-proto x-real-ip "
    b"x-request-id "
    # authentication and state
    b"authorization cookie proxy-authenticate proxy-authorization set-cookie www-authenticate "
    # response control
    b"age cache-control date expires location pragma retry-after vary warning".split()
)
"""Fields that decide how a message is parsed, routed or authorized, so they are not allowed in trailers (RFC 9110
section 6.5.1). `Content-*` is refused as well, except `Content-Digest`, which is only known at the end (RFC 9530)."""

RESERVED: Final = (
    *("Proxy", "X-Original-URL", "X-Original-Host", "X-Rewrite-URL", "X-Url-Scheme", "Front-End-Https"),
    *("True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "Fastly-Client-IP", "X-Client-IP"),
    *("X-Cluster-Client-IP", "Client-Cert", "Client-Cert-Chain", "X-Client-Cert", "X-ARR-ClientCert"),
    *("SSL-Client-*", "X-SSL-Client-*", "X-Forwarded-TLS-Client-Cert*", "X-Forwarded-Prefix", "X-Forwarded-Scheme"),
    *("X-Forwarded-SSL", "X-Forwarded-Server", "X-Forwarded-User", "X-Forwarded-Email", "X-Forwarded-Groups"),
    *("X-Forwarded-Preferred-Username", "X-Forwarded-Access-Token"),
)
"""Fields that upstreams trust regardless of the sender: `HTTP_PROXY` of CGI (httpoxy), the original URL, scheme and
host, the client's identity, and its certificate (including RFC 9440 section 2.4). A `*` at the end stands for any
continuation.
"""
