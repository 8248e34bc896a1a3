"""A body on its way from one side to the other, with the brake that goes the other way."""

from typing import Final, Protocol, TypeAlias, cast, final

from fastgw.shm.retry_buffer_budget import KeptRoom

Trailers: TypeAlias = tuple[tuple[bytes, bytes], ...]


class BodySink(Protocol):
    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...


class BodySource(Protocol):
    def pause(self) -> None: ...
    def resume(self) -> None: ...


MAX_KEPT: Final = 65536
"""Bytes of a request body kept so that it can be sent again, unless somebody says otherwise."""


SMALL: Final = 1024
"""Pieces below this many bytes are kept together: each by itself would take some fifty bytes more."""
BLOCK: Final = 65536
"""The most bytes in one kept piece, as appending to a piece moves it."""


@final
class _Kept(list[bytes]):
    """Pieces of a body, which take up room as long as anybody holds them."""

    __slots__ = ("_bytes", "_room")

    def __init__(self, pieces: list[bytes], room: KeptRoom) -> None:
        super().__init__(pieces)
        self._room = room
        self._bytes = 0

    def __del__(self) -> None:
        self._room.give_back(self._bytes)

    def add(self, payload: bytes, total: int) -> bool:
        """`total`: with this piece. False: there is no room for it."""
        wanted = max(total - MAX_KEPT, 0) - self._bytes
        if wanted > 0:
            if not self._room.take(wanted):
                return False
            self._bytes += wanted
        block: bytes | bytearray = self[-1] if self else b""
        if len(payload) >= SMALL:
            self.append(payload)
        elif isinstance(block, bytearray) and len(block) < BLOCK:
            block += payload
        else:
            self.append(cast(bytes, bytearray(payload)))
        return True


class _NoSource:
    """Resume the source, unless the body has ended."""

    def pause(self) -> None:
        raise NotImplementedError

    def resume(self) -> None:
        raise NotImplementedError


_NO_SOURCE: Final = _NoSource()


class Relay:
    """One direction of one body. Payload goes in by `feed` and comes out at the sink; the brake goes the other way.

    While there is no sink (no connection yet), the source is paused after each piece: what is held is at most one read.
    `most_kept`: how many bytes are kept; one more, and the request is never sent again.
    """

    __slots__ = ("bytes", "ended", "kept", "most_kept", "paused", "sink", "source", "trailers")

    def __init__(self, source: BodySource) -> None:
        self.source = source
        self.sink: BodySink | None = None
        self.kept: list[bytes] | None = []  # all that was fed, until it is more than `most_kept`
        self.most_kept = MAX_KEPT
        self.bytes = 0  # of payload; counted by the source, before anybody sees them
        self.ended = False
        self.paused = False
        self.trailers: Trailers = ()

    @classmethod
    def whole(cls, payload: bytes) -> "Relay":
        """Make a relay for a body that is there as a whole."""
        relay = cls(_NO_SOURCE)
        relay.bytes, relay.ended, relay.kept = len(payload), True, [payload]
        return relay

    def __repr__(self) -> str:
        flow = "ended" if self.ended else "paused" if self.paused else "open"
        return f"<Relay {flow} bytes={self.bytes} kept={None if self.kept is None else sum(map(len, self.kept))}>"

    def keep(self, most: int, room: KeptRoom) -> None:
        """Keep so many bytes at most; what is beyond `MAX_KEPT` takes up room there."""
        self.most_kept = most
        if most > MAX_KEPT and not self.ended and self.kept is not None and type(self.kept) is list:
            self.kept = _Kept(self.kept, room)

    def feed(self, payload: bytes) -> None:
        sink, kept = self.sink, self.kept
        if kept is not None:
            if sink is not None and self.bytes > self.most_kept:
                self.kept = None
            elif type(kept) is list:
                kept.append(payload)
            elif not cast(_Kept, kept).add(payload, self.bytes):
                if sink is None:  # it is at most one read more, and who comes next needs it
                    kept.append(payload)
                else:
                    self.kept = None
        if sink is None:
            self.pause()
        else:
            sink.feed(payload)

    def last(self, payload: bytes) -> None:
        """Take the last piece, as `feed` takes others: there is nothing left to brake."""
        self.ended = True
        self.feed(payload)

    def end(self, trailers: Trailers = ()) -> None:
        self.ended, self.trailers = True, trailers
        if self.sink is not None:
            self.sink.end(trailers)

    def attach(self, sink: BodySink) -> bytes:
        """Return all that was fed so far, in one piece; later pieces go to `sink.feed`."""
        assert self.kept is not None
        held = b"".join(self.kept)
        if self.bytes > self.most_kept:
            self.kept = None
        self.sink = sink
        self.resume()
        return held

    def detach(self) -> None:
        """The sink is gone. If another may come (`kept` is not None), what arrives meanwhile is held."""
        self.sink = None
        if not self.ended:
            self.pause()

    def pause(self) -> None:
        if not self.paused and not self.ended:
            self.paused = True
            self.source.pause()

    def resume(self) -> None:
        if self.paused:
            self.paused = False
            self.source.resume()
