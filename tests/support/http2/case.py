"""A hostile case: frames, and the valid responses. Tables of cases run against any server."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from tests.support.http2 import frames
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import Code
from tests.support.peer import Unexpected


@dataclass(frozen=True)
class Right:
    """Valid responses. `resets` and `goaways`: error codes; `served`: status 200; `ignored`: none."""

    resets: frozenset[int] = frozenset()
    goaways: frozenset[int] = frozenset()
    refusals: frozenset[int] = frozenset()
    served: bool = False
    ignored: bool = False

    def __or__(self, other: Right) -> Right:
        return Right(
            self.resets | other.resets,
            self.goaways | other.goaways,
            self.refusals | other.refusals,
            self.served or other.served,
            self.ignored or other.ignored,
        )

    def __str__(self) -> str:
        told = [f"GOAWAY {Code(code).name}" for code in sorted(self.goaways)]
        told += [f"RST_STREAM {Code(code).name}" for code in sorted(self.resets)]
        told += [str(status) for status in sorted(self.refusals)]
        return " or ".join(told + ["served"] * self.served + ["ignored"] * self.ignored)


def connection_error(*codes: int) -> Right:
    return Right(goaways=frozenset(codes))


def stream_error(*codes: int) -> Right:
    """Return a stream error, for which a connection error with the same code is also valid (RFC 9113 section 5.4.1)."""
    return Right(resets=frozenset(codes), goaways=frozenset(codes))


def refused(*statuses: int) -> Right:
    return Right(refusals=frozenset(statuses))


SERVED: Final = Right(served=True)
IGNORED: Final = Right(ignored=True)
MALFORMED: Final = stream_error(Code.PROTOCOL_ERROR) | refused(400)
"""Valid responses to a malformed message (RFC 9113 section 8.1.1)."""
PROTOCOL: Final = connection_error(Code.PROTOCOL_ERROR)
FRAME_SIZE: Final = connection_error(Code.FRAME_SIZE_ERROR)
COMPRESSION: Final = connection_error(Code.COMPRESSION_ERROR)
FLOODED: Final = connection_error(Code.ENHANCE_YOUR_CALM)


@dataclass(frozen=True)
class Case:
    """`sent`: frames after preface and SETTINGS, or a function that sends them. `stream`: stream with the expected
    response.

    `preface`: replaces both. `seen`: the HTTP/1.1 upstream request of a served case: request line, body, and required
    lines. `goes_on`: other streams still work after a stream error.
    """

    name: str
    section: str
    sent: bytes | Callable[[Http2Client], None]
    right: Right
    stream: int = 1
    preface: bytes = frames.BEGINNING
    seen: tuple[bytes, bytes, dict[bytes, bytes]] | None = None
    goes_on: bool = True

    def run(self, client: Http2Client) -> None:
        """Run the case. Raises an error if the response is not valid."""
        client.send_gently(self.preface)
        if callable(self.sent):
            self.sent(client)
        else:
            client.send_gently(self.sent)
        if self.right.ignored:
            client.send_gently(frames.ping(b"the last"))
            while b"the last" not in client.pongs and client.read_frame():
                pass
        elif self.right.goaways and not (self.right.resets or self.right.refusals or self.right.served):
            client.read_all()
        else:
            client.wait_for_end(self.stream)
        self.judge(client)

    def judge(self, client: Http2Client) -> None:
        answer = client.answer(self.stream)
        right = self.right
        if client.goaways and client.goaways[-1][1] != Code.NO_ERROR:
            ok = client.goaways[-1][1] in right.goaways
        elif answer.reset is not None and not answer.ended:
            ok = answer.reset in right.resets
        elif answer.ended:
            ok = answer.status in right.refusals or (right.served and answer.status == 200)
        else:
            ok = right.ignored and not client.over
        if not ok:
            raise Unexpected(f"{self.name}: expected {right}; {client.told}")

    @property
    def is_served(self) -> bool:
        return self.right == SERVED


def unique(cases: Collection[Case]) -> list[Case]:
    """Return the cases, whose names must be unique."""
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), sorted(name for name in names if names.count(name) > 1)
    return list(cases)
