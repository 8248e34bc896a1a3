"""Addresses of host names that lookups of this node have found: a name keeps them while DNS is unavailable, also for
targets that a reload creates, and in workers that are started later.

Each process has a copy. A worker that finds other addresses sends its copy to the supervisor and to all workers,
including later ones, as a feed. So they survive the death of any process, reloads and upgrades, but not a restart.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, final

import msgspec

FEED: Final = "known addresses"
"""Key of this feed. No other source has it: keys of filters' feeds begin with a URL."""
MOST_NAMES: Final = 1024
"""Maximum number of names; above it those looked up least recently are forgotten."""
MOST_ADDRESSES: Final = 8
"""Maximum number of addresses of a name that are kept: all names together fit into the value of a feed."""
SHARE_S: Final = 5.0
"""Seconds between two messages of a process: names with many addresses have others at every lookup."""

HostAddress = tuple[int, str, int, int]
"""Address of a host without a port: family, text, and for IPv6 its flow label and scope."""


class _Known(msgspec.Struct, frozen=True, array_like=True):
    addresses: tuple[HostAddress, ...]
    found_at: float
    """Monotonic seconds, one clock for all processes."""


_decoder: Final = msgspec.msgpack.Decoder(dict[str, _Known])


@final
class KnownAddresses:
    """Addresses by host name, as found last."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, _Known] = OrderedDict()
        self.on_change: Callable[[], None] | None = None
        """Called when a lookup has found other addresses than those known."""

    def __repr__(self) -> str:
        return f"<KnownAddresses of {len(self._names)} names>"

    def of_host(self, host: str) -> tuple[Sequence[HostAddress], float]:
        """Return the addresses found last, and when (monotonic seconds); none if the host is unknown."""
        known = self._names.get(host)
        return ((), -inf) if known is None else (known.addresses, known.found_at)

    def add(self, host: str, addresses: Sequence[HostAddress], now: float) -> None:
        """Store the result of a lookup. `now`: monotonic seconds."""
        before = self._names.get(host)
        self._store(host, _Known(tuple(addresses[:MOST_ADDRESSES]), now))
        if self.on_change is not None and (before is None or set(before.addresses) != set(addresses[:MOST_ADDRESSES])):
            self.on_change()

    def merge(self, value: bytes) -> None:
        """Take over what another process knows, unless a lookup here is newer. b"": nothing was sent yet."""
        for host, known in (_decoder.decode(value) if value else {}).items():
            before = self._names.get(host)
            if before is None or before.found_at < known.found_at:
                self._store(host, known)

    def written(self) -> bytes:
        """Encode the names for other processes."""
        return msgspec.msgpack.encode(dict(self._names))

    def _store(self, host: str, known: _Known) -> None:
        self._names[host] = known
        self._names.move_to_end(host)
        if len(self._names) > MOST_NAMES:
            self._names.popitem(last=False)
