"""TLS of TCP listeners: passed through by server name and ALPN, ended here, begun towards targets; PROXY headers."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastgw.downstream.tcp.connection import FAREWELL_BYTES, TRUNCATED
from fastgw.eventloop.body_reads import READ_BYTES
from fastgw.net.first_bytes import PROXY_V2
from fastgw.net.proxy_protocol import NO_TLVS, ProxyTlvs, header_v2, parse
from tests.support.certificates import Certificates, client_tls
from tests.support.gateway import Gateway
from tests.support.peer import DEADLINE
from tests.support.secured import Cut, InMemory, client_hello
from tests.support.tcp import TcpTarget, connected, is_reset, read_all, read_exactly, reset, tcp_config, tcp_target

DECODE_ERROR = b"\x15\x03\x03\x00\x02\x02\x32"
UNEXPECTED_MESSAGE = b"\x15\x03\x03\x00\x02\x02\x0a"
UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"


class Place(NamedTuple):
    authority: Certificates
    a: TcpTarget
    b: TcpTarget
    pair: tuple[str, str]

    def server_tls(self) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(*self.pair)
        return made


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    authority = Certificates(tmp_path_factory.mktemp("certificates"))
    with tcp_target() as a, tcp_target() as b:
        yield Place(authority, a, b, authority.issue("a.test", "*.wild.test", "127.0.0.1"))


@pytest.fixture(scope="module")
def passing(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """TLS passthrough to two services."""
    config = {
        "workers": 1,
        "timeouts": {"request_headers": "700ms"},
        "listeners": {
            "main": {
                "address": "127.0.0.1:0",
                "protocol": "tls",
                "routes": [
                    {"sni": ["a.test"], "alpn": ["special"], "upstream": "b"},
                    {"sni": ["a.test"], "upstream": "a"},
                    {"sni": ["*.wild.test"], "upstream": "b"},
                ],
            },
            "any": {
                "address": "127.0.0.1:0",
                "protocol": "tls",
                "routes": [{"sni": ["a.test"], "upstream": "a"}, {"upstream": "b"}],
            },
            "mixed": {
                "address": "127.0.0.1:0",
                "protocol": "tcp",
                "tls": {"certificates": [{"certificate": place.pair[0], "key": place.pair[1]}]},
                "routes": [
                    {"sni": ["a.test"], "alpn": ["special"], "upstream": "b", "passthrough": True},
                    {"sni": ["a.test"], "upstream": "a"},
                    {"sni": ["*.wild.test"], "upstream": "a", "passthrough": True},
                    {"sni": ["x.wild.test"], "upstream": "a"},
                ],
            },
            "ending": {
                "address": "127.0.0.1:0",
                "protocol": "tcp",
                "tls": {"certificates": [{"certificate": place.pair[0], "key": place.pair[1]}]},
                "upstream": "a",
            },
            "proxied": {
                "address": "127.0.0.1:0",
                "protocol": "tls",
                "proxy_protocol": "required",
                "trusted_proxies": ["127.0.0.0/8"],
                "routes": [{"sni": ["a.test"], "upstream": "a"}],
            },
        },
        "upstreams": {"a": {"targets": [place.a.url]}, "b": {"targets": [place.b.url], "proxy_protocol": "v2"}},
    }
    with Gateway(config, tmp_path_factory.mktemp("passing")) as running:
        yield running


def _extended(hello: bytes, extensions: bytes) -> bytes:
    """Return a ClientHello, without the header of a record, with more extensions."""
    body = bytearray(hello[9:])
    at = 2 + 32  # version and random
    at += 1 + body[at]
    at += 2 + int.from_bytes(body[at : at + 2])
    at += 1 + body[at]
    body[at : at + 2] = (int.from_bytes(body[at : at + 2]) + len(extensions)).to_bytes(2)
    body += extensions
    return b"\x01" + len(body).to_bytes(3) + bytes(body)


def _long_hello(name: str) -> bytes:
    """Return a ClientHello, without the header of a record, with an unassigned extension of 40 KB."""
    return _extended(client_hello(name=name), b"\xfd\xe8" + (40_000).to_bytes(2) + bytes(40_000))


def _in_records(message: bytes) -> bytes:
    pieces = (message[at : at + 16_384] for at in range(0, len(message), 16_384))
    return b"".join(b"\x16\x03\x01" + len(each).to_bytes(2) + each for each in pieces)


def _header_v2(service: socket.socket) -> bytes:
    """Read a PROXY header of version 2."""
    head = read_exactly(service, 16)
    assert head[:12] == PROXY_V2
    return head + read_exactly(service, int.from_bytes(head[14:]))


def _behind_header(service: socket.socket) -> dict[int, bytes]:
    """Read a PROXY header of version 2, and return its TLVs."""
    header = _header_v2(service)
    head, block = header[:16], header[16:]
    at, found = {0x11: 12, 0x21: 36}[head[13]], {}
    while at < len(block):
        size = int.from_bytes(block[at + 1 : at + 3])
        found[block[at]] = block[at + 3 : at + 3 + size]
        at += 3 + size
    return found


# --- passthrough ---


def test_a_client_talks_tls_with_the_service_itself(passing: Gateway, place: Place) -> None:
    """What the client verifies is the service's certificate; half-close passes within TLS too."""

    def serve() -> None:
        with place.a.accept(place.server_tls()) as service:
            service.sendall(service.recv(100).upper())

    thread = threading.Thread(target=serve)
    thread.start()
    with client_tls(place.authority).wrap_socket(connected(passing.port()), server_hostname="a.test") as client:
        client.sendall(b"hello")
        assert client.recv(100) == b"HELLO"
        assert client.recv(1) == b""
    thread.join()
    record = passing.wait_for_record(host="a.test", status=200)
    assert (record["scheme"], record["upstream"], record["protocol"]) == ("tls", "a", "TCP")


