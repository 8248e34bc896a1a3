"""Fetch: a request of the cache to the upstream, and the way of its response into the store and to the client.

Rule 1: the response is stored as the upstream sends it; the response steps of filters run for each client. Rule 2: the
client for which it is fetched (the leader) gets the response as it arrives; if it reads more slowly than the upstream
sends, it reads on from the stored object, so others do not wait for it. Rule 3: a fetch goes on without a leader as
long as its response is, or may be, stored. Rule 4: its lease always ends: with the object, or given up with a short
mark, which frees those that wait.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, final

from msgspec import structs

from fastgw.cache.shared.lifecycle import SharedLease
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.store import NotStored, Refusal, RefusedLease, StoredObject, Writer
from fastgw.errors import Fault
from fastgw.exchange import Exchange, Reply, Response, Trailers
from fastgw.exchange.exchange import UNCHANGED_QUERY
from fastgw.exchange.states import ANSWERING, HOLDING
from fastgw.filters.policies.cache.leader import Leader
from fastgw.filters.policies.cache.policy import (
    MARK_S,
    MOST_TAGS,
    OUTGROWN_MARK_S,
    CachePolicy,
    dropped_for,
    is_authenticated,
    name_of,
)
from fastgw.filters.policies.cache.stored_answer import answer_from
from fastgw.http.caching.cache_status import Forwarded, forwarded_status, hit_status
from fastgw.http.caching.directives import RequestDirectives
from fastgw.http.caching.freshness import corrected_age, find_initial_age
from fastgw.http.caching.keys import own_validation_key
from fastgw.http.caching.no_vary_search import SearchVariance, equivalent_key, parse_search_variance
from fastgw.http.caching.records import SearchRecord, StoredHead, VariantsRecord, encode_record
from fastgw.http.caching.reuse import Trouble, find_age, find_ttl, is_error, may_send_stale
from fastgw.http.caching.storing import Times, Unstorable, decide_storing, find_identity
from fastgw.http.caching.validation import CONDITIONS, freshen, has_any, make_conditions, merge_fields
from fastgw.http.caching.vary import join_varying, variant_key
from fastgw.http.field_names import WRITTEN_HERE
from fastgw.http.http1.made_request import build_request
from fastgw.http.messages import RequestHead, ResponseHead
from fastgw.sync.cache_purges import search_tag, url_tag
from fastgw.upstream.client.call import DetachedCall
from fastgw.upstream.forwarding.fallback import FAULTS
from fastgw.upstream.forwarding.forward_action import CallRecorder, Forward

if TYPE_CHECKING:
    from fastgw.filters.policies.cache.cached_request import CachedRequest

_NOT_STORED_BEFORE: Final = frozenset((Refusal.UNCACHEABLE, Refusal.OUTGROWN))
_NOT_SENT: Final = WRITTEN_HERE | {b"expect"}
UNREACHABLE: Final = FAULTS["unavailable"] | FAULTS["unreachable"] | {Fault.CONNECTION_LOST}


def sent_head(
    exchange: Exchange, query: bytes | None, method: bytes = b"GET", body: bytes | None = None
) -> RequestHead:
    """Return the head of the request that fetches a response: the client's, with this method and this body."""
    head = exchange.head
    if head.method == method and head.body_length == 0 and head.ordinary:
        return head
    fields = [line for line in head.fields() if line[0].lower() not in _NOT_SENT]
    target = head.raw_path if query is None else b"%b?%b" % (head.raw_path, query)
    return build_request(method, head.authority, target, fields, len(body or b""))


def explain_fetch(policy: CachePolicy, exchange: Exchange, recorder: CallRecorder) -> None:
    """Let `explain` show the request that fetches a response."""
    query = policy.query_of(exchange)
    call = DetachedCall(exchange, recorder, _NoListener())
    method = exchange.method
    dropped = dropped_for(policy, exchange, with_conditions=method != b"GET")
    call.send(exchange, sent_head(exchange, query, method), query, dropped, b"")


def narrow_copy(policy: CachePolicy, copy: Exchange) -> None:
    """Leave out of the copy of a request what the fetch of its response does not send either: the body, and headers
    that are not in the key. Its conditions stay: no stored response answers them for it.
    """
    query = copy.head.query if copy.query_sent is UNCHANGED_QUERY else copy.query_sent
    copy.request_dropped |= dropped_for(policy, copy, with_conditions=True)
    copy.head, copy.request_body = sent_head(copy, query, copy.method), None


