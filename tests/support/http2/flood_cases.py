"""Flood cases: input that costs the sender less than the receiver (RFC 9113 section 10.5; CVEs since 2019)."""

from __future__ import annotations

import contextlib
from typing import Final

from tests.support.http2.case import FLOODED, Case, Right, connection_error, unique
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import (
    Code,
    Flag,
    Setting,
    Type,
    block,
    continuation,
    data,
    frame,
    get,
    goaway,
    headers,
    literal,
    ping,
    post,
    priority,
    pseudo,
    reset,
    settings,
    window_update,
)

GET: Final = block(*pseudo())
POST: Final = block(*pseudo(b"POST"))
MANY: Final = 5000
STREAMS: Final = range(1, 2 * MANY, 2)
DRIBBLED: Final = range(1, 200, 2)
CUT: Final = FLOODED | connection_error(
    Code.PROTOCOL_ERROR, Code.STREAM_CLOSED, Code.FLOW_CONTROL_ERROR, Code.FRAME_SIZE_ERROR
)
"""The connection ends, by any limit."""


def times(sent: bytes, count: int = MANY) -> bytes:
    return sent * count


def never_read(unit: bytes) -> object:
    """Send repeatedly without reading, until the other end stops reading or has closed."""

    def play(client: Http2Client) -> None:
        with contextlib.suppress(OSError):
            client.send_until_held_back(unit * 500)

    return play


EMPTY_CONTINUATIONS: Final = headers(GET, whole=False) + continuation(b"", whole=False) * MANY
FULL_CONTINUATIONS: Final = headers(GET, whole=False) + continuation(literal(b"x", b"a" * 16_000), whole=False) * 64
PADDED_CONTINUATIONS: Final = headers(GET, whole=False) + continuation(literal(b"x", b""), whole=False) * MANY

