"""Source of a request's body that is read at a limited bandwidth: it pauses until what was received was allowed.

A piece passes as soon as it has been read; then the client is not read for as long as the piece takes at the bandwidth.
"""

import asyncio
from typing import final

from fastgw.exchange.body_relay import BodySource, Relay
from fastgw.filters.policies.traffic.byte_buckets import ByteBucket, combined
from fastgw.filters.policies.traffic.paced_client import SOON_S


@final
class PacedSource:
    """`source`: the client's connection or stream. `owner`: the first of the filters that limit it."""

    __slots__ = ("_bucket", "_due", "_is_paused", "_relay", "_timer", "owner", "source")

    def __init__(self, relay: Relay, bucket: ByteBucket, owner: object) -> None:
        self.source: BodySource = relay.source
        self._relay: Relay | None = relay
        self._bucket, self.owner = bucket, owner
        self._due = 0  # bytes that have passed and were not allowed yet
        self._is_paused = relay.paused
        self._timer: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"<PacedSource due={self._due} of {self.source!r}>"

    def add_bucket(self, bucket: ByteBucket) -> None:
        """Limit the body by another filter too."""
        self._bucket = combined(self._bucket, bucket)

    def pause(self) -> None:
        self._is_paused = True
        self.source.pause()

    def resume(self) -> None:
        self._is_paused = False
        if self._timer is None:
            self.source.resume()

    def received(self, count: int) -> None:
        """Count a piece of the body, and pause the source if it is not allowed yet."""
        self._due += count
        self._settle()

    def _settle(self) -> None:
        self._due -= self._bucket.take_bytes(self._due)
        relay = self._relay
        if self._due and self._timer is None and relay is not None and not relay.ended:
            if not self._is_paused:
                self.source.pause()
            wait = max(self._bucket.seconds_until(self._due), SOON_S)
            self._timer = asyncio.get_running_loop().call_later(wait, self._waited)

    def _waited(self) -> None:
        self._timer = None
        self._settle()
        if self._timer is None and not self._is_paused:
            self.source.resume()

    def forget(self) -> None:
        """The exchange has ended: the connection is read as usual."""
        self._relay = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            if not self._is_paused:
                self.source.resume()