def mark_own_validations(store: SharedStore, key: bytes) -> None:
    """Mark that a validation of this response has concerned its client alone: others like it need not wait for one."""
    asked = store.lease(own_validation_key(key))
    if not isinstance(asked, Refusal):
        asked.give_up(MARK_S)


def has_own_validations(store: SharedStore, key: bytes) -> bool:
    """Whether a mark says that clients with an identity validate this response each for itself."""
    asked = store.lease(own_validation_key(key))
    if isinstance(asked, Refusal):
        return asked is Refusal.UNCACHEABLE
    asked.give_up()
    return False


class _NoListener:
    """Listener of a call that is only shown."""

    def on_interim(self, head: ResponseHead) -> None: ...
    def on_response(self, response: Response, payload: bytes, ended: bool) -> None: ...
    def on_data(self, payload: bytes) -> None: ...
    def on_end(self, trailers: Trailers) -> None: ...
    def on_failure(self, reply: Reply, fault: Fault, why: str) -> None: ...


@final
class Fetch:
    """One fetch. `lease`: None if another request has it, or a mark says that nothing is stored: see `refused`.

    `found`, `record`: the stored response to validate; None: there is none. A HEAD of a client is sent as such: its
    response is not stored, and the stored one is not validated, but it takes the place of an error. A GET that a mark
    has refused the lease, without a stored response, is sent with the conditions and the range of its client.
    """

    def __init__(
        self,
        request: "CachedRequest",
        lease: SharedLease | None,
        refused: RefusedLease | None,
        why: Forwarded,
        found: StoredObject | None,
        record: StoredHead | None,
        has_client: bool,
    ) -> None:
        exchange = request.exchange
        self._policy: CachePolicy = request.policy
        self._directives: RequestDirectives = request.directives
        self._forward = request.forward
        self._primary, self._key, self._url, self._variants = (
            request.primary,
            request.key,
            request.url,
            request.variants,
        )
        self._query, self._fields = request.query, request.fields
        self._exact, self._search_key, self._rule = request.exact, request.rule_key, request.rule
        self._lease, self._refused, self._why = lease, refused, why
        self._found, self._record = found, record
        self._method = exchange.method if has_client else b"GET"
        # A client need not get the whole of what will probably not be stored, as a moment ago.
        self._body = request.body
        self._sends_conditions = self._method == b"HEAD" or (
            found is None
            and refused is not None
            and refused.reason in _NOT_STORED_BEFORE
            and self._body is None
            and isinstance(self._forward, Forward)
            and has_any(exchange.head, CONDITIONS)
        )
        self._head = sent_head(exchange, self._query, self._method, self._body)
        self._storing = request.policy.storing_of(exchange.consumer, is_authenticated(exchange))
        self._is_authenticated = is_authenticated(exchange)
        self._is_authorized = exchange.sends_client_authorization
        self._route = "" if exchange.route is None else exchange.route.name
        self._leader = Leader(exchange, self, request.policy.worker_loop) if has_client else None
        self._writer: Writer | None = None
        self._request_date = 0.0
        self._has_response = False
        self._call: DetachedCall

    def __repr__(self) -> str:
        return f"<Fetch of {self._url!r}>"

    def send_request(self, exchange: Exchange) -> None:
        """Send the request. `exchange`: of the client for whom it is sent first."""
        self._request_date = self._policy.clock()
        exchange.upstream = name_of(self._forward)
        record = self._record if self._method == b"GET" else None
        conditions = [] if record is None else make_conditions(record)
        self._send(exchange, conditions)

    def adopt_request(self, exchange: Exchange, request_date: float) -> Exchange:
        """Go on with a request that is being forwarded. Returns the exchange of the call."""
        self._request_date = request_date
        self._call = DetachedCall(exchange, self._forward, self)
        dropped = dropped_for(self._policy, exchange)
        return self._call.prepare(exchange, self._head, self._query, dropped, b"")

    def _send(self, exchange: Exchange, conditions: Sequence[tuple[bytes, bytes]]) -> None:
        self._call = DetachedCall(exchange, self._forward, self)
        added = b"".join(b"%b: %b\r\n" % line for line in conditions)
        dropped = dropped_for(
            self._policy, exchange, with_conditions=self._sends_conditions, with_body=self._body is not None
        )
        self._call.send(exchange, self._head, self._query, dropped, added, self._body or b"")

    @property
    def upstream_call(self) -> DetachedCall:
        return self._call

    # calls of the leader

    def leader_left(self) -> None:
        """The client does not need the response any more, nor does it hold up the upstream."""
        self._leader = None
        if self._writer is None and (self._has_response or self._lease is None):
            self._call.cancel()
            self._end_lease(0.0)
        else:
            self._call.resume()

    # the response (`DetachedListener`)

    def on_interim(self, head: ResponseHead) -> None:
        if self._leader is not None:
            self._leader.exchange.client.send_interim(head)

    def on_response(self, response: Response, payload: bytes, ended: bool) -> None:
        head = response.head
        assert head is not None
        now = self._policy.clock()
        self._has_response = True
        if (age := corrected_age(head)) is not None:
            response.headers.remove(b"Age")
            if age:
                response.headers.add(b"Age", age)
        record = self._record
        times = Times(self._request_date, now)
        if record is not None:
            if head.status == 304 and self._method == b"GET":
                self._take_validation(record, head, times)
                return
            if is_error(head.status) and self._send_stale(record, Trouble.ERROR, head.status, now):
                self._call.cancel()
                self._end_lease(MARK_S)
                return
        if self._method == b"HEAD":
            self._release()
            self._pass_on(response, payload, ended)
            return
        judged = decide_storing(
            *(self._head, self._directives, head, self._storing, times),
            authenticated=self._is_authenticated,
            authorized=self._is_authorized,
            body_in_key=self._body is not None,
        )
        if self._sends_conditions and (head.status != 200 or head.first(b"content-range") is not None):
            judged = Unstorable.STATUS  # it may answer the conditions: 304, 206, 416, or a part as a 200
        self._release()
        detail: bytes | None
        if isinstance(judged, Unstorable):
            detail = judged
            self._forget(head)
        else:
            detail = self._begin_storing(judged, head, len(payload) if ended else None)
        stored = judged if self._writer is not None and isinstance(judged, StoredHead) else None
        self._policy.count_miss(self._route, detail)
        if stored is None:
            # A purge ends marks; one that is left here would outlive it.
            self._end_lease(0.0 if detail == NotStored.PURGED else MARK_S)
        else:
            self._append(payload)
            if ended:
                self._complete()
        leader = self._leader
        if leader is None:
            if self._writer is None:
                self._call.cancel()
            return
        exchange = leader.exchange
        exchange.cache_result = "miss"
        exchange.cache_status = forwarded_status(
            self._why,
            stored=stored is not None,
            detail=detail,
            ttl=None if stored is None else stored.lifetime - stored.initial_age,
        )
        self._call.report(exchange)
        leader.answer(response, payload, ended, stored, now)

    def _pass_on(self, response: Response, payload: bytes, ended: bool) -> None:
        """Answer the client with the response to its HEAD."""
        leader = self._leader
        if leader is None:
            self._call.cancel()
            return
        exchange = leader.exchange
        exchange.cache_result, exchange.cache_status = "miss", forwarded_status(self._why)
        self._call.report(exchange)
        leader.answer(response, payload, ended, None, 0.0)

    def _begin_storing(self, record: StoredHead, head: ResponseHead, whole: int | None) -> bytes | None:
        """Begin to store a response. Returns the reason why it cannot be stored. `whole`: length of the whole body, if
        that is there; None: only its beginning is.
        """
        policy, lease = self._policy, self._lease
        if lease is None:
            assert self._refused is not None
            taken = self._late_lease(self._refused, is_size_known=whole is not None or self._size(head) is not None)
            if isinstance(taken, NotStored):
                return taken
            lease = self._lease = taken
        tags = policy.tags_of(head)
        if len(tags) > MOST_TAGS:
            return NotStored.TAGS
        tags.append(url_tag(self._url))
        if not self._apply_rule(lease, parse_search_variance(head.values(b"no-vary-search"))):
            return lease.why_not
        if self._rule is not None:
            tags.append(search_tag(self._url))
        key = self._key
        if record.vary or self._variants is not None:
            names = join_varying(self._selected_by, record.vary)
            if names is None:
                policy.store.remove(self._primary)
                return b"vary"
            key = variant_key(self._primary, names, self._fields)
            if not self._list_variant(lease, names, key):
                return lease.why_not
        size = self._size(head) if whole is None else whole
        self._writer = lease.store(encode_record(record), size, key=key, url=self._url, tags=tags)
        if self._writer is None:
            return lease.why_not
        self._key = key
        leader = self._leader
        if leader is not None and (whole is None or leader.may_get_less):
            leader.found = self._writer.hold(key)
        return None

    def _late_lease(self, refused: RefusedLease, *, is_size_known: bool) -> SharedLease | NotStored:
        """Take the lease that a mark refused when the fetch began: what was not stored the last time is stored now."""
        if refused.reason is Refusal.OUTGROWN and not is_size_known:
            return NotStored.BODY_SIZE  # perhaps too long again, and others would read it from the store
        if refused.reason not in (Refusal.UNCACHEABLE, Refusal.OUTGROWN):
            return NotStored.IN_FLIGHT
        store, begun = self._policy.store, refused.begun
        # The mark may have ended since, and the response to a later request may have been stored.
        stored = store.find(self._key)
        if stored is not None:
            is_later = stored.stored_date > begun.date
            stored.release()
            if is_later:
                return NotStored.CONTESTED
        lease = store.lease(self._key, begun)
        return NotStored.IN_FLIGHT if isinstance(lease, Refusal) else lease

    def _size(self, head: ResponseHead) -> int | None:
        return head.body_length if head.has_body else 0

    def _apply_rule(self, lease: SharedLease, rule: SearchVariance | None) -> bool:
        """Set the key for the rule of a response about queries, and list the rule. False: the store is full."""
        if rule == self._rule:
            return True
        self._rule, self._variants = rule, None
        if rule is None:
            self._policy.store.remove(self._search_key)
            self._primary = self._key = self._exact
            return True
        self._primary = self._key = equivalent_key(self._search_key, self._query, rule)
        return lease.store_head(encode_record(SearchRecord(rule)), key=self._search_key, url=self._url, tags=())

    def _list_variant(self, lease: SharedLease, names: tuple[bytes, ...], key: bytes) -> bool:
        """Add a variant to those of the resource. The oldest one is removed if there are too many."""
        before = self._variants
        keys = () if before is None or before.vary != names else before.keys
        if before is not None and before.vary == names and key in keys:
            return True
        keys = (*keys, key)
        while len(keys) > self._policy.max_variants:
            self._policy.store.remove(keys[0])
            keys = keys[1:]
        listed = encode_record(VariantsRecord(names, keys))
        return lease.store_head(listed, key=self._primary, url=self._url, tags=(url_tag(self._url),))

    def _forget(self, head: ResponseHead) -> None:
        """Remove what is stored if the new response, which is not stored, replaces it."""
        if self._record is not None and not is_error(head.status):
            self._policy.store.remove(self._key)

    def _take_validation(self, record: StoredHead, head: ResponseHead, times: Times) -> None:
        """Handle a 304."""
        policy, leader = self._policy, self._leader
        identity = find_identity(
            self._head, self._storing, authenticated=self._is_authenticated, authorized=self._is_authorized
        )
        merged = freshen(record, head, self._storing, times, *identity)
        if merged is Unstorable.OTHER_VALIDATOR:
            policy.store.remove(self._key)
            self._repeat()
            return
        found, self._found = self._found, None
        assert found is not None
        stored, is_about_stored = False, merged not in (Unstorable.AUTHORIZATION, Unstorable.COOKIE)
        lines = merge_fields(record, head).render()
        if isinstance(merged, StoredHead) and {*merged.vary} <= {*self._selected_by}:
            if self._lease is not None:
                stored = self._lease.freshen(found, encode_record(merged))
            record = structs.replace(merged, lines=lines)  # its client also gets what is not stored
        else:  # it is for this client alone
            if is_about_stored:
                policy.store.remove(self._key)
            record = structs.replace(
                record,
                lines=lines,
                stored_date=times.response_date,
                initial_age=find_initial_age(head, times.request_date, times.response_date),
            )
        if is_about_stored:
            self._end_lease(MARK_S)
        else:
            mark_own_validations(policy.store, self._key)
            self._end_lease(0.0)
        if leader is None:
            found.release()
            return
        exchange = leader.exchange
        age = find_age(record, times.response_date)
        exchange.cache_result = "revalidated"
        exchange.cache_status = forwarded_status(
            self._why, upstream_status=304, stored=stored, ttl=record.lifetime - age
        )
        self._call.report(exchange)
        leader.answer_from(found, record, age)

    @property
    def _selected_by(self) -> tuple[bytes, ...]:
        """Names of the request headers that have selected the stored response."""
        return () if self._variants is None else self._variants.vary

    def _repeat(self) -> None:
        """Send the request again without conditions: the 304 was not about the stored response."""
        leader = self._leader
        self._call.cancel()
        self._release()
        self._record, self._has_response = None, False
        if leader is None:
            self._end_lease(0.0)
        else:
            self._send(leader.exchange, ())

    def _send_stale(self, record: StoredHead, trouble: Trouble, status: int | None, now: float) -> bool:
        """Answer with the stale stored response in place of an error, if that is allowed."""
        found = self._found
        if found is None or not may_send_stale(
            record, self._directives, now, trouble, soft_purged=found.is_soft_purged
        ):
            return False
        self._found = None
        leader = self._leader
        if leader is None:
            found.release()
            return True
        exchange = leader.exchange
        age = find_age(record, now)
        exchange.cache_result = "stale"
        ttl = find_ttl(record, age, soft_purged=found.is_soft_purged)
        exchange.cache_status = hit_status(ttl, detail=b"error" if status else b"unreachable")
        self._call.report(exchange)
        leader.answer_from(found, record, age)
        return True

    def on_data(self, payload: bytes) -> None:
        self._append(payload)
        if self._leader is not None:
            self._leader.feed(payload)
        elif self._writer is None:
            self._call.cancel()

    def _append(self, payload: bytes) -> None:
        writer = self._writer
        if writer is not None and payload and not writer.append(payload):
            self._writer = self._lease = None  # they have ended
            again = self._policy.store.lease(self._key)
            if not isinstance(again, Refusal):
                again.give_up(OUTGROWN_MARK_S)
            if self._leader is not None:
                self._leader.lose_object()

    def _complete(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.complete()
        self._end_lease(MARK_S)
        self._release()

    def on_end(self, trailers: Trailers) -> None:
        self._complete()
        leader, self._leader = self._leader, None
        if leader is not None:
            leader.end(trailers)

    def detach_leader(self, found: StoredObject, record: StoredHead, age: int) -> None:
        """Answer the leader with a stored object: it no longer depends on this fetch."""
        leader, self._leader = self._leader, None
        if leader is None:
            found.release()
        else:
            answer_from(leader.exchange, self._policy, found, record, age, self._forward.marks)
            self._call.resume()

    def on_failure(self, reply: Reply, fault: Fault, why: str) -> None:
        leader, writer = self._leader, self._writer
        if writer is not None:
            self._writer = None
            writer.abort(MARK_S)
        trouble = Trouble.UNREACHABLE if fault in UNREACHABLE else Trouble.ERROR
        if (
            not self._has_response
            and self._record is not None
            and self._send_stale(self._record, trouble, None, self._policy.clock())
        ):
            self._end_lease(MARK_S)
            return
        self._end_lease(MARK_S)
        self._release()
        if leader is None:
            return
        exchange = leader.exchange
        if exchange.state in (HOLDING, ANSWERING):
            exchange.fault, exchange.why = exchange.fault or fault, exchange.why or why
            self._leader = None
            if exchange.state is HOLDING:  # the client gets another response, and nothing was stored
                exchange.cache_status = forwarded_status(self._why)
            leader.fail(fault)
            return
        self._call.report(exchange)
        leader.give_up()
        self._leader = None
        exchange.cache_result, exchange.cache_status = "miss", forwarded_status(self._why)
        self._policy.filter_sent_query(exchange)  # a fallback is sent it, too
        exchange.fail_with(reply, fault, why)

    def _end_lease(self, mark_s: float) -> None:
        """Give the lease up, if it has not ended with the object."""
        lease = self._lease
        if lease is not None and self._writer is None:
            self._lease = None
            lease.give_up(mark_s)

    def _release(self) -> None:
        found, self._found = self._found, None
        if found is not None:
            found.release()
