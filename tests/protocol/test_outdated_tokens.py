"""A call that was refused with a token that is renewed already: what it is given may be out of date as well."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastgw.filters.policies.credentials.rejected_throttle import AGAIN_S
from tests.support.client import Client
from tests.support.gateway import Gateway, wait_until
from tests.support.origin import Origin, OriginConnection

REFUSED = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno"
FORBIDDEN = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"


class Api:
    """A gateway with one worker, an API behind it and the issuer of its tokens, both played by hand."""

    def __init__(self, directory: Path) -> None:
        self.api, self.issuer = Origin(), Origin()
        secrets = {"client_id": "a", "client_secret": {"file": str(directory / "secret")}}
        (directory / "secret").write_text("s")
        oauth2 = {"token_url": f"{self.issuer.url}/token", **secrets}
        config = {
            "workers": 1,
            "listeners": {"main": {"address": "127.0.0.1:0"}},
            "upstreams": {"api": {"targets": [{"url": self.api.url}]}},
            "routes": [{"name": "api", "upstream": "api", "filters": {"credentials": {"oauth2": oauth2}}}],
        }
        self.gateway = Gateway(config, directory)

    def issue(self, token: str) -> None:
        body = json.dumps({"access_token": token, "token_type": "bearer", "expires_in": 3600}).encode()
        fields = b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        self.issuer.accept_next().answer(b"HTTP/1.1 200 OK\r\n" + fields + body)

    def called_with(self, token: str) -> OriginConnection:
        connection = self.api.accept_next()
        assert connection.read_request().get(b"Authorization") == f"Bearer {token}".encode()
        return connection


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Api]:
    made = Api(tmp_path)
    yield made
    made.gateway.stop()
    made.api.stop()
    made.issuer.stop()


def renewed_meanwhile(world: Api) -> tuple[OriginConnection, Client]:
    """A call waits with the token `a`; another was refused with it, and by now `b` is no new one any more."""
    slow = world.gateway.connect()
    slow.send(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
    world.issue("a")
    waiting = world.called_with("a")
    with world.gateway.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        world.called_with("a").send(REFUSED)
        world.issue("b")
        world.called_with("b").send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        assert client.read_response().status == 200
        had_at = time.monotonic()  # at the latest
    wait_until(lambda: time.monotonic() > had_at + AGAIN_S, "another one to be allowed")
    return waiting, slow


def test_a_token_that_is_out_of_date_too_is_not_the_last_try(world: Api) -> None:
    """Somebody else has had `b` replaced, of which this worker has not heard yet: the call gets the one that counts."""
    waiting, slow = renewed_meanwhile(world)
    waiting.send(REFUSED)
    world.called_with("b").send(REFUSED)
    world.issue("c")
    world.called_with("c").send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    assert slow.read_response().status == 200
    slow.close()


@pytest.mark.parametrize("refusal", [REFUSED, FORBIDDEN])
def test_it_has_an_end(world: Api, refusal: bytes) -> None:
    """A secret that is no good, or an API that says no: one renewal for each value, and the client gets the refusal."""
    waiting, slow = renewed_meanwhile(world)
    waiting.send(refusal)
    world.called_with("b").send(refusal)
    world.issue("c")
    world.called_with("c").send(refusal.replace(b"\r\n\r\nno", b"\r\n\r\nNO"))
    assert slow.read_response().body == b"NO"
    slow.close()
    world.issuer.assert_no_further_connection()
    with world.gateway.connect() as client:  # what was just issued is refused once, and renewed once
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        world.called_with("c").send(refusal)
        world.issue("d")
        world.called_with("d").send(refusal)
        assert client.read_response().body == b"no"