FLOODS: Final = [
    Case("pings", "CVE-2019-9512", times(ping()), FLOODED),
    Case("ping-acks", "CVE-2019-9512", times(ping(flags=Flag.ACK)), FLOODED),
    Case("settings", "CVE-2019-9515", times(settings()), FLOODED),
    Case("settings-with-entries", "CVE-2019-9515", times(settings((4, 65_535), (1, 4096))), FLOODED),
    Case("settings-acks", "CVE-2019-9515", times(frame(Type.SETTINGS, flags=Flag.ACK)), CUT),
    Case("priorities", "CVE-2019-9513", times(priority(1, 3)), FLOODED),
    Case("priorities-of-many-streams", "CVE-2019-9513", b"".join(priority(n, n - 1) for n in STREAMS[1:]), FLOODED),
    Case("priority-updates", "RFC 9218 7", times(frame(Type.PRIORITY_UPDATE, b"\0\0\0\x01u=1")), FLOODED),
    Case("window-updates", "RFC 9113 10.5", times(window_update(1)), FLOODED),
    Case("window-updates-of-a-stream", "RFC 9113 10.5", post() + times(window_update(1, 1)), FLOODED),
    Case(
        "windows-of-a-byte",
        "CVE-2019-9511",
        settings((Setting.INITIAL_WINDOW_SIZE, 0))
        + b"".join(get(stream=n) for n in DRIBBLED)
        + b"".join(window_update(1, n) for n in DRIBBLED) * (MANY // len(DRIBBLED)),
        FLOODED,
    ),
    Case("unknown-frames", "RFC 9113 10.5", times(frame(Type.UNKNOWN)), FLOODED),
    Case("unknown-frames-of-a-stream", "RFC 9113 10.5", post() + times(frame(Type.UNKNOWN, b"x", 0, 1)), FLOODED),
    Case("alt-svc", "RFC 9113 10.5", times(frame(Type.ALTSVC, b"\0\0x")), FLOODED),
    Case("goaways", "RFC 9113 10.5", times(goaway()), CUT),
    Case("empty-data-flood", "CVE-2019-9518", post() + times(data(b"", end=False)), FLOODED),
    Case("data-of-padding", "CVE-2019-9518", post() + times(data(b"", end=False, padding=1)), FLOODED),
    Case("data-padded-of-0-flood", "CVE-2019-9518", post() + times(data(b"", end=False, padding=0)), FLOODED),
    Case("empty-continuations", "CVE-2024-27316", EMPTY_CONTINUATIONS, FLOODED),
    Case("full-continuations", "CVE-2024-27316", FULL_CONTINUATIONS, FLOODED),
    Case("small-continuations", "CVE-2024-27316", PADDED_CONTINUATIONS, FLOODED),
    Case(
        "empty-headers-and-continuations",
        "CVE-2019-9518",
        headers(b"", whole=False) + continuation(b"", whole=False) * MANY,
        CUT,
    ),
    Case("empty-names", "CVE-2019-9516", b"".join(headers(GET + literal(b"", b"") * 9, n) for n in STREAMS), CUT),
    Case("rapid-resets", "CVE-2023-44487", b"".join(get(stream=n) + reset(n) for n in STREAMS), FLOODED),
    Case("rapid-resets-of-bodies", "CVE-2023-44487", b"".join(post(stream=n) + reset(n) for n in STREAMS), FLOODED),
    Case("resets-with-no-error", "CVE-2023-44487", b"".join(get(stream=n) + reset(n, 0) for n in STREAMS), FLOODED),
    Case("resets-of-a-closed-stream", "CVE-2019-9514", post() + times(reset(1)), CUT),
    Case(
        "made-to-reset-by-window", "CVE-2025-8671", b"".join(get(stream=n) + window_update(0, n) for n in STREAMS), CUT
    ),
    Case(
        "made-to-reset-by-overflow",
        "CVE-2025-8671",
        b"".join(post(stream=n) + window_update(2**31 - 1, n) for n in STREAMS),
        CUT,
    ),
    Case("made-to-reset-by-data", "CVE-2025-8671", b"".join(get(stream=n) + data(b"", n) for n in STREAMS), CUT),
    Case("made-to-reset-by-headers", "CVE-2025-8671", b"".join(get(stream=n) + get(stream=n) for n in STREAMS), CUT),
    Case(
        "made-to-reset-by-priority",
        "CVE-2025-8671",
        b"".join(get(stream=n) + frame(Type.PRIORITY, bytes(4), 0, n) for n in STREAMS),
        CUT,
    ),
    Case(
        "made-to-reset-by-malformed",
        "CVE-2019-9514",
        b"".join(headers(GET + literal(b"connection", b"close"), n) for n in STREAMS),
        CUT,
    ),
    Case(
        "made-to-reset-by-length",
        "CVE-2025-8671",
        b"".join(post((b"content-length", b"1"), stream=n) + data(b"ab", n) for n in STREAMS),
        CUT,
    ),
    Case(
        "made-to-reset-by-trailers",
        "CVE-2025-8671",
        b"".join(post(stream=n) + headers(block((b":path", b"/")), n) for n in STREAMS),
        CUT,
    ),
    Case("streams-above-the-limit", "RFC 9113 5.1.2", b"".join(post(stream=n) for n in STREAMS), CUT),
]

# Responses are not read: the server must not buffer all of them (CVE-2019-9517 too, with an open window).
UNREAD: Final = [
    Case("pings-unread", "CVE-2019-9512", never_read(ping()), FLOODED),  # type: ignore[arg-type]
    Case("settings-unread", "CVE-2019-9515", never_read(settings()), FLOODED),  # type: ignore[arg-type]
    Case("empty-data-unread", "CVE-2019-9518", never_read(data(b"", 1, end=False)), CUT),  # type: ignore[arg-type]
]

_BEYOND = Right(resets=frozenset({Code.REFUSED_STREAM, Code.PROTOCOL_ERROR}))
BOUNDS: Final = [
    Case(
        "stream-101", "RFC 9113 5.1.2", b"".join(post(stream=n) for n in range(1, 203, 2)), _BEYOND, 201, goes_on=False
    ),
]

FLOOD_CASES: Final = unique(FLOODS + UNREAD + BOUNDS)