@pytest.mark.parametrize(
    ("name", "protocols", "listener", "service"),
    [
        ("a.test", (), "main", "a"),
        ("A.Test", (), "main", "a"),
        ("a.test", ("h2", "special"), "main", "b"),
        ("a.test", ("h2",), "main", "a"),
        ("x.wild.test", (), "main", "b"),
        ("x.y.wild.test", (), "main", "b"),
        ("a.test", (), "any", "a"),
        ("other.test", (), "any", "b"),
        (None, (), "any", "b"),
    ],
)
def test_name_and_protocols_decide(
    passing: Gateway, place: Place, name: str | None, protocols: tuple[str, ...], listener: str, service: str
) -> None:
    sent = client_hello(*protocols, name=name)
    with connected(passing.port(listener)) as client:
        client.sendall(sent)
        with (place.a if service == "a" else place.b).accept() as got:
            if service == "b":
                told = _behind_header(got)
                assert told.get(0x02, b"") == (name or "").encode()
            assert read_exactly(got, len(sent)) == sent


@pytest.mark.parametrize("name", ["b.test", "wild.test", "test", None])
def test_an_unknown_name_gets_an_alert_and_no_byte_reaches_a_service(
    passing: Gateway, place: Place, name: str | None
) -> None:
    with connected(passing.port()) as client:
        client.sendall(client_hello(name=name) + b"early")
        assert read_all(client) == UNRECOGNIZED_NAME
    assert place.a.has_nobody()
    assert place.b.has_nobody()
    record = passing.wait_for_record(host=name, fault="route_not_found")
    assert (record["status"], record["upstream"], record["response_bytes"]) == (404, None, 0)


def test_what_is_sent_behind_an_alert_is_bounded(passing: Gateway) -> None:
    """Its client has a second to read it; one that goes on sending meanwhile is reset after 64 KiB."""
    hello = client_hello(name="flood.test")
    with connected(passing.port()) as client:
        client.sendall(hello)
        assert client.recv(100) == UNRECOGNIZED_NAME
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            client.sendall(bytes(4 << 20))
    record = passing.wait_for_record(host="flood.test", fault="route_not_found")
    assert FAREWELL_BYTES < record["request_bytes"] <= FAREWELL_BYTES + READ_BYTES + len(hello)


