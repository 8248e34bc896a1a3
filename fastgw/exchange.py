"""One request and its response: the states they pass through, and nothing of how their bytes travel.

Rule 1: a state changes in `advance` only. Rule 2: no I/O and no event loop in this file.
An exchange stands between two sides: the client's (`ClientSide`, `downstream`) and the service's (`ServiceSide`,
`upstream.forward`). Both are protocols: what speaks them may be HTTP/1.1 or another. Filters see the exchange only.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import IntEnum
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias, final

import orjson

from fastgw.errors import Fault
from fastgw.wire.framing import RequestHead, ResponseHead
from fastgw.wire.headers import Fields

if TYPE_CHECKING:
    from fastgw.config.settings import FilterUse

log = logging.getLogger("fastgw")
Trailers: TypeAlias = tuple[tuple[bytes, bytes], ...]


class State(IntEnum):
    CHOOSING = 1  # judged; the request steps run, a route is found, then a target is picked
    FORWARDING = 2  # on an upstream connection; no final response head yet
    ANSWERING = 3  # the response has begun: no other answer is possible
    ENDED = 4


class Event(IntEnum):
    CONNECTION_LENT, ATTEMPT_FAILED, ANSWER_BEGUN, ENDED = range(4)


NEXT: Final[Mapping[State, Mapping[Event, State]]] = {
    State.CHOOSING: {
        Event.CONNECTION_LENT: State.FORWARDING,
        Event.ATTEMPT_FAILED: State.CHOOSING,  # no connection could be had: perhaps from another target
        Event.ANSWER_BEGUN: State.ANSWERING,
        Event.ENDED: State.ENDED,  # the client left
    },
    State.FORWARDING: {
        Event.ATTEMPT_FAILED: State.CHOOSING,
        Event.ANSWER_BEGUN: State.ANSWERING,
        Event.ENDED: State.ENDED,
    },
    State.ANSWERING: {Event.ENDED: State.ENDED},  # no ATTEMPT_FAILED: once begun, nothing is retried
    State.ENDED: {},
}


class IllegalTransition(Exception):
    """A defect of fastgw, never of a peer. Answered as `Fault.INTERNAL`; the text goes to the log."""


def advance(state: State, event: Event) -> State:
    try:
        return NEXT[state][event]
    except KeyError:
        legal = ", ".join(e.name for e in NEXT[state]) or "nothing"
        raise IllegalTransition(f"{event.name} while {state.name}; legal: {legal}") from None


@final
class Reply:
    """An answer that the gateway makes itself. `fault`: the row it stands for; None for a wanted one (a redirect)."""

    __slots__ = ("body", "fault", "fields", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        fields: Iterable[tuple[bytes, bytes]] = (),
        fault: Fault | None = None,
    ) -> None:
        self.status, self.body, self.fields, self.fault = status, body, tuple(fields), fault

    def __repr__(self) -> str:
        return f"<Reply {self.status}{' ' + self.fault.label if self.fault else ''}>"


def problem(fault: Fault, detail: str | None = None, fields: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
    """The answer to a fault: RFC 9457 `application/problem+json`, and why in `Proxy-Status` (RFC 9209).

    `detail` goes to the client in place of the fault's own: never put an address or a field's value in it.
    """
    body = orjson.dumps(
        {
            "type": f"urn:fastgw:fault:{fault.label}",
            "title": fault.label.replace("_", " ").capitalize(),
            "status": fault.status,
            "detail": detail or fault.detail,
        }
    )
    lines = [
        (b"Content-Type", b"application/problem+json"),
        (b"Proxy-Status", b"fastgw; error=%b" % fault.proxy_status.encode()),
    ]
    lines += fields
    if fault.status == 503:
        lines.append((b"Retry-After", b"1"))
    return Reply(fault.status, body, lines, fault)


@final
class Response:
    """The final response as the response steps see it: the upstream's (`head` is set), or one of our own."""

    __slots__ = ("_fields", "added", "dropped", "head", "status")

    def __init__(self, status: int, head: ResponseHead | None, fields: Iterable[tuple[bytes, bytes]] = ()) -> None:
        self.status = status
        self.head = head
        self.added = b""  # ready lines that go out behind the fields
        self.dropped: frozenset[bytes] = frozenset()  # lower-case names of fields that do not go out
        self._fields: Fields | None = None if head is not None else Fields(fields)

    @property
    def headers(self) -> Fields:
        """Its fields, to read and to change. Parsed when first asked for."""
        fields = self._fields
        if fields is None:
            assert self.head is not None
            fields = self._fields = self.head.fields()
        return fields


