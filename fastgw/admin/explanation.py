"""Explanation of a request: the JSON of the command and of the admin API."""

import msgspec


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """A filter, and what it decides."""

    filter: str
    decision: str
    level: str = ""
    """Level at which it is configured: `gateway`, `listener`, `upstream users`, `filter set api` or `route`."""
    shadow: bool = False
    """Whether it only says so, and never acts."""
    waits: bool = False
    """Whether it would have to ask somebody first: what comes behind it holds if it passes."""
    depends_on: str = ""
    """The filter before it that has to ask, and then says who the client is: only then can this one decide."""


class Explanation(msgspec.Struct, omit_defaults=True):
    """Explanation of a request, step by step. Empty: does not apply, or is not reached."""

    listener: str = ""
    client: str = ""
    reserved: tuple[str, ...] = ()
    """Headers that were dropped, for the peer is no trusted proxy: `reserved_headers` of the listener."""
    route: str = ""
    matched: str = ""
    """The host and path pattern that matched, with the parameters' values."""
    nearest: str = ""
    """Nearest route where none matches, and the differences."""
    beat: tuple[str, ...] = ()
    """Routes that match too, and why they come later."""
    could_be: tuple[str, ...] = ()
    """Other routes that the path belongs to where a server reads it otherwise: which, as what, and what is done to it.
    Where the request is refused for that it has no route, and the first is the one that it has as it came."""
    split: str = ""
    """Upstream of the route that takes it, and why."""
    early: tuple[Step, ...] = ()
    filters: tuple[Step, ...] = ()
    provided: tuple[str, ...] = ()
    """Filters that have to ask somebody, who is not asked here, and those whose decision depends on the answer: what
    follows holds if all of them let it pass. Values that are not known are shown as `{consumer.name}`."""
    buffers: tuple[str, ...] = ()
    """Filters that need a whole body before anything of it goes on, and how long it may be."""
    upstream: str = ""
    target: str = ""
    targets: int = 0
    """How many the upstream has, of which one was picked."""
    picked_by: str = ""
    """The algorithm, what it has hashed, and the cookie by which clients stay. What depends on what is under way, or on
    latencies, is told as of a gateway that has just begun."""
    sends: tuple[str, ...] = ()
    """The head that the target would be sent, line by line, secrets as `***`."""
    fails: tuple[str, ...] = ()
    """Consequences of a target that failed or were slow, as far as `retries`, `hedge`, `circuit_breaker` and `fallback`
    say something of it for this request.
    """
    status: int = 0
    """The gateway's own answer, when it makes one."""
    fault: str = ""
    detail: str = ""
    """Detail in the response to a request that could not be read; of a defect, where it is."""
    fields: tuple[str, ...] = ()
