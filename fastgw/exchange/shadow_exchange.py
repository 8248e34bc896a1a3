"""Copy of an exchange for a filter in shadow mode: it reads the current state; its changes have no effect.

Several shadow filters on one exchange are a `ShadowRun`: each has a copy of its own, with the client identity that
earlier shadow filters would have set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias, final

from fastgw.consumers.index import Consumer
from fastgw.errors import Fault
from fastgw.exchange.body_relay import NO_SOURCE, Relay, Trailers
from fastgw.exchange.exchange import UNCHANGED_QUERY, ClientSide, Exchange
from fastgw.exchange.exchange_counts import NO_COUNTS
from fastgw.exchange.reply import Response, fields_in
from fastgw.http.fields import Fields
from fastgw.http.http1.parser import copy_of_request, copy_of_response
from fastgw.http.http1.serializer import names_alike
from fastgw.http.messages import ResponseHead
from fastgw.shm.held_body_budget import UNLIMITED, HeldBodyBudget

CODING: Final = frozenset((b"content-encoding",))
_ALIKE: Final = (
    "answered_by", "begun_at", "cache_result", "cache_status", "chain", "client_ip", "consumer", "fault",
    "for_others", "grpc_status", "id_shown", "is_authenticated", "listener", "method", "path", "peer",
    "query_sent", "renewed", "renewed_earlier", "request_added", "request_bytes", "request_dropped", "request_id",
    "reset_code", "response_bytes", "retries", "route", "scheme", "sends_client_authorization", "sent", "state",
    "subrequests", "target", "timeline", "trace", "tunnel", "upstream", "upstream_s",
)  # fmt: skip
"""Attributes of a copy that are those of the real exchange: all but its own ones (`ShadowExchange.__init__`)."""
_AS_IT_GOES: Final = ("chain", "fault", "request_bytes", "response_bytes", "retries", "route", "state", "target",
                      "upstream")  # fmt: skip
"""Attributes that are set after a request step has run, and not by filters."""


Who: TypeAlias = tuple[Consumer | None, Mapping[str, Any]]
"""Attributes with the identity of a client and the claims of its token."""


class ShadowExchange(Exchange):
    """A copy of the exchange `real`, with the changes of a filter.

    `copy_progress` takes over later changes of the real one.
    """

    __slots__ = ("_before", "_query_before", "is_decoded", "known", "real")

    def __init__(self, real: Exchange) -> None:
        for name in _ALIKE:
            setattr(self, name, getattr(real, name))
        self.real = real
        self.head = copy_of_request(real.head)
        self.client = self.response_sink = nobody = Nobody()
        nobody.held_body_budget = real.client.held_body_budget  # a shadow run holds real bytes
        self.service = self.taker = None
        self.known: Who = (real.consumer, real.claims)  # set by enforcing filters
        self.claims, self.params = dict(real.claims), dict(real.params)
        self.request_body = None if real.request_body is None else _Body()
        self.response = None
        self.shadowed, self.shadows, self.why = "", None, ""
        self.limits = None  # a shadow run does not refund units that were spent for real
        self.is_decoded = False  # whether an earlier shadow filter would have removed the content codings of the body
        self._before, self._query_before = self._request(), self._query()
        self.copy_progress()

    def replace_headers(self, fields: Fields) -> None:
        """Use these request headers in place of the current ones of the real exchange."""
        self.head = copy_of_request(self.real.head, fields)

    def show_decoded(self) -> None:
        """Leave out `Content-Encoding`, as an earlier shadow filter would have done."""
        self.is_decoded = True
        self.request_dropped |= CODING
        self._before = self._request()

    def copy_progress(self) -> None:
        real = self.real
        for name in _AS_IT_GOES:
            setattr(self, name, getattr(real, name))
        if real.request_body is not None:
            body: Any = self.request_body
            body.bytes, body.ended = real.request_body.bytes, real.request_body.ended
            body.passed = real.request_body.passed

    def show_beginning(self, payload: bytes) -> None:
        """Give the filter this beginning of the request body; see `Relay.head`."""
        body: Any = self.request_body
        body.beginning = payload

    def respond_as(self, response: Response) -> None:
        """Take a copy of this response."""
        head = None if response.head is None else copy_of_response(response.head)
        fields = None if head is not None else Fields(response.headers)
        self.response = Response(response.status, head, response.added, response.dropped, response.body_length, fields)

    def request_changes(self) -> list[str]:
        """Return the names of request headers that would differ for the upstream since the last call, and `query`."""
        before, self._before = self._before, self._request()
        query_before, self._query_before = self._query_before, self._query()
        return _changes(before, self._before) + (["query"] if self._query_before != query_before else [])

    def response_changes(self, real: Response) -> list[str]:
        """Return the differences to the real response: `status`, and the names of fields."""
        assert self.response is not None
        status = [] if self.response.status == real.status else ["status"]
        return status + _changes(real.sent_fields(), self.response.sent_fields())

    def _request(self) -> list[tuple[bytes, bytes]]:
        kept = self.head.fields().without(names_alike(self.request_dropped))
        return kept + list(fields_in(self.request_added))

    def _query(self) -> bytes | None:
        return self.head.query if self.query_sent is UNCHANGED_QUERY else self.query_sent


@final
class ShadowRun:
    """The shadow run of one exchange: the request steps of its shadow filters, in sequence.

    `over`: a filter would have answered, or might have: later ones do not run. `decodes`: a filter would have removed
    the content codings of the body.
    """

    __slots__ = ("_known", "_who", "decodes", "over")

    def __init__(self) -> None:
        self.over = self.decodes = False
        self._who: Who | None = None
        self._known: Who = (None, {})

    def enter(self, copy: ShadowExchange) -> None:
        """Give the next filter the client identity that the previous ones have set, unless active filters have set it
        since.
        """
        if self._who is not None and copy.known[0] is self._known[0] and copy.known[1] is self._known[1]:
            copy.consumer, copy.claims = self._who

    def passed(self, copy: ShadowExchange) -> None:
        self._who, self._known = (copy.consumer, copy.claims), copy.known


def _changes(before: list[tuple[bytes, bytes]], after: list[tuple[bytes, bytes]]) -> list[str]:
    if before == after:
        return []
    different = [name for name, value in (*before, *after) if before.count((name, value)) != after.count((name, value))]
    return list(dict.fromkeys(name.decode("latin-1") for name in different))


class _Body(Relay):
    """Stand-in for a request body, of which at most the beginning is available: a copy of what has passed."""

    passed = False

    def __init__(self) -> None:
        Relay.__init__(self, NO_SOURCE)
        self.beginning = b""
        self.kept = None

    def head(self, most: int) -> bytes:
        return self.beginning[:most]

    def pause(self) -> None: ...
    def resume(self) -> None: ...


class Nobody(ClientSide):
    """A client side that does nothing."""

    counts = NO_COUNTS
    held_body_budget: HeldBodyBudget = UNLIMITED

    def send_interim(self, head: ResponseHead | None) -> None: ...
    def answer(self, response: Response, payload: bytes, ended: bool) -> None: ...
    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...
    def abort(self, fault: Fault) -> None: ...
    def tunnel(self, early: bytes, timeout: float) -> None: ...
    def pause_tunnel(self) -> None: ...
    def resume_tunnel(self) -> None: ...

    def filter_timeout(self) -> float:
        return 0.0