class Sink(Protocol):
    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...


class Source(Protocol):
    def pause(self) -> None: ...
    def resume(self) -> None: ...


MAX_KEPT: Final = 65536
"""Bytes of a request body kept so that it can be sent again. One byte more, and the request is never replayed."""


class Relay:
    """One direction of one body. Payload goes in by `feed` and comes out at the sink; the brake goes the other way.

    While there is no sink (no connection yet), the source is paused after each piece: what is held is at most one read.
    """

    __slots__ = ("bytes", "ended", "kept", "paused", "sink", "source", "trailers")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.sink: Sink | None = None
        self.kept: list[bytes] | None = []  # all that was fed, until it is more than MAX_KEPT
        self.bytes = 0  # of payload; counted by the source, before anybody sees them
        self.ended = False
        self.paused = False
        self.trailers: Trailers = ()

    def __repr__(self) -> str:
        flow = "ended" if self.ended else "paused" if self.paused else "open"
        return f"<Relay {flow} bytes={self.bytes} kept={None if self.kept is None else sum(map(len, self.kept))}>"

    def feed(self, payload: bytes) -> None:
        sink, kept = self.sink, self.kept
        if kept is not None:
            if sink is None or self.bytes <= MAX_KEPT:
                kept.append(payload)
            else:
                self.kept = None
        if sink is None:
            self.pause()
        else:
            sink.feed(payload)

    def last(self, payload: bytes) -> None:
        """As `feed`, for the last piece: there is nothing left to brake."""
        self.ended = True
        self.feed(payload)

    def end(self, trailers: Trailers = ()) -> None:
        self.ended, self.trailers = True, trailers
        if self.sink is not None:
            self.sink.end(trailers)

    def attach(self, sink: Sink) -> bytes:
        """Return all that was fed so far, in one piece; later pieces go to `sink.feed`."""
        assert self.kept is not None
        held = b"".join(self.kept)
        if self.bytes > MAX_KEPT:
            self.kept = None
        self.sink = sink
        self.resume()
        return held

    def detach(self) -> None:
        """The sink is gone. If another may come (`kept` is not None), what arrives meanwhile is held."""
        self.sink = None
        if not self.ended:
            self.pause()

    def pause(self) -> None:
        if not self.paused and not self.ended:
            self.paused = True
            self.source.pause()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.source.resume()


class ClientSide(Protocol):
    """What an exchange asks of the connection that the client is on."""

    def inform(self, head: ResponseHead | None) -> None:
        """Pass on an interim response (1xx other than 101). None: a 100 Continue of our own."""

    def answer(self, payload: bytes, ended: bool) -> None:
        """`exchange.response` is settled: send its head with the first payload; `ended`: that is all."""

    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...

    def abort(self, fault: Fault) -> None:
        """The response cannot be finished: end it so that the client can tell."""

    def tunnel(self, early: bytes, patience: float) -> None:
        """`exchange.response` is a 101: from here on bytes go both ways, unread.

        They come in by `feed`, and `end` when no more will. `early`: what came right behind the head. `patience`:
        seconds in which the client has to take some of what it is sent.
        """

    def end_tunnel(self) -> None:
        """Nothing goes either way any more. What was fed is still sent."""

    def pause_tunnel(self) -> None: ...
    def resume_tunnel(self) -> None: ...


