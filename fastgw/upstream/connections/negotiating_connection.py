"""A TLS connection whose protocol ALPN has not selected yet (RFC 7301)."""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.targets.target import Target

HTTP1: Final = "http/1.1"
"""ALPN name of HTTP/1.1, which is also used if the target selects nothing."""
HTTP2: Final = "h2"


class NegotiatingConnection(NamedTuple):
    """Placeholder of a connection until its class is known. `connect` returns the connection itself."""

    classes: Mapping[str, Callable[[WorkerLoop, Any, Target], Any]]
    """Connection classes by ALPN name."""
    worker_loop: WorkerLoop
    pool: Any
    target: Target

    def choose(self, protocol: str | None) -> Any:
        """Return the connection for the protocol selected by ALPN. Raises `ConnectionError`."""
        make = self.classes.get(protocol or HTTP1)
        if make is None:
            raise ConnectionError(f"the target has not chosen {HTTP2} by ALPN")
        return make(self.worker_loop, self.pool, self.target)
