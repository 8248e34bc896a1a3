"""Faults: every way in which a request can fail, with its status, the responsible side, and whether it may be retried.

Rule 1: every failure is a member of `Fault`; response, log line, metric and `Proxy-Status` are derived from it. Rule 2:
`detail` is for the client: it never contains an address, a file or a header value.
"""

from enum import Enum, unique

from fastgw.http.malformed import Malformed


class Side(Enum):
    """Side that has to fix the fault."""

    DOWNSTREAM = "the client"
    UPSTREAM = "the service"
    GATEWAY = "this gateway"


class Retry(Enum):
    """Retry rule of a failed attempt (the contract's "Retry and reuse")."""

    NEVER = "the upstream may have acted"
    IF_REUSED = "only on a reused connection, before any response byte, with a request that can be sent again"
    IF_ASKED = "only where the configuration asks for it, with a request that can be sent again"
    SAFE = "the upstream cannot have seen the request"


_DOWN, _UP, _GATEWAY = Side.DOWNSTREAM, Side.UPSTREAM, Side.GATEWAY


@unique  # otherwise two equal rows would be one member
class Fault(Enum):
    """Every way in which a request can fail. The lower-case name is the metric label and the end of the problem's
    `type`.
    """

    # PERF: each member is one object, so its identity is its hash: 600 instructions less for each look-up in a mapping
    # than the hash of `Enum`, a function in Python (CPython 3.11, callgrind, micro/limits).
    __hash__ = object.__hash__

    # status, side, retry, Proxy-Status error (RFC 9209 section 2.3), message for the client
    BAD_REQUEST = 400, _DOWN, Retry.NEVER, "http_request_error", "The request is malformed."
    AMBIGUOUS_PATH = (
        400,
        _DOWN,
        Retry.NEVER,
        "http_request_error",
        "The path is ambiguous: servers can interpret it differently.",
    )
    TLS_REQUIRED = 400, _DOWN, Retry.NEVER, "http_request_error", "This port requires TLS: use https."
    VALIDATION_FAILED = 400, _DOWN, Retry.NEVER, "http_request_error", "The request does not conform to its schema."
    CREDENTIALS_MISSING = 401, _DOWN, Retry.NEVER, "http_request_denied", "Authentication is required."
    CREDENTIALS_INVALID = 401, _DOWN, Retry.NEVER, "http_request_denied", "The credentials are invalid."
    INSUFFICIENT_SCOPE = 403, _DOWN, Retry.NEVER, "http_request_denied", "The credentials lack a required permission."
    FORBIDDEN = 403, _DOWN, Retry.NEVER, "http_request_denied", "Access is denied."
    WAF_BLOCKED = 403, _DOWN, Retry.NEVER, "http_request_denied", "The request was refused by a security rule."
    CLIENT_ADDRESS_DENIED = 403, _DOWN, Retry.NEVER, "http_request_denied", "Access from this address is denied."
    ROUTE_NOT_FOUND = 404, _DOWN, Retry.NEVER, "destination_not_found", "No route matches this request."
    FILE_NOT_FOUND = 404, _DOWN, Retry.NEVER, "destination_not_found", "The file does not exist."
    METHOD_NOT_ALLOWED = 405, _DOWN, Retry.NEVER, "http_request_denied", "This method is not allowed here."
    REQUEST_TIMEOUT = 408, _DOWN, Retry.NEVER, "http_request_error", "The request did not arrive in time."
    LENGTH_REQUIRED = 411, _DOWN, Retry.NEVER, "http_request_denied", "A Content-Length header is required."
    PRECONDITION_FAILED = 412, _DOWN, Retry.NEVER, "http_request_denied", "A precondition of the request is not met."
    BODY_TOO_LARGE = 413, _DOWN, Retry.NEVER, "http_request_denied", "The request body is too large."
    TARGET_TOO_LONG = 414, _DOWN, Retry.NEVER, "http_request_error", "The request target is too long."
    UNSUPPORTED_MEDIA_TYPE = 415, _DOWN, Retry.NEVER, "http_request_error", "The content type is not supported here."
    RANGE_NOT_SATISFIABLE = 416, _DOWN, Retry.NEVER, "http_request_denied", "The requested range does not exist."
    TOO_MANY_CONNECTIONS = 429, _DOWN, Retry.NEVER, "http_request_denied", "Too many connections from this address."
    TOO_MANY_PASSWORDS = (
        429,
        _DOWN,
        Retry.NEVER,
        "http_request_denied",
        "Too many password checks are pending for this address.",
    )
    RATE_LIMITED = 429, _DOWN, Retry.NEVER, "http_request_denied", "Too many requests: try again later."
    TOO_MANY_AT_ONCE = 429, _DOWN, Retry.NEVER, "http_request_denied", "Too many concurrent requests: try again later."
    QUOTA_EXCEEDED = 429, _DOWN, Retry.NEVER, "http_request_denied", "The quota for this period is exceeded."
    CONNECTION_OUTDATED = (
        421,
        _DOWN,
        Retry.NEVER,
        "http_request_denied",
        "The client certificate must be verified again: reconnect.",
    )
    MISDIRECTED = 421, _DOWN, Retry.NEVER, "http_request_denied", "This host is not served on this connection."
    HEAD_TOO_LARGE = 431, _DOWN, Retry.NEVER, "http_request_error", "The request head is too large."
    NOT_CACHED = (
        504,
        _DOWN,
        Retry.NEVER,
        "http_request_denied",
        "The response is not in the cache, and the request allows no other one.",
    )
    CLIENT_STALLED = 499, _DOWN, Retry.NEVER, "connection_write_timeout", "The client stopped reading the response."
    CLIENT_LEFT = 499, _DOWN, Retry.NEVER, "http_request_error", "The client closed the connection before the response."
    INTERNAL = 500, _GATEWAY, Retry.NEVER, "proxy_internal_error", "The gateway had an internal error."
    FILE_UNREADABLE = 500, _GATEWAY, Retry.NEVER, "proxy_internal_error", "The file cannot be read."
    SERVICE_MISCONFIGURED = 500, _GATEWAY, Retry.NEVER, "proxy_configuration_error", "The service is misconfigured."
    SERVICES_UNKNOWN = (
        503,
        _GATEWAY,
        Retry.NEVER,
        "proxy_internal_error",
        "The services are not loaded yet: try again later.",
    )
    NOT_IMPLEMENTED = 501, _DOWN, Retry.NEVER, "http_request_error", "The request uses an unsupported transfer coding."
    VERSION_NOT_SUPPORTED = 505, _DOWN, Retry.NEVER, "http_request_error", "This version of HTTP is not supported."
    AUTH_UNAVAILABLE = 503, _GATEWAY, Retry.NEVER, "proxy_internal_error", "Authentication is temporarily unavailable."
    SESSION_TOO_LARGE = (
        502,
        _GATEWAY,
        Retry.NEVER,
        "proxy_configuration_error",
        "The session data from the identity provider is too large.",
    )
    SESSIONS_UNAVAILABLE = 503, _GATEWAY, Retry.NEVER, "proxy_internal_error", "Sessions are temporarily unavailable."
    FILTER_TIMEOUT = (
        504,
        _GATEWAY,
        Retry.NEVER,
        "proxy_internal_error",
        "The gateway timed out while processing the request.",
    )
    CONNECTIONS_EXHAUSTED = (
        503,
        _GATEWAY,
        Retry.NEVER,
        "connection_limit_reached",
        "The gateway has reached its connection limit.",
    )
    GATEWAY_STOPPED = 503, _GATEWAY, Retry.NEVER, "proxy_internal_response", "The gateway is shutting down."
    CONNECT_REFUSED = 502, _UP, Retry.SAFE, "connection_refused", "The upstream service is unreachable."
    CONNECT_TIMEOUT = 504, _UP, Retry.SAFE, "connection_timeout", "Timed out connecting to the upstream service."
    UPSTREAM_UNREACHABLE = 502, _UP, Retry.SAFE, "destination_ip_unroutable", "The upstream service is unreachable."
    DNS_FAILED = 502, _UP, Retry.SAFE, "dns_error", "The upstream service's name could not be resolved."
    TLS_FAILED = 502, _UP, Retry.SAFE, "tls_protocol_error", "The TLS handshake with the upstream service failed."
    CONNECTION_LOST = 502, _UP, Retry.IF_REUSED, "connection_terminated", "The upstream service closed the connection."
    STREAM_REFUSED = 503, _UP, Retry.SAFE, "connection_terminated", "The upstream service takes no further requests."
    UPSTREAM_MALFORMED = 502, _UP, Retry.NEVER, "http_protocol_error", "The upstream service sent an invalid response."
    RESPONSE_TOO_LARGE = 502, _UP, Retry.NEVER, "http_response_body_size", "The response of the service is too large."
    UPSTREAM_INCOMPLETE = (
        502,
        _UP,
        Retry.NEVER,
        "http_response_incomplete",
        "The upstream service sent an incomplete response.",
    )
    UPSTREAM_TIMEOUT = (
        504,
        _UP,
        Retry.IF_ASKED,
        "http_response_timeout",
        "The upstream service did not respond in time.",
    )
    UPSTREAM_STALLED = (
        504,
        _UP,
        Retry.NEVER,
        "http_response_timeout",
        "The response was not complete in time.",  # whether the service was silent or `timeouts.total` was over
    )
    TUNNEL_IDLE = 504, _UP, Retry.NEVER, "connection_read_timeout", "The tunnel was idle for too long."
    TUNNEL_EXPIRED = 504, _GATEWAY, Retry.NEVER, "connection_timeout", "The connection was open for too long."
    UPGRADE_UNEXPECTED = (
        502,
        _UP,
        Retry.NEVER,
        "http_upgrade_failed",
        "The upstream service switched protocols without being asked.",
    )
    UPGRADE_FAILED = (
        502,
        _UP,
        Retry.NEVER,
        "http_upgrade_failed",
        "The upstream service did not complete the change of protocol.",
    )
    TOKEN_UNAVAILABLE = (
        502,
        _UP,
        Retry.NEVER,
        "destination_unavailable",
        "The gateway could not get a token for the upstream service.",
    )
    TOKEN_TIMEOUT = (
        504,
        _UP,
        Retry.NEVER,
        "connection_read_timeout",
        "Timed out getting a token for the upstream service.",
    )
    TOKEN_REFUSED = (
        502,
        _UP,
        Retry.NEVER,
        "http_protocol_error",
        "The gateway was refused a token for the upstream service.",
    )
    LIMITS_UNAVAILABLE = 503, _GATEWAY, Retry.NEVER, "proxy_internal_error", "Rate limits are temporarily unavailable."
    OVERLOADED = 503, _GATEWAY, Retry.NEVER, "connection_limit_reached", "Too many requests are in flight."
    FAULT_INJECTED = 503, _GATEWAY, Retry.NEVER, "proxy_internal_response", "This failure was injected for a test."
    FUNCTION_FAILED = 502, _UP, Retry.NEVER, "http_protocol_error", "The function behind this route has failed."
    FUNCTION_THROTTLED = (
        503,
        _UP,
        Retry.NEVER,
        "connection_limit_reached",
        "The function behind this route is busy: try again later.",
    )
    COMPOSITION_FAILED = 502, _UP, Retry.NEVER, "destination_unavailable", "A part of the response is not available."
    NO_HEALTHY_TARGET = 503, _UP, Retry.NEVER, "destination_unavailable", "The upstream service has no healthy target."
    CIRCUIT_OPEN = (
        503,
        _UP,
        Retry.NEVER,
        "destination_unavailable",
        "The circuit breaker is open: try again later.",
    )
    POOL_FULL = (
        503,
        _GATEWAY,
        Retry.NEVER,
        "connection_limit_reached",
        "Too many requests are waiting for the upstream service.",
    )
    POOL_TIMEOUT = (
        503,
        _GATEWAY,
        Retry.NEVER,
        "connection_limit_reached",
        "Timed out waiting for a connection to the upstream service.",
    )

    def __init__(self, status: int, side: Side, retry: Retry, proxy_status: str, detail: str) -> None:
        self.status, self.side, self.retry, self.proxy_status, self.detail = status, side, retry, proxy_status, detail
        self.label = self.name.lower()


_BY_STATUS = {
    413: Fault.BODY_TOO_LARGE,
    414: Fault.TARGET_TOO_LONG,
    431: Fault.HEAD_TOO_LARGE,
    501: Fault.NOT_IMPLEMENTED,
    505: Fault.VERSION_NOT_SUPPORTED,
}


def fault_of(malformed: Malformed) -> Fault:
    """Return the fault that a malformed *request* is answered with. A malformed response is `UPSTREAM_MALFORMED`."""
    return _BY_STATUS.get(malformed.status, Fault.BAD_REQUEST)
