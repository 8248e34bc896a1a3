"""Ready answers: small stored responses in the memory of a worker, for plain GET requests.

Where other filters change nothing but headers, the same for all responses (and, but for `ResponseHook.fields`, for all
requests), an answer is serialized bytes, sent before any filter runs (`find`). Elsewhere it replaces the look-up in the
store and what follows from it; the steps of all filters run as always (`answer`).

Rule 1: an answer is sent only while the object that it was made of is unchanged in the store, and fresh. Rule 2:
requests with conditions, a range or cache directives, and those whose path or query a filter has changed, are read by
the policy. Rule 3: an answer is sent only to requests whose headers in the key, and in `Vary`, are equal to those of
the request that it was made for: as sent, or as the upstream would get them if filters have run. Rule 4: bytes are
bounded; the oldest answer goes first.

PERF: a hit of 1 KiB takes 8 us of CPU, where the policy reads the request 20, a proxied request 16 (CPython 3.11,
bench cache); behind `headers` 19, from the store 33 (micro/response_cache).
"""

from collections.abc import Callable
from itertools import count
from typing import Final, NamedTuple, Protocol

from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import StoredObject
from fastgw.exchange.chain import Chain
from fastgw.exchange.exchange import UNCHANGED_QUERY, Exchange
from fastgw.exchange.ready_answer import ReadyAnswer
from fastgw.exchange.reply import NO_CONTENT, Response
from fastgw.exchange.route import Route
from fastgw.exchange.sent_fields import SentFields, fields_for_request
from fastgw.filters.policies.cache.forwarded_fields import ForwardedFields
from fastgw.forwarded_headers import Peer
from fastgw.http.caching.cache_status import hit_status
from fastgw.http.caching.records import StoredHead
from fastgw.http.caching.validation import CONDITIONS
from fastgw.http.caching.vary import RequestFields
from fastgw.http.http1 import serializer
from fastgw.http.http1.parser import parse_response
from fastgw.http.http1.sought_names import SoughtNames
from fastgw.http.messages import RequestHead
from fastgw.upstream.client.response_action import ResponseAction
from fastgw.upstream.forwarding.forward_action import Forward

MOST_BYTES: Final = 8 * 1024 * 1024
"""Maximum bytes of answers that a worker keeps."""
LONGEST: Final = 64 * 1024
"""Maximum bytes of a body."""
LONGEST_VALUES: Final = 1024
"""Maximum bytes of the headers that select an answer."""
OVERHEAD: Final = 1024
_MOST_FIELDS: Final = 1000
_SPECIAL: Final = (*CONDITIONS, b"cache-control", b"pragma")
"""Headers that the policy reads."""


class ReadyEntry(Protocol):
    """Entry of a `ReadyMemory`."""

    @property
    def weight(self) -> int:
        """Bytes that count for it."""


class _Entry:
    """A response. `head`, `status`: as of `second`, the line of its age with what precedes it, and `Cache-Status`."""

    def __init__(
        self, lines: bytes, body: bytes, record: StoredHead, stamp: object, answer: ReadyAnswer | None = None
    ) -> None:
        """`lines`: status line and header lines that do not depend on the time. `answer`: as it is sent; None: filters
        have steps for the response.
        """
        self.lines, self.body, self.stamp, self.answer = lines, body, stamp, answer
        self.born_date, self.lifetime = record.stored_date - record.initial_age, record.lifetime
        self.weight = OVERHEAD + 2 * len(lines) + len(body)
        self.second = -1
        self.head = self.status = b""

    def tell_age(self, age: int) -> None:
        """Set what depends on its age."""
        self.second = age
        self.head, self.status = b"%bAge: %d\r\n" % (self.lines, age), hit_status(self.lifetime - age)
        if self.answer is not None:
            self.answer.head = b"%bCache-Status: %b\r\n" % (self.head, self.status)
            self.answer.body = self.body


class Selector:
    """Names of the request headers that select one of several answers (`Vary`); `stamp`: of the list of variants."""

    def __init__(self, names: tuple[bytes, ...], stamp: object) -> None:
        self.names, self.stamp = names, stamp
        self.weight = OVERHEAD


class Selection(NamedTuple):
    """Variant that a request has selected. `stamp`: of the list of variants, as of `SharedStore.stamp`."""

    names: tuple[bytes, ...]
    stamp: object


Key = tuple[object, ...]
"""Number of the use of the filter, `answer_form`, endpoint of the peer, authority, request target, and consumer; then
values of the headers that are in the key of the cache, and names and values of those that select a variant.
"""


