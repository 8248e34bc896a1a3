"""What is told of a client's certificate: nothing in it can end a field, or a string in one."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastgw.forwarded_headers import Peer, fields_for_upstream
from fastgw.http.http1.parser import parse_request
from fastgw.net.client_certificate import LONGEST, ClientCertificate

DER = b"not looked into"
REQUEST = parse_request(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-Client-Cert: Hash=f0\r\n\r\n")
FIELD = b"X-Forwarded-Client-Cert: "


def certificate(subject: list[tuple[str, str]], *names: tuple[str, str]) -> ClientCertificate:
    decoded: dict[str, Any] = {
        "subject": tuple((part,) for part in subject),
        "subjectAltName": names,
        "notAfter": "Jun  1 12:00:00 2030 GMT",
        "serialNumber": "0A",
    }
    return ClientCertificate.of(DER, decoded)


def written(policy: Any, trusted: bool, shown: ClientCertificate | None) -> list[bytes]:
    peer = Peer("10.0.0.9", 1, 443, trusted, b"https", shown)
    _, lines = fields_for_upstream(policy, peer, REQUEST, peer.ip)
    return [line.removeprefix(FIELD) for line in lines.split(b"\r\n") if line.startswith(FIELD)]


ALICE = certificate(
    [("countryName", "US"), ("organizationName", "Example"), ("commonName", "alice")],
    ("URI", "spiffe://example/alice"),
    ("DNS", "alice.example"),
    ("DNS", "a.example"),
    ("email", "alice@example"),
    ("IP Address", "10.1.2.3"),
)


def test_whom_it_names() -> None:
    assert ALICE.subject == "CN=alice,O=Example,C=US"
    assert ALICE.common_name == "alice"
    assert (ALICE.dns_names, ALICE.uris) == (("alice.example", "a.example"), ("spiffe://example/alice",))
    assert (ALICE.emails, ALICE.ip_addresses) == (("alice@example",), ("10.1.2.3",))
    assert re.fullmatch("[0-9a-f]{64}", ALICE.fingerprint)
    assert (ALICE.serial, ALICE.expires_date) == ("0A", 1906545600.0)


def test_the_element_is_envoys() -> None:
    assert ALICE.element() == (
        b'Hash=%b;Subject="CN=alice,O=Example,C=US";URI=spiffe://example/alice;DNS=alice.example;DNS=a.example'
        % ALICE.fingerprint.encode()
    )


def test_it_is_written_from_what_was_verified_and_from_nothing_that_a_client_sent() -> None:
    own = ALICE.element()
    assert written(None, False, ALICE) == [own]
    assert written("set", True, ALICE) == [own]
    assert written("append", False, ALICE) == [own]
    assert written("append", True, ALICE) == [b"Hash=f0, " + own]
    assert written("append", True, None) == [b"Hash=f0"]
    assert written("append", False, None) == written(None, False, None) == written("strip", False, ALICE) == []


@pytest.mark.parametrize(
    ("trusted", "scheme", "shown", "dropped", "added"),
    [
        (False, b"https", ALICE, True, True),
        (False, b"https", None, True, False),
        (True, b"https", ALICE, False, False),
        (False, b"http", None, False, False),
    ],
)
def test_what_is_passed_on_is_no_lie_about_a_certificate(
    trusted: bool, scheme: bytes, shown: ClientCertificate | None, dropped: bool, added: bool
) -> None:
    """Over TLS only we, and the proxies that we trust, know what a client has shown."""
    peer = Peer("10.0.0.9", 1, 443, trusted, scheme, shown)
    drop, lines = fields_for_upstream("pass", peer, REQUEST, peer.ip)
    assert drop == (frozenset({b"x-forwarded-client-cert"}) if dropped else frozenset())
    assert lines == (FIELD + ALICE.element() + b"\r\n" if added else b"")


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_whatever_it_says_the_element_is_one(subject: str, name: str) -> None:
    shown = certificate([("commonName", subject)], ("URI", name), ("DNS", name))
    element = shown.element()
    assert not re.search(rb"[^\x20-\x7e]", element)
    assert element.count(b'"') % 2 == 0
    outside = re.sub(rb'"[^"]*"', b"", element)
    assert re.fullmatch(rb"Hash=[0-9a-f]{64};Subject=;URI=[^,;=]*;DNS=[^,;=]*", outside)


def test_what_separates_parts_of_a_subject_is_escaped() -> None:
    assert certificate([("organizationName", 'Acme, "Inc" + <b>;\\')]).subject == (r"O=Acme\, \22Inc\22 \+ \<b\>\;\5C")
    assert certificate([("commonName", "#a ")]).subject == r"CN=\#a\ "
    assert certificate([("commonName", "é")]).subject == r"CN=\C3\A9"


def test_hundreds_of_names_are_not_all_told() -> None:
    many = certificate([("commonName", "a")], *(("DNS", f"host-{number}.example") for number in range(1000)))
    assert len(many.dns_names) == 1000
    assert len(many.element()) <= LONGEST
