"""Cases of the connection: preface, frame sizes, padding, SETTINGS, windows, stream states, CONTINUATION."""

from __future__ import annotations

import struct
from typing import Final

from tests.support.http2.case import (
    FLOODED,
    FRAME_SIZE,
    IGNORED,
    PROTOCOL,
    SERVED,
    Case,
    connection_error,
    stream_error,
    unique,
)
from tests.support.http2.client import Http2Client
from tests.support.http2.frames import (
    MAX_FRAME,
    MAX_WINDOW,
    PREFACE,
    SETTINGS_ACK,
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
    indexed,
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
CLIENT_HELLO: Final = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)
FLOW: Final = connection_error(Code.FLOW_CONTROL_ERROR)
SIZE_OF_STREAM: Final = stream_error(Code.FRAME_SIZE_ERROR)
CLOSED_STREAM: Final = stream_error(Code.STREAM_CLOSED)
SIZE_OR_PROTOCOL: Final = connection_error(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR)
WIDE: Final = (Setting.INITIAL_WINDOW_SIZE, MAX_WINDOW)


def answered_and_reset(client: Http2Client) -> None:
    client.send(get())
    client.wait_for(1)
    client.send(reset(1) + window_update(1, 1) + priority(1) + get(stream=3))


def padded_for_long(client: Http2Client) -> None:
    """Send 76,800 bytes, of which 300 are not padding: more than a window."""
    client.send(post())
    for number in range(300):
        client.send(data(b"x", end=False, padding=255))
        client.synchronize(b"%8d" % number)
    client.send(data(b""))