class ReadyMemory:
    """Answers of all uses of the filter in a process, within `MOST_BYTES`: the oldest is removed first."""

    def __init__(self) -> None:
        self._entries: dict[Key, ReadyEntry] = {}
        self._bytes = 0
        self._numbers = count()
        self.get = self._entries.get

    def __len__(self) -> int:
        return len(self._entries)

    def new_number(self) -> int:
        """Return the number of another `ReadyAnswers`: those of a replaced configuration are never found again."""
        return next(self._numbers)

    def put_answer(self, key: Key, entry: ReadyEntry) -> None:
        self.remove(key)
        self._entries[key] = entry
        self._bytes += entry.weight
        while self._bytes > MOST_BYTES:
            self.remove(next(iter(self._entries)))

    def remove(self, key: Key) -> None:
        """Remove an answer, if it is still there."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._bytes -= entry.weight


class ReadyAnswers:
    """Answers of one use of the filter in one worker, by authority and request target."""

    def __init__(
        self,
        memory: ReadyMemory,
        bypass_header: bytes | None,
        key_headers: tuple[bytes, ...],
        by_consumer: bool,
        clock: Callable[[], float],
    ) -> None:
        """`key_headers`: lower-case names of the headers in the key of the cache. `by_consumer`: whether the consumer
        is in it. `clock`: epoch seconds.
        """
        self._memory, self._number, self._key_headers = memory, memory.new_number(), key_headers
        self._by_consumer, self._clock = by_consumer, clock
        self.store: SharedStore
        self._special = SoughtNames(_SPECIAL if bypass_header is None else (*_SPECIAL, bypass_header))

    def add(
        self,
        exchange: Exchange,
        forward: Forward | ResponseAction,
        found: StoredObject,
        record: StoredHead,
        selection: Selection | None = None,
    ) -> None:
        """Keep the response to this request, which is fresh. `selection`: the variant that it is; None: the resource
        has none.
        """
        length = found.size
        if length is None or length > LONGEST or not found.is_complete or found.is_soft_purged:
            return
        if record.status in NO_CONTENT or (record.vary and selection is None):
            return
        if exchange.chain.ready_answer is not None:
            self._add_answer(exchange, forward, found, record, selection)
        elif isinstance(forward, Forward) and self._applies(exchange, forward):
            fields = _fields(exchange)
            lines = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n" % (
                record.status,
                record.reason,
                record.lines,
                length,
            )
            self._put(self._key(exchange, fields), fields, found, record, selection, lines, None)

    def _add_answer(
        self,
        exchange: Exchange,
        forward: Forward | ResponseAction,
        found: StoredObject,
        record: StoredHead,
        selection: Selection | None,
    ) -> None:
        """Keep an answer that is sent before filters run."""
        head, peer, length = exchange.head, exchange.peer, found.length
        if head.method != b"GET" or not head.ordinary or (peer.trusted and head.forwarded) or head.edited() is not None:
            return
        fields = exchange.chain.response_fields_for(head, peer)
        if fields is None:
            return
        raw = b"HTTP/1.1 %d %b\r\n%bContent-Length: %d\r\n\r\n" % (record.status, record.reason, record.lines, length)
        parsed = parse_response(raw, b"GET", _MOST_FIELDS)
        if parsed.first(b"date") is None:
            return
        dropped = forward.marks | serializer.REQUEST_IDS if exchange.id_shown else forward.marks
        lines = serializer.response(parsed, record.status, dropped | fields.dropped, fields.added, length=length)[:-2]
        form = answer_form(exchange.chain, fields)
        resource = peer.endpoint, head.authority, head.request_target
        key: Key = (self._number, form, *resource, None, *values_of(head, self._key_headers))
        self._put(key, head, found, record, selection, lines, ReadyAnswer(record.status, "hit", length))

    def _put(
        self,
        key: Key,
        fields: RequestFields,
        found: StoredObject,
        record: StoredHead,
        selection: Selection | None,
        lines: bytes,
        answer: ReadyAnswer | None,
    ) -> None:
        selector = None
        if selection is not None:
            if selection.stamp is None or b"cookie" in selection.names:  # there would be one for each client
                return
            selector = key, Selector(*selection)
            key = (*key, selection.names, *values_of(fields, selection.names))
        stamp = self.store.stamp(found)
        if stamp is None or sum(len(part) for part in key[6:] if isinstance(part, bytes)) > LONGEST_VALUES:
            return
        if selector is not None:
            self._memory.put_answer(*selector)
        self._memory.put_answer(key, _Entry(lines, b"".join(found.pieces()), record, stamp, answer))

    def needs_policy(self, head: RequestHead, peer: Peer) -> bool:
        """Whether a GET has headers that the policy has to read."""
        return self._special.occur_in(head) or (peer.trusted and head.forwarded)

    def find(self, head: RequestHead, peer: Peer, route: Route) -> ReadyAnswer | None:
        """Return the answer to an ordinary request without a body. None: the policy has to answer it."""
        chain: Chain = route.chain
        fields = fields_for_request(chain.response_fields, head, peer)
        if fields is None:
            return None
        form = answer_form(chain, fields)
        key: Key = (self._number, form, peer.endpoint, head.authority, head.request_target, None)
        if self._key_headers:
            key = (*key, *values_of(head, self._key_headers))
        found: object = self._memory.get(key)
        if found is None or head.method != b"GET" or self.needs_policy(head, peer):
            return None
        entry = self._selected(key, found, head)
        return None if entry is None else entry.answer

    def answer(self, exchange: Exchange, forward: Forward) -> bool:
        """Answer a GET once filters have run. False: it has to be looked up in the store."""
        if not self._applies(exchange, forward):
            return False
        fields = _fields(exchange)
        key = self._key(exchange, fields)
        entry = self._selected(key, self._memory.get(key), fields)
        if entry is None:
            return False
        exchange.cache_result = "hit"
        exchange.cache_status = entry.status
        exchange.response_bytes = len(entry.body)
        # Parsed for each request: a filter may change its fields.
        head = parse_response(entry.head + b"\r\n", b"GET", _MOST_FIELDS)
        exchange.respond(Response(head.status, head, b"", forward.marks), entry.body, True)
        return True

    def _selected(self, key: Key, found: object, fields: RequestFields) -> _Entry | None:
        """Return what a request gets, with its present age; None: there is nothing, or it is not valid any more.
        `found`: what the memory has under the key.
        """
        memory = self._memory
        if type(found) is Selector:
            selector: Selector = found
            if not self.store.is_unchanged(selector.stamp):
                memory.remove(key)
                return None
            key = (*key, selector.names, *values_of(fields, selector.names))
            found = memory.get(key)
        if type(found) is not _Entry:
            return None
        entry: _Entry = found
        age = int(self._clock() - entry.born_date)
        if age >= entry.lifetime or age < 0 or not self.store.is_unchanged(entry.stamp):
            memory.remove(key)
            return None
        if age != entry.second:
            entry.tell_age(age)
        return entry

    def _applies(self, exchange: Exchange, forward: Forward) -> bool:
        """Whether everything in the key of the cache is in the key of an answer to this request, and no filter changes
        bodies.
        """
        head = exchange.head
        return (
            exchange.chain.ready_answer is None
            and exchange.method == b"GET"
            and head.ordinary
            and exchange.request_body is None
            and exchange.query_sent is UNCHANGED_QUERY
            and exchange.path == head.path
            and head.edited() is None
            and not forward.checks_path
            and not exchange.chain.treats_responses
            and not exchange.sends_client_authorization
            and not self.needs_policy(head, exchange.peer)
        )

    def _key(self, exchange: Exchange, fields: RequestFields) -> Key:
        head, consumer = exchange.head, None
        if self._by_consumer and exchange.consumer is not None:
            consumer = exchange.consumer.name
        return (
            *(self._number, exchange.chain.number, exchange.peer.endpoint, head.authority, head.request_target),
            consumer,
            *(values_of(fields, self._key_headers) if self._key_headers else ()),
        )


def _fields(exchange: Exchange) -> RequestFields:
    """Return the headers as the upstream gets them."""
    return ForwardedFields(exchange) if exchange.request_added or exchange.request_dropped else exchange.head


def answer_form(chain: Chain, fields: SentFields) -> int | tuple[int, SentFields]:
    """Return what distinguishes the answers of a chain for one resource: the headers that filters change, where these
    depend on the request.
    """
    return chain.number if fields is chain.response_fields else (chain.number, fields)


def values_of(fields: RequestFields, names: tuple[bytes, ...]) -> list[bytes | None]:
    """Return the values of headers; None: the request does not have it."""
    return [b"\n".join(lines) if (lines := fields.values(name)) else None for name in names]
