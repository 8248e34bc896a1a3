"""PROXY protocol headers, whole and byte by byte."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.malformed import Malformed
from fastgw.net.proxy_protocol import NO_TLVS, SIGNATURE, V2_BLOCK_MAX, Parsed, ProxyTlvs, header_v2, parse

V4_BLOCK = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
V6_BLOCK = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 1, 65535)
)
UNIX_BLOCK = b"/run/a".ljust(108, b"\x00") + b"/run/b".ljust(108, b"\x00")
TLVS = b"\x04\x00\x03abc" + b"\x01\x00\x02h2"


def v2(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


ACCEPTED = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n", ("2001:db8::1", 0), ("::1", 65535)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ("192.0.2.1", 1), ("::1", 2)),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ffff:f:f ffff:f 65535 65535 and more\r\n", None, None),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None, None),
    (v2(0x21, 0x11, V4_BLOCK), ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (v2(0x21, 0x11, V4_BLOCK + TLVS), ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (v2(0x21, 0x11, V4_BLOCK + bytes(V2_BLOCK_MAX - 12)), ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (v2(0x21, 0x21, V6_BLOCK), ("2001:db8::1", 1), ("2001:db8::2", 65535)),
    (v2(0x21, 0x31, UNIX_BLOCK), None, None),
    (v2(0x21, 0x00, b""), None, None),
    (v2(0x21, 0x00, TLVS), None, None),
    (v2(0x20, 0x00, b""), None, None),
    (v2(0x20, 0x11, V4_BLOCK + TLVS), None, None),
    (v2(0x20, 0xFF, b"whatever"), None, None),
]

REFUSED = [
    b"GET / HTTP/1.1\r\n",
    b"PROXYTCP4",
    b"proxy TCP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 01 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 2\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 1 65536\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 192.0.02.1 198.51.100.2 1 2\r\n",
    b"PROXY TCP4 ::1 198.51.100.2 1 2\r\n",
    b"PROXY TCP6 192.0.2.1 ::1 1 2\r\n",
    b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 1 2\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN a\rb\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    b"\r\n\r\n\x00\r\nQUIX\n",
    v2(0x11, 0x11, V4_BLOCK),
    v2(0x22, 0x11, V4_BLOCK),
    v2(0x21, 0x12, V4_BLOCK),
    v2(0x21, 0x41, V4_BLOCK),
    v2(0x21, 0x11, V4_BLOCK[:-1]),
    v2(0x21, 0x21, V4_BLOCK),
    v2(0x21, 0x31, UNIX_BLOCK[:-1]),
    v2(0x21, 0x00, bytes(V2_BLOCK_MAX + 1)),
]


@pytest.mark.parametrize("behind", [b"", b"GET / HTTP/1.1\r\n\r\n", SIGNATURE])
@pytest.mark.parametrize(("header", "source", "destination"), ACCEPTED)
def test_a_header_tells_both_addresses_and_where_the_clients_bytes_begin(header, source, destination, behind):
    told = ProxyTlvs("h2") if header.endswith(TLVS) and header[12] == 0x21 else NO_TLVS
    assert parse(header + behind) == Parsed(source, destination, len(header), told)


@pytest.mark.parametrize("header", [header for header, *_ in ACCEPTED])
def test_every_beginning_of_a_header_asks_for_more(header):
    assert all(parse(header[:length]) is None for length in range(len(header)))


def feed(header: bytes) -> None:
    for length in range(len(header) + 1):
        assert parse(header[:length]) is None


@pytest.mark.parametrize("header", REFUSED)
def test_anything_else_is_refused_and_at_no_byte_accepted(header):
    with pytest.raises(Malformed) as refusal:
        feed(header)
    assert refusal.value.status == 400


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


@pytest.mark.parametrize(
    ("block", "expected"),
    [
        (tlv(1, b"h2") + tlv(2, b"a.test") + tlv(5, b"id-1"), ProxyTlvs("h2", "a.test", "id-1")),
        (tlv(4, b"") + tlv(5, b"x" * 128) + tlv(0x20, bytes(5)), ProxyTlvs(unique_id="x" * 128)),
        (tlv(5, b"one") + tlv(5, b"two"), ProxyTlvs(unique_id="one")),
        (tlv(5, b"x" * 129) + tlv(1, b""), NO_TLVS),
        (tlv(2, "ü".encode()) + tlv(5, b"a b") + tlv(1, b"h2\r\n"), NO_TLVS),
        (tlv(1, b"h2") + b"\x05\x00\xff1", ProxyTlvs("h2")),
        (tlv(1, b"h2") + b"\x05\x00", ProxyTlvs("h2")),
    ],
)
def test_what_is_said_beside_the_addresses(block: bytes, expected: ProxyTlvs) -> None:
    for family, addresses in ((0x11, V4_BLOCK), (0x21, V6_BLOCK), (0x31, UNIX_BLOCK), (0x00, b"")):
        parsed = parse(v2(0x21, family, addresses + block))
        assert parsed is not None
        assert parsed.tlvs == expected
    assert parse(v2(0x20, 0x11, V4_BLOCK + block)).tlvs is NO_TLVS  # LOCAL: the block is ignored
    source, destination = ("192.0.2.1", 1), ("192.0.2.2", 2)
    assert parse(header_v2(source, destination, expected)).tlvs == expected


@given(
    st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", SIGNATURE, SIGNATURE + b"\x21\x11\x00"])
)
def test_waiting_ends(noise, start):
    """No input makes the parser wait for more than the longest header."""
    try:
        parsed = parse((start + noise).ljust(16 + V2_BLOCK_MAX, b"x"))
    except Malformed:
        return
    assert parsed is not None
