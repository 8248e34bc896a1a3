"""One request of a route with a cache: the look-up, the wait for the fetch of an equal request, and what follows."""

import asyncio
from typing import Final

import cython

from fastgw.cache.shared.lifecycle import SharedLease
from fastgw.cache.shared.shared_store import SharedStore
from fastgw.cache.shared.watches import KeyWatch
from fastgw.cache.store import NotStored, Refusal, RefusedLease, StoredObject
from fastgw.cache.tiers.disk_object import DiskObject
from fastgw.errors import Fault
from fastgw.exchange.exchange import UNCHANGED_QUERY, Exchange
from fastgw.exchange.route import Route
from fastgw.filters.policies.cache.fetch import Fetch, has_own_validations
from fastgw.filters.policies.cache.forwarded_fields import ForwardedFields
from fastgw.filters.policies.cache.policy import (
    DESCRIBE_BODY,
    MARK_S,
    MOST_TAGS,
    CachePolicy,
    dropped_for,
    is_authenticated,
    purge_url,
)
from fastgw.filters.policies.cache.ready_answers import Selection
from fastgw.filters.policies.cache.stored_answer import answer_from
from fastgw.http.caching.cache_status import Detail, Forwarded, Number, forwarded_status, hit_status, unanswered_status
from fastgw.http.caching.directives import parse_request
from fastgw.http.caching.freshness import corrected_age
from fastgw.http.caching.key_text import swapped_key
from fastgw.http.caching.keys import primary_key, resource_of_body, search_key
from fastgw.http.caching.no_vary_search import SearchVariance, equivalent_key
from fastgw.http.caching.records import SearchRecord, StoredHead, VariantsRecord, decode_record, encode_record
from fastgw.http.caching.reuse import Decision, Reuse, Trouble, decide_reuse, find_age, find_ttl, may_send_stale
from fastgw.http.caching.storing import RequestIdentity, Times, decide_storing, find_identity
from fastgw.http.caching.validation import CONDITIONS
from fastgw.http.caching.vary import variant_key
from fastgw.http.http1.sought_names import SoughtNames
from fastgw.http.messages import ResponseHead, has_field, payload_of
from fastgw.sync.cache_purges import url_tag
from fastgw.upstream.client.response_action import ResponseAction
from fastgw.upstream.forwarding.forward_action import Forward

_CONDITIONS: Final = SoughtNames(CONDITIONS)
_ONLY_IF_CACHED: Final = unanswered_status(b"only-if-cached")
# PERF: to find one in its class takes 850 instructions, `isinstance` of the class 785 (CPython 3.11, callgrind).
_URI_MISS: Final = Forwarded.URI_MISS
_IN_FLIGHT: Final = Refusal.IN_FLIGHT
_UNCACHEABLE: Final = Refusal.UNCACHEABLE
_NO_NAMES: Final[frozenset[bytes]] = frozenset()
_SENT: Final = frozenset((Reuse.FRESH, Reuse.STALE, Reuse.STALE_WHILE_REVALIDATE))