def test_a_hello_in_pieces_and_several_records(passing: Gateway, place: Place) -> None:
    """RFC 8446 section 5.1: a message may be cut into records, and TCP cuts anywhere."""
    message = client_hello(name="a.test")[5:]
    cut = b"".join(b"\x16\x03\x01\x00\x40" + message[at : at + 64] for at in range(0, len(message) - 64, 64))
    rest = message[len(cut) // 69 * 64 :]
    cut += b"\x16\x03\x01" + len(rest).to_bytes(2) + rest
    with connected(passing.port()) as client:
        for at in range(len(cut)):
            client.sendall(cut[at : at + 1])
        with place.a.accept() as got:
            assert read_exactly(got, len(cut)) == cut


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", b""),
        (b"\x80\x2e\x01\x03\x01", b""),
        (b"\x16\x03\x01\x00\x00", b"\x15\x03\x03\x00\x02\x02\x0a"),
        (b"\x16\x03\x01\x40\x01", b"\x15\x03\x03\x00\x02\x02\x16"),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", b"\x15\x03\x03\x00\x02\x02\x0a"),
        (b"\x16\x03\x01\x00\x04\x01\x01\x00\x00", b"\x15\x03\x03\x00\x02\x02\x32"),
        (b"\x16\x03\x01\x00\x06\x01\x00\x00\x02\x03\x03", b"\x15\x03\x03\x00\x02\x02\x32"),
    ],
)
def test_what_is_no_hello_reaches_no_service(passing: Gateway, place: Place, sent: bytes, answer: bytes) -> None:
    with connected(passing.port("any")) as client:
        client.sendall(sent)
        try:
            assert read_all(client) == answer
        except ConnectionResetError:  # there was more than was read
            assert not answer
    assert place.b.has_nobody()


@pytest.mark.parametrize("listener", ["main", "mixed", "ending"])
@pytest.mark.parametrize(
    "extensions",
    [
        b"".join((1000 + each).to_bytes(2) + b"\0\0" for each in range(3800)),
        b"\x00\x10" + (15_002).to_bytes(2) + (15_000).to_bytes(2) + b"\x01a" * 7500,
    ],
    ids=["extensions", "protocols"],
)
def test_a_hello_with_thousands_of_entries_is_refused(
    passing: Gateway, place: Place, listener: str, extensions: bytes
) -> None:
    """OpenSSL would answer it; each costs as much time as many connections, which wait meanwhile."""
    with connected(passing.port(listener)) as client:
        client.sendall(_in_records(_extended(client_hello(name="a.test"), extensions)))
        assert read_all(client) == DECODE_ERROR
    assert place.a.has_nobody()


def test_a_hello_that_does_not_come_in_time(passing: Gateway, place: Place) -> None:
    with connected(passing.port("any")) as client:
        client.sendall(client_hello()[:100])
        assert client.recv(1) == b""
    assert place.b.has_nobody()
    assert passing.wait_for_record(fault="request_timeout")["status"] == 408


def test_an_end_right_behind_the_hello_arrives_and_the_answer_comes(passing: Gateway, place: Place) -> None:
    """The client has ended its direction before there is a target."""
    sent = client_hello(name="a.test") + b"early" * 5_000
    with connected(passing.port()) as client:
        client.sendall(sent)
        client.shutdown(socket.SHUT_WR)
        with place.a.accept() as got:
            assert read_all(got) == sent
            got.sendall(b"answer")
        assert read_all(client) == b"answer"


def test_the_service_may_end_first_and_a_reset_still_arrives(passing: Gateway, place: Place) -> None:
    hello = client_hello(name="a.test")
    with connected(passing.port()) as client:
        client.sendall(hello)
        with place.a.accept() as got:
            assert read_exactly(got, len(hello)) == hello
            got.sendall(b"bye")
            got.shutdown(socket.SHUT_WR)
            assert read_all(client) == b"bye"
            client.sendall(b"x" * 100_000)
            assert len(read_exactly(got, 100_000)) == 100_000
            reset(client)
            assert is_reset(got)


# --- passed through and ended on one port ---


@pytest.mark.parametrize("name", ["a.test", "x.wild.test"])
def test_tls_ends_for_the_other_names_of_a_port_that_passes_some_through(
    passing: Gateway, place: Place, name: str
) -> None:
    with client_tls(place.authority).wrap_socket(connected(passing.port("mixed")), server_hostname=name) as client:
        client.sendall(b"hello")
        with place.a.accept() as service:
            assert read_exactly(service, 5) == b"hello"
            service.sendall(b"answer")
            assert client.recv(6) == b"answer"
    assert passing.wait_for_record(listener="mixed", host=name, status=200)["upstream"] == "a"


