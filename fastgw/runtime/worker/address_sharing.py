"""Sharing of known addresses: a worker takes over those of the others, and sends those that it finds."""

import asyncio
from collections.abc import Callable
from typing import final

from fastgw.sync.feeds import Feeds
from fastgw.sync.known_addresses import FEED, SHARE_S, KnownAddresses


@final
class AddressSharing:
    """`known`: those of this process. `publish`: sends them to the supervisor and the other workers."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        known: KnownAddresses,
        feeds: Feeds,
        publish: Callable[[], None],
    ) -> None:
        self._loop, self._known, self._feed, self._publish = loop, known, feeds[FEED], publish
        self._changed = False
        self._timer: asyncio.TimerHandle | None = None  # since the last message

    def __repr__(self) -> str:
        return f"<AddressSharing {'unsent changes' if self._changed else 'all sent'}>"

    def start(self) -> None:
        self._known.merge(self._feed.value)
        self._feed.on_change(self._known.merge)
        self._known.on_change = self._share

    def stop(self) -> None:
        self._known.on_change = None
        self._feed.forget(self._known.merge)
        if self._timer is not None:
            self._timer.cancel()

    def _share(self) -> None:
        self._changed = True
        if self._timer is None:
            self._send_changes()

    def _send_changes(self) -> None:
        self._timer = None
        if self._changed:
            self._changed = False
            self._timer = self._loop.call_later(SHARE_S, self._send_changes)
            self._publish()
