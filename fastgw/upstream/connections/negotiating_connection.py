"""A connection over TLS until ALPN has decided what is spoken on it (RFC 7301)."""

from collections.abc import Callable, Mapping
from typing import Any, Final, final

from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.targets.target import Target

HTTP1: Final = "http/1.1"
"""Name in ALPN. A target that chooses nothing speaks that."""
HTTP2: Final = "h2"


@final
class NegotiatingConnection:
    """Place of a connection until it is known of which class it is (`chosen`). It is never lent itself."""

    __slots__ = ("_classes", "_pool", "chosen", "closed", "lost_by", "target", "worker_loop")

    def __init__(
        self,
        classes: Mapping[str, Callable[[WorkerLoop, Any, Target], Any]],
        worker_loop: WorkerLoop,
        pool: Any,
        target: Target,
    ) -> None:
        """`classes`: of connections, by the protocol's name in ALPN."""
        self._classes = classes
        self._pool = pool
        self.worker_loop = worker_loop
        self.target = target
        self.closed = False
        self.lost_by = ""
        self.chosen: Any = self

    def __repr__(self) -> str:
        return f"<NegotiatingConnection {self.target.label}>"

    def choose(self, protocol: str | None) -> Any:
        """Return the connection for what ALPN has chosen. Raises `ConnectionError`."""
        make = self._classes.get(protocol or HTTP1)
        if make is None:
            raise ConnectionError(f"the target has not chosen {HTTP2} by ALPN")
        self.chosen = make(self.worker_loop, self._pool, self.target)
        return self.chosen

    def close(self) -> None:
        """Do nothing: what is below closes itself as long as there is no connection of either version."""
