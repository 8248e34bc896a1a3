"""fault: a share of the requests is delayed or aborted, and counted against nobody."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import ConfigError
from tests.support.memory import Plane

OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"


def plane_of(**fault: Any) -> Plane:
    return Plane({"routes": [{"name": "r", "upstream": "u", "filters": {"fault": fault}}]})


def status(plane: Plane, fields: bytes = b"") -> int:
    client = plane.client()
    client.sends(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n" + fields + b"\r\n")
    if not client.received:
        upstream = plane.connects()
        assert b"fastgw-fault" not in upstream.received.lower()
        assert b"X-Test" not in upstream.received
        upstream.sends(OK)
    return int(client.received.split(b" ")[1])


def test_a_share_is_aborted() -> None:
    """Each request is decided by itself, so the count varies: 5 standard deviations are allowed."""
    plane = plane_of(abort={"status": 418, "percent": "25%"}, seed=1)
    found = [status(plane) for _ in range(200)]
    assert set(found) == {200, 418}
    assert 20 <= found.count(418) <= 80


def test_a_seed_decides_alike_each_time() -> None:
    planes = [plane_of(abort={"status": 503, "percent": "50%"}, seed=7) for _ in range(2)]
    one, other = ([status(plane) for _ in range(20)] for plane in planes)
    assert one == other


def test_all_or_none() -> None:
    assert {status(plane_of(abort={"status": 503, "percent": "0%"})) for _ in range(5)} == {200}
    assert {status(plane_of(abort={"status": 503})) for _ in range(5)} == {503}


def test_a_header_says_who_is_tested() -> None:
    plane = plane_of(abort={"status": 503}, header={"name": "X-Test", "value": "chaos"})
    assert status(plane) == 200
    assert status(plane, b"X-Test: other\r\n") == 200
    assert status(plane, b"X-Test: chaos\r\n") == 503


def test_a_client_may_ask_where_it_is_allowed() -> None:
    allowed = plane_of(by_client=True)
    assert status(allowed, b"X-Fastgw-Fault-Abort: 429\r\n") == 429
    assert status(allowed, b"X-Fastgw-Fault-Abort: 205\r\n") == 205
    assert status(allowed, b"X-Fastgw-Fault-Abort: 99\r\n") == 200
    assert status(allowed, b"X-Fastgw-Fault-Abort: 4 2\r\n") == 200
    assert status(allowed, b"X-Fastgw-Fault-Delay: 0\r\n") == 200
    assert status(plane_of(abort={"status": 503, "percent": "0%"}), b"X-Other: 1\r\n") == 200


@pytest.mark.parametrize(
    "settings",
    [{}, {"abort": {}}, {"abort": {"status": 503, "grpc_status": "internal"}}, {"abort": {"status": 99}}],
)
def test_settings_that_do_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        plane_of(**settings)
