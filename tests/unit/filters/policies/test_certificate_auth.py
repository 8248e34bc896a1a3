"""certificate_auth: whose certificate it is, by fingerprint, name or subject; nobody's is refused."""

from typing import Any

import pytest

from fastgw.consumers.index import Roster, index_of
from fastgw.filters.api import Phase
from fastgw.filters.policies.certificate_auth import CertificateOwners
from fastgw.net.client_certificate import ClientCertificate
from tests.support.generations import load_document
from tests.support.memory import SERVICE, Plane, probe

PRINT = "ab" * 32


def certificate(**parts: Any) -> ClientCertificate:
    nothing: dict[str, Any] = {
        "subject": "CN=x",
        "common_name": "x",
        "dns_names": (),
        "uris": (),
        "emails": (),
        "ip_addresses": (),
        "fingerprint": "00" * 32,
        "serial": "01",
        "issuer": "CN=ca",
        "expires_date": 0.0,
    }
    return ClientCertificate(**{**nothing, **parts})


CONSUMERS = [
    {"name": "pinned", "certificates": [{"fingerprint_sha256": PRINT}]},
    {"name": "named", "certificates": [{"san": "DNS:a.example"}, {"san": "URI:spiffe://example/a"}]},
    {"name": "other", "certificates": [{"san": "DNS:b.example"}, {"san": "email:b@example"}]},
    {"name": "subject", "certificates": [{"subject": "CN=alice,O=Example"}]},
]


def asked(shown: ClientCertificate | None) -> tuple[bytes, list[bytes]]:
    """What the client is answered, or else whom the upstream is told of."""
    plane = Plane(
        {
            "consumers": CONSUMERS,
            "filters": {
                "certificate_auth": {"realm": "shop"},
                "headers": {"request": {"set": {"X-Consumer": "{consumer.name}"}}},
            },
        },
        probes=[
            probe("tls", Phase.OBSERVE, request=lambda exchange: setattr(exchange.peer, "certificate", shown)),
        ],
    )
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Consumer: root\r\n\r\n")
    if client.received:
        return client.received, []
    return b"", [line for line in plane.connects().received.split(b"\r\n") if line.startswith(b"X-Consumer")]


@pytest.mark.parametrize(
    ("parts", "consumer"),
    [
        ({"fingerprint": PRINT}, b"pinned"),
        ({"fingerprint": PRINT, "dns_names": ("a.example",), "subject": "CN=alice,O=Example"}, b"pinned"),
        ({"dns_names": ("z.example", "a.example")}, b"named"),
        ({"uris": ("spiffe://example/a",), "subject": "CN=alice,O=Example"}, b"named"),
        ({"emails": ("b@example",)}, b"other"),
        ({"subject": "CN=alice,O=Example"}, b"subject"),
    ],
)
def test_the_consumer_whose_certificate_it_is(parts: dict[str, Any], consumer: bytes) -> None:
    assert asked(certificate(**parts)) == (b"", [b"X-Consumer: " + consumer])


@pytest.mark.parametrize(
    ("shown", "fault"),
    [
        (None, b"credentials_missing"),
        (certificate(), b"credentials_invalid"),
        (certificate(dns_names=("a.example", "b.example")), b"credentials_invalid"),
        (certificate(uris=("a.example",)), b"credentials_invalid"),
        (certificate(subject="CN=alice"), b"credentials_invalid"),
    ],
)
def test_anybody_else_is_refused(shown: ClientCertificate | None, fault: bytes) -> None:
    answer, _ = asked(shown)
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b"urn:fastgw:fault:" + fault in answer
    assert b'\r\nWWW-Authenticate: ClientCertificate realm="shop"\r\n' in answer


def test_what_was_found_is_forgotten_when_consumers_change() -> None:
    roster = Roster(index_of(load_document({**SERVICE, "consumers": CONSUMERS}).consumers, {}))
    holders = CertificateOwners(roster)
    shown = certificate(fingerprint=PRINT)
    for _ in range(2):
        assert getattr(holders.of(shown), "name", None) == "pinned"
    roster.use_index(index_of(load_document({**SERVICE, "consumers": CONSUMERS[1:]}).consumers, {}))
    assert holders.of(shown) is None
