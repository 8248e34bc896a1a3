"""Traffic split: selects one of several upstreams for a request by their shares, always the same one for the same
client.

The selection depends only on the route's name, the client and the shares, so all workers and nodes agree, and a restart
changes nothing. When the share of the last upstream grows, its clients stay with it.
"""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import accumulate
from random import random
from typing import Final, final

from fastgw.config.settings.gateway import Canary, Split
from fastgw.exchange.request_keys import cookies_named, received_reader
from fastgw.http.header_conditions import has_value
from fastgw.shm.node_limits import subscriber
from fastgw.upstream.load_balancing import BalancingRequest

_WHOLE: Final = 1 << 64


def share_ends(shares: Sequence[int]) -> tuple[float, ...]:
    """Return where each share ends in a range from 0 to 1. `shares`: some may be 0, but not all."""
    total = sum(shares)
    return tuple([end / total for end in accumulate(shares)])


@final
class Splitter:
    """Splitter of one route."""

    __slots__ = ("_by", "_canaries", "_drawn", "_ends", "_read", "_salt", "_shares", "_upstreams")

    def __init__(self, route: str, upstreams: Sequence[str], shares: Sequence[int], settings: Split) -> None:
        """`shares`: shares of these upstreams; some may be 0, but not all."""
        self._upstreams, self._shares, self._by = upstreams, shares, settings.by
        self._ends = share_ends(shares)
        self._salt = route.encode() + b"\0"
        self._canaries = [(_condition(each), upstreams.index(each.upstream)) for each in settings.canaries]
        self._drawn = settings.by.kind == "request"
        self._read = received_reader(settings.by) if settings.by.kind in ("header", "cookie") else None

    def __call__(self, asked: BalancingRequest) -> int:
        """Return the position of the selected upstream."""
        for meets, variant in self._canaries:
            if meets(asked):
                return variant
        return bisect_right(self._ends, random() if self._drawn else self._fraction(asked))

    def describe_split(self, asked: BalancingRequest) -> str:
        """Describe which upstream takes the request, and why, for people."""
        for index, (meets, variant) in enumerate(self._canaries):
            if meets(asked):
                return f"{self._upstreams[variant]}, because it matches split.canaries[{index}]"
        if self._drawn:
            return f"{self._upstreams[self(asked)]}, chosen at random for this request"
        variant = self(asked)
        by = self._by if self._read is not None and self._read(asked) else "ip"
        return f"{self._upstreams[variant]}, by {by}; its share is {self._shares[variant]} of {sum(self._shares)}"

    def _fraction(self, asked: BalancingRequest) -> float:
        """Return the position of the client, from 0 to below 1."""
        value = b"" if self._read is None else self._read(asked)
        who = b"=" + value if value else subscriber(asked.client_ip)
        digest = blake2b(self._salt + who, digest_size=8).digest()
        return (int.from_bytes(digest) >> 11) / (_WHOLE >> 11)


def _condition(canary: Canary) -> Callable[[BalancingRequest], bool]:
    fields = [(name.lower().encode(), value.encode()) for name, value in canary.headers.items()]
    cookies = [(name.encode(), value.encode()) for name, value in canary.cookies.items()]

    def meets(asked: BalancingRequest) -> bool:
        head = asked.head
        if not all(has_value(name, value, head.values(name)) for name, value in fields):
            return False
        return all(value in cookies_named(head, name) for name, value in cookies)

    return meets