class ServiceSide(Protocol):
    """What an exchange asks of the side that fetches the response."""

    def pause(self) -> None: ...
    def resume(self) -> None: ...

    def feed_raw(self, chunk: bytes) -> None:
        """Bytes of a tunnel."""

    def end_raw(self) -> None:
        """The client will send no more through the tunnel."""

    def cancel(self) -> None:
        """Nobody wants the response any more. Gives back or closes what is held, at once."""


class Hooks:
    """Where one filter is called on one route. A hook left out costs nothing.

    request: `(exchange) -> None | Reply | Awaitable` before the upstream. response: `(exchange) -> None` once the
    response's head is known, whoever made it. request_body: `(exchange, payload) -> None | Reply` for each piece.
    finish: `(exchange) -> None` when all is over.
    """

    __slots__ = ("finish", "request", "request_body", "response")

    def __init__(
        self,
        *,
        request: "RequestStep | None" = None,
        response: "Callable[[Exchange], None] | None" = None,
        request_body: "Callable[[Exchange, bytes], Reply | None] | None" = None,
        finish: "Callable[[Exchange], None] | None" = None,
    ) -> None:
        self.request, self.response, self.request_body, self.finish = request, response, request_body, finish


@final
class Link:
    """A filter instance in its place in a chain. `always`: its response step runs for every answer (OBSERVE, ADMIT)."""

    __slots__ = ("always", "hooks", "use")

    def __init__(self, use: "FilterUse", hooks: Hooks, always: bool) -> None:
        self.use, self.hooks, self.always = use, hooks, always


@final
class Chain:
    """The filters of a route (before one is found: of a listener) in running order, hooks sorted out by kind."""

    __slots__ = ("finish_steps", "links", "request_body_steps", "request_steps", "response_steps")

    def __init__(self, links: Iterable[Link]) -> None:
        self.links = tuple(links)
        hooks = [link.hooks for link in self.links]
        self.request_steps = tuple(h.request for h in hooks if h.request is not None)
        self.request_body_steps = tuple(h.request_body for h in hooks if h.request_body is not None)
        # Responses come back through the same filters the other way round.
        self.response_steps = tuple(h.response for h in reversed(hooks) if h.response is not None)
        self.finish_steps = tuple(h.finish for h in reversed(hooks) if h.finish is not None)

    def ran(self, answered_by: "RequestStep | None") -> list[Link]:
        """The links whose response and finish steps are due when the request step `answered_by` answered."""
        due, reached = [], answered_by is not before_any
        for link in self.links:
            if reached or link.always:
                due.append(link)
            if answered_by is not None and link.hooks.request is answered_by:
                reached = False
        return due

    def name_of(self, step: object) -> str:
        """The instance whose hook `step` is: for the log."""
        return next((link.use.name for link in self.links if step in _hooks_of(link)), "?")


def _hooks_of(link: Link) -> tuple[object, ...]:
    hooks = link.hooks
    return hooks.request, hooks.response, hooks.request_body, hooks.finish


@final
class Route:
    """A compiled route. `action` answers the exchange, at once or later."""

    __slots__ = ("action", "chain", "encoded_slash_allowed", "name", "steps")

    def __init__(
        self,
        name: str,
        action: "Callable[[Exchange], None]",
        chain: Chain,
        steps: "tuple[RequestStep, ...]",
        encoded_slash_allowed: bool = True,
    ) -> None:
        self.name = name
        self.action = action
        self.chain = chain  # of the whole way: the listener's early filters, then the route's
        self.steps = steps  # the request steps that are left to run once this route is found
        self.encoded_slash_allowed = encoded_slash_allowed


_NO_PARAMS: Mapping[str, bytes] = {}


