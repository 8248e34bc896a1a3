"""What client connections read of their server and listener for each request."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fastgw.eventloop.idle_order import IdleOrder
from fastgw.eventloop.worker_loop import WorkerLoop
from fastgw.exchange.chain import Chain
from fastgw.exchange.route import Route
from fastgw.http.http1.reserved_fields import ReservedFields
from fastgw.observe.tracing.tracer import Tracer

if TYPE_CHECKING:
    from fastgw.routing.table import Router


class ServingWorker:
    """A worker's server. `finish`: reports an exchange that has ended. `date_line`: returns the current `Date` line.

    `idle`: connections by the time since which they are idle; they maintain it. `drained`: exchanges that ended
    properly while it was `draining`. `keepalive`: seconds between two requests. `tracer`: begins the traces of
    requests; None: they are not traced. `header_bytes`, `header_count`, `body_bytes`: limits of a request.
    `head_timeout`, `body_idle`, `body_rate`: `timeouts.request_headers`, `request_body_idle` and `request_body_rate`.
    """

    def __init__(self, worker_loop: WorkerLoop, date_line: Callable[[], bytes], finish: Callable[[Any], None]) -> None:
        self.worker_loop = worker_loop
        self.date_line, self.finish = date_line, finish
        self.idle: IdleOrder[Any] = IdleOrder()
        self.tracer: Tracer | None = None
        self.draining, self.drained = False, 0
        self.keepalive = 0.0
        self.header_bytes = self.header_count = 0
        self.body_bytes: float = 0
        self.head_timeout = self.body_idle = self.body_rate = 0.0


class ServingListener:
    """A listener. `early`: filters before a route is found. `reserved`: request headers that only the gateway sends.

    `closing`: the next response on each of its connections is the last one. `trusts`: whether an address is a trusted
    proxy's.
    """

    def __init__(
        self, early: Chain, reserved: ReservedFields, router: "Router[Route]", trusts: Callable[[str], bool]
    ) -> None:
        self.closing = False
        self.early, self.reserved, self.router, self.trusts = early, reserved, router, trusts
