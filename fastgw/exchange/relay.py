"""A body on its way from one side to the other, with the brake that goes the other way."""

from typing import Final, Protocol, TypeAlias

Trailers: TypeAlias = tuple[tuple[bytes, bytes], ...]


class Sink(Protocol):
    def feed(self, payload: bytes) -> None: ...
    def end(self, trailers: Trailers) -> None: ...


class Source(Protocol):
    def pause(self) -> None: ...
    def resume(self) -> None: ...


MAX_KEPT: Final = 65536
"""Bytes of a request body kept so that it can be sent again, unless somebody says otherwise."""


class _NoSource:
    """Of a body that has ended nobody is asked for more."""

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

    def __init__(self, source: Source) -> None:
        self.source = source
        self.sink: Sink | None = None
        self.kept: list[bytes] | None = []  # all that was fed, until it is more than `most_kept`
        self.most_kept = MAX_KEPT
        self.bytes = 0  # of payload; counted by the source, before anybody sees them
        self.ended = False
        self.paused = False
        self.trailers: Trailers = ()

    @classmethod
    def whole(cls, payload: bytes) -> "Relay":
        """Of a body that is all there."""
        relay = cls(_NO_SOURCE)
        relay.bytes, relay.ended, relay.kept = len(payload), True, [payload]
        return relay

    def __repr__(self) -> str:
        flow = "ended" if self.ended else "paused" if self.paused else "open"
        return f"<Relay {flow} bytes={self.bytes} kept={None if self.kept is None else sum(map(len, self.kept))}>"

    def feed(self, payload: bytes) -> None:
        sink, kept = self.sink, self.kept
        if kept is not None:
            if sink is None or self.bytes <= self.most_kept:
                kept.append(payload)
            else:
                self.kept = None
        if sink is None:
            self.pause()
        else:
            sink.feed(payload)

    def last(self, payload: bytes) -> None:
        """As `feed`, for the last piece: there is nothing left to brake."""
        self.ended = True
        self.feed(payload)

    def end(self, trailers: Trailers = ()) -> None:
        self.ended, self.trailers = True, trailers
        if self.sink is not None:
            self.sink.end(trailers)

    def attach(self, sink: Sink) -> bytes:
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
