"""TLS towards clients: certificates by name, client certificates, tickets, and who speaks something else."""

from __future__ import annotations

import contextlib
import hashlib
import re
import socket
import ssl
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from fastgw.net.client_hello import NO_APPLICATION_PROTOCOL, Alert
from tests.support.certificates import Certificates, client_tls
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin
from tests.support.peer import DEADLINE, Unexpected
from tests.support.secured import REQUEST, InMemory, Secured, client_hello
from tests.support.table import for_each

FINGERPRINT = re.compile(rb"Hash=([0-9a-f]{64})")


class Place(NamedTuple):
    gateway: Gateway
    origin: Origin
    authority: Certificates
    issued: dict[str, tuple[str, str]]

    def client(self, tls: ssl.SSLContext | None = None, listener: str = "main", **options: Any) -> Secured:
        return Secured(self.gateway.address(listener), tls or client_tls(self.authority), **options)

    def serial(self, name: str) -> int:
        return x509.load_pem_x509_certificate(Path(self.issued[name][0]).read_bytes()).serial_number

    def fails(self, tls: ssl.SSLContext | None = None, **options: Any) -> ssl.SSLError:
        """The handshake, or, in TLS 1.3, where a client is done before it is verified, the first request."""
        try:
            with self.client(tls, **options) as client:
                client.sock.sendall(REQUEST % b"")
                answer = client.sock.recv(65_536)
        except ssl.SSLError as error:
            return error
        raise AssertionError(f"answered with {answer!r}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    directory = tmp_path_factory.mktemp("tls")
    authority = Certificates(directory)
    stranger_folder = directory / "stranger"
    stranger_folder.mkdir()
    issued = {
        "a.test": authority.issue("a.test", "127.0.0.1"),
        "*.wild.test": authority.issue("*.wild.test"),
        "one.wild.test": authority.issue("one.wild.test"),
        "rsa": authority.issue("a.test", "127.0.0.1", stem="rsa", rsa=True),
        "one.wild.test rsa": authority.issue("one.wild.test", stem="one-rsa", rsa=True),
        "two.test": authority.issue("two.test", "www.two.test"),
        "two.test rsa": authority.issue("two.test", stem="two-rsa", rsa=True),
        "alice": authority.issue("alice.example", "spiffe://example/alice", subject="alice"),
        "mallory": authority.issue("mallory.example", subject="mallory"),
        "late": authority.issue("late.example", subject="late", days=-1),
        "stranger": Certificates(stranger_folder).issue("alice.example", subject="alice"),
    }
    certificates = [
        {"certificate": certificate, "key": key}
        for certificate, key in (issued[name] for name in ("a.test", "*.wild.test", "one.wild.test"))
    ]
    of_both_kinds = [
        {"certificate": issued[name][0], "key": issued[name][1]}
        for name in ("a.test", "one.wild.test rsa", "rsa", "one.wild.test", "two.test", "two.test rsa")
    ]
    tls = {"certificates": certificates, "handshake_timeout": "1s"}
    by_host = [
        dict(certificates[0]),
        {**certificates[1], "hosts": ["*.deep.test"]},
        {**certificates[2], "hosts": ["x.deep.test"]},
    ]
    asking = {"ca": authority.ca, "crl": authority.revoke(issued["mallory"][0])}
    anywhere = {"address": "127.0.0.1:0"}
    with Origin() as origin:
        origin.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        config = {
            "workers": 2,
            "status": {"address": "127.0.0.1:0"},
            "listeners": {
                "main": {**anywhere, "tls": tls},
                "proxied": {
                    **anywhere,
                    "tls": tls,
                    "proxy_protocol": "required",
                    "trusted_proxies": ["127.0.0.0/8"],
                },
                "both": {**anywhere, "tls": {**tls, "certificates": of_both_kinds}},
                "by-host": {
                    **anywhere,
                    "tls": {**tls, "certificates": by_host},
                    "filters": {"misdirected": {"groups": [["x.deep.test"], ["*.deep.test"]]}},
                },
                "newest": {**anywhere, "tls": {**tls, "min_version": "1.3"}},
                "unticketed": {**anywhere, "tls": {**tls, "session_tickets": False}},
                "required": {**anywhere, "tls": {**tls, "client_auth": asking}},
                "optional": {**anywhere, "tls": {**tls, "client_auth": {**asking, "mode": "optional"}}},
            },
            "routes": [{"name": "all", "upstream": origin.serve().url}],
        }
        with Gateway(config, directory) as gateway:
            yield Place(gateway, origin, authority, issued)


def metric(place: Place, name: str) -> float:
    """A sample of the status listener, by its name with its labels."""
    host, _, port = place.gateway.ready["status"].rpartition(":")
    with socket.create_connection((host, int(port)), DEADLINE) as asked:
        asked.sendall(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n")
        text = b"".join(iter(lambda: asked.recv(65_536), b"")).decode()
    found = re.search(f"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def wait_until_counted(place: Place, name: str, before: float) -> None:
    """Wait until a sample is one more: the client is told of a failure before it is counted."""
    wait_until(lambda: metric(place, name) == before + 1, f"{name} to be {before + 1:g}")


# --- what is shown, and agreed on ---


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("x.deep.test", "one.wild.test"),
        ("y.deep.test", "*.wild.test"),
        ("a.b.deep.test", "*.wild.test"),
        ("one.wild.test", "a.test"),
    ],
)
def test_a_certificate_may_be_for_other_names_than_those_in_it(place: Place, name: str, shown: str) -> None:
    """`hosts` of a certificate: the exact name, then a wildcard for any number of labels, then the first one."""
    tls = client_tls(place.authority)
    tls.check_hostname = False
    with place.client(tls, "by-host", name=name) as client:
        assert client.serial == place.serial(shown)


@pytest.mark.parametrize(
    ("name", "host", "status"),
    [
        ("x.deep.test", "x.deep.test", 200),
        ("x.deep.test", "y.deep.test", 421),
        ("x.deep.test", "a.test", 421),
        ("y.deep.test", "z.y.deep.test", 200),
        ("y.deep.test", "X.deep.test:443", 421),
        ("a.test", "other.test", 200),
        ("a.test", "y.deep.test", 421),
    ],
)
def test_a_request_for_another_group_of_hosts_is_misdirected(place: Place, name: str, host: str, status: int) -> None:
    """RFC 9110 section 15.5.20: the filter `misdirected`, by the server name of the connection."""
    tls = client_tls(place.authority)
    tls.check_hostname = False
    with place.client(tls, "by-host", name=name) as client:
        client.sock.sendall(f"GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        received = b"".join(iter(lambda: client.sock.recv(65_536), b""))
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert (b"urn:fastgw:fault:misdirected" in received) is (status == 421)


@pytest.mark.parametrize(
    ("asked", "shown"),
    [
        ("a.test", "a.test"),
        ("A.Test", "a.test"),
        ("one.wild.test", "one.wild.test"),
        ("two.wild.test", "*.wild.test"),
        ("deeper.two.wild.test", "a.test"),
        ("wild.test", "a.test"),
        ("unknown.test", "a.test"),
        (None, "a.test"),
    ],
)
def test_the_certificate_is_the_one_for_the_name(place: Place, asked: str | None, shown: str) -> None:
    """RFC 6066 section 3: by SNI; the exact name before the wildcard, which is one label (RFC 9525 section 6.3)."""
    tls = client_tls(place.authority)
    tls.check_hostname = False
    with place.client(tls, name=asked) as client:
        assert client.serial == place.serial(shown)


@pytest.mark.parametrize(
    ("able", "kind"),
    [
        (["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"], "rsa"),
        (["-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"], ""),
        (["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"], "rsa"),
        (["-tls1_3", "-sigalgs", "ecdsa_secp256r1_sha256"], ""),
    ],
)
@pytest.mark.parametrize("name", ["a.test", "one.wild.test", "two.test", ""])
def test_of_two_certificates_for_a_name_the_client_gets_the_one_that_it_can_verify(
    place: Place, able: list[str], kind: str, name: str
) -> None:
    asked = ["-servername", name] if name else ["-noservername"]
    command = ["openssl", "s_client", "-connect", place.gateway.address("both"), "-verify_return_error", *able, *asked]
    done = subprocess.run(
        [*command, "-CAfile", place.authority.ca], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=30
    )
    shown = x509.load_pem_x509_certificate(done.stdout[done.stdout.index(b"-----BEGIN CERTIFICATE") :])
    expected = {"a.test": "rsa" if kind else "a.test", "": "rsa" if kind else "a.test"}
    assert shown.serial_number == place.serial(expected.get(name, f"{name} {kind}".strip()))


def test_who_sends_records_without_data_is_cut_off(place: Place) -> None:
    """Each key update costs as much as a hundred bytes of data, and asks for an answer."""
    command = [
        "openssl",
        "s_client",
        "-connect",
        place.gateway.address("both"),
        "-tls1_3",
        "-CAfile",
        place.authority.ca,
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=subprocess.DEVNULL, stderr=pipe, bufsize=0) as client:
        assert client.stdin is not None
        assert client.stderr is not None
        updates = 0
        with contextlib.suppress(BrokenPipeError):
            while updates < 2000:
                client.stdin.write(b"K\n")  # its command for one
                while (line := client.stderr.readline()) not in (b"KEYUPDATE\n", b""):
                    pass
                if not line:
                    break
                updates += 1
    assert 16 < updates < 2000
    assert place.gateway.stderr.wait_for(lambda line: b"TLS with 127.0.0.1 is cut off: records without data" in line)
    with place.client() as other:
        assert other.ask().body == b"ok"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_requests_are_served_over_each_version(place: Place, version: ssl.TLSVersion) -> None:
    tls = client_tls(place.authority)
    tls.minimum_version = tls.maximum_version = version
    with place.client(tls) as client:
        for _ in range(3):
            assert client.ask().body == b"ok"


def test_the_upstream_and_the_log_know_that_it_was_https(place: Place) -> None:
    before = len(place.origin.requests)
    with place.client() as client:
        client.ask(b"scheme")
    request = place.origin.wait_for_requests(before + 1)[-1]
    assert request.get(b"X-Forwarded-Proto") == b"https"
    assert place.gateway.wait_for_record(path="/scheme")["scheme"] == "https"


@pytest.mark.parametrize("offered", [["http/1.1"], ["http/1.1", "h3"], ["h3", "http/1.1"]])
def test_http_1_1_is_spoken_with_who_offers_that_alone(place: Place, offered: list[str]) -> None:
    tls = client_tls(place.authority)
    tls.set_alpn_protocols(offered)
    with place.client(tls) as client:
        assert client.sock.selected_alpn_protocol() == "http/1.1"
        assert client.ask().body == b"ok"


@pytest.mark.parametrize("offered", [["h2", "http/1.1"], ["http/1.1", "h2"]])
def test_http_2_is_preferred_where_it_is_there(place: Place, offered: list[str]) -> None:
    tls = client_tls(place.authority)
    tls.set_alpn_protocols(offered)
    with place.client(tls) as client:
        assert client.sock.selected_alpn_protocol() == "h2"


def test_who_would_speak_something_else_is_told_so(place: Place) -> None:
    """RFC 7301 section 3.2: a fatal alert, and not a connection on which each speaks another protocol."""
    tls = client_tls(place.authority)
    tls.set_alpn_protocols(["h3", "ftp"])
    before = metric(place, 'fastgw_tls_handshake_failures_total{fault="no_agreement"}')
    assert "no application protocol" in str(place.fails(tls))
    wait_until_counted(place, 'fastgw_tls_handshake_failures_total{fault="no_agreement"}', before)


def test_who_speaks_no_version_that_is_allowed_is_told_so(place: Place) -> None:
    tls = client_tls(place.authority)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    before = metric(place, 'fastgw_tls_handshake_failures_total{fault="no_agreement"}')
    assert place.fails(tls, listener="newest").reason == "TLSV1_ALERT_PROTOCOL_VERSION"
    wait_until_counted(place, 'fastgw_tls_handshake_failures_total{fault="no_agreement"}', before)


def test_a_request_that_comes_with_the_end_of_the_handshake_is_served(place: Place) -> None:
    """Everything a client may send ahead, in one segment, and byte by byte."""
    for size in (1, 7, 65_536):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_tls(place.authority).wrap_bio(incoming, outgoing, server_hostname="a.test")
        with place.gateway.connect() as client:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
            for sent in range(2):
                sealed = outgoing.read()
                for at in range(0, len(sealed), size):
                    client.send(sealed[at : at + size])
                if not sent:
                    while True:
                        client.receive()
                        incoming.write(client.read_exactly(len(client.unread)))
                        with contextlib.suppress(ssl.SSLWantReadError):
                            tls.do_handshake()
                            break
                    tls.write(REQUEST % b"")
            answer = b""
            while not answer.endswith(b"ok"):
                client.receive()
                incoming.write(client.read_exactly(len(client.unread)))
                with contextlib.suppress(ssl.SSLWantReadError):
                    answer += tls.read(65_536)


# --- who is no client of TLS ---


@pytest.mark.parametrize("method", [b"GET", b"OPTIONS", b"X"])
def test_plain_http_is_told_that_the_port_speaks_tls(place: Place, method: bytes) -> None:
    with place.gateway.connect() as client:
        response = client.exchange(b"%b /plain-%b HTTP/1.1\r\nHost: a.test\r\n\r\n" % (method, method))
        assert_fault(response, 400, "tls_required")
        client.assert_ended()
    record = place.gateway.wait_for_record(path=f"/plain-{method.decode()}")
    assert (record["status"], record["fault"], record["scheme"]) == (400, "tls_required", "http")


@pytest.mark.parametrize(
    "noise", [b"\x00\x00\x00\x00", b"\x80\x2e\x01\x00\x02", b"\x16\x03\x01\x00\x05hello", b"\xff" * 64]
)
def test_what_is_neither_is_closed(place: Place, noise: bytes) -> None:
    before = metric(place, 'fastgw_tls_handshake_failures_total{fault="protocol_error"}')
    with place.gateway.connect() as client:
        client.send(noise)
        client.read_to_end()
    wait_until_counted(place, 'fastgw_tls_handshake_failures_total{fault="protocol_error"}', before)


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01"])
def test_a_handshake_that_does_not_come_is_cut_and_counted(place: Place, sent: bytes) -> None:
    before = metric(place, 'fastgw_tls_handshake_failures_total{fault="timeout"}')
    with place.gateway.connect() as client:
        client.send(sent)
        client.assert_ended()
    wait_until_counted(place, 'fastgw_tls_handshake_failures_total{fault="timeout"}', before)


@pytest.mark.parametrize(("size", "in_records"), [(1, False), (100, False), (10, True), (100, True)])
def test_a_hello_may_come_in_pieces(place: Place, size: int, in_records: bool) -> None:
    """Of the stream, or of the message: RFC 8446 section 5.1."""

    class InPieces(socket.socket):
        def sendall(self, sent: Any, *flags: Any) -> None:
            if sent[:1] == b"\x16":
                for at in range(5 if in_records else 0, len(sent), size):
                    piece = sent[at : at + size]
                    super().sendall(sent[:3] + len(piece).to_bytes(2) + piece if in_records else piece)
            else:
                super().sendall(sent)

    with place.gateway.connect() as client:
        client.sock = InPieces(fileno=client.sock.detach())
        client.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sock.settimeout(DEADLINE)
        tls = client_tls(place.authority)
        client.sock = cast(Any, InMemory(client.sock, tls))
        assert client.exchange(REQUEST % b"").body == b"ok"


def test_what_a_hello_in_pieces_offers_is_read_too(place: Place) -> None:
    """RFC 7301 section 3.2, also where a packet ends in the middle."""
    sent = client_hello("h3")
    with place.gateway.connect() as client:
        for piece in (sent[:50], sent[50:]):
            client.send(piece)
        assert client.read_to_end() == NO_APPLICATION_PROTOCOL


def test_a_hello_longer_than_any_is_refused_at_once(place: Place) -> None:
    before = metric(place, 'fastgw_tls_handshake_failures_total{fault="protocol_error"}')
    with place.gateway.connect() as client:
        client.send(b"\x16\x03\x01\x40\x00\x01\x01\x00\x00" + b"x" * 16_380)
        assert client.read_to_end() == Alert.DECODE_ERROR.record
    wait_until_counted(place, 'fastgw_tls_handshake_failures_total{fault="protocol_error"}', before)


@pytest.mark.parametrize(
    ("name", "alert"),
    [
        (b"a_test", b""),  # an answer of OpenSSL's
        (b"a test", b"\x15\x03\x03\x00\x02\x02\x2f"),
        (b"\xff.test", b"\x15\x03\x03\x00\x02\x02\x2f"),
    ],
)
def test_a_name_that_is_no_host_name_is_refused_before_openssl_reads_it(
    place: Place, name: bytes, alert: bytes
) -> None:
    """illegal_parameter (RFC 8446 section 6.2); for the last one, OpenSSL's callback fails with a traceback."""
    with place.gateway.connect() as client:
        client.send(client_hello().replace(b"a.test", name))
        assert client.read_exactly(7) == alert or not alert
        if alert:
            client.assert_ended()
    assert "Traceback" not in place.gateway.stderr.text()


def test_connections_that_fail_leave_nothing_behind(place: Place) -> None:
    for _ in range(5):
        with place.gateway.connect() as client:
            client.send(b"\x16\x03\x01")
    wait_until(lambda: metric(place, "fastgw_connections") == 0, "connections to be given back")


def test_bytes_that_were_changed_on_their_way_end_the_connection(place: Place) -> None:
    with place.client() as client:
        client.ask()
        with socket.socket(fileno=client.sock.detach()) as bare:
            bare.sendall(b"\x17\x03\x03\x00\x20" + b"\0" * 32)
            bare.settimeout(DEADLINE)
            with contextlib.suppress(ConnectionResetError):
                while bare.recv(65_536):
                    pass


# --- certificates of clients ---


def test_an_upstream_is_told_of_a_certificate_that_was_verified(place: Place) -> None:
    """And of nothing that the client says of itself."""
    before = len(place.origin.requests)
    with place.client(client_tls(place.authority, place.issued["alice"]), listener="required") as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Client-Cert: Hash=f00\r\n\r\n")
        assert client.read_response().status == 200
    told = place.origin.wait_for_requests(before + 1)[-1].get(b"X-Forwarded-Client-Cert") or b""
    certificate = x509.load_pem_x509_certificate(Path(place.issued["alice"][0]).read_bytes())

    digest = hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest().encode()
    assert told == b'Hash=%b;Subject="CN=alice";URI=spiffe://example/alice;DNS=alice.example' % digest


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(
    ("who", "fault"),
    [
        (None, "certificate_missing"),
        ("mallory", "certificate_refused"),
        ("late", "certificate_refused"),
        ("stranger", "certificate_refused"),
    ],
)
def test_who_shows_no_good_certificate_does_not_get_in(
    place: Place, version: ssl.TLSVersion, who: str | None, fault: str
) -> None:
    """None, one that is revoked, one that has expired, and one of another authority."""
    tls = client_tls(place.authority, None if who is None else place.issued[who])
    tls.minimum_version = tls.maximum_version = version
    sample = f'fastgw_tls_handshake_failures_total{{fault="{fault}"}}'
    before = metric(place, sample)
    place.fails(tls, listener="required")
    wait_until_counted(place, sample, before)


def test_where_a_certificate_is_optional_only_a_bad_one_keeps_out(place: Place) -> None:
    before = len(place.origin.requests)
    with place.client(listener="optional") as client:
        assert client.ask().body == b"ok"
    with place.client(client_tls(place.authority, place.issued["alice"]), listener="optional") as client:
        assert client.ask().body == b"ok"
    anonymous, alice = place.origin.wait_for_requests(before + 2)[before:]
    assert b"X-Forwarded-Client-Cert" not in anonymous
    assert FINGERPRINT.match(alice.get(b"X-Forwarded-Client-Cert") or b"")
    place.fails(client_tls(place.authority, place.issued["mallory"]), listener="optional")


# --- tickets ---


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize(("listener", "who"), [("main", None), ("required", "alice"), ("newest", None)])
def test_a_session_is_resumed_by_every_worker(
    place: Place, version: ssl.TLSVersion, listener: str, who: str | None
) -> None:
    if (listener, version) == ("newest", ssl.TLSVersion.TLSv1_2):
        return
    tls = client_tls(place.authority, None if who is None else place.issued[who])
    tls.minimum_version = tls.maximum_version = version
    with place.client(tls, listener=listener) as client:
        session = client.session()
    before = len(place.origin.requests)
    for _ in range(8):  # both workers are met: the odds against it are 1 to 128
        with place.client(tls, listener=listener, session=session) as client:
            assert client.sock.session_reused
            assert client.ask().body == b"ok"
    if who is not None:
        told = {request.get(b"X-Forwarded-Client-Cert") for request in place.origin.requests[before:]}
        assert len(told) == 1
        assert FINGERPRINT.match(told.pop() or b"")


def test_a_session_is_no_good_where_others_are_believed(place: Place) -> None:
    """What a ticket says of a client was verified by the rules of its own listener."""
    tls = client_tls(place.authority, place.issued["alice"])
    with place.client(tls, listener="optional") as client:
        session = client.session()
    with place.client(tls, listener="required", session=session) as client:
        assert not client.sock.session_reused


def test_a_session_ends_with_the_list_that_was_good_when_it_began(tmp_path: Path) -> None:
    """Nor is a handshake good that began before, and would be done, with a new ticket, behind it."""
    authority = Certificates(tmp_path)
    certificate, key = authority.issue("a.test")
    asking = {"ca": authority.ca, "crl": authority.revoke()}
    tls = {"certificates": [{"certificate": certificate, "key": key}], "client_auth": asking}
    config = {
        "workers": 1,
        "listeners": {"main": {"address": "127.0.0.1:0", "tls": tls}},
        "routes": [{"name": "all", "respond": {"body": "ok"}}],
    }
    known = client_tls(authority, authority.issue("alice"))
    with Gateway(config, tmp_path) as gateway:
        authority.revoke(days=5 / 86_400)
        gateway.stderr.wait_for(lambda line: b"generation 2" in line, 3 * DEADLINE)
        with Secured(gateway.address(), known) as client:
            session = client.session()
        with Secured(gateway.address(), known, session=session) as client:
            assert client.sock.session_reused
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        late = known.wrap_bio(incoming, outgoing, server_hostname="a.test", session=session)
        with gateway.connect() as behind:
            while True:
                try:
                    late.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    behind.send(outgoing.read())
                    behind.receive()
                    incoming.write(behind.read_exactly(len(behind.unread)))
            assert late.session_reused

            def is_refused() -> bool:
                try:
                    with Secured(gateway.address(), known, session=session) as client:
                        return client.ask().status != 200
                except (OSError, Unexpected):  # an alert, or its end before that could be read
                    return True

            def is_judged_anew() -> bool:
                return is_refused() and any(b"CRL has expired" in line for line in gateway.stderr.lines)

            wait_until(is_judged_anew, "the list to be out of date", 3 * DEADLINE)
            behind.send(outgoing.read())
            behind.assert_ended()
        gateway.stderr.wait_for(lambda line: b"list has expired since the session began" in line, DEADLINE)


@pytest.mark.parametrize("listener", ["optional", "required"])
def test_a_renewed_certificate_is_accepted_when_the_former_one_expires(place: Place, listener: str) -> None:
    """A client that offers the session of the former one gets a full handshake, not a closed connection."""
    held = []
    former = place.authority.issue("alice.example", stem="former", days=4 / 86_400)
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        tls = client_tls(place.authority, former)
        tls.minimum_version = tls.maximum_version = version
        with place.client(tls, listener=listener) as client:
            held.append((tls, client.session()))
    renewed = place.authority.issue("alice.example", stem="renewed")
    for tls, session in held:
        tls.load_cert_chain(*renewed)

        def is_full() -> bool:
            try:
                with place.client(tls, listener=listener, session=session) as client:  # noqa: B023
                    return client.ask().status == 200 and not client.sock.session_reused
            except (OSError, Unexpected):  # it has expired in the middle of this handshake
                return False

        wait_until(is_full, "the former certificate to expire", 3 * DEADLINE)


def test_a_connection_ends_before_the_certificate_of_its_client_expires(place: Place) -> None:
    """It is not verified then who the client is. Its connections would be kept alive for as long as it asks."""
    brief = place.authority.issue("alice.example", stem="brief", days=8 / 86_400)
    tls, tls_of_http2 = client_tls(place.authority, brief), client_tls(place.authority, brief)
    tls_of_http2.set_alpn_protocols(["h2"])
    with (
        place.client(tls, listener="required") as idle,
        place.client(tls, listener="required") as asking,
        place.client(tls_of_http2, listener="required") as multiplexed,
    ):
        multiplexed.sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes.fromhex("000000040000000000"))
        assert [client.ask().status for client in (idle, asking)] == [200, 200]
        while (answer := asking.ask()).get(b"connection") != b"close":
            assert answer.status == 200
        assert answer.status == 200
        assert [client.sock.recv(1) for client in (idle, asking)] == [b"", b""]
        frames = b"".join(iter(lambda: multiplexed.sock.recv(65_536), b""))
        assert bytes.fromhex("0000080700000000007fffffff00000000") in frames  # GOAWAY, as its announcement


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_without_tickets_there_is_nothing_to_resume(place: Place, version: ssl.TLSVersion) -> None:
    tls = client_tls(place.authority)
    tls.minimum_version = tls.maximum_version = version
    with place.client(tls, listener="unticketed") as client:
        client.ask()
        session = client.sock.session
    with place.client(tls, listener="unticketed", session=session) as client:
        assert not client.sock.session_reused
        assert client.ask().body == b"ok"


# --- behind a proxy ---


ADDRESSES = bytes([192, 0, 2, 7]) + bytes(4) + struct.pack("!HH", 4711, 443)
SSL = {told: struct.pack("!BHBI", 0x20, 5, told, 0) for told in (0, 1)}


@for_each(
    ("header", "scheme"),
    [
        (b"PROXY TCP4 192.0.2.7 192.0.2.1 4711 443\r\n", b"https"),
        *(
            (b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + struct.pack("!H", 12 + len(tlv)) + ADDRESSES + tlv, scheme)
            for tlv, scheme in ((b"", b"https"), (SSL[1], b"https"), (SSL[0], b"http"))
        ),
    ],
)
def test_the_proxy_header_comes_before_the_handshake(place: Place, header: bytes, scheme: bytes) -> None:
    """A sender that encrypts what has come to it in clear text says so (`PP2_TYPE_SSL`)."""
    before = len(place.origin.requests)
    with place.client(listener="proxied", first=header) as client:
        client.ask()
    request = place.origin.wait_for_requests(before + 1)[-1]
    assert request.get(b"X-Forwarded-For") == b"192.0.2.7"
    assert request.get(b"X-Forwarded-Port") == {b"https": b"443", b"http": b"80"}[scheme]
    assert request.get(b"X-Forwarded-Proto") == scheme


# --- the ends of connections ---


def test_an_answer_without_a_length_ends_within_tls(place: Place) -> None:
    """`close_notify` (RFC 8446 section 6.1): else nobody could tell the end from a cut."""
    with place.client() as client:
        client.send(b"GET /last HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
        assert client.read_response().body == b"ok"
        client.assert_ended()  # raises where the stream is cut: SSLEOFError


def test_an_early_answer_reaches_a_client_that_goes_on_sending(place: Place) -> None:
    """Promise 9, over TLS: 413 comes whole, and what is still sent is read and dropped."""
    with place.client() as client:
        client.send(b"POST / HTTP/1.1\r\nHost: a b\r\nContent-Length: 15000000\r\n\r\n")
        for _ in range(30):
            client.send_gently(b"x" * 100_000)
        assert client.read_response().status == 400
