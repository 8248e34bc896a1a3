"""The versions of HTTP that a listener speaks, and how a client chooses between them."""

from fastgw.config.settings.gateway import Listener


def speaks_http1(listener: Listener) -> bool:
    return listener.protocols is None or "http1" in listener.protocols


def offered_by_alpn(listener: Listener) -> tuple[str, ...]:
    """Return the ALPN protocols of a TLS listener (RFC 7301), the preferred one first.

    A TCP listener selects none, because the gateway does not terminate its protocol.
    """
    if listener.protocol != "http":
        return ()
    return (("h2",) if listener.wants_http2 else ()) + (("http/1.1",) if speaks_http1(listener) else ())
