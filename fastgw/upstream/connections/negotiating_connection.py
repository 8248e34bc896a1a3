"""A TLS connection whose protocol ALPN has not selected yet (RFC 7301)."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.targets.target import Target

HTTP1: Final = "http/1.1"
"""ALPN name of HTTP/1.1, which is also used if the target selects nothing."""
HTTP2: Final = "h2"


@final
class NegotiatingConnection:
    """Placeholder of a connection until its class is known (`chosen`). It is never lent itself."""

    __slots__ = ("_classes", "_pool", "chosen", "closed", "lost_by", "target", "worker_loop")

    def __init__(
        self,
        classes: Mapping[str, Callable[[WorkerLoop, Any, Target], Any]],
        worker_loop: WorkerLoop,
        pool: Any,
        target: Target,
    ) -> None:
        """`classes`: connection classes by ALPN name."""
        self._classes = classes
        self._pool = pool
        self.worker_loop = worker_loop
        self.target = target
        self.closed = False
        self.lost_by = ""
        self.chosen: Any = None

    def __repr__(self) -> str:
        return f"<NegotiatingConnection {self.target.label}>"

    def choose(self, protocol: str | None) -> Any:
        """Return the connection for the protocol selected by ALPN. Raises `ConnectionError`."""
        make = self._classes.get(protocol or HTTP1)
        if make is None:
            raise ConnectionError(f"the target has not chosen {HTTP2} by ALPN")
        self.chosen = make(self.worker_loop, self._pool, self.target)
        return self.chosen

    def close(self) -> None:
        """Close the connection of the chosen version; without one, the transport below closes itself."""
        if self.chosen is not None:
            self.chosen.close()
