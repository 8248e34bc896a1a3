"""How a route sends requests to an upstream: path, headers, timeouts, and whether responses are inspected.

It is compiled once for all requests of a route. `Forward` is the action that sends by it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from math import inf
from typing import Any, Final, NamedTuple

from fastgw.config.settings.gateway import RouteRetries, RouteTimeouts
from fastgw.exchange import Trailers
from fastgw.exchange.action import Action
from fastgw.exchange.body_relay import Relay
from fastgw.exchange.exchange import UNCHANGED_QUERY, Exchange
from fastgw.exchange.reply import NO_NAMES
from fastgw.exchange.sent_fields import join_names
from fastgw.forwarded_headers import FAMILY, Peer, Policy, fields_for_upstream, prefix_line, without_chosen
from fastgw.http.authority import parse_authority
from fastgw.http.field_names import DIGESTS, EXPECT, Names
from fastgw.http.fields import Fields, folded
from fastgw.http.grpc.calls import GRPC_TIMEOUT, timeout_line
from fastgw.http.http1 import serializer
from fastgw.http.http1.reserved_fields import OWN_FIELDS
from fastgw.http.messages import AS_DECLARED, RequestHead
from fastgw.upstream.forwarding.gateway_urls import OwnUrls
from fastgw.upstream.load_balancing import BalancingRequest
from fastgw.upstream.policies.path_rewrite import StrippedPrefix
from fastgw.upstream.policies.retry import rules_of
from fastgw.upstream.targets.target import Target
from fastgw.upstream.upstream import Upstream

_NO_VIA: Final = frozenset((serializer.NO_VIA,))


# Routes with equal forwarding share an action, and each has filters of its own. PERF: where their requests alternated,
# a miss of the cache made and hashed a set of 33 names each time: 77,400 instructions instead of 63,800.
@lru_cache(maxsize=256)
def _union(drop: Names, dropped: Names, marks: frozenset[bytes]) -> frozenset[bytes]:
    return drop | dropped | marks


class ForwardSettings(NamedTuple):
    """How a route sends requests, whatever the upstream."""

    path_of: Callable[[BalancingRequest], bytes] | None = None
    """Returns the path to send; None: that of the request."""
    forwarded: Policy | None = None
    upgrade: tuple[bytes, ...] = ()
    """Protocols to which clients may upgrade."""
    timeout: float | None = None
    """Seconds until the response head."""
    deadline_name: bytes | None = None
    """Header with the number of milliseconds that an attempt has; None: there is none."""
    folder: bytes = b""
    """The prefix of paths if `path_of` only removes it, except for its last slash; b"": `path_of` does something else,
    and runs for every path."""
    via: bool = True
    """Whether requests and responses get a `Via` of the gateway."""
    retries: RouteRetries | None = None
    """Of the route, in place of the upstream's, as are `own_timeouts` and `host_header`."""
    own_timeouts: RouteTimeouts | None = None
    checks_path: bool = False
    """Whether `path_of` contains values of the request, so that it may refuse one."""
    host_header: str | None = None
    writes_forwarded: bool = False
    """Whether `Forwarded` is among the forwarding headers."""
    stripped: StrippedPrefix | None = None
    """Prefix that `path_of` removes."""
    own_urls: OwnUrls | None = None
    """How URLs of targets in responses become the gateway's; None: they stay."""