@cython.cclass
class CachedRequest:
    """A GET, HEAD or POST that may be answered from the store; service side of its exchange while it waits, and its
    response taker while it is forwarded as it is.

    `exact`: key of the resource with this query. `primary`: key of the resource with all queries that are equal by
    `rule` (`No-Vary-Search`); without a rule, the same. `key`: key of the response that the request selects, as far as
    variants are known. `body`: of a POST, which is part of the key; None: another method. `dropped`: names of headers
    of the client that are not forwarded.
    """

    def __init__(
        self,
        policy: CachePolicy,
        exchange: Exchange,
        forward: Forward | ResponseAction,
        body: bytes | None = None,
    ) -> None:
        self.policy, self.exchange, self.forward, self.body = policy, exchange, forward, body
        self.directives = parse_request(exchange.head)
        self.query = policy.query_of(exchange)
        self.fields = ForwardedFields(exchange)
        resource = policy.resource_of(exchange, self.fields, forward)
        if body is not None:
            resource = resource_of_body(resource, body, map(self.fields.values, sorted(DESCRIBE_BODY)))
        self._resource = resource
        self._rule_key: bytes | None = None
        self.rule: SearchVariance | None = None
        self.variants: VariantsRecord | None = None
        self._record: StoredHead | None = None
        self._why: Forwarded | None = None  # why the first look-up has not found an answer
        self._forwarded_why = _URI_MISS  # of the request that is forwarded as it is
        self._has_waited = self._is_recalling = self._is_recalled_again = False
        self._variants_stamp: object | None = None  # of the list of variants
        self._watch: KeyWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._lease: SharedLease | None = None
        self._refused: RefusedLease | None = None
        self._request_date = 0.0
        self.dropped: frozenset[bytes] = _NO_NAMES
        self.exact = self.primary = self.key = primary_key(resource, self.query)
        self._recalled = _NO_NAMES  # those that slower tiers were asked for
        self._watched = b""

    def __repr__(self) -> str:
        return f"<CachedRequest {self.key.hex()}{' waiting' if self._watch else ''}>"

    @property
    def rule_key(self) -> bytes:
        """Key of the rule of `No-Vary-Search` that the path may have."""
        return self._find_rule_key()

    def _find_rule_key(self) -> bytes:
        if self._rule_key is None:
            # Without a query, each of the two keys is the complement of the other one.
            self._rule_key = swapped_key(self.exact) if self.query is None else search_key(self._resource)
        return self._rule_key

    @property
    def url(self) -> bytes:
        return purge_url(self.exchange, self.query)

    def answer(self) -> bool:
        """Answer from the store, or fetch. False: the request has to be forwarded as it is."""
        found = self._find()
        if found is None:
            return self._recall() or self._use(None, None)
        return self._use(found, self._record)

    def _use(self, found: StoredObject | None, record: StoredHead | None) -> bool:
        """Answer with what was found, or fetch; see `answer`."""
        if found is None or record is None:
            why = _URI_MISS if self.variants is None else Forwarded.VARY_MISS
            return self._fetch_or_wait(why, None, None)
        now = self.policy.clock()
        decision = decide_reuse(record, self.directives, now, soft_purged=found.is_soft_purged)
        if decision.use in _SENT and not (self.body is not None and decision.use is Reuse.STALE_WHILE_REVALIDATE):
            self._send(found, record, decision)
            return True
        why = Forwarded.REQUEST if decision.use is Reuse.VALIDATE_BY_REQUEST else Forwarded.STALE
        if found.is_complete:
            return self._fetch_or_wait(why, found, record)
        found.release()
        return self._fetch_or_wait(why, None, None)

    def _find(self) -> StoredObject | None:
        """Look the request up. Sets `key`, `variants`, and the record of what was found."""
        policy = self.policy
        store: SharedStore = policy.store
        self.key, self.primary, self.rule, self.variants = self.exact, self.exact, None, None
        found = store.find(self.exact) or self._find_equivalent()
        if found is None:
            return None
        record = decode_record(found.head)
        if isinstance(record, VariantsRecord):
            if policy.ready is not None:
                self._variants_stamp = store.stamp(found)
            found.release()
            self.variants = record
            self.key = variant_key(self.primary, record.vary, self.fields)
            found = store.find(self.key)
            if found is None:
                return None
            record = decode_record(found.head)
        if found.has_failed or not isinstance(record, StoredHead):
            found.release()
            return None
        if policy.storage_ttl is not None:
            kept_s = policy.clock() - record.stored_date
            if kept_s >= policy.storage_ttl and found.is_complete:
                found.release()
                store.remove(self.key)
                return None
        self._record = record
        return found

    def _find_equivalent(self) -> StoredObject | None:
        """Look up by the rule of `No-Vary-Search` that the path has. Sets `key`, `primary` and `rule`."""
        store: SharedStore = self.policy.store
        key = self._find_rule_key()
        listed = store.find(key)
        if listed is None:
            return None
        record = decode_record(listed.head)
        listed.release()
        if not isinstance(record, SearchRecord):
            return None
        self.rule = record.rule
        self.primary = self.key = equivalent_key(key, self.query, record.rule)
        found: StoredObject | None = store.find(self.primary)
        return found

    def _send(self, found: StoredObject, record: StoredHead, decision: Decision) -> None:
        exchange, policy = self.exchange, self.policy
        self._stop_waiting()
        if self._has_waited or not found.is_complete:
            exchange.cache_result = "collapsed"
            exchange.cache_status = forwarded_status(
                self._why or Forwarded.URI_MISS, ttl=decision.ttl, stored=True, collapsed=True
            )
        else:
            exchange.cache_result = "hit" if decision.use is Reuse.FRESH else "stale"
            if decision.use is Reuse.FRESH:
                self._keep_ready(found, record)
            exchange.cache_status = hit_status(decision.ttl)
        if decision.use is Reuse.STALE_WHILE_REVALIDATE and found.is_complete:
            self._validate_later(found)
        answer_from(exchange, policy, found, record, decision.age, self.forward.marks)

    def _keep_ready(self, found: StoredObject, record: StoredHead) -> None:
        """Keep a fresh response in the memory of the worker."""
        exchange, ready, forward, variants = self.exchange, self.policy.ready, self.forward, self.variants
        if ready is None or self.body is not None:
            return  # the look-up of ready answers has no body
        if not isinstance(forward, Forward) and len(forward.key_values(exchange)) != 1:
            return  # a value that this request does not have would select another response, too
        selection = None if variants is None else Selection(variants.vary, self._variants_stamp)
        ready.add(exchange, forward, found, record, selection)

    def _validate_later(self, sent: StoredObject) -> None:
        """Validate a stale response in the background, unless another request does. `sent`: it is sent meanwhile."""
        store = self.policy.store
        if self._validates_for_itself:
            return
        lease = store.lease(self.key)
        if isinstance(lease, Refusal):
            return
        found = sent.copy() if isinstance(sent, DiskObject) else store.find(self.key)
        record = None if found is None else decode_record(found.head)
        if found is None or not isinstance(record, StoredHead):
            lease.give_up()
            return
        Fetch(self, lease, None, Forwarded.STALE, found, record, has_client=False).send_request(self.exchange)

    def _fetch_or_wait(self, why: Forwarded, found: StoredObject | None, record: StoredHead | None) -> bool:
        exchange = self.exchange
        self._why = self._why or why
        if self.directives.only_if_cached:
            if found is not None:
                found.release()
            self._stop_waiting()
            exchange.cache_status = _ONLY_IF_CACHED
            exchange.fail(Fault.NOT_CACHED)
            return True
        if exchange.method == b"HEAD" or (found is not None and self._validates_for_itself):
            self._fetch(_IN_FLIGHT, why, found, record)
            return True
        store: SharedStore = self.policy.store
        lease = store.lease(self.key)
        if type(lease) is not Refusal and self._has_waited and self._recalled and not self._is_recalled_again:
            # What this request has waited for may be in a slower tier only.
            self._is_recalled_again, self._recalled = True, frozenset()
            if found is None and self._recall() and not isinstance(lease, Refusal):
                lease.give_up()
                return True
        if lease is _IN_FLIGHT and why is not Forwarded.REQUEST:
            if found is not None:
                found.release()
            return self._wait()
        if lease is _UNCACHEABLE and found is not None and record is not None and self._send_stale(found, record):
            return True
        self._fetch(lease, why, found, record)
        return True

    @property
    def _validates_for_itself(self) -> bool:
        """Whether its validation would concern this client alone, as that of another client with an identity or
        cookies a moment ago.
        """
        policy, exchange = self.policy, self.exchange
        is_known = is_authenticated(exchange)
        identity, cookies = find_identity(
            exchange.head,
            policy.storing_of(exchange.consumer, is_known),
            is_known,
            exchange.sends_client_authorization,
        )
        is_own = cookies or identity is not RequestIdentity.NONE
        return is_own and has_own_validations(policy.store, self.key)

    def _send_stale(self, found: StoredObject, record: StoredHead) -> bool:
        """Send a stale response because the last validation has failed a moment ago, if that is allowed: an upstream in
        trouble is not asked again at once, for each request.
        """
        now = self.policy.clock()
        if not may_send_stale(record, self.directives, now, Trouble.ERROR, soft_purged=found.is_soft_purged):
            return False
        exchange, age = self.exchange, find_age(record, now)
        self._stop_waiting()
        exchange.cache_result = "stale"
        ttl = find_ttl(record, age, soft_purged=found.is_soft_purged)
        exchange.cache_status = hit_status(ttl, detail=b"error")
        answer_from(exchange, self.policy, found, record, age, self.forward.marks)
        return True

    def _fetch(
        self, lease: SharedLease | Refusal, why: Forwarded, found: StoredObject | None, record: StoredHead | None
    ) -> None:
        self._stop_waiting()
        granted: SharedLease | None = None
        refused: RefusedLease | None = None
        if type(lease) is Refusal:
            refused = RefusedLease(lease, self.policy.store.present_moment())
        else:
            granted = cython.cast(object, lease)
        forward = self.forward
        if found is None and isinstance(forward, Forward) and self._is_sent_as_asked():
            self._lease, self._refused, self._forwarded_why = granted, refused, why
            self.dropped, self._request_date = dropped_for(self.policy, self.exchange), self.policy.clock()
            forward.send_for(self.exchange, self)
            return
        Fetch(self, granted, refused, why, found, record, has_client=True).send_request(self.exchange)

    def _is_sent_as_asked(self) -> bool:
        """Whether the request is forwarded as it is, and its client needs the whole response."""
        exchange, head = self.exchange, self.exchange.head
        return (
            exchange.chain.allows_fetch
            and not (self._has_waited or self._is_recalling)
            and exchange.method == b"GET"
            and head.ordinary
            and exchange.request_body is None
            and exchange.query_sent is UNCHANGED_QUERY
            and (self.policy.query_rule is None or self.query == head.query)
            and exchange.path == head.path
            and not _CONDITIONS.occur_in(head)
        )

    # calls while the request is forwarded as it is (`ResponseTaker`)

    def take_response(self, head: ResponseHead) -> bool:
        """Store a response that was received as a whole, or end the lease with a mark. What is decided is decided by
        the same functions as in `Fetch`, which goes on otherwise.
        """
        exchange, policy = self.exchange, self.policy
        if corrected_age(head) is not None:
            return False
        is_known = is_authenticated(exchange)
        judged = decide_storing(
            exchange.head,
            self.directives,
            head,
            policy.storing_of(exchange.consumer, is_known),
            Times(self._request_date, policy.clock()),
            is_known,
            exchange.sends_client_authorization,
        )
        detail: Detail = None
        ttl: Number = None
        if not isinstance(judged, StoredHead):
            detail = judged
        else:
            lease, payload = self._lease, payload_of(head)
            if lease is None or payload is None or self.variants is not None or self.rule is not None:
                return False
            if has_field(head, b"no-vary-search"):
                return False
            detail = self._store(lease, head, payload, judged)
            if detail is None:
                ttl = judged.lifetime - judged.initial_age
        if detail is not None and self._lease is not None:
            self._lease.give_up(MARK_S)
        route: Route | None = exchange.route
        policy.count_miss("" if route is None else route.name, detail)
        exchange.cache_result = "miss"  # the response step of the filter adds the status
        exchange.cache_status = forwarded_status(self._forwarded_why, None, detail is None, False, ttl, detail)
        return True

    def _store(self, lease: SharedLease, head: ResponseHead, payload: bytes, judged: StoredHead) -> NotStored | None:
        """Store a response; return why it was not. None: it was."""
        tags, url = self.policy.tags_of(head), purge_url(self.exchange, self.query)
        if len(tags) > MOST_TAGS:
            return NotStored.TAGS
        of_url = url_tag(url)
        tags.append(of_url)
        key = self.key
        if judged.vary:
            key = variant_key(self.key, judged.vary, self.fields)
            listed = encode_record(VariantsRecord(judged.vary, (key,)))
            if not lease.store_head(listed, key=self.key, url=url, tags=(of_url,)):
                return lease.why_not
        is_stored = lease.store_whole(encode_record(judged), payload, url, tags, key)
        return None if is_stored else lease.why_not

    def take_over(self, exchange: Exchange) -> Exchange:
        fetch = Fetch(self, self._lease, self._refused, self._forwarded_why, None, None, has_client=True)
        return fetch.adopt_request(exchange, self._request_date)

    # looking in slower tiers

    def _recall(self) -> bool:
        """Look in slower tiers for the keys that were not found, each once. False: there is nothing to wait for."""
        store = self.policy.store
        if store.tiers is None:
            return False
        keys = [key for key in self._missing() if key not in self._recalled]
        if not keys or not store.recall(keys, self._use_recalled):
            return False
        self._recalled = self._recalled.union(keys)
        self._is_recalling = True
        if self._timer is None:
            self.exchange.service = self
        return True

    def _missing(self) -> tuple[bytes, ...]:
        if self.variants is not None or self.rule is not None:
            return (self.key,)
        return self.exact, self._find_rule_key()

    def _use_recalled(self, found: StoredObject | None) -> None:
        """Go on with an object that only a slower tier has; None: look again in memory."""
        self._is_recalling = False
        exchange = self.exchange
        if exchange.service is not self:  # the client has disconnected
            if found is not None:
                found.release()
            return
        if self._timer is None:
            exchange.service = None
        record = None if found is None else decode_record(found.head)
        if found is not None and not isinstance(record, StoredHead):
            found.release()
            found = None
        if found is None:
            is_answered = self.answer()
        elif found.key == self.key:
            is_answered = self._use(found, record if isinstance(record, StoredHead) else None)
        else:
            found.release()
            is_answered = self.answer()
        if not is_answered:
            self.forward.begin(exchange)

    # waiting for another fetch

    def _wait(self) -> bool:
        """Wait until the fetch of another request has an answer for this one."""
        if self._watch is not None and self._watched == self.key:
            return True  # still waiting
        if self._watch is not None:
            self._watch.cancel()
        policy = self.policy
        self._watch, self._watched = policy.store.watch(self.key, self._look_again), self.key
        if self._timer is None:
            self._timer = policy.worker_loop.loop.call_later(policy.lock_timeout, self._waited_too_long)
            self.exchange.service = self
        self._has_waited = True
        return self.answer()  # what has happened before the watch began

    def _look_again(self) -> None:
        if self._timer is not None and not self._is_recalling:
            self.answer()

    def _waited_too_long(self) -> None:
        self._timer = None
        if self._is_recalling:
            self._stop_watching()
            return
        self._fetch(_IN_FLIGHT, self._why or Forwarded.URI_MISS, None, None)

    def _stop_waiting(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()
        self._stop_watching()
        if self.exchange.service is self:
            self.exchange.service = None

    def _stop_watching(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()

    # calls of the client's side (`ServiceSide`)

    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def feed_raw(self, chunk: bytes) -> None: ...
    def end_raw(self) -> None: ...

    def cancel(self) -> None:
        self._stop_waiting()
