"""JWKS: verification keys of tokens, from a file or from an identity provider, fetched once per node.

Rule 1: while a provider is unreachable or its response is invalid, its last keys stay valid. Rule 2: a key that it no
longer publishes is invalid, and so are tokens verified with it.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from hashlib import sha256
from time import monotonic
from typing import Final, TypeVar, final
from weakref import WeakMethod

import msgspec

from fastgw.config.base.value_types import Endpoint
from fastgw.config.settings.gateway import UpstreamTls
from fastgw.eventloop.single_flight import SingleFlight
from fastgw.filters.api import Feed, FeedSource, NodeSide, Services
from fastgw.filters.outbound.refresh_throttle import Allowance
from fastgw.jose import KeySet, UnknownKey, UnusableKey, read_set
from fastgw.operator_events import OperatorEvent, log_event
from fastgw.sync.feeds import mark_of
from fastgw.upstream.client.http_client import Fetched, FetchFailed
from fastgw.upstream.targets.tls import ClientTls, read_tls

T = TypeVar("T")

EVERY_S: Final = 600.0
"""Seconds between fetches if the response has no `max-age`."""
SOONEST_S: Final = 60.0
LATEST_S: Final = 3600.0
"""Maximum and minimum seconds between fetches with `max-age`: withdrawn keys are dropped by then."""
AWAY_S: Final = 10.0
"""Seconds until the next attempt after a failure."""
FETCH_S: Final = 5.0
TIMEOUT_S: Final = FETCH_S + 0.5
"""Seconds that a token with an unknown key waits for the provider."""
REST_S: Final = 1.0
"""Seconds after a response without new keys in which tokens cause no further fetch."""
MOST: Final = 512 * 1024
"""Maximum bytes of a key set."""

_MAX_AGE: Final = re.compile(rb'(?:^|[,\s])max-age="?([0-9]{1,9})"?(?:$|[,\s])', re.IGNORECASE)
_NO_TLS: Final = UpstreamTls()


class JwksSource(FeedSource, frozen=True, kw_only=True):
    """Key set of a provider."""

    url: Endpoint
    tls: UpstreamTls

    @classmethod
    def of(cls, url: Endpoint, tls: UpstreamTls) -> "JwksSource":
        """Return the source of a key set. `tls`: TLS settings; a set is fetched once only for equal TLS settings."""
        way = "" if tls == _NO_TLS else f" {sha256(msgspec.msgpack.encode(tls)).hexdigest()[:16]}"
        return cls(key=f"jwks {url.origin}{url.target.partition('?')[0]} {_digest(url)}{way}", url=url, tls=tls)

    async def run(self, node: NodeSide) -> None:
        tls = read_tls(self.tls, node.read)

        async def fetch() -> tuple[Fetched, float]:
            return await fetch_key_set(node, self.url, tls), LATEST_S

        await follow_key_set(node, self.key, self.name, fetch)

    @property
    def name(self) -> str:
        return f"{self.url.origin}{self.url.target.partition('?')[0]}"


async def fetch_key_set(node: NodeSide, url: Endpoint | str, tls: ClientTls) -> Fetched:
    """Fetch a key set that may replace the previous one. Raises `FetchFailed` and `UnusableKey`."""
    fetched = await node.fetcher.fetch(
        url, tls=tls, timeout=FETCH_S, most=MOST, fields=[(b"Accept", b"application/json")]
    )
    _check(fetched.status, fetched.body)
    return fetched


async def follow_key_set(
    node: NodeSide, key: str, name: str, fetch: Callable[[], Awaitable[tuple[Fetched, float]]]
) -> None:
    """Fetch and publish a key set, again and again, until cancelled. `key`, `name`: of the source.

    `fetch`: returns a usable key set, and the maximum seconds until the next fetch. Raises `FetchFailed` and
    `UnusableKey`.
    """
    title = f"keys of {name}"
    value, complaint, allowance = node.feeds[key].value, "", Allowance(monotonic())
    while True:
        wait, has_succeeded = AWAY_S, False
        try:
            fetched, longest = await fetch()
        except (FetchFailed, UnusableKey) as problem:
            if str(problem) != complaint:
                complaint = str(problem)
                log_event(OperatorEvent.FEED_FAILED, "%s: %s; %s", title, complaint, _KEPT if value else _NONE)
            node.attempted(complaint)
        else:
            if complaint:
                log_event(OperatorEvent.FEED_BACK, "%s: fetched again", title)
            if fetched.body != value:
                for each in read_set(fetched.body).passed_over:
                    log_event(OperatorEvent.KEY_PASSED_OVER, "%s: skipped: %s", title, each)
            node.attempted()
            complaint, value, has_succeeded = "", fetched.body, True
            wait = min(good_for(fetched.fields.get(b"cache-control")), longest)
        # An unchanged response may be older than a request made meanwhile: fetch again for it.
        if await node.asked(0) and has_succeeded and node.is_outdated(value):
            rest = allowance.take_token(monotonic())
            if not rest:
                continue
            wait = min(wait, rest)
        node.publish(value)
        await _until_due(node, value, wait, allowance)


async def _until_due(node: NodeSide, value: bytes, wait: float, allowance: Allowance) -> None:
    """Wait this many seconds, or until a worker with this value requests a newer one."""
    due = monotonic() + wait
    while (left := due - monotonic()) > 0 and await node.asked(left):
        if node.is_outdated(value):
            rest = allowance.take_token(monotonic())
            if not rest:
                return
            due = min(due, monotonic() + rest)
        node.publish(value)  # ends the wait of the workers


_KEPT: Final = "the keys fetched last are still used"
_NONE: Final = "no token can be verified until it answers"


def _digest(url: Endpoint) -> str:
    return sha256(str(url).encode()).hexdigest()[:16]  # the query may contain a secret


def _check(status: int, body: bytes) -> None:
    """Check whether this may replace the previous key set. Raises `UnusableKey`."""
    if status != 200:
        raise UnusableKey(f"it answers {status}")
    keys = read_set(body)
    if not keys:
        why = f": {keys.passed_over[0]}" if keys.passed_over else ""
        raise UnusableKey(f"its answer contains no usable key{why}")


def good_for(cache_control: bytes | None) -> float:
    """Return the seconds until the next fetch, by `Cache-Control` (RFC 9111 section 5.2)."""
    found = _MAX_AGE.search(cache_control or b"")
    return EVERY_S if found is None else min(max(float(found[1]), SOONEST_S), LATEST_S)


@final
class Keyring:
    """Verification keys of a worker from one source. `feed`: the key of a `JwksSource`; "": they never change."""

    def __init__(self, keys: KeySet, feed: str = "") -> None:
        self.keys = keys
        self.feed = feed
        self._fed: Feed | None = None
        self._users = 0
        self._questions: SingleFlight[bool] = SingleFlight()
        self._rest_until = 0.0
        self._listeners: list[WeakMethod[Callable[[], None]]] = []

    def __repr__(self) -> str:
        return f"<Keyring {self.feed or 'of a file'}: {self.keys!r}>"

    def on_change(self, tell: Callable[[], None]) -> None:
        """Call this method when the keys have changed, as long as its object lives."""
        self._listeners.append(WeakMethod(tell))

    def start(self, services: Services) -> None:
        """Start the feed in a worker, for each filter that shares it."""
        self._users += 1
        if self._users == 1 and self.feed:
            self._fed = services.feeds[self.feed]
            self._fed.on_change(self._take_keys)
            self._take_keys(self._fed.value)

    def stop(self) -> None:
        """Stop the feed, once for each `start`."""
        self._users -= 1
        if not self._users and self._fed is not None:
            self._fed.forget(self._take_keys)
            self._fed = None

    async def verify_with(self, by: Callable[[KeySet], T]) -> T:
        """Return the result of `by` for the keys; on `UnknownKey`, retry with the provider's current keys.

        Raises the exceptions of `by`. Waits for at most two responses, `TIMEOUT_S` in all.
        """
        keys, feed = self.keys, self._fed
        rests, late = monotonic() < self._rest_until, len(self._questions) > 0
        try:
            return by(keys)
        except UnknownKey as error:
            if feed is None or (rests and not late):
                raise
            unknown = error
        with suppress(TimeoutError):
            async with asyncio.timeout(TIMEOUT_S):
                was_fed = await self._renew(feed, keys)
                newer = self.keys
                if was_fed and not rests and (late or newer is not keys):
                    # The response to an earlier request may be too old.
                    try:
                        return by(newer)
                    except UnknownKey:
                        await self._renew(feed, newer)
        if self.keys is keys:
            raise unknown
        return by(self.keys)

    async def _renew(self, feed: Feed, seen: KeySet) -> bool:
        """Fetch newer keys than these; return whether there is a response. Concurrent callers share one request."""
        return await self._questions.join(self.feed, partial(self._ask_provider, feed, seen))

    async def _ask_provider(self, feed: Feed, seen: KeySet) -> bool:
        if self.keys is not seen:
            return True  # they have just arrived
        feed.ask(mark_of(feed.value))
        was_fed = await feed.changed(TIMEOUT_S)
        if self.keys is seen:
            self._rest_until = monotonic() + REST_S
        return was_fed

    def _take_keys(self, value: bytes) -> None:
        if value:
            self.keys = read_set(value)
            living = [(each, tell) for each in self._listeners if (tell := each()) is not None]
            self._listeners = [each for each, _ in living]
            for _, tell in living:
                tell()