class ForwardedRequest(Action):
    """How requests of a route are sent to `upstream`.

    `own_line`: forwarding headers of the default policy for an untrusted peer that do not depend on the request, in
    addition to those of `Peer.set_lines`; None: there are others.
    """

    def __init__(self, upstream: Upstream, how: ForwardSettings) -> None:
        self.upstream, self.how = upstream, how
        retries, stripped, own_timeouts = how.retries, how.stripped, how.own_timeouts
        self.retries = upstream.settings.retries if retries is None else retries.over(upstream.settings.retries)
        self.rules = rules = rules_of(self.retries)
        self.any_method, self.per_try, self.retried_statuses = rules.any_method, rules.per_try, rules.statuses
        self.body_bytes = rules.body_bytes
        self.grpc = upstream.settings.protocol == "grpc"
        self.path_of = how.path_of
        self.forwarded: Policy | None = how.forwarded
        self.writes_forwarded, self.stripped = how.writes_forwarded, stripped
        is_plain = how.forwarded is None and not how.writes_forwarded and (stripped is None or stripped.always)
        self.own_line = prefix_line(b"" if stripped is None else stripped.prefix) if is_plain else None
        self.upgrade = how.upgrade
        self.own_timeouts = own_timeouts
        self.checks_path = how.checks_path
        self._host_header = how.host_header
        self.own_urls = how.own_urls
        settings = upstream.settings.timeouts
        self.timeouts = settings if own_timeouts is None else own_timeouts.over(settings)
        self.total_timeout = self.timeouts.total or inf  # seconds
        self.timeout = min(how.timeout or inf, self.total_timeout)
        self.deadline_name = name = how.deadline_name
        self._deadline_dropped = NO_NAMES if name is None else frozenset((name.lower(),))
        self.marks = NO_NAMES if how.via else _NO_VIA  # names that are left out of requests and responses
        self._folder, self._cut = how.folder, len(how.folder) - 1
        self._joined = NO_NAMES, NO_NAMES, NO_NAMES
        self._unrewritten: Any = None  # the same action for requests whose path is sent as it is
        self.keeps_path = how.path_of is None and not any(target.base_path for target in upstream.targets)

    @property
    def takes_first_response(self) -> bool:
        """Whether the client gets the first response of a target, without timeouts or inspections."""
        rules = self.rules
        timed = self.timeout != inf or rules.per_try != inf or self.deadline_name is not None
        timed = timed or self.own_timeouts is not None
        timed = timed or self.checks_path or self._host_header is not None
        timed = timed or any(target.follows_host for target in self.upstream.targets)
        return not (timed or rules.retries_lost or rules.statuses or rules.grpc_statuses or self.upstream.hedging)

    def sent_target(
        self, asked: BalancingRequest, target: Target, query: bytes | None = UNCHANGED_QUERY
    ) -> bytes | None:
        """Return the request target for the upstream; None: unchanged."""
        head: RequestHead = asked.head
        if query is UNCHANGED_QUERY:
            if head.path_as_sent and not head.scheme:
                if self.keeps_path:
                    return None
                if self._folder:
                    # PERF: 0.45 us from the client's bytes, 0.9 from path and query (CPython 3.11, micro/egress).
                    sent = head.request_target
                    if sent.startswith(self._folder):
                        return target.base_path + sent[self._cut :]
            query = head.query
        path = asked.path if self.path_of is None else self.path_of(asked)
        if path == b"*":
            return path
        where = (target.base_path + path) or b"/"
        return where if query is None else where + b"?" + query

    def request(
        self,
        exchange: Exchange,
        target: Target,
        left: Any = None,
        payload: bytes = b"",
        call_left: float = inf,
        span_id: bytes = b"",
    ) -> bytes:
        """Return the request for the target: the head is re-serialized, without hop-by-hop fields, and with the
        gateway's own forwarding headers.

        `left`: seconds that the attempt has; None: the configured timeout. `payload`: framed bytes that are sent with
        the head. `call_left`: total seconds that a gRPC call has. `span_id`: of the attempt, if it is traced.
        """
        head = exchange.head
        peer: Peer = exchange.peer
        dropped: Names = exchange.request_dropped
        if exchange.taker is not None:
            dropped = join_names(dropped, exchange.taker.dropped)
        drop: Names = FAMILY
        own_line = self.own_line
        if own_line is None or peer.trusted:
            drop, added = self.forwarding_headers(exchange, peer, head, dropped)
        else:
            added = peer.set_lines(head.authority)
            if own_line:
                added += own_line
            if exchange.request_dropped:
                added = without_chosen(added, exchange.request_dropped)
        if dropped or self.marks:
            drop = self.joined(drop, dropped)
        if exchange.request_added:
            added += exchange.request_added
        if self.deadline_name is not None:
            drop |= self._deadline_dropped
            left = self._most_time() if left is None else left
            added += b"%b: %d\r\n" % (self.deadline_name, max(left * 1000, 1))
        if call_left != inf:
            drop |= GRPC_TIMEOUT
            added += timeout_line(call_left)
        if self.grpc:
            added += TE_TRAILERS  # servers reset calls without it, and the gateway itself does accept trailers
        if head.plain:
            if head.accepts_trailers and not self.grpc:
                added += TE_TRAILERS
        else:
            added += self._special_lines(exchange)
            if not head.expects_continue or target.minor == 0:
                # HTTP/1.0 has no 100: the gateway has sent it already. What the gateway ignores, such as
                # `Expect: y 100-continue`, could make the service wait for what nobody does.
                drop |= EXPECT
        if exchange.trace is not None:
            drop, added = exchange.trace.rewrite(drop, added, span_id)
        if self.keeps_path and head.plain and head.path_as_sent and exchange.query_sent is UNCHANGED_QUERY:
            sent_target = None  # an ordinary head has no scheme
        else:
            sent_target = self.sent_target(exchange, target, exchange.query_sent)
        body: Relay | None = exchange.request_body
        length = AS_DECLARED
        if body is not None:
            if body._stages is not None and body.changed:
                drop |= DIGESTS
            if body.length != (None if head.chunked else head.length):
                length = serializer.IN_CHUNKS if body.length is None else body.length
        host = self.host_header(target, head)
        return serializer.request(head, sent_target, host, drop, added, payload, b"", length)

    def forwarding_headers(
        self, asked: BalancingRequest, peer: Peer, head: RequestHead, dropped: Names
    ) -> tuple[frozenset[bytes], bytes]:
        """Return the changes of `fields_for_upstream` for a request to the upstream."""
        return fields_for_upstream(
            *(self.forwarded, peer, head, asked.client_ip, dropped),
            writes_forwarded=self.writes_forwarded,
            stripped=b"" if self.stripped is None else self.stripped.of(asked.path),
        )

    def host_header(self, target: Target, head: RequestHead) -> bytes | None:
        """Return the `Host` of a request to a target; None: that of the client."""
        own = self._host_header
        host = target.host_header if own is None else target.host_for(own)
        return target.authority if host is None and not head.authority else host

    def part_for(self, exchange: Exchange, target: Target) -> Target:
        """Return the part of a target whose connections have the server name of the `Host` that is sent there. Raises
        `ValueError` if that can be no server name.
        """
        host = self.host_header(target, exchange.head)
        if host is None:
            edited = exchange.head.edited()
            host = exchange.authority if edited is None else exchange.head.first(b"host") or exchange.authority
        return target.part_for(parse_authority(host or target.authority).host)

    def joined(self, drop: Names, dropped: Names) -> frozenset[bytes]:
        """Return the union with `marks`; the same object for equal names, which `render` recognizes."""
        if not drop and not self.marks:
            return dropped
        one, other, joined = self._joined
        if one is not drop or other is not dropped:
            joined = _union(drop, dropped, self.marks)
            self._joined = drop, dropped, joined
        return joined

    def _most_time(self) -> float:
        """Maximum seconds that an attempt has until its response head."""
        return min(self.timeout, self.rules.per_try, self.timeouts.response_headers)

    def _special_lines(self, exchange: Exchange) -> bytes:
        """Return the hop-by-hop lines for the next peer."""
        upgrade = self.asked_upgrade(exchange)
        if upgrade:
            return b"Connection: Upgrade\r\nUpgrade: %b\r\n" % b", ".join(upgrade)
        return TE_TRAILERS if exchange.head.accepts_trailers and not self.grpc else b""

    def asked_upgrade(self, exchange: Exchange) -> tuple[bytes, ...]:
        """Return the protocols that the client offers and the route allows. A body and an upgrade are mutually
        exclusive.
        """
        offered = exchange.head.upgrade
        if not offered or exchange.request_body is not None:
            return ()
        return tuple([protocol for protocol in offered if protocol in self.upgrade])


