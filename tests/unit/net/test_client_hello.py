"""The strict reader of ClientHellos: what it finds, and what it refuses, however it is cut."""

from __future__ import annotations

import contextlib
import random
import ssl

import pytest

from fastgw.net.client_hello import (
    LONGEST_HELLO,
    LONGEST_MESSAGE,
    LONGEST_RECORD,
    MOST_EXTENSIONS,
    MOST_PROTOCOLS,
    MOST_RECORDS,
    Alert,
    ClientHello,
    HelloReader,
    InvalidHello,
)
from tests.support.secured import client_hello
from tests.support.table import for_each


def vector(size: int, content: bytes) -> bytes:
    return len(content).to_bytes(size) + content


def extension(kind: int, content: bytes) -> bytes:
    return kind.to_bytes(2) + vector(2, content)


def names(*entries: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes((kind,)) + vector(2, each) for each in entries)))


def body(extensions: bytes | None, *, version: bytes = b"\x03\x03", session: bytes = b"", more: bytes = b"") -> bytes:
    ending = b"" if extensions is None else vector(2, extensions)
    return version + bytes(32) + vector(1, session) + vector(2, b"\x13\x01") + vector(1, b"\x00") + ending + more


def message(content: bytes, kind: int = 1) -> bytes:
    return bytes((kind,)) + vector(3, content)


def record(content: bytes, kind: int = 22, version: bytes = b"\x03\x01") -> bytes:
    return bytes((kind,)) + version + vector(2, content)


def read(*chunks: bytes) -> ClientHello | None:
    reader = HelloReader()
    found = None
    for chunk in chunks:
        assert found is None, "it was whole before its last bytes"
        found = reader.feed(chunk)
    assert bytes(reader.received) == b"".join(chunks)
    return found