PREFACES: Final = [
    Case("preface-first-byte", "9113 3.4", b"", PROTOCOL, preface=b"X" + PREFACE[1:] + settings()),
    Case("preface-last-word", "9113 3.4", b"", PROTOCOL, preface=b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n" + settings()),
    Case("preface-last-byte", "9113 3.4", b"", PROTOCOL, preface=PREFACE[:-1] + b"x" + settings()),
    Case("preface-lower-case", "9113 3.4", b"", PROTOCOL, preface=PREFACE.lower() + settings()),
    Case("preface-lf-only", "9113 3.4", b"", PROTOCOL, preface=PREFACE.replace(b"\r", b"") + settings()),
    Case("preface-http1", "9113 3.4", b"", PROTOCOL, preface=b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n"),
    Case("preface-upgrade", "9113 3.1", b"", PROTOCOL, preface=b"GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n"),
    Case("preface-tls", "9113 3.4", b"", PROTOCOL, preface=CLIENT_HELLO),
    Case("preface-missing", "9113 3.4", get(), PROTOCOL, preface=settings()),
    Case("preface-twice", "9113 3.4", PREFACE, FRAME_SIZE),
    Case("first-frame-ping", "9113 3.4", ping() + get(), PROTOCOL, preface=PREFACE),
    Case("first-frame-headers", "9113 3.4", get(), PROTOCOL, preface=PREFACE),
    Case("first-frame-window-update", "9113 3.4", window_update(1) + get(), PROTOCOL, preface=PREFACE),
    Case("first-frame-priority", "9113 3.4", priority(3) + get(), PROTOCOL, preface=PREFACE),
    Case("first-frame-unknown", "9113 3.4", frame(Type.UNKNOWN, b"x") + get(), PROTOCOL, preface=PREFACE),
    Case("first-frame-goaway", "9113 3.4", goaway() + get(), PROTOCOL, preface=PREFACE),
    Case("first-frame-settings-ack", "9113 3.4", SETTINGS_ACK + get(), PROTOCOL, preface=PREFACE),
]

SIZES: Final = [
    Case("data-too-large", "9113 4.2", post() + data(bytes(MAX_FRAME + 1)), SIZE_OF_STREAM),
    Case("headers-too-large", "9113 4.2", headers(GET + bytes(MAX_FRAME)), FRAME_SIZE),
    Case("unknown-too-large", "9113 4.2", frame(Type.UNKNOWN, bytes(MAX_FRAME + 1)), FRAME_SIZE),
    Case(
        "continuation-too-large", "9113 4.2", headers(b"", whole=False) + continuation(bytes(MAX_FRAME + 1)), FRAME_SIZE
    ),
    Case("settings-too-large", "9113 4.2", frame(Type.SETTINGS, bytes(6 * 3000)), FRAME_SIZE),
    Case("goaway-too-large", "9113 4.2", goaway(text=bytes(MAX_FRAME)), FRAME_SIZE),
    Case("length-of-16-mib", "9113 4.2", frame(Type.DATA, length=0xFFFFFF, stream=1), FRAME_SIZE),
    Case("ping-of-7", "9113 6.7", ping(bytes(7)), FRAME_SIZE),
    Case("ping-of-9", "9113 6.7", ping(bytes(9)), FRAME_SIZE),
    Case("ping-of-0", "9113 6.7", ping(b""), FRAME_SIZE),
    Case("ping-ack-of-0", "9113 6.7", ping(b"", Flag.ACK), FRAME_SIZE),
    Case("settings-of-5", "9113 6.5", frame(Type.SETTINGS, bytes(5)), FRAME_SIZE),
    Case("settings-of-1", "9113 6.5", frame(Type.SETTINGS, bytes(1)), FRAME_SIZE),
    Case("settings-of-13", "9113 6.5", frame(Type.SETTINGS, bytes(13)), FRAME_SIZE),
    Case("settings-ack-of-6", "9113 6.5", frame(Type.SETTINGS, bytes(6), Flag.ACK), FRAME_SIZE),
    Case("window-update-of-3", "9113 6.9", frame(Type.WINDOW_UPDATE, bytes(3)), FRAME_SIZE),
    Case("window-update-of-5", "9113 6.9", frame(Type.WINDOW_UPDATE, bytes(5)), FRAME_SIZE),
    Case("window-update-of-0", "9113 6.9", frame(Type.WINDOW_UPDATE), FRAME_SIZE),
    Case("window-update-of-3-on-stream", "9113 6.9", post() + frame(Type.WINDOW_UPDATE, bytes(3), 0, 1), FRAME_SIZE),
    Case("rst-of-3", "9113 6.4", post() + frame(Type.RST_STREAM, bytes(3), 0, 1), FRAME_SIZE),
    Case("rst-of-5", "9113 6.4", post() + frame(Type.RST_STREAM, bytes(5), 0, 1), FRAME_SIZE),
    Case("priority-of-4", "9113 6.3", post() + frame(Type.PRIORITY, bytes(4), 0, 1), SIZE_OF_STREAM),
    Case("priority-of-6", "9113 6.3", post() + frame(Type.PRIORITY, bytes(6), 0, 1), SIZE_OF_STREAM),
    Case("goaway-of-7", "9113 6.8", frame(Type.GOAWAY, bytes(7)), FRAME_SIZE),
    Case("headers-priority-of-4", "9113 6.2", headers(bytes(4), flags=Flag.PRIORITY), SIZE_OR_PROTOCOL),
    Case("headers-padded-of-0", "9113 6.2", headers(b"", flags=Flag.PADDED), SIZE_OR_PROTOCOL),
    Case("data-padded-of-0", "9113 6.1", post() + frame(Type.DATA, b"", Flag.PADDED, 1), SIZE_OR_PROTOCOL),
]

PADDING: Final = [
    Case("data-all-padding-and-one", "9113 6.1", post() + frame(Type.DATA, b"\x05abcd", 9, 1), PROTOCOL),
    Case("data-padding-beyond", "9113 6.1", post() + frame(Type.DATA, b"\xffabcd", 9, 1), PROTOCOL),
    Case("headers-padding-beyond", "9113 6.2", headers(b"\xff" + GET, flags=Flag.PADDED), PROTOCOL),
    Case(
        "headers-padding-and-priority-beyond",
        "9113 6.2",
        headers(b"\x04" + bytes(7), flags=Flag.PADDED | Flag.PRIORITY),
        SIZE_OR_PROTOCOL,
    ),
]

SETTINGS: Final = [
    Case("settings-on-stream", "9113 6.5", frame(Type.SETTINGS, stream=1), PROTOCOL),
    Case("settings-ack-on-stream", "9113 6.5", frame(Type.SETTINGS, flags=Flag.ACK, stream=1), PROTOCOL),
    Case("settings-push-2", "9113 6.5.2", settings((Setting.ENABLE_PUSH, 2)), PROTOCOL),
    Case("settings-push-max", "9113 6.5.2", settings((Setting.ENABLE_PUSH, 2**32 - 1)), PROTOCOL),
    Case("settings-window-2-31", "9113 6.5.2", settings((Setting.INITIAL_WINDOW_SIZE, 2**31)), FLOW),
    Case("settings-window-2-32", "9113 6.5.2", settings((Setting.INITIAL_WINDOW_SIZE, 2**32 - 1)), FLOW),
    Case("settings-frame-16383", "9113 6.5.2", settings((Setting.MAX_FRAME_SIZE, 16_383)), PROTOCOL),
    Case("settings-frame-0", "9113 6.5.2", settings((Setting.MAX_FRAME_SIZE, 0)), PROTOCOL),
    Case("settings-frame-2-24", "9113 6.5.2", settings((Setting.MAX_FRAME_SIZE, 2**24)), PROTOCOL),
    Case("settings-connect-2", "8441 3", settings((Setting.ENABLE_CONNECT_PROTOCOL, 2)), PROTOCOL | SERVED),
    Case("settings-no-priorities-2", "9218 2.1", settings((Setting.NO_RFC7540_PRIORITIES, 2)), PROTOCOL),
    Case("settings-many-entries", "CVE-2020-11080", settings(*[(0xF000, n) for n in range(2000)]), FLOODED),
    Case("settings-in-header-block", "9113 6.10", headers(GET, whole=False) + settings(), PROTOCOL),
]

WINDOWS: Final = [
    Case("window-update-zero", "9113 6.9", window_update(0), PROTOCOL),
    Case("window-update-zero-on-stream", "9113 6.9", post() + window_update(0, 1), stream_error(Code.PROTOCOL_ERROR)),
    Case("window-update-only-reserved-bit", "9113 6.9", window_update(2**31), PROTOCOL),
    Case("window-update-on-idle", "9113 5.1", window_update(1, 1), PROTOCOL),
    Case("window-over", "9113 6.9.1", window_update(MAX_WINDOW), FLOW),
    Case("window-over-by-steps", "9113 6.9.1", window_update(MAX_WINDOW - 65_535) + window_update(1), FLOW),
    Case(
        "window-over-on-stream",
        "9113 6.9.1",
        post() + window_update(MAX_WINDOW, 1),
        stream_error(Code.FLOW_CONTROL_ERROR),
    ),
    Case("window-over-by-settings", "9113 6.9.2", post() + window_update(1, 1) + settings(WIDE), FLOW),
    Case(
        "window-over-by-settings-of-the-second-stream",
        "9113 6.9.2",
        post() + post(stream=3) + window_update(1, 3) + settings(WIDE),
        FLOW,
    ),
]

STREAMS: Final = [
    Case("headers-on-0", "9113 6.2", get(stream=0), PROTOCOL),
    Case("data-on-0", "9113 6.1", data(b"x", 0), PROTOCOL),
    Case("rst-on-0", "9113 6.4", reset(0), PROTOCOL),
    Case("priority-on-0", "9113 6.3", priority(0, 3), PROTOCOL),
    Case("continuation-on-0", "9113 6.10", continuation(GET, 0), PROTOCOL),
    Case("ping-on-1", "9113 6.7", ping(stream=1), PROTOCOL),
    Case("goaway-on-1", "9113 6.8", goaway(stream=1), PROTOCOL),
    Case("headers-on-2", "9113 5.1.1", get(stream=2), PROTOCOL),
    Case("headers-on-largest-even", "9113 5.1.1", get(stream=2**31 - 2), PROTOCOL),
    Case("data-on-idle", "9113 5.1", data(b"x", 1), PROTOCOL),
    Case("data-on-even-idle", "9113 5.1", data(b"x", 2), PROTOCOL),
    Case("rst-on-idle", "9113 6.4", reset(1), PROTOCOL),
    Case("rst-on-even-idle", "9113 6.4", reset(2), PROTOCOL),
    Case("push-promise", "9113 8.4", frame(Type.PUSH_PROMISE, struct.pack("!I", 2) + GET, 4, 1), PROTOCOL),
    Case(
        "push-promise-on-open",
        "9113 8.4",
        post() + frame(Type.PUSH_PROMISE, struct.pack("!I", 2) + GET, 4, 1),
        PROTOCOL,
    ),
    Case("stream-1-after-5", "9113 5.1.1", get(stream=5) + get(stream=1), PROTOCOL),
    Case("stream-3-between-1-and-5", "9113 5.1.1", get(stream=1) + get(stream=5) + get(stream=3), PROTOCOL),
    Case("stream-9-after-jumps", "9113 5.1.1", get(stream=3) + get(stream=11) + get(stream=9), PROTOCOL),
    Case("data-on-skipped", "9113 5.1", get(stream=5) + data(b"x", 3), PROTOCOL | CLOSED_STREAM | IGNORED, 3),
    Case("data-after-end", "9113 5.1", get() + data(b"x"), CLOSED_STREAM),
    Case("headers-after-end", "9113 5.1", get() + get(), CLOSED_STREAM),
    Case("data-after-end-of-body", "9113 5.1", post() + data(b"x") + data(b"y"), CLOSED_STREAM),
    Case("data-after-trailers", "9113 8.1", post() + headers(block((b"x-t", b"1"))) + data(b"y"), CLOSED_STREAM),
    Case("data-after-reset", "9113 5.1", post() + reset(1) + data(b"x"), CLOSED_STREAM | IGNORED),
    Case("headers-after-reset", "9113 5.1", post() + reset(1) + get(), CLOSED_STREAM | PROTOCOL),
    Case("rst-twice", "9113 5.1", post() + reset(1) + reset(1) + get(stream=3), SERVED, 3),
    Case(
        "second-headers-without-end",
        "9113 8.1",
        post() + headers(block((b"x-t", b"1")), end=False) + data(b"x"),
        stream_error(Code.PROTOCOL_ERROR),
    ),
]

BLOCKS: Final = [
    Case("continuation-alone", "9113 6.10", continuation(GET), PROTOCOL),
    Case("continuation-after-end-headers", "9113 6.10", post() + continuation(GET), PROTOCOL),
    Case("continuation-after-data", "9113 6.10", post() + data(b"x", end=False) + continuation(GET), PROTOCOL),
    Case("continuation-of-another", "9113 6.10", headers(GET, whole=False) + continuation(b"", 3), PROTOCOL),
    Case("block-with-ping", "9113 6.10", headers(GET[:9], whole=False) + ping() + continuation(GET[9:]), PROTOCOL),
    Case("block-with-data", "9113 6.10", headers(GET, end=False, whole=False) + data(b"x"), PROTOCOL),
    Case("block-with-headers", "9113 6.10", headers(GET, whole=False) + get(stream=3), PROTOCOL),
    Case("block-with-same-headers", "9113 6.10", headers(GET, whole=False) + headers(GET), PROTOCOL),
    Case("block-with-priority", "9113 6.10", headers(GET, whole=False) + priority(3), PROTOCOL),
    Case("block-with-window-update", "9113 6.10", headers(GET, whole=False) + window_update(1), PROTOCOL),
    Case("block-with-rst", "9113 6.10", headers(GET, whole=False) + reset(1), PROTOCOL),
    Case("block-with-goaway", "9113 6.10", headers(GET, whole=False) + goaway(), PROTOCOL),
    Case("block-with-unknown", "9113 5.5", headers(GET, whole=False) + frame(Type.UNKNOWN, b"x"), PROTOCOL),
    Case(
        "block-of-trailers-with-ping",
        "9113 6.10",
        post() + headers(block((b"x-t", b"1")), whole=False) + ping(),
        PROTOCOL,
    ),
]

HARMLESS: Final = [
    Case("unknown-frame", "9113 5.5", frame(Type.UNKNOWN, b"x" * 100, 0xFF) + get(), SERVED),
    Case("unknown-frame-on-stream", "9113 5.5", frame(Type.UNKNOWN, b"x", 0xFF, 1) + get(), SERVED),
    Case("unknown-frame-in-request", "9113 5.5", post() + frame(Type.UNKNOWN, b"x", 0, 1) + data(b"x"), SERVED),
    Case("unknown-flags", "9113 4.1", headers(GET, flags=0xD2 & ~Flag.PADDED & ~Flag.PRIORITY) + b"", SERVED),
    Case("unknown-setting", "9113 6.5.2", settings((0xABCD, 1), (0, 5)) + get(), SERVED),
    Case("setting-twice", "9113 6.5.3", settings((4, 0), (4, 65_535)) + get(), SERVED),
    Case("settings-everything", "9113 6.5.2", settings((1, 0), (2, 1), (3, 0), (5, 2**24 - 1), (6, 0)) + get(), SERVED),
    Case("settings-table-largest", "9113 6.5.2", settings((1, 2**32 - 1)) + get(), SERVED),
    Case("reserved-bit-of-stream", "9113 4.1", headers(GET, 1 | 1 << 31), SERVED),
    Case("reserved-bit-of-increment", "9113 6.9", window_update(1 << 31 | 1) + get(), SERVED),
    Case("ping-ack-unasked", "9113 6.7", ping(flags=Flag.ACK) + get(), SERVED),
    Case("priority-on-idle", "9113 5.3.2", priority(3, 1) + priority(1) + get(), SERVED),
    Case("priority-on-itself", "9113 5.3.2", priority(1, 1) + get(), SERVED | stream_error(Code.PROTOCOL_ERROR)),
    Case("priority-in-headers", "9113 5.3.2", headers(b"\x00\x00\x00\x03\x10" + GET, flags=Flag.PRIORITY), SERVED),
    Case(
        "priority-in-headers-on-itself",
        "9113 5.3.2",
        headers(b"\x00\x00\x00\x01\x10" + GET, flags=Flag.PRIORITY),
        SERVED | stream_error(Code.PROTOCOL_ERROR),
    ),
    Case("priority-after-end", "9113 5.1", get() + priority(1), SERVED),
    Case("window-update-after-end", "9113 5.1", get() + window_update(100, 1), SERVED),
    Case("alt-svc-of-client", "7838 4", frame(Type.ALTSVC, b"\0\0x") + get(), SERVED),
    Case("priority-update", "9218 7.1", frame(Type.PRIORITY_UPDATE, b"\0\0\0\x01u=1") + get(), SERVED),
    Case("goaway-of-client", "9113 6.8", get() + goaway(0, 0, b"bye"), SERVED),
    Case("settings-ack-unasked", "9113 6.5", SETTINGS_ACK * 2 + get(), SERVED | PROTOCOL),
    Case("headers-padded", "9113 6.2", headers(b"\x04" + GET + bytes(4), flags=Flag.PADDED), SERVED),
    Case("data-padded", "9113 6.1", post() + data(b"body", padding=255), SERVED, seen=(b"POST /", b"body", {})),
    Case("data-all-padding", "9113 6.1", post() + data(b"", padding=3), SERVED, seen=(b"POST /", b"", {})),
    Case("padding-that-is-not-zero", "9113 6.1", post() + frame(Type.DATA, b"\x02okXY", 9, 1), SERVED | PROTOCOL),
    Case("padding-is-given-back", "9113 6.9.1", padded_for_long, SERVED, seen=(b"POST /", b"x" * 300, {})),
    Case("stream-7-first", "9113 5.1.1", get(stream=7) + get(stream=9), SERVED, 9),
    Case("stream-largest", "9113 5.1.1", get(stream=2**31 - 1), SERVED, 2**31 - 1),
    Case("block-in-pieces", "9113 6.10", headers(GET[:3], whole=False) + continuation(GET[3:]), SERVED),
    Case("block-behind-empty-headers", "9113 6.10", headers(b"", whole=False) + continuation(GET), SERVED),
    Case("block-before-empty-continuation", "9113 6.10", headers(GET, whole=False) + continuation(b""), SERVED),
    Case("empty-data", "9113 6.1", post() + data(b"", end=False) + data(b"x") + get(stream=3), SERVED, 3),
    Case("rst-after-answer", "9113 5.1", answered_and_reset, SERVED, 3),
    Case(
        "indexed-alone", "7541 6.1", headers(indexed(2) + indexed(6) + indexed(4) + block((b"host", b"a.test"))), SERVED
    ),
]


CONNECTION_CASES: Final = unique(PREFACES + SIZES + PADDING + SETTINGS + WINDOWS + STREAMS + BLOCKS + HARMLESS)