@pytest.mark.parametrize("cut", [1, 4, 100, None])
def test_names_are_passed_through_beside_those_whose_tls_ends(passing: Gateway, place: Place, cut: int | None) -> None:
    """The service gets the bytes of the client alone, wherever they are cut; half-close goes both ways."""
    sent = client_hello(name="y.wild.test") + b"early" * 5_000
    with connected(passing.port("mixed")) as client:
        for part in (sent[:cut], sent[cut:]) if cut else (sent,):
            client.sendall(part)
        client.shutdown(socket.SHUT_WR)
        with place.a.accept() as got:
            assert read_all(got) == sent
            got.sendall(b"answer")
        assert read_all(client) == b"answer"
    assert passing.wait_for_record(host="y.wild.test", request_bytes=len(sent), response_bytes=6)["scheme"] == "tls"


def test_protocols_too_decide_what_is_passed_through(passing: Gateway, place: Place) -> None:
    hello = client_hello("special", name="a.test")
    with connected(passing.port("mixed")) as client:
        client.sendall(hello)
        with place.b.accept() as got:
            told = _behind_header(got)
            assert (told[0x02], 0x20 in told) == (b"a.test", False)
            assert read_exactly(got, len(hello)) == hello
            reset(client)
            assert is_reset(got)


def test_a_long_hello_is_passed_through_and_not_ended(passing: Gateway, place: Place) -> None:
    """OpenSSL reads 16 KiB at most; what is passed through may have 64 KiB over several records."""
    for name, is_passed in (("y.wild.test", True), ("a.test", False)):
        message = _long_hello(name)
        sent = b"".join(
            b"\x16\x03\x01" + len(part).to_bytes(2) + part
            for part in (message[at : at + 16_000] for at in range(0, len(message), 16_000))
        )
        with connected(passing.port("mixed")) as client:
            client.sendall(sent)
            if is_passed:
                with place.a.accept() as got:
                    assert read_exactly(got, len(sent)) == sent
            else:
                assert read_all(client) == DECODE_ERROR
    assert place.a.has_nobody()


def test_what_openssl_might_read_otherwise_ends_no_tls_where_names_are_passed_through(
    passing: Gateway, place: Place
) -> None:
    hello = client_hello(name="y.wild.test")
    with connected(passing.port("mixed")) as client:
        client.sendall(hello[:3] + (len(hello) - 4).to_bytes(2) + hello[5:] + b"x")
        assert read_all(client) == UNEXPECTED_MESSAGE
    assert place.a.has_nobody()


PROXIED = header_v2(("192.0.2.1", 1111), ("192.0.2.2", 2222), ProxyTlvs("h2", "a.test", "id-1"))