@for_each("highest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@for_each("name", ["a.test", "A.TEST", None])
@for_each("protocols", [(), ("h2", "http/1.1")])
def test_hellos_of_openssl(name: str | None, protocols: tuple[str, ...], highest: ssl.TLSVersion) -> None:
    found = read(client_hello(*protocols, name=name, highest=highest))
    assert found == ClientHello((name or "").lower(), tuple(each.encode() for each in protocols))


def test_byte_by_byte_and_in_any_records() -> None:
    """RFC 8446 section 5.1: a message may be cut anywhere; it is whole with its last byte and not before."""
    whole = client_hello("h2")
    assert read(*(whole[at : at + 1] for at in range(len(whole)))) == ClientHello("a.test", (b"h2",))
    content, dice = whole[5:], random.Random(7)
    for _ in range(50):
        cuts = sorted(dice.sample(range(1, len(content)), 20))
        pieces = [content[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        assert read(b"".join(map(record, pieces))) == ClientHello("a.test", (b"h2",))


def test_what_follows_in_records_of_its_own_is_passed_on() -> None:
    """Early data comes right behind (RFC 8446 section 4.2.10)."""
    reader = HelloReader()
    sent = client_hello() + record(b"early", kind=23)
    assert reader.feed(sent) == ClientHello("a.test")
    assert bytes(reader.received) == sent


@for_each("most", [LONGEST_HELLO, LONGEST_MESSAGE])
def test_the_longest_and_one_byte_more(most: int) -> None:
    """Of those for OpenSSL, which fit into a record, and of those for others. Longer ones are not collected."""

    def of(size: int) -> bytes:
        filling = size - len(message(body(names(b"a.test") + extension(21, b""))))
        return message(body(names(b"a.test") + extension(21, bytes(filling))))

    longest = of(most)
    assert len(longest) == most
    reader = HelloReader(most)
    assert reader.feed(in_records(longest)) == ClientHello("a.test")
    assert reader.message_bytes == most
    with pytest.raises(InvalidHello, match=f"longer than {most} bytes"):
        HelloReader(most).feed(record(message(bytes(4))[:1] + (most - 3).to_bytes(3)))


def test_a_record_with_which_it_would_be_too_long_is_not_collected() -> None:
    reader = HelloReader(LONGEST_HELLO)
    whole = message(bytes(LONGEST_HELLO - 4))
    assert reader.feed(record(whole[:-4])) is None
    with pytest.raises(InvalidHello, match=f"longer than {LONGEST_HELLO} bytes"):
        reader.feed(record(b"x" * LONGEST_RECORD)[:5])


def test_records_without_end_are_refused() -> None:
    content = message(body(extension(21, bytes(1000))))
    with pytest.raises(InvalidHello, match="records"):
        read(b"".join(record(content[at : at + 1]) for at in range(MOST_RECORDS)))


def extensions(count: int) -> bytes:
    """`count` extensions, the last of which names the server."""
    return b"".join(extension(1000 + each, b"") for each in range(count - 1)) + names(b"a.test")


def protocols(count: int) -> bytes:
    return extension(16, vector(2, b"\x01a" * count))


def in_records(content: bytes) -> bytes:
    return b"".join(record(content[at : at + 16_384]) for at in range(0, len(content), 16_384))


def test_the_most_extensions_and_protocols() -> None:
    assert read(record(message(body(extensions(MOST_EXTENSIONS))))) == ClientHello("a.test")
    assert read(record(message(body(protocols(MOST_PROTOCOLS))))) == ClientHello("", (b"a",) * MOST_PROTOCOLS)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (message(body(extensions(MOST_EXTENSIONS + 1))), "extensions"),
        (message(body(extensions(16_000))), "extensions"),
        (message(body(protocols(MOST_PROTOCOLS + 1))), "protocols"),
        (message(body(protocols(32_000))), "protocols"),
    ],
)
def test_extensions_and_protocols_beyond_are_not_read(content: bytes, why: str) -> None:
    """Thousands fit, and while they are read no other connection of the worker is served."""
    with pytest.raises(InvalidHello, match=f"more than 128 {why}") as refused:
        read(in_records(content))
    assert refused.value.alert is Alert.DECODE_ERROR


def test_nothing_behind_the_last_extension_that_is_read_is_looked_at() -> None:
    """An invalid one would be refused for another reason."""
    with pytest.raises(InvalidHello, match="more than 128 extensions"):
        read(record(message(body(extensions(MOST_EXTENSIONS) + names(b"b.test")))))


BAD = {
    "no TLS": (b"GET / HTTP/1.1\r\n", None),
    "SSL 2": (b"\x80\x2e\x01\x03\x01", None),
    "an unknown major version": (b"\x16\x02\x00\x00\x10", None),
    "an alert": (record(b"\x02\x28", kind=21), None),
    "an empty record": (record(b""), Alert.UNEXPECTED_MESSAGE),
    "a long record": (b"\x16\x03\x01\x40\x01", Alert.RECORD_OVERFLOW),
    "another message": (record(message(body(b""), kind=2)), Alert.UNEXPECTED_MESSAGE),
    "something between its records": (
        record(message(body(b""))[:20]) + record(b"\x01", kind=20),
        Alert.UNEXPECTED_MESSAGE,
    ),
    "something behind it in its record": (record(message(body(b"")) + b"\x00"), Alert.UNEXPECTED_MESSAGE),
    "an old version": (record(message(body(b"", version=b"\x02\x00"))), Alert.ILLEGAL_PARAMETER),
    "a long session": (record(message(body(b"", session=bytes(33)))), Alert.DECODE_ERROR),
    "bytes behind the extensions": (record(message(body(b"", more=b"\x00"))), Alert.DECODE_ERROR),
    "extensions that go too far": (record(message(body(None, more=b"\x00\x05\x00\x00"))), Alert.DECODE_ERROR),
    "an extension twice": (record(message(body(names(b"a") + names(b"b")))), Alert.ILLEGAL_PARAMETER),
    "an unread extension twice": (record(message(body(extension(99, b"") * 2))), Alert.ILLEGAL_PARAMETER),
    "two names": (record(message(body(names(b"a.test", b"b.test")))), Alert.ILLEGAL_PARAMETER),
    "no names": (record(message(body(names()))), Alert.DECODE_ERROR),
    "an empty name": (record(message(body(names(b"")))), Alert.DECODE_ERROR),
    "a name of another type": (record(message(body(names(b"a", kind=1)))), Alert.ILLEGAL_PARAMETER),
    "a name with a NUL": (record(message(body(names(b"a.test\x00.evil")))), Alert.ILLEGAL_PARAMETER),
    "a name with a space": (record(message(body(names(b"a test")))), Alert.ILLEGAL_PARAMETER),
    "a name that is not ASCII": (record(message(body(names("ä.test".encode())))), Alert.ILLEGAL_PARAMETER),
    "empty labels": (record(message(body(names(b"a..test")))), Alert.ILLEGAL_PARAMETER),
    "a pattern": (record(message(body(names(b"*.test")))), Alert.ILLEGAL_PARAMETER),
    "an encoded name": (record(message(body(names(b"%61.test")))), Alert.ILLEGAL_PARAMETER),
    "an IPv6 address": (record(message(body(names(b"2001:db8::1")))), Alert.ILLEGAL_PARAMETER),
    "a long name": (record(message(body(names(b"a" * 256)))), Alert.ILLEGAL_PARAMETER),
    "bytes behind the names": (
        record(message(body(extension(0, vector(2, b"\x00" + vector(2, b"a")) + b"\x00")))),
        Alert.DECODE_ERROR,
    ),
    "no protocols": (record(message(body(extension(16, vector(2, b""))))), Alert.DECODE_ERROR),
    "an empty protocol": (record(message(body(extension(16, vector(2, b"\x00\x02h2"))))), Alert.DECODE_ERROR),
    "a protocol that goes too far": (record(message(body(extension(16, vector(2, b"\x05h2"))))), Alert.DECODE_ERROR),
    "odd cipher suites": (
        record(message(b"\x03\x03" + bytes(33) + vector(2, b"\x13\x01\x00") + b"\x01\x00\x00\x00")),
        Alert.DECODE_ERROR,
    ),
}


@for_each("sent", BAD)
def test_what_is_refused(sent: str) -> None:
    chunk, alert = BAD[sent]
    with pytest.raises(InvalidHello) as refused:
        read(chunk)
    assert refused.value.alert is alert


@pytest.mark.parametrize("kind", [0x17, 0x15, 0x14])
def test_it_is_refused_as_soon_as_its_first_byte_is_there(kind: int) -> None:
    with pytest.raises(InvalidHello):
        read(bytes((kind,)))


def test_a_hello_without_extensions() -> None:
    """RFC 5246 section 7.4.1.2: before TLS 1.3 there may be none."""
    assert read(record(message(body(None)))) == ClientHello()


def test_values_that_nobody_knows_are_skipped() -> None:
    """GREASE (RFC 8701): extensions, protocols, ciphers and versions that clients make up."""
    extensions = extension(0x0A0A, b"") + names(b"a.test") + extension(0x1A1A, b"\x00")
    extensions += extension(16, vector(2, vector(1, b"\xaa\xaa") + vector(1, b"h2")))
    ciphers = vector(2, b"\x2a\x2a\x13\x01")
    sent = b"\x03\x03" + bytes(32) + b"\x00" + ciphers + vector(1, b"\x00") + vector(2, extensions)
    assert read(record(message(sent))) == ClientHello("a.test", (b"\xaa\xaa", b"h2"))


@pytest.mark.parametrize("name", [b"192.0.2.1", b"-a-", b"a_b", b"xn--mnchen-3ya.test", b"a" * 255])
def test_names_of_hosts_are_taken_as_they_are(name: bytes) -> None:
    """An IPv4 address is a name too: clients send it although RFC 6066 section 3 forbids it. It only meets a route for
    any name."""
    assert read(record(message(body(names(name))))) == ClientHello(name.decode())


def test_a_dot_at_the_end_of_a_name_is_nothing() -> None:
    assert read(record(message(body(names(b"A.Test."))))) == ClientHello("a.test")


def test_a_port_of_a_name_is_ignored() -> None:
    """Some clients send their Host as it is (hey)."""
    for name in (b"a.test:443", b"A.Test.:8443"):
        assert read(record(message(body(names(name))))) == ClientHello("a.test")
    for name in (b"a.test:", b"a.test:x", b":443", b"a.test:1:2", b"a.test:123456"):
        with pytest.raises(InvalidHello):
            read(record(message(body(names(name)))))


def test_changed_bytes_end_in_one_of_three_ways() -> None:
    """Whatever comes, it is a hello, more is waited for, or it is refused; and OpenSSL finds no other name."""
    dice = random.Random(20261122)
    sent = client_hello("h2", "http/1.1")
    for _ in range(20_000):
        changed = bytearray(sent)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(changed))
            if dice.random() < 0.2:
                del changed[at : at + dice.randint(1, 8)]
            else:
                changed[at] = dice.randrange(256)
        with contextlib.suppress(InvalidHello):
            found = HelloReader().feed(bytes(changed))
            assert found is None or found.server_name == _as_openssl_reads(bytes(changed), found.server_name)


def _as_openssl_reads(sent: bytes, ours: str) -> str:
    """The name that OpenSSL finds; ours where it refuses the hello before it comes to that."""
    found: list[str] = [ours]
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    def told(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> int:
        found[0] = (name or "").lower().removesuffix(".")
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR

    tls.sni_callback = told
    incoming = ssl.MemoryBIO()
    incoming.write(sent)
    with contextlib.suppress(ssl.SSLError):
        tls.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return found[0]


@pytest.mark.parametrize(
    "sent",
    [
        message(body(names(b"a.test") + extension(99, b"") * 2)),
        message(body(names(b"a.test"))) + b"\x10\x00\x00\x00",
        message(body(names(b"a test"))),
        message(body(names("ä.test".encode()))),
        message(b"\x00"),
    ],
)
def test_a_message_in_which_openssl_could_find_another_name_is_refused(sent: bytes) -> None:
    """It takes the first three, under TLS 1.2 the second too: the name would count as none, its certificate not."""
    with pytest.raises(InvalidHello):
        read(record(sent))
