"""PROXY protocol headers, whole and byte by byte."""

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.http.malformed import Malformed
from fastgw.net.first_bytes import PROXY_V2
from fastgw.net.proxy_protocol import NO_TLVS, V2_BLOCK_MAX, Parsed, ProxyTlvs, header_v2, parse
from tests.support.table import for_each

V4_BLOCK = socket.inet_aton("192.0.2.1") + socket.inet_aton("198.51.100.2") + struct.pack("!HH", 56324, 443)
V6_BLOCK = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::1")
    + socket.inet_pton(socket.AF_INET6, "2001:db8::2")
    + struct.pack("!HH", 1, 65535)
)
UNIX_BLOCK = b"/run/a".ljust(108, b"\x00") + b"/run/b".ljust(108, b"\x00")
LONGEST_NOOP = b"\x04" + struct.pack("!H", V2_BLOCK_MAX - 12 - 3) + bytes(V2_BLOCK_MAX - 12 - 3)
TLVS = b"\x04\x00\x03abc" + b"\x01\x00\x02h2"


def v2(command: int, family: int, block: bytes) -> bytes:
    return PROXY_V2 + struct.pack("!BBH", command, family, len(block)) + block


ACCEPTED = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (b"PROXY TCP6 2001:DB8::1 ::1 0 65535\r\n", ("2001:db8::1", 0), ("::1", 65535)),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", ("192.0.2.1", 1), ("::1", 2)),
    (b"PROXY UNKNOWN\r\n", None, None),
    (b"PROXY UNKNOWN ffff:f:f ffff:f 65535 65535 and more\r\n", None, None),
    (b"PROXY UNKNOWN " + b"x" * 91 + b"\r\n", None, None),
    (v2(0x21, 0x11, V4_BLOCK), ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (v2(0x21, 0x11, V4_BLOCK + TLVS), ("192.0.2.1", 56324), ("198.51.100.2", 443)),
    (v2(0x21, 0x11, V4_BLOCK + LONGEST_NOOP), ("192.0.2.1", 56324), ("198.51.100.2", 443)),
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


@for_each("behind", [b"", b"GET / HTTP/1.1\r\n\r\n", PROXY_V2])
@for_each(("header", "source", "destination"), ACCEPTED)
def test_a_header_tells_both_addresses_and_where_the_clients_bytes_begin(header, source, destination, behind):
    told = ProxyTlvs("h2") if header.endswith(TLVS) and header[12] == 0x21 else NO_TLVS
    assert parse(header + behind) == Parsed(source, destination, len(header), told)


@for_each("header", [header for header, *_ in ACCEPTED])
def test_every_beginning_of_a_header_asks_for_more(header):
    assert all(parse(header[:length]) is None for length in range(len(header)))


def feed(header: bytes) -> None:
    for length in range(len(header) + 1):
        assert parse(header[:length]) is None


@for_each("header", REFUSED)
def test_anything_else_is_refused_and_at_no_byte_accepted(header):
    with pytest.raises(Malformed) as refusal:
        feed(header)
    assert refusal.value.status == 400


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


BEHIND_ADDRESSES = ((0x11, V4_BLOCK), (0x21, V6_BLOCK), (0x31, UNIX_BLOCK), (0x00, b""))


@for_each(
    ("block", "expected"),
    [
        (tlv(1, b"h2") + tlv(2, b"a.test") + tlv(5, b"id-1"), ProxyTlvs("h2", "a.test", "id-1")),
        (tlv(4, b"") + tlv(5, b"x" * 128) + tlv(4, bytes(9)), ProxyTlvs(unique_id="x" * 128)),
        (tlv(0x20, bytes(5)), ProxyTlvs(uses_tls=False)),
        (tlv(2, b"x" * 255) + tlv(1, b""), ProxyTlvs(authority="x" * 255)),
        (
            tlv(2, "bücher.example".encode()) + tlv(5, b"a\xff\0") + tlv(1, b"h2\r\n"),
            ProxyTlvs("", "", "61ff00", "bücher.example".encode(), b"a\xff\0"),
        ),
        (tlv(5, bytes(range(16))), ProxyTlvs(unique_id=bytes(range(16)).hex(), raw_id=bytes(range(16)))),
        (tlv(2, b"a.test\r\nX: y") + tlv(5, b""), NO_TLVS),
        (tlv(2, b"\xff.test") + tlv(1, b"\x0a\x0a"), NO_TLVS),
        (tlv(2, "a\u2028b c".encode()), NO_TLVS),
        (tlv(2, "a\u202eb".encode()), NO_TLVS),
        (tlv(2, "a\u2067b".encode()), NO_TLVS),
        (tlv(2, "a\u0085b".encode()), NO_TLVS),
        (tlv(2, "ك\u200cب.example".encode()), ProxyTlvs(raw_authority="ك\u200cب.example".encode())),
        # the client's TLS: flags, the outcome of the verification, and values of its own (section 2.2.5)
        (tlv(0x20, b"\1" + bytes(4)), ProxyTlvs(uses_tls=True)),
        (
            tlv(
                0x20, b"\7" + bytes(4) + tlv(0x21, b"TLSv1.3") + tlv(0x22, b"CN") + tlv(0x23, b"AES") + tlv(0x22, b"CN")
            ),
            ProxyTlvs(uses_tls=True, tls_version="TLSv1.3", tls_cipher="AES"),
        ),
        (tlv(0x20, b"\1" + bytes(4) + tlv(0x21, b"a\r\nb") + tlv(0x23, b"")), ProxyTlvs(uses_tls=True)),
        (tlv(0x20, b"\6" + bytes(4) + tlv(0x21, b"TLSv1.3")), ProxyTlvs(uses_tls=False)),
        (tlv(0xEA, b"one") + tlv(0xEA, b"two") + tlv(0xFF, b"") + bytes(3), NO_TLVS),  # types that nobody knows
    ],
)
def test_what_is_said_beside_the_addresses(block: bytes, expected: ProxyTlvs) -> None:
    for family, addresses in BEHIND_ADDRESSES:
        parsed = parse(v2(0x21, family, addresses + block))
        assert parsed is not None
        assert parsed.tlvs == expected
    assert parse(v2(0x20, 0x11, V4_BLOCK + block)).tlvs is NO_TLVS  # LOCAL: the block is ignored
    source, destination = ("192.0.2.1", 1), ("192.0.2.2", 2)
    passed_on = expected._replace(uses_tls=None, tls_version="", tls_cipher="")  # the TLS that was ended here is said
    assert parse(header_v2(source, destination, expected)).tlvs == passed_on


@for_each(
    "block",
    [
        b"\x04",  # a type, and no length
        b"\x04\x00",
        b"\x04\x00\x01",  # a length, and no value
        tlv(1, b"h2") + b"\x05\x00\xff1",  # a value that goes too far, or leaves bytes over
        tlv(1, b"h2") + b"\x05\x00",
        b"\x02\x00\x0a12345",
        b"\x02\x00\x0412345",
        b"\x04\xff\xffx",
        tlv(5, b"one") + tlv(5, b"two"),  # which one is it?
        tlv(2, b"a.test") + tlv(4, b"") + tlv(2, b"a.test"),
        tlv(5, b"x" * 129),  # longer than its type may be
        tlv(2, b"x" * 256),
        tlv(3, bytes(4)),  # a wrong checksum, or none
        tlv(3, b""),
        tlv(3, bytes(5)),
        tlv(0x20, b"\1\0\0\0"),  # the client's TLS: cut off, too long, or twice
        tlv(0x20, b"\1" + bytes(4)) + tlv(0x20, b"\0" + bytes(4)),
        tlv(0x20, b"\1" + bytes(4) + b"\x21\0\3v1"),
        tlv(0x20, b"\1" + bytes(4) + tlv(0x21, b"v1")[:-1]) + b"\1",
        tlv(0x20, b"\1" + bytes(4) + tlv(0x21, b"v1") + b"\0"),
        tlv(0x20, bytes(5) + tlv(0x21, b"v1") + tlv(0x21, b"v2")),
        tlv(0x20, b"\1" + bytes(4) + tlv(0x23, b"x" * 256)),
    ],
)
def test_values_that_do_not_fit_the_header_are_refused(block: bytes) -> None:
    """HAProxy refuses them too; a receiver that reads on, or stops early, sees other values than its neighbour."""
    for family, addresses in BEHIND_ADDRESSES:
        with pytest.raises(Malformed):
            parse(v2(0x21, family, addresses + block))
    assert parse(v2(0x20, 0x11, V4_BLOCK + block)) is not None  # LOCAL: the block is ignored


# Of AWS' network load balancer: a checksum, the id of an endpoint, and NOOP up to 100 bytes.
LOAD_BALANCER = bytes.fromhex(
    "0d0a0d0a000d0a515549540a21110054c0a82c0ac0a82c07cc3e241b030004b9286fa6ea001701767063652d303065616663343538656339376238"
    "3333040024"
) + bytes(36)


def test_a_checksum_is_verified() -> None:
    """Section 2.2.4: over the whole header, with the checksum's own bytes as zeros."""
    assert parse(LOAD_BALANCER) == Parsed(("192.168.44.10", 52286), ("192.168.44.7", 9243), len(LOAD_BALANCER))
    for at in range(16, len(LOAD_BALANCER)):
        changed = LOAD_BALANCER[:at] + bytes((LOAD_BALANCER[at] ^ 0x10,)) + LOAD_BALANCER[at + 1 :]
        if changed[28] == 3:  # otherwise there is no checksum
            with pytest.raises(Malformed):
                parse(changed)


@given(st.binary(max_size=300), st.sampled_from([b"", b"PROXY ", b"PROXY TCP4 ", PROXY_V2, PROXY_V2 + b"\x21\x11\x00"]))
def test_waiting_ends(noise, start):
    """No input makes the parser wait for more than the longest header."""
    try:
        parsed = parse((start + noise).ljust(16 + V2_BLOCK_MAX, b"x"))
    except Malformed:
        return
    assert parsed is not None
