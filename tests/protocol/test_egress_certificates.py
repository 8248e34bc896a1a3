"""`egress.apps.NAME.consumers` by certificate: an application is who the certificate of its connection says."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Certificates, client_tls
from tests.support.client import Response
from tests.support.faults import assert_fault
from tests.support.gateway import Gateway
from tests.support.origin import Origin
from tests.support.secured import Secured

SHOP, CRM = "spiffe://cluster/ns/shop/sa/batch", "spiffe://cluster/ns/crm/sa/batch"
CALLS = b"GET /%b/orders/7 HTTP/1.1\r\nHost: a.test\r\n%b\r\n"


class Egress:
    """Two applications with a consumer each, one that two may call as, and one that is anybody's; behind mTLS."""

    def __init__(self, folder: Path, mode: str) -> None:
        self.authority = Certificates(folder)
        self.api = Origin().serve()
        orders = {"url": f"{self.api.url}/v2"}
        shown = [dict(zip(("certificate", "key"), self.authority.issue("a.test"), strict=True))]
        tls: Mapping[str, Any] = {
            "certificates": shown,
            "client_auth": {"mode": mode, "ca": self.authority.ca},
        }
        apps = {
            "shop": {"consumers": ["shop"], "orders": orders},
            "crm": {"consumers": ["crm"], "orders": orders},
            "shared": {"consumers": ["shop", "crm"], "orders": orders},
            "open": {"orders": orders},
        }
        config = {
            "workers": 1,
            "listeners": {"apps": {"address": "127.0.0.1:0", "tls": tls}},
            "consumers": [
                {"name": "shop", "certificates": [{"san": f"URI:{SHOP}"}]},
                {"name": "crm", "certificates": [{"san": f"URI:{CRM}"}]},
            ],
            "egress": {"apps": apps},
        }
        self.gateway = Gateway(config, folder)

    def shows(self, san: str) -> ssl.SSLContext:
        return client_tls(self.authority, self.authority.issue(san, stem=san.replace("/", "_")))

    def call(self, tls: ssl.SSLContext, app: bytes, fields: bytes = b"") -> Response:
        with Secured(self.gateway.address("apps"), tls) as client:
            return client.exchange(CALLS % (app, fields))

    def stop(self) -> None:
        self.gateway.stop()
        self.api.stop()


@pytest.fixture(scope="module", params=["required", "optional"])
def egress(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Egress]:
    made = Egress(tmp_path_factory.mktemp(request.param), request.param)
    yield made
    made.stop()


def test_an_application_calls_with_its_certificate_and_nobody_elses(egress: Egress) -> None:
    """Right: it passes. Another application's: 403, though it is known and its connection was let in."""
    for san, own, others in ((SHOP, b"shop", b"crm"), (CRM, b"crm", b"shop")):
        tls, name = egress.shows(san), own.decode()
        assert egress.call(tls, own).status == 200
        record = egress.gateway.wait_for_record(consumer=name, path=f"/{name}/orders/7")
        assert record["status"] == 200
        before = len(egress.api.requests)
        assert_fault(egress.call(tls, others), "forbidden")
        assert len(egress.api.requests) == before
        assert egress.call(tls, b"shared").status == 200
        assert egress.call(tls, b"open").status == 200


@pytest.mark.parametrize("san", ["spiffe://cluster/ns/other/sa/batch", f"{SHOP}/more", SHOP.upper(), "shop"])
def test_a_certificate_of_the_same_authority_that_is_no_consumers_is_none(egress: Egress, san: str) -> None:
    before = len(egress.api.requests)
    assert_fault(egress.call(egress.shows(san), b"shop"), "credentials_invalid")
    assert len(egress.api.requests) == before


def test_one_connection_is_one_application_whatever_a_request_says(egress: Egress) -> None:
    """Forwarded certificates are the word of who sends them."""
    tls, before = egress.shows(CRM), len(egress.api.requests)
    said = b'X-Forwarded-Client-Cert: URI="%b"\r\nX-SSL-Client-S-DN: CN=shop\r\n' % SHOP.encode()
    assert_fault(egress.call(tls, b"shop", said), "forbidden")
    with Secured(egress.gateway.address("apps"), tls) as client:
        assert client.exchange(CALLS % (b"crm", b"")).status == 200
        assert_fault(client.exchange(CALLS % (b"shop", b"")), "forbidden")
        assert client.exchange(CALLS % (b"crm", b"")).status == 200
    assert len(egress.api.requests) == before + 2


def test_the_api_is_not_told_of_the_certificate(egress: Egress) -> None:
    assert egress.call(egress.shows(SHOP), b"shop").status == 200
    head = egress.api.requests[-1].head
    assert head.start_line == b"GET /v2/7 HTTP/1.1"
    assert b"spiffe" not in head.raw
    assert b"X-Forwarded-Client-Cert" not in head


def test_who_shows_none_is_refused(tmp_path: Path) -> None:
    """`optional`: 401 where an application has consumers. `required`: there is no connection."""
    (tmp_path / "optional").mkdir()
    (tmp_path / "required").mkdir()
    optional = Egress(tmp_path / "optional", "optional")
    nothing = client_tls(optional.authority)
    response = optional.call(nothing, b"shop")
    assert response.status == 401
    assert_fault(optional.call(nothing, b"shared"), "credentials_missing")
    assert optional.call(nothing, b"open").status == 200
    optional.stop()
    required = Egress(tmp_path / "required", "required")
    with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)):
        required.call(client_tls(required.authority), b"open")
    assert required.api.requests == []
    required.stop()
