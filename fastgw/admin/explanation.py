"""Explanation of a request: JSON of the command and of the admin API."""

import msgspec


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """A filter and its decision."""

    filter: str
    decision: str
    level: str = ""
    """Level at which it is configured: `gateway`, `listener`, `upstream users`, `filter set api` or `route`."""
    shadow: bool = False
    """Whether it is in shadow mode: it logs its decision and never acts."""
    waits: bool = False
    """Whether it would have to wait for an external answer; later steps apply if it passes."""
    depends_on: str = ""
    """Earlier filter that waits for an external answer and then identifies the client; the decision of this filter
    needs it.
    """


class Explanation(msgspec.Struct, omit_defaults=True):
    """Explanation of a request, step by step. Empty values do not apply, or are not reached."""

    listener: str = ""
    client: str = ""
    server_certificate: str = ""
    """Certificate that the client is presented over TLS: its file, or its names, issuer and renewal, or how it is
    ordered on demand, or why not."""
    reserved: tuple[str, ...] = ()
    """Headers that were dropped because the peer is not a trusted proxy: `reserved_headers` of the listener."""
    route: str = ""
    matched: str = ""
    """Host and path pattern that matched, with the parameters' values."""
    nearest: str = ""
    """Nearest route if none matches, and the differences."""
    beat: tuple[str, ...] = ()
    """Other routes that match, and the reasons why they come later."""
    could_be: tuple[str, ...] = ()
    """Other routes of the path if a server reads it differently: the route, the path as read, and the handling. If the
    request is rejected for this, it has no route, and the first entry is the route of the path as received."""
    split: str = ""
    """Upstream of the route that receives it, and the reason."""
    early: tuple[Step, ...] = ()
    filters: tuple[Step, ...] = ()
    provided: tuple[str, ...] = ()
    """Filters that need an external answer, which is not requested here, and filters that depend on it: later steps
    assume that all of them pass. Unknown values are shown as `{consumer.name}`."""
    buffers: tuple[str, ...] = ()
    """Filters that need a whole body before it is forwarded, and its maximum size."""
    upstream: str = ""
    target: str = ""
    targets: int = 0
    """Number of targets of the upstream, one of which was selected."""
    ineligible: int = 0
    """Number of those that get no requests at present: unhealthy, drained, without weight, of a later priority."""
    picked_by: str = ""
    """Algorithm, its hash key, and the cookie of sticky sessions. Requests in flight and latencies are those of a
    gateway that has just started."""
    sends: tuple[str, ...] = ()
    """Request head sent to the target, line by line, with secrets as `***`."""
    fails: tuple[str, ...] = ()
    """Consequences of a failed or slow target, as far as `retries`, `hedge`, `circuit_breaker` and `fallback` apply to
    this request.
    """
    file: str = ""
    """File of a route with `files`, relative to its root; or the reason why there is none."""
    parts: tuple[str, ...] = ()
    """Parts of a composed response, in the order of the file: method, path, upstream, and the parts that each waits
    for.
    """
    function: str = ""
    """Function that answers, the upstream by which it is invoked, and the format of its events."""
    events: tuple[str, ...] = ()
    """Requests for the events of a WebSocket, by route key."""
    status: int = 0
    """Status of the gateway's own response, if it sends one."""
    fault: str = ""
    detail: str = ""
    """Detail in the response to an unreadable request; for a defect, its location."""
    fields: tuple[str, ...] = ()