TE_TRAILERS: Final = b"Connection: TE\r\nTE: trailers\r\n"
"""Header lines that say to the target that trailers are accepted (RFC 9110 section 10.1.4)."""


def sent_trailers(exchange: Exchange, trailers: Trailers) -> Trailers:
    """Return the request trailers that are forwarded after the body, although filters have only checked the head.
    Fields that are not allowed in trailers are rejected by the parser: see `http.http1.body`.

    A trailer is dropped if its name occurs in the head, or must not occur there. Many servers merge trailers into the
    header fields, and would accept from the client a value that a filter has written, removed or checked. Dropping is
    always allowed (RFC 9110 section 6.5.1). A digest is dropped if a filter has changed the body, as it is from the
    head.
    """
    if not trailers:
        return trailers
    head = exchange.head
    known = {folded(name) for name in (*exchange.request_dropped, *head.received_names())}
    known.update(folded(name) for name, _ in Fields.parse(exchange.request_added, 0))
    edited = head.fields()
    known.update(folded(name) for name, _ in edited)
    known |= edited.taken
    body = exchange.request_body
    if body is not None and body.changed:
        known |= DIGESTS
    sent = tuple(line for line in trailers if folded(line[0]) not in known)
    reserved = OWN_FIELDS if exchange.peer.trusted else exchange.listener.reserved
    return tuple(line for line in sent if not reserved.has(line[0]))