@pytest.mark.parametrize("header", [PROXIED, b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n"])
def test_a_hello_follows_a_proxy_header_wherever_it_is_cut(passing: Gateway, place: Place, header: bytes) -> None:
    """The service gets the client's bytes alone."""
    hello = client_hello(name="a.test")
    for cut in range(1, len(header) + 1):
        with connected(passing.port("proxied")) as client:
            client.sendall(header[:cut])
            client.sendall(header[cut:] + hello)
            with place.a.accept() as got:
                assert read_exactly(got, len(hello)) == hello


@pytest.mark.parametrize(
    "header",
    [
        b"",
        PROXIED + PROXIED,
        PROXIED[:14] + (len(PROXIED) - 17).to_bytes(2) + PROXIED[16:],  # its last value goes too far
        b"PROXY UNKNOWN " + b"x" * 200,
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1111 2222\r\n",
    ],
)
def test_a_hello_behind_anything_else_reaches_no_service(passing: Gateway, place: Place, header: bytes) -> None:
    with connected(passing.port("proxied")) as client:
        client.sendall(header + client_hello(name="a.test"))
        with contextlib.suppress(ConnectionResetError):  # there was more than was read
            assert read_all(client) == b""
    assert place.a.has_nobody()


# --- TLS ends here ---


def _ending(place: Place, target: TcpTarget, **upstream: Any) -> dict[str, Any]:
    certificate, key = place.pair
    listener = {"tls": {"certificates": [{"certificate": certificate, "key": key}]}}
    return tcp_config(target, listener, **upstream)


def test_tls_ends_here_for_any_protocol(place: Place, tmp_path: Path) -> None:
    """No protocol is selected that the gateway does not speak; half-close goes both ways; PROXY v2 tells of TLS."""
    with Gateway(_ending(place, place.a, proxy_protocol="v2"), tmp_path) as gateway:
        tls = client_tls(place.authority)
        tls.set_alpn_protocols(["h2", "http/1.1"])
        with (
            tls.wrap_socket(connected(gateway.port()), server_hostname="a.test") as client,
            place.a.accept() as service,
        ):
            assert client.selected_alpn_protocol() is None
            told = _behind_header(service)
            assert told[0x02] == b"a.test"
            flags, verify = struct.unpack("!BI", told[0x20][:5])
            assert (flags, verify) == (1, 1)
            assert b"TLSv1.3" in told[0x20]
            client.sendall(b"question")
            assert read_exactly(service, 8) == b"question"
            raw = client.unwrap  # says close_notify, and waits for the other one
            service.sendall(b"answer")
            assert client.recv(6) == b"answer"
            service.close()
            raw()
        record = gateway.wait_for_record(host="a.test", status=200)
        assert (record["request_bytes"], record["response_bytes"], record["fault"]) == (8, 6, None)
        assert record["fault_detail"] is None


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("has_certificate", "flags"), [(False, (0x01, 0x01)), (True, (0x07, 0x05))])
def test_proxy_v2_has_the_flags_of_the_client_certificate(
    place: Place, tmp_path: Path, version: ssl.TLSVersion, has_certificate: bool, flags: tuple[int, int]
) -> None:
    """0x02: it was shown on this connection; 0x04: in this session, which later connections resume. `flags`: of a full
    handshake, and of one that resumes its session; HAProxy sends the same (`send-proxy-v2-ssl-cn`).
    """
    config = _ending(place, place.a, proxy_protocol="v2")
    config["listeners"]["main"]["tls"]["client_auth"] = {"mode": "optional", "ca": place.authority.ca}
    shown = place.authority.issue("alice.example", subject="alice") if has_certificate else None
    tls = client_tls(place.authority, shown)
    tls.maximum_version = version
    session = None
    with Gateway(config, tmp_path) as gateway:
        for is_resumed, expected in enumerate(flags):
            bare = connected(gateway.port())
            with (
                tls.wrap_socket(bare, server_hostname="a.test", session=session) as client,
                place.a.accept() as service,
            ):
                assert client.session_reused == bool(is_resumed)
                described = _behind_header(service)[0x20]
                assert struct.unpack("!BI", described[:5]) == (expected, 0 if has_certificate else 1)
                assert (b"\x22\x00\x05alice" in described) == has_certificate
                service.sendall(b"x")
                assert client.recv(1) == b"x"  # tickets of TLS 1.3 come before it
                session = client.session


def test_a_client_that_ends_tls_without_saying_so_is_told_in_the_log(place: Place, tmp_path: Path) -> None:
    """RFC 8446 section 6.1: what came may be cut short. The service gets all of it and its end, the client the rest."""
    with Gateway(_ending(place, place.a), tmp_path) as gateway:
        client = client_tls(place.authority).wrap_socket(connected(gateway.port()), server_hostname="a.test")
        with client, place.a.accept() as service:
            client.sendall(b"half a mess")
            client.shutdown(socket.SHUT_WR)  # of TCP alone
            assert read_all(service) == b"half a mess"
            service.sendall(b"answer")
            service.close()
            with socket.socket(fileno=client.detach()) as bare:
                bare.settimeout(DEADLINE)
                assert read_all(bare)
        record = gateway.wait_for_record(host="a.test", status=200)
        assert (record["request_bytes"], record["response_bytes"], record["fault"]) == (11, 6, None)
        assert record["fault_detail"] == TRUNCATED


def test_the_place_of_a_tls_connection_that_the_service_has_ended_is_free(place: Place, tmp_path: Path) -> None:
    """As soon as all that the service has sent was sent to the client."""
    listener = {"tls": {"certificates": [{"certificate": place.pair[0], "key": place.pair[1]}]}}
    config = tcp_config(place.a, listener, pool={"max_connections": 1, "pending_timeout": "300ms"})
    tls = client_tls(place.authority)
    much = 32 << 20  # more than all sockets hold

    def connect() -> ssl.SSLSocket:
        return tls.wrap_socket(connected(gateway.port()), server_hostname="a.test")

    with Gateway(config, tmp_path) as gateway, connect() as first, place.a.accept() as gone:
        sending = threading.Thread(target=lambda: (gone.sendall(bytes(much)), gone.close()))
        sending.start()
        with connect() as waiting, contextlib.suppress(ConnectionResetError):
            assert waiting.recv(1) == b""  # there is no place yet
        assert len(read_all(first)) == much
        sending.join()
        with connect() as second, place.a.accept() as served:
            served.sendall(b"here")
            assert read_exactly(second, 4) == b"here"


def test_a_reset_passes_through_tls(place: Place, tmp_path: Path) -> None:
    with (
        Gateway(_ending(place, place.a), tmp_path) as gateway,
        client_tls(place.authority).wrap_socket(connected(gateway.port()), server_hostname="a.test") as client,
        place.a.accept() as service,
    ):
        client.sendall(b"x")
        assert service.recv(1) == b"x"
        reset(service)
        with socket.socket(fileno=client.detach()) as bare:  # ssl would call it an end
            bare.settimeout(DEADLINE)
            with pytest.raises(ConnectionResetError):
                read_all(bare)


TIMES = pytest.mark.parametrize("timeouts", [{"tunnel_idle": "500ms"}, {"total": "1500ms"}], ids=["idle", "total"])


@TIMES
def test_a_time_that_cuts_tls_off_gives_neither_side_an_end(
    place: Place, tmp_path: Path, timeouts: dict[str, str]
) -> None:
    """RFC 8446 section 6.1: close_notify says that nothing is missing."""
    secured = {"ca": place.authority.ca, "server_name": "a.test"}
    with (
        Gateway(_ending(place, place.a, tls=secured, timeouts=timeouts), tmp_path) as gateway,
        connected(gateway.port()) as bare,
    ):
        client = InMemory(bare, client_tls(place.authority))
        with place.a.accept() as accepted:
            service = InMemory(accepted, place.server_tls(), None)
            service.sendall(b"half")
            assert client.recv(4) == b"half"
            for end in (client, service):
                with pytest.raises(Cut):
                    end.recv(1)
        gateway.wait_for_record(status=200, response_bytes=4)


@TIMES
def test_a_time_that_cuts_data_over_tls_off_ends_in_a_reset(
    place: Place, tmp_path: Path, timeouts: dict[str, str]
) -> None:
    with (
        Gateway(_ending(place, place.a, timeouts=timeouts), tmp_path) as gateway,
        connected(gateway.port()) as client,
    ):
        InMemory(client, client_tls(place.authority))
        with place.a.accept() as service, pytest.raises(ConnectionResetError):
            service.sendall(bytes(64 << 20))  # more than all sockets hold
        gateway.wait_for_record(status=200)
        with pytest.raises(ConnectionResetError):
            read_all(client)


def test_the_end_that_a_service_has_said_before_its_time_is_up_arrives(place: Place, tmp_path: Path) -> None:
    with (
        Gateway(_ending(place, place.a, timeouts={"tunnel_idle": "300ms"}), tmp_path) as gateway,
        connected(gateway.port()) as bare,
    ):
        client = InMemory(bare, client_tls(place.authority))
        with place.a.accept() as service:
            service.sendall(b"all")
            service.shutdown(socket.SHUT_WR)
            assert service.recv(1) == b""
            gateway.wait_for_record(fault="tunnel_idle")
        assert (client.recv(3), client.recv(1)) == (b"all", b"")


def test_a_reset_of_a_tls_client_arrives_as_one(place: Place, tmp_path: Path) -> None:
    with Gateway(_ending(place, place.a), tmp_path) as gateway:
        client = client_tls(place.authority).wrap_socket(connected(gateway.port()), server_hostname="a.test")
        with place.a.accept() as service:
            client.sendall(b"x")
            assert service.recv(1) == b"x"
            reset(client)
            assert is_reset(service)


# --- TLS begins here ---


def test_tls_begins_here(place: Place, tmp_path: Path) -> None:
    """The target is verified by its name, and is told first for whom it is."""
    tls = {"ca": place.authority.ca, "server_name": "a.test"}
    with Gateway(tcp_config(place.a, tls=tls, proxy_protocol="v1"), tmp_path) as gateway:
        with connected(gateway.port()) as client:
            client.sendall(b"question")
            service = place.a.accept()
            line = b""
            while not line.endswith(b"\n"):
                line += service.recv(1)
            parsed = parse(line)
            assert parsed is not None
            assert parsed.source == client.getsockname()
            assert parsed.destination == client.getpeername()
            with place.server_tls().wrap_socket(service, server_side=True) as secured:
                assert secured.selected_alpn_protocol() is None
                assert read_exactly(secured, 8) == b"question"
                secured.sendall(b"answer")
                assert client.recv(6) == b"answer"
                client.shutdown(socket.SHUT_WR)
                assert secured.recv(1) == b""
                secured.unwrap()
        assert gateway.wait_for_record(request_bytes=8)["fault"] is None


def test_a_target_that_is_not_who_it_should_be(place: Place, tmp_path: Path) -> None:
    tls = {"ca": place.authority.ca, "server_name": "b.test"}
    config = tcp_config(place.a, tls=tls, retries={"max": 0})
    with Gateway(config, tmp_path) as gateway, connected(gateway.port()) as client:
        client.sendall(b"secret")
        with pytest.raises(ssl.SSLError):
            place.a.accept(place.server_tls())
        assert is_reset(client)
        assert gateway.wait_for_record(fault="tls_failed")["status"] == 502


def test_what_a_header_of_version_2_says_is_told_on(place: Place, tmp_path: Path) -> None:
    """Server name, ALPN protocol and id of the connection; a connection without an id gets one, which is logged."""
    listener = {"proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"]}
    told = ProxyTlvs("h2", "a.test", "id-1")
    raw = ProxyTlvs(raw_authority="bücher.example".encode(), raw_id=b"\0\r\n\xff")
    with Gateway(tcp_config(place.a, listener, proxy_protocol="v2"), tmp_path) as gateway:
        for tlvs in (told, NO_TLVS, raw):
            with connected(gateway.port()) as client:
                client.sendall(header_v2(("192.0.2.1", 1111), ("192.0.2.2", 2222), tlvs))
                with place.a.accept() as service:
                    sent = _behind_header(service)
            logged = sent[5].hex() if tlvs is raw else sent[5].decode()
            assert gateway.wait_for_record(client="192.0.2.1", request_id=logged)["status"] == 200
            if tlvs is told:
                assert sent == {1: b"h2", 2: b"a.test", 5: b"id-1"}
            elif tlvs is raw:
                assert sent == {2: raw.raw_authority, 5: raw.raw_id}
            else:
                assert set(sent) == {5}
                assert len(sent[5]) == 32


