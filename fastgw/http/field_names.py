"""Names of header fields that every proxy has to process, in lower case (RFC 9110), for all versions of HTTP."""

from typing import Final, TypeAlias

Names: TypeAlias = frozenset[bytes]
"""Lower-case names of fields."""

HOP_BY_HOP: Final = frozenset(
    b"connection content-length keep-alive proxy-authenticate proxy-authorization proxy-connection te "
    b"transfer-encoding upgrade".split()
)
"""Hop-by-hop fields (RFC 9110 section 7.6.1), and framing, which each hop writes itself."""

WRITTEN_HERE: Final = HOP_BY_HOP | {b"host"}
"""Fields of a request that the gateway sets itself, replacing those of the client."""

FORWARDING: Final = frozenset(
    b"forwarded x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-prefix "
    b"x-forwarded-proto x-real-ip".split()
)
"""Fields in which proxies send the address of the client, and the origin that it has requested."""

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
    b"via x-forwarded-client-cert x-forwarded-for x-forwarded-host x-forwarded-port x-forwarded-prefix "
    b"x-forwarded-proto x-real-ip x-request-id "
    # authentication and state
    b"authorization cookie proxy-authenticate proxy-authorization set-cookie www-authenticate "
    # response control
    b"age cache-control date expires location pragma retry-after vary warning".split()
)
"""Fields that decide how a message is parsed, routed or authorized, so they are not allowed in trailers (RFC 9110
section 6.5.1). `Content-*` is refused as well, except `Content-Digest`, which is only known at the end (RFC 9530)."""

RESERVED: Final = (
    # the request before another proxy changed it, which services route and authorize by
    *("X-Forwarded-*", "X-Original-URL", "X-Original-URI", "X-Original-Path", "X-Original-Method", "X-Original-Host"),
    *("X-Original-Forwarded-*", "X-Rewrite-URL", "X-Replaced-Path", "X-Script-Name", "X-Envoy-*", "X-Host", "X-Scheme"),
    *("X-Url-Scheme", "X-HTTP-Host-Override", "X-HTTP-Path-Override", "X-Matched-Path", "Front-End-Https"),
    *("X-HTTP-Method", "X-HTTP-Method-Override", "X-Method-Override", "Script-Name"),
    # the client's address
    *("True-Client-IP", "CF-Connecting-IP", "CF-Connecting-IPv6", "Fastly-Client-IP", "Fly-Client-IP", "X-Client-IP"),
    *("X-Cluster-Client-IP", "Proxy-Client-IP", "WL-Proxy-*", "X-Azure-*", "X-ProxyUser-IP", "Client-IP"),
    *("X-Originating-IP",),
    # the client's certificate
    *("Client-Cert", "Client-Cert-Chain", "X-Client-Cert", "X-ARR-ClientCert", "SSL-Client-*", "X-SSL-Client-*"),
    *("X-SSL-Cert", "X-Client-Verify"),
    # the user that a proxy has authenticated
    *("Remote-*", "X-Remote-*", "X-Auth-Request-*", "X-Authenticated-*", "X-WebAuth-*", "X-Authentik-*"),
    *("X-Amzn-Oidc-*", "X-MS-Client-Principal*", "X-Goog-Authenticated-User-*", "X-Endpoint-API-UserInfo"),
    *("X-Apigateway-API-UserInfo", "X-Userinfo", "X-Consumer-*", "X-Credential-*", "X-Vouch-*", "Kubeflow-Userid"),
    *("X-Pomerium-Jwt-Assertion", "Cf-Access-Authenticated-User-Email", "Cf-Access-Jwt-Assertion"),
    # what only CGI and a web server in front write
    *("Proxy", "X-Accel-Mapping", "X-Sendfile-Type", "X-Middleware-Subrequest"),
)
"""Fields that upstreams trust regardless of the sender, because a proxy in front of them writes these: `HTTP_PROXY` of
CGI (httpoxy), the original URL, method, scheme and host, the client's address, its identity, and its certificate
(including RFC 9440 section 2.4). A `*` at the end stands for any continuation.
"""
