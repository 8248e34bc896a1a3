"""Feeds: values that are fetched once per node and sent to every worker, such as the keys of an identity provider.

Control fetches the value, the supervisor stores it for later workers, and each worker has a copy here.
"""

import asyncio
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Final

MOST_BYTES: Final = 1024 * 1024
"""Maximum size of a value in bytes."""
Asking = Callable[[str, bytes], None]
"""Function that reports to the source of a key that the value with this mark is out of date; b"": any value may be."""


def mark_of(value: bytes) -> bytes:
    """Return a short digest of a value for requests: many requests about the same value cause one fetch."""
    return sha256(value).digest()[:16]


class Feed:
    """A value that changes occasionally. `ask`: sends a request to its source."""

    __slots__ = ("_ask", "_listeners", "_next", "key", "value")

    def __init__(self, key: str, value: bytes, ask: Asking) -> None:
        self.key = key
        self.value = value
        """b"" until the first value."""
        self._ask = ask
        self._listeners: list[Callable[[bytes], None]] = []
        self._next: asyncio.Future[None] | None = None

    def on_change(self, tell: Callable[[bytes], None]) -> None:
        """Call this with every new value, until `forget`."""
        self._listeners.append(tell)

    def forget(self, tell: Callable[[bytes], None]) -> None:
        """Stop calling this."""
        with suppress(ValueError):
            self._listeners.remove(tell)

    def ask(self, seen: bytes = b"") -> None:
        """Ask for a newer value. The source decides how often it fetches.

        `seen`: mark of the outdated value, so that a request about an older value causes no fetch. Requests may be
        lost.
        """
        self._ask(self.key, seen)

    @property
    def is_unheard(self) -> bool:
        """Whether the feed has neither listener nor waiter."""
        return not self._listeners and self._next is None

    async def changed(self, timeout: float) -> bool:
        """Wait for the next value, at most this many seconds; return whether it came."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._next)
        except TimeoutError:
            return False
        return True

    def deliver(self, value: bytes) -> None:
        """Store a value from the source. The same value again, or b"", tells waiters that there is nothing newer.

        b"" does not replace a value: it comes from a source that was restarted and cannot fetch yet.
        """
        fresh = bool(value) and value != self.value
        waited, self._next = self._next, None
        if fresh:
            self.value = value
            for tell in tuple(self._listeners):
                tell(value)
        if waited is not None and not waited.done():
            waited.set_result(None)


class Feeds:
    """Feeds of a process. `ask`: sends a request to the source of a key. `lasting`: keep feeds without listeners."""

    def __init__(self, values: Mapping[str, bytes], ask: Asking, *, lasting: bool = False) -> None:
        self._ask = ask
        self._lasting = lasting
        self._feeds = {key: Feed(key, value, ask) for key, value in values.items()}

    def __getitem__(self, key: str) -> Feed:
        """Return the feed of this key, which may have no value yet."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(key, b"", self._ask)
        return feed

    def deliver(self, key: str, value: bytes) -> None:
        """Deliver a value from the source."""
        self[key].deliver(value)

    def drop(self, key: str) -> None:
        """Remove a feed without listeners, unless it is lasting."""
        feed = self._feeds.get(key)
        if feed is not None and feed.is_unheard and not self._lasting:
            del self._feeds[key]

    def retain_keys(self, keys: Container[str]) -> None:
        """Remove all other feeds that have no listeners."""
        for key in [key for key, feed in self._feeds.items() if key not in keys and feed.is_unheard]:
            del self._feeds[key]