class Exchange:
    """One request and its response, in the terms of RFC 9110.

    `path`: decoded and dot-free (the only form that is matched and sent); `raw_path`: the client's bytes.
    `client_ip`: the rightmost address that no trusted proxy vouches for. `begun_at`: monotonic, `begun_date`: epoch.
    """

    __slots__ = (
        "answered_by",
        "authority",
        "begun_at",
        "begun_date",
        "chain",
        "client",
        "client_ip",
        "fault",
        "forwarded",
        "head",
        "host",
        "listener",
        "method",
        "params",
        "path",
        "peer",
        "query",
        "raw_path",
        "request_added",
        "request_body",
        "request_bytes",
        "request_dropped",
        "request_id",
        "response",
        "response_bytes",
        "retries",
        "route",
        "scheme",
        "service",
        "state",
        "target",
        "upstream",
        "upstream_s",
    )

    def __init__(self, head: RequestHead, client: ClientSide, listener: Any, peer: Any, chain: Chain) -> None:
        self.head = head
        self.method = head.method
        self.scheme = b"http"
        self.authority = head.authority
        self.host = head.host
        self.path = head.path
        self.raw_path = head.raw_path
        self.query = head.query
        self.client = client
        self.listener = listener
        self.peer = peer  # who is at the other end of the socket: a `forwarded.Peer`
        self.client_ip: str = peer.ip
        self.chain = chain
        self.route: Route | None = None
        self.params = _NO_PARAMS
        self.request_body: Relay | None = None  # None: the request has no body
        self.request_bytes = 0  # of the body, or that the client sent through a tunnel; known at the end
        self.request_added = b""  # ready lines that go to the upstream behind the client's fields
        self.request_dropped: frozenset[bytes] = frozenset()  # lower-case names that the upstream must not see
        self.request_id = b""
        self.response: Response | None = None
        self.response_bytes = 0
        self.service: ServiceSide | None = None
        self.state = State.CHOOSING
        self.fault: Fault | None = None
        # The request step that has answered, or that is waiting: those behind it have not run. None: all have run.
        self.answered_by: RequestStep | None = before_any
        self.begun_at = monotonic()
        self.begun_date = time()
        self.upstream = ""
        self.target = ""
        self.upstream_s = -1.0
        self.retries = 0

    def __repr__(self) -> str:
        route = self.route.name if self.route else "-"
        return f"<Exchange {self.method!r} {self.path!r} {self.state.name} route={route} service={self.service!r}>"

    # what filters ask

    @property
    def headers(self) -> Fields:
        """The request's fields, to read and to change. Parsed when first asked for; `field` is cheaper for one."""
        return self.head.fields()

    def field(self, name: bytes) -> bytes | None:
        """The first value of a request field, by its lower-case name."""
        return self.head.first(name)

    def refuse(self, fault: Fault, detail: str | None = None, fields: Iterable[tuple[bytes, bytes]] = ()) -> Reply:
        """The answer for a fault, to be returned from a request step."""
        return problem(fault, detail, fields)

    def add_response_fields(self, lines: bytes) -> None:
        """Append ready field lines, each with its CRLF, to the response. For fields that may stand more than once."""
        assert self.response is not None
        self.response.added += lines

    # what the two sides tell

    def reply(self, reply: Reply) -> None:
        """Answer with a reply of our own. The response steps that are due have run when it goes out."""
        if reply.fault is not None:
            self.fault = reply.fault
        self.respond(Response(reply.status, None, reply.fields), reply.body, True)

    def respond(self, response: Response, payload: bytes, ended: bool) -> None:
        """The response's head is known: run the response steps and send it, with the first of its body."""
        if self._pass_response_steps(response):
            self.client.answer(payload, ended)

    def switch(self, response: Response, early: bytes, patience: float) -> None:
        """101: run the response steps, then bytes go both ways. See `ClientSide.tunnel`."""
        if self._pass_response_steps(response):
            self.client.tunnel(early, patience)

    def fail(self, fault: Fault, detail: str | None = None) -> None:
        """Something went wrong on the way: answer with it, or, when the answer has begun, cut it off."""
        if self.state is State.ENDED:
            return
        self._break_off()
        if self.state is State.ANSWERING:
            self.fault = self.fault or fault
            self.client.abort(fault)
        else:
            self.reply(problem(fault, detail))

    def refuse_late(self, reply: Reply) -> None:
        """A reply decided while the request was on its way already: the upstream's work is stopped."""
        self._break_off()
        if self.state is State.ANSWERING:
            self.fault = self.fault or reply.fault
            self.client.abort(reply.fault or Fault.INTERNAL)
        else:
            self.reply(reply)

    def cancel(self, fault: Fault) -> None:
        """Nobody takes the answer any more: stop the upstream's work. The exchange is over when this returns."""
        if self.state is not State.ENDED:
            self.fault = self.fault or fault
            self._break_off()

    def finish(self) -> None:
        """The answer is out, or nobody waits for it: run the finish steps."""
        self.state = advance(self.state, Event.ENDED)
        if self.chain.finish_steps:
            steps = self.chain.finish_steps
            if self.answered_by is not None:
                due = self.chain.ran(self.answered_by)
                steps = tuple(link.hooks.finish for link in reversed(due) if link.hooks.finish is not None)
            for step in steps:
                try:
                    step(self)
                except Exception:  # the edge of a filter: its error is logged, the others still run
                    log.exception("filter %s: its finish step raised", self.chain.name_of(step))

    def _break_off(self) -> None:
        service, self.service = self.service, None
        if service is not None:
            service.cancel()

    def _pass_response_steps(self, response: Response) -> bool:
        """False: a response step raised, so a 500 has gone out instead."""
        self.state = advance(self.state, Event.ANSWER_BEGUN)
        self.response = response
        if not self.chain.response_steps or self._run_response_steps():
            return True
        self._break_off()
        reply = problem(Fault.INTERNAL)
        self.fault = Fault.INTERNAL
        self.response = Response(500, None, reply.fields)
        self.client.answer(reply.body, True)
        return False

    def _run_response_steps(self) -> bool:
        steps = self.chain.response_steps
        if self.answered_by is not None:
            due = self.chain.ran(self.answered_by)
            steps = tuple(link.hooks.response for link in reversed(due) if link.hooks.response is not None)
        for step in steps:
            try:
                step(self)
            except Exception:  # the edge of a filter: what it could not check is not let out
                log.exception("filter %s: its response step raised", self.chain.name_of(step))
                return False
        return True


