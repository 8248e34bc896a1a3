"""Feeds: values that are fetched once per node and reach every worker, such as the keys of an identity provider.

Control fetches, the supervisor keeps the last value for workers to come, and here a worker has it.
"""

import asyncio
from collections.abc import Callable, Container, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Final

MOST_BYTES: Final = 1024 * 1024
"""The most of one value."""
Asking = Callable[[str, bytes], None]
"""Tells the source of a key that this, by its mark, is out of date; b"": that whatever it has said may be."""


def mark_of(value: bytes) -> bytes:
    """Return the short name of a value where it is asked about: so many who ask about the same one cause one answer."""
    return sha256(value).digest()[:16]


class Feed:
    """One value that changes now and then. `ask`: reaches its source."""

    __slots__ = ("_ask", "_listeners", "_next", "key", "value")

    def __init__(self, key: str, value: bytes, ask: Asking) -> None:
        self.key = key
        self.value = value
        """b"" as long as there has been none."""
        self._ask = ask
        self._listeners: list[Callable[[bytes], None]] = []
        self._next: asyncio.Future[None] | None = None

    def on_change(self, tell: Callable[[bytes], None]) -> None:
        """Call this with every new value, until `forget`."""
        self._listeners.append(tell)

    def forget(self, tell: Callable[[bytes], None]) -> None:
        """Call this no more."""
        with suppress(ValueError):
            self._listeners.remove(tell)

    def ask(self, seen: bytes = b"") -> None:
        """Ask for a newer value. How often the source then looks is its own affair.

        `seen`: the mark of the value that is out of date, so that one who has not heard of a newer one yet causes no
        other. An ask may be lost.
        """
        self._ask(self.key, seen)

    @property
    def is_unheard(self) -> bool:
        """Whether the feed has no listener and no waiter."""
        return not self._listeners and self._next is None

    async def changed(self, timeout: float) -> bool:
        """Wait for the source to speak, at most so many seconds; whether it has."""
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(timeout):
                await asyncio.shield(self._next)
        except TimeoutError:
            return False
        return True

    def deliver(self, value: bytes) -> None:
        """The source has spoken. The same again, or nothing, tells those who wait that there is nothing newer.

        A source that has just begun anew, while what it asks is away, takes nothing from us.
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
    """All that one process knows of. `ask`: reaches the source of a key. `lasting`: also what nobody listens to."""

    def __init__(self, values: Mapping[str, bytes], ask: Asking, *, lasting: bool = False) -> None:
        self._ask = ask
        self._lasting = lasting
        self._feeds = {key: Feed(key, value, ask) for key, value in values.items()}

    def __getitem__(self, key: str) -> Feed:
        """The feed of this key, which may have no value yet."""
        feed = self._feeds.get(key)
        if feed is None:
            feed = self._feeds[key] = Feed(key, b"", self._ask)
        return feed

    def deliver(self, key: str, value: bytes) -> None:
        """A source has spoken."""
        self[key].deliver(value)

    def drop(self, key: str) -> None:
        """Forget a feed whose last listener has gone, unless it is lasting."""
        feed = self._feeds.get(key)
        if feed is not None and feed.is_unheard and not self._lasting:
            del self._feeds[key]

    def retain_keys(self, keys: Container[str]) -> None:
        """Know nothing any more of all others to which nobody listens."""
        for key in [key for key, feed in self._feeds.items() if key not in keys and feed.is_unheard]:
            del self._feeds[key]
