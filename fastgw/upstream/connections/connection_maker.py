"""Classes of connections to a target: chosen by the upstream's `protocol`, and over TLS by what ALPN chooses."""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

from fastgw.config.settings import gateway as settings
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.upstream.connections.http1_connection import UpstreamConnection
from fastgw.upstream.connections.http2_connection import Http2UpstreamConnection
from fastgw.upstream.connections.negotiating_connection import HTTP1, HTTP2, NegotiatingConnection
from fastgw.upstream.targets.target import Target
from fastgw.upstream.targets.tls import protocols_of

_CLASSES: Final[dict[str, Callable[[WorkerLoop, Any, Target], Any]]] = {
    HTTP1: UpstreamConnection,
    HTTP2: Http2UpstreamConnection,
}


def connection_maker(worker_loop: WorkerLoop, upstream: settings.Upstream) -> Callable[..., Any]:
    """Return the factory of connections that belong to a pool, for targets of the upstream."""
    classes = {protocol: _CLASSES[protocol] for protocol in protocols_of(upstream)}
    if upstream.protocol == "http1" or HTTP2 not in classes:
        return partial(UpstreamConnection, worker_loop)

    def make(pool: Any, target: Target) -> Any:
        if target.http1_only:
            return UpstreamConnection(worker_loop, pool, target)
        if target.tls is not None:
            return NegotiatingConnection(classes, worker_loop, pool, target)
        return (UpstreamConnection if upstream.protocol == "auto" else Http2UpstreamConnection)(
            worker_loop, pool, target
        )

    return make