Outcome: TypeAlias = Reply | Awaitable[Reply | None] | None
RequestStep: TypeAlias = Callable[[Exchange], Outcome]


def before_any(exchange: Exchange) -> None:
    """Stands in `Exchange.answered_by` for: no request step has run."""


def run_request(steps: Iterable[RequestStep], exchange: Exchange) -> Outcome:
    """Run request steps until one answers. None: all passed. Awaitable: a step must wait; await it for the same.

    A step that raises is a 500, never a pass.
    """
    left = iter(steps)
    for step in left:
        try:
            outcome = step(exchange)
        except Exception:
            return _raised(step, exchange)
        if outcome is not None:
            exchange.answered_by = step
            return outcome if type(outcome) is Reply else _wait(step, outcome, left, exchange)
    exchange.answered_by = None
    return None


async def _wait(
    step: RequestStep, outcome: Awaitable[Reply | None], left: Iterable[RequestStep], exchange: Exchange
) -> Reply | None:
    try:
        reply = await outcome
    except Exception:
        return _raised(step, exchange)
    if reply is not None:
        return reply
    later = run_request(left, exchange)
    return later if later is None or type(later) is Reply else await later


def _raised(step: RequestStep, exchange: Exchange) -> Reply:
    log.exception("filter %s: its request step raised", exchange.chain.name_of(step))
    exchange.answered_by = step
    return problem(Fault.INTERNAL)
