"""sequence: who skips a call is refused; who makes it passes, for as long as configured."""

from __future__ import annotations

from typing import Any

import pytest

from fastgw.config import ConfigError
from fastgw.filters.policies.shield import sequence
from fastgw.shm.rate_limit_table import own_table
from tests.support.memory import Plane


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 10_000.0
        monkeypatch.setattr(sequence, "monotonic_ns", lambda: round(self.now * 1e9))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Services:
    def __init__(self, cells: Any) -> None:
        self.cells = cells


class Started(Plane):
    """Whose filters are started, all with one table."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.cells = own_table()
        super().__init__(settings)

    def _start(self) -> None:
        super()._start()
        for link in self.gateway.live:
            if link.hooks.start is not None:
                link.hooks.start(Services(self.cells))


def plane_of(filters: dict[str, Any] | None = None, **more: Any) -> Plane:
    names = ["cart", "address", "pay", "other"]
    settings = {"routes": names[:3], "within": "10m", "key": "header:X-Client", **more}
    routes = [{"name": name, "paths": [f"/{name}"], "upstream": "u"} for name in names]
    return Started({"filters": {"sequence": settings} | (filters or {}), "routes": routes})


def status(plane: Plane, path: str, client_name: str = "a", answer: int = 200) -> int:
    client = plane.client()
    head = f"GET /{path} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\nX-Client: {client_name}\r\n\r\n"
    client.sends(head.encode())
    if not client.received:
        plane.connects().sends(b"HTTP/1.1 %d X\r\nConnection: close\r\nContent-Length: 0\r\n\r\n" % answer)
    return int(client.received.split(b" ")[1])


def test_each_call_needs_the_one_before_it(clock: Clock) -> None:
    plane = plane_of()
    assert [status(plane, path) for path in ("address", "pay", "other")] == [403, 403, 200]
    assert [status(plane, path) for path in ("cart", "pay", "address", "pay", "pay")] == [200, 403, 200, 200, 200]
    assert status(plane, "pay", "b") == 403


def test_clients_without_the_key_have_called_nothing(clock: Clock) -> None:
    plane = plane_of()
    assert [status(plane, path, "") for path in ("cart", "address")] == [200, 403]


@pytest.mark.parametrize("key", [["header:X-Client", "cookie:c"], ["ip", "header:X-Client"]])
def test_clients_without_a_part_of_the_key_have_called_nothing(clock: Clock, key: list[str]) -> None:
    plane = plane_of(key=key)
    assert [status(plane, path, "") for path in ("cart", "address")] == [200, 403]
    with_cookie = "a\r\nCookie: c=1"
    assert [status(plane, path, with_cookie) for path in ("cart", "address")] == [200, 200]
    assert status(plane, "address", "b\r\nCookie: c=1") == 403


def test_a_call_that_failed_does_not_count(clock: Clock) -> None:
    plane = plane_of()
    assert status(plane, "cart", answer=500) == 500
    assert status(plane, "address") == 403


def test_a_call_counts_whoever_answers_it_with_a_status_below_400(clock: Clock) -> None:
    plane = plane_of({"fault": {"by_client": True}})
    by_a_filter = "a\r\nX-Fastgw-Fault-Abort: "
    assert [status(plane, path, f"{by_a_filter}503") for path in ("cart", "address")] == [503, 403]
    assert [status(plane, path, f"{by_a_filter}204") for path in ("cart", "address", "pay")] == [204] * 3


def test_a_preflight_is_no_call(clock: Clock) -> None:
    """Although it is answered 200: the browser has not made the call that it asks about."""
    plane = plane_of({"cors": {"origins": ["https://a.test"]}})
    lines = ("Host: a.test", "Origin: https://a.test", "Access-Control-Request-Method: GET", "X-Client: a")
    client = plane.client()
    client.sends("\r\n".join(("OPTIONS /cart HTTP/1.1", *lines, "", "")).encode())
    assert client.received.startswith(b"HTTP/1.1 2")
    assert status(plane, "address") == 403


def test_the_time_runs_from_the_last_call(clock: Clock) -> None:
    plane = plane_of()
    status(plane, "cart")
    clock.now += 400
    assert status(plane, "address") == 200
    status(plane, "cart")
    clock.now += 599
    assert status(plane, "address") == 200
    clock.now += 2
    assert status(plane, "address") == 403


@pytest.mark.parametrize("routes", [[], ["cart"], ["cart", "cart"]])
def test_a_sequence_has_several_routes(routes: list[str]) -> None:
    with pytest.raises(ConfigError):
        plane_of(routes=routes)
