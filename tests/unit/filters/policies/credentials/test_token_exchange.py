"""Exchange of a token of the gateway for another one (RFC 8693): the request, and the answers that are accepted."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest

from fastgw.config import ConfigError
from fastgw.config.base.value_types import parse_endpoint
from fastgw.config.settings.credentials import TokenExchange
from fastgw.config.settings.secrets import Secret
from fastgw.errors import Fault
from fastgw.filters.policies.credentials.messages import FetchedRecord, Unavailable
from fastgw.filters.policies.credentials.oauth_tokens import TokenSource
from tests.support.generations import load_document
from tests.support.memory import SERVICE
from tests.unit.filters.policies.test_gcp_tokens import Endpoint

URL = "https://sts.test/token"
ISSUED = {"access_token": "t1", "issued_token_type": "urn:ietf:params:oauth:token-type:access_token", "expires_in": 60}


def got(answer: Any, status: int = 200, **settings: Any) -> tuple[Any, Any]:
    """Return the endpoint with the request that was sent to it, and the result."""
    endpoint: Any = Endpoint(status, json.dumps(answer))
    made = TokenExchange(token_url=parse_endpoint(URL), **{"subject_token": Secret(text="s1"), **settings})
    getter = TokenSource.of(made).getter(lambda path: Path(path).read_bytes())
    return endpoint, asyncio.run(getter.get(endpoint, FetchedRecord(material=b"")))


def form(endpoint: Any) -> dict[str, list[str]]:
    return parse_qs(endpoint.request["body"].decode(), strict_parsing=True)


def test_a_token_is_exchanged_without_a_client() -> None:
    endpoint, result = got({**ISSUED, "token_type": "Bearer"})
    assert endpoint.url == URL
    assert form(endpoint) == {
        "grant_type": ["urn:ietf:params:oauth:grant-type:token-exchange"],
        "subject_token": ["s1"],
        "subject_token_type": ["urn:ietf:params:oauth:token-type:jwt"],
    }
    assert not any(name == b"Authorization" for name, _ in endpoint.request["fields"])
    assert result.value == b"Authorization: Bearer t1\r\n"


def test_all_parameters_are_sent(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from a file\n")
    endpoint, _ = got(
        {**ISSUED, "token_type": "N_A"},
        subject_token=Secret(file=str(tmp_path / "token")),
        subject_token_type="id_token",
        requested_token_type="access_token",
        audience="api",
        resource="https://api.test/",
        scopes=("a", "b"),
        client_id=Secret(text="c"),
        client_secret=Secret(text="d"),
        client_auth="body",
    )
    assert {name: values[0] for name, values in form(endpoint).items()} == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "subject_token": "from a file",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "requested_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "resource": "https://api.test/",
        "audience": "api",
        "scope": "a b",
        "client_id": "c",
        "client_secret": "d",
    }


def test_a_public_client_sends_its_id_only() -> None:
    endpoint, _ = got(ISSUED, client_id=Secret(text="c"))
    assert form(endpoint)["client_id"] == ["c"]
    assert "client_secret" not in form(endpoint)


@pytest.mark.parametrize(
    ("answer", "status", "fault"),
    [
        ({"error": "invalid_grant"}, 400, Fault.TOKEN_REFUSED),
        ({"error": "s1"}, 400, Fault.TOKEN_REFUSED),
        ({}, 503, Fault.TOKEN_UNAVAILABLE),
        ({**ISSUED, "token_type": "DPoP"}, 200, Fault.TOKEN_UNAVAILABLE),
        ({**ISSUED, "access_token": "a\r\nX: b"}, 200, Fault.TOKEN_UNAVAILABLE),
        ({"issued_token_type": "x"}, 200, Fault.TOKEN_UNAVAILABLE),
    ],
)
def test_answers_without_a_token(answer: Any, status: int, fault: Fault) -> None:
    with pytest.raises(Unavailable) as raised:
        got(answer, status)
    assert raised.value.fault is fault
    assert "s1" not in raised.value.why


def test_sources_differ_by_what_is_exchanged() -> None:
    def key(**more: Any) -> str:
        made = {"token_url": parse_endpoint(URL), "subject_token": Secret(file="/a"), **more}
        return TokenSource.of(TokenExchange(**made)).key

    assert (
        len({key(), key(audience="a"), key(subject_token=Secret(file="/b")), key(subject_token_type="id_token")}) == 4
    )


@pytest.mark.parametrize(
    ("settings", "wrong"),
    [
        ({"client_secret": "a"}, "`client_secret` without `client_id`"),
        ({"client_id": "a", "client_auth": "body"}, "`client_auth: body` without `client_secret`"),
        ({"subject_token_type": "x"}, "subject_token_type"),
    ],
)
def test_settings_that_cannot_be_meant(settings: dict[str, Any], wrong: str) -> None:
    exchange = {"token_url": URL, "subject_token": "a", **settings}
    route = {"name": "r", "upstream": "u", "filters": {"credentials": {"token_exchange": exchange}}}
    with pytest.raises(ConfigError, match=wrong):
        load_document({**SERVICE, "routes": [route]})


def test_an_api_of_egress_gets_it() -> None:
    credentials = {"type": "token_exchange", "token_url": URL, "subject_token": "a", "audience": "b"}
    app = {"shop": {"orders": {"url": "https://api.test/v2", "credentials": credentials}}}
    made = load_document({**SERVICE, "egress": {"listener": "main", "apps": app}})
    uses = [use for route in made.routes for use in route.filters.values() if use.type == "credentials"]
    settings: Any = uses[0].settings
    assert settings.token_exchange.audience == "b"
