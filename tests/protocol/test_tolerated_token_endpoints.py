"""Token endpoints of foreign APIs whose responses are sloppy: tolerated by name, as responses of upstreams are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.gateway import Gateway
from tests.support.origin import Origin

TOKEN = b'{"access_token": "t1", "token_type": "bearer", "expires_in": 3600}'
SLOPPY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 66\r\nContent-Length: 66\r\n\r\n" + TOKEN
)
CSRF = b"HTTP/1.1 200 OK\nX-CSRF-Token: c1\nSet-Cookie: s=1\nContent-Length: 0\n\n"
CALL = b"GET /shop/orders/7 HTTP/1.1\r\nHost: a\r\n\r\n"
OAUTH2 = {"type": "oauth2", "client_id": "a", "client_secret": "s", "client_auth": "basic"}
EXCHANGE = {"type": "token_exchange", "subject_token": "s"}


@pytest.mark.landing
@pytest.mark.parametrize("tolerates", [True, False])
@pytest.mark.parametrize("credentials", [OAUTH2, EXCHANGE], ids=["oauth2", "token_exchange"])
def test_a_token_and_a_csrf_token_come_from_sloppy_endpoints(
    credentials: dict[str, Any], tolerates: bool, tmp_path: Path
) -> None:
    """That of CSRF tokens is one of the API, and may do what the API may."""
    with Origin() as api, Origin() as issuer, Origin() as csrf:
        token = {**credentials, "token_url": f"{issuer.url}/token"}
        service: dict[str, Any] = {"url": api.url, "credentials": token}
        has_csrf = credentials is OAUTH2  # one of the two
        if has_csrf:
            service["csrf"] = {"token_url": f"{csrf.url}/csrf"}
        if tolerates:
            service["tolerate"] = ["bare_lf"]
            token["token_tolerate"] = ["repeated_content_length"]
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "egress": {"apps": {"shop": {"orders": service}}},
        }
        with Gateway(config, tmp_path) as gateway, gateway.connect() as client:
            client.send(CALL)
            issuer.accept_next().answer(SLOPPY)
            if not tolerates:
                response = client.read_response()
                assert response.status == 502
                assert b"token_unavailable" in response.body
                return
            if has_csrf:
                csrf.accept_next().answer(CSRF)
            request = api.accept_next().answer(b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok")
            assert request.get(b"Authorization") == b"Bearer t1"
            assert request.get(b"X-CSRF-Token") == (b"c1" if has_csrf else None)
            assert client.read_response().body == b"ok"
