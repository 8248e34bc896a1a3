"""The keys that tokens are verified with: out of a file, or from an identity provider, fetched once per node.

Rule 1: a provider that is away, or says nonsense, takes no key from us: what it said last counts.
Rule 2: a key that it does not name any more counts no more, nor what was verified with it.
"""

import asyncio
import re
from collections.abc import Callable
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
from fastgw.operator_events import OperatorEvent, say
from fastgw.sync.feeds import mark_of
from fastgw.upstream.client.http_client import FetchFailed
from fastgw.upstream.targets.tls import read_tls

T = TypeVar("T")

EVERY_S: Final = 600.0
"""How often the provider is asked when it does not say how long its keys are good for."""
SOONEST_S: Final = 60.0
LATEST_S: Final = 3600.0
"""The same where it says so (`max-age`), at the most and at the least: what it has withdrawn is forgotten by then."""
AWAY_S: Final = 10.0
"""How soon it is asked again when it was away."""
FETCH_S: Final = 5.0
TIMEOUT_S: Final = FETCH_S + 0.5
"""How long a token with an unknown key waits for what the provider says."""
REST_S: Final = 1.0
"""Seconds after an answer with nothing new in it in which no token has the provider asked again."""
MOST: Final = 512 * 1024
"""Bytes of a key set."""

_MAX_AGE: Final = re.compile(rb'(?:^|[,\s])max-age="?([0-9]{1,9})"?(?:$|[,\s])', re.IGNORECASE)
_NO_TLS: Final = UpstreamTls()


class JwksSource(FeedSource, frozen=True, kw_only=True):
    """A provider's key set."""

    url: Endpoint
    tls: UpstreamTls

    @classmethod
    def of(cls, url: Endpoint, tls: UpstreamTls) -> "JwksSource":
        """`tls`: how it is spoken to; the same set is fetched once only if it is fetched in the same way."""
        way = "" if tls == _NO_TLS else f" {sha256(msgspec.msgpack.encode(tls)).hexdigest()[:16]}"
        return cls(key=f"jwks {url.origin}{url.target.partition('?')[0]} {_digest(url)}{way}", url=url, tls=tls)

    async def run(self, node: NodeSide) -> None:
        tls = read_tls(self.tls, node.read)
        value, complaint, allowance = node.feeds[self.key].value, "", Allowance(monotonic())
        while True:
            wait, has_succeeded = AWAY_S, False
            try:
                fetched = await node.fetcher.fetch(
                    self.url, tls=tls, timeout=FETCH_S, most=MOST, fields=[(b"Accept", b"application/json")]
                )
                _check(fetched.status, fetched.body)
            except (FetchFailed, UnusableKey) as problem:
                if str(problem) != complaint:
                    complaint = str(problem)
                    say(OperatorEvent.FEED_FAILED, "%s: %s; %s", self._title, complaint, _KEPT if value else _NONE)
                node.attempted(complaint)
            else:
                if complaint:
                    say(OperatorEvent.FEED_BACK, "%s: fetched again", self._title)
                if fetched.body != value:
                    self._tell(read_set(fetched.body))
                node.attempted()
                complaint, value, has_succeeded = "", fetched.body, True
                wait = good_for(fetched.fields.get(b"cache-control"))
            # To one who has asked meanwhile the answer may be older than his question, unless it is news to him.
            if await node.asked(0) and has_succeeded and node.is_outdated(value):
                rest = allowance.take_token(monotonic())
                if not rest:
                    continue
                wait = min(wait, rest)
            node.publish(value)
            await _until_due(node, value, wait, allowance)

    @property
    def name(self) -> str:
        return f"{self.url.origin}{self.url.target.partition('?')[0]}"

    @property
    def _title(self) -> str:
        return f"keys of {self.name}"

    def _tell(self, keys: KeySet) -> None:
        for each in keys.passed_over:
            say(OperatorEvent.KEY_PASSED_OVER, "%s: skipped: %s", self._title, each)


async def _until_due(node: NodeSide, value: bytes, wait: float, allowance: Allowance) -> None:
    """Wait until so many seconds are over, or somebody knows this value and asks for a newer one."""
    due = monotonic() + wait
    while (left := due - monotonic()) > 0 and await node.asked(left):
        if node.is_outdated(value):
            rest = allowance.take_token(monotonic())
            if not rest:
                return
            due = min(due, monotonic() + rest)
        node.publish(value)  # there is nothing newer for those who wait


_KEPT: Final = "the keys fetched last are still used"
_NONE: Final = "no token can be verified until it answers"


def _digest(url: Endpoint) -> str:
    return sha256(str(url).encode()).hexdigest()[:16]  # its query may hold a secret


def _check(status: int, body: bytes) -> None:
    """Whether this may replace what the provider said before. Raises `UnusableKey`."""
    if status != 200:
        raise UnusableKey(f"it answers {status}")
    keys = read_set(body)
    if not keys:
        why = f": {keys.passed_over[0]}" if keys.passed_over else ""
        raise UnusableKey(f"its answer contains no usable key{why}")


def good_for(cache_control: bytes | None) -> float:
    """Seconds until the next look, by the answer's `Cache-Control` (RFC 9111 section 5.2)."""
    found = _MAX_AGE.search(cache_control or b"")
    return EVERY_S if found is None else min(max(float(found[1]), SOONEST_S), LATEST_S)


@final
class Keyring:
    """The keys of a worker that come from one place. `feed`: the key of a `JwksSource`; "": they never change."""

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
        """Call this method whenever there are other keys, as long as its object lives."""
        self._listeners.append(WeakMethod(tell))

    def start(self, services: Services) -> None:
        """Start the feed in a worker, for each filter that shares it."""
        self._users += 1
        if self._users == 1 and self.feed:
            self._fed = services.feeds[self.feed]
            self._fed.on_change(self._take_keys)
            self._take_keys(self._fed.value)

    def stop(self) -> None:
        """Once for each `start`."""
        self._users -= 1
        if not self._users and self._fed is not None:
            self._fed.forget(self._take_keys)
            self._fed = None

    async def verify_with(self, by: Callable[[KeySet], T]) -> T:
        """Return the result of `by` for the keys; while it raises `UnknownKey`, for those that the provider gives then.

        Raises what it raises. Two answers are waited for at most, `TIMEOUT_S` in all.
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
                    # Somebody else has asked for that: it may be older than what we would know.
                    try:
                        return by(newer)
                    except UnknownKey:
                        await self._renew(feed, newer)
        if self.keys is keys:
            raise unknown
        return by(self.keys)

    async def _renew(self, feed: Feed, seen: KeySet) -> bool:
        """Ask for newer keys than these; whether there is an answer. One question serves all who wait."""
        return await self._questions.join(self.feed, partial(self._ask_provider, feed, seen))

    async def _ask_provider(self, feed: Feed, seen: KeySet) -> bool:
        if self.keys is not seen:
            return True  # they have come just now
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