def test_a_header_of_a_proxy_is_read_and_told_on(place: Place, tmp_path: Path) -> None:
    """PROXY protocol in and out: the service learns the client's own address."""
    listener = {"proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"]}
    with (
        Gateway(tcp_config(place.a, listener, proxy_protocol="v1"), tmp_path) as gateway,
        connected(gateway.port()) as client,
    ):
        client.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\nhello")
        with place.a.accept() as service:
            wanted = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\nhello"
            assert read_exactly(service, len(wanted)) == wanted
        client.close()
        assert gateway.wait_for_record(client="192.0.2.1")["status"] == 200


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_header_of_a_proxy_before_tls_is_told_on_as_it_was(place: Place, tmp_path: Path, version: str) -> None:
    """Both addresses, where the listener ends TLS, and where it reads the name and passes the connection on."""
    tls = {"certificates": [{"certificate": place.pair[0], "key": place.pair[1]}]}
    listener = {"proxy_protocol": "required", "trusted_proxies": ["127.0.0.0/8"], "tls": tls}
    config = tcp_config(place.a, listener, proxy_protocol=version)
    del config["listeners"]["main"]["upstream"]
    config["listeners"]["main"]["routes"] = [
        {"sni": ["a.test"], "upstream": "service"},
        {"sni": ["*.wild.test"], "upstream": "service", "passthrough": True},
    ]
    addresses = ("192.0.2.1", 1111), ("192.0.2.2", 2222)
    greeting = b"PROXY TCP4 192.0.2.1 192.0.2.2 1111 2222\r\n"
    with Gateway(config, tmp_path) as gateway:
        for name in ("a.test", "x.wild.test"):
            with connected(gateway.port()) as raw:
                raw.sendall(greeting)
                if name == "a.test":
                    client = client_tls(place.authority).wrap_socket(raw, server_hostname=name)
                    client.sendall(b"question")
                else:
                    raw.sendall(client_hello(name=name))
                with place.a.accept() as service:
                    if version == "v1":
                        assert read_exactly(service, len(greeting)) == greeting
                    else:
                        parsed = parse(_header_v2(service))
                        assert parsed is not None
                        assert (parsed.source, parsed.destination) == addresses
                if name == "a.test":
                    client.close()
