"""Certificates on demand: ordered when a client first asks for an allowed name, kept over restarts, and nothing that a
client can fill without a bound.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.admin_calls import admin
from tests.e2e.test_acme import DEADLINE, Service, other_control
from tests.support.acme_issuer import AcmeIssuer
from tests.support.gateway import wait_until
from tests.support.secured import Secured

POLICY = {"allow": ["*.shops.test"], "wait": "30s", "orders_per_hour": 3, "refused_for": "1h"}


class OnDemandService(Service):
    """A gateway that orders certificates on demand. Its first certificate is for `main.test`."""

    def __init__(self, folder: Path, issuer: AcmeIssuer, **policy: Any) -> None:
        super().__init__(folder, issuer, {"domains": ["main.test"]}, on_demand={**POLICY, **policy})

    def start(self) -> None:
        self.config["listeners"]["main"]["tls"].update(on_demand=True, handshake_timeout="1m")
        super().start()

    def serial(self, name: str) -> int:
        """Serial number of the verified certificate for this name; clients that lose patience come back."""
        serials: list[int] = []

        def is_answered() -> bool:
            with contextlib.suppress(TimeoutError):
                serials.append(super(OnDemandService, self).serial(name))
            return bool(serials)

        wait_until(is_answered, f"an answer for {name}", DEADLINE)
        return serials[-1]

    def refusal(self, name: str) -> str:
        """Reason of the alert that a client with this name gets."""
        with pytest.raises(ssl.SSLError) as caught:
            self.serial(name)
        return caught.value.reason

    @property
    def numbers(self) -> dict[str, Any]:
        status: dict[str, Any] = admin(self.gateway, "GET /status").json
        numbers: dict[str, Any] = status["on_demand"]
        return numbers


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnDemandService]:
    folder = tmp_path_factory.mktemp("on-demand")
    with AcmeIssuer(folder) as issuer:
        made = OnDemandService(folder, issuer)
        with contextlib.ExitStack() as stack:
            stack.callback(lambda: made.gateway.stop())
            yield made


@pytest.mark.landing
def test_the_first_handshake_waits_for_the_certificate_and_later_ones_use_it(service: OnDemandService) -> None:
    first = service.serial("a.shops.test")
    assert first
    assert [service.serial("a.shops.test") for _ in range(8)] == [first] * 8
    assert [each.names for each in service.issuer.behaviour.orders].count(["a.shops.test"]) == 1
    info = service.info("a.shops.test")
    assert (info["on_demand"], info["issued"], info["used_date"] > 0) == (True, True, True)
    assert service.numbers["names"] == 1
    assert service.issuer.problems == []


@pytest.mark.landing
def test_names_that_are_not_allowed_get_the_first_certificate_and_cause_no_order(service: OnDemandService) -> None:
    service.wait_for("main.test")
    before = len(service.issuer.behaviour.orders)
    unverified = ssl.create_default_context(cafile=service.issuer.ca)
    unverified.check_hostname = False
    main = service.serial("main.test")
    for name in ("a.other.test", "shops.test", "other"):
        with Secured(service.gateway.address(), unverified, name) as client:
            assert client.serial == main
    assert len(service.issuer.behaviour.orders) == before


def test_it_is_kept_over_restarts_of_control_and_of_the_gateway(service: OnDemandService) -> None:
    first = service.serial("a.shops.test")
    before = service.gateway.control_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: other_control(service.gateway, before), "another control process", DEADLINE)
    assert service.serial("a.shops.test") == first
    service.gateway.stop()
    service.start()
    service.wait_for("a.shops.test")
    assert service.serial("a.shops.test") == first


def test_orders_per_hour_are_bounded_also_over_a_restart(service: OnDemandService) -> None:
    names = [f"n{number}.shops.test" for number in range(4)]
    served = []
    for name in names:
        with contextlib.suppress(ssl.SSLError):
            served.append(service.serial(name))
    assert len(served) == 2
    assert service.refusal("n9.shops.test") == "TLSV1_UNRECOGNIZED_NAME"
    assert service.numbers["refused"]["rate"] >= 2
    request = {"method": "GET", "url": "https://n9.shops.test/", "listener": "main"}
    explained = admin(service.gateway, "POST /explain", json.dumps(request), "application/json").json
    why = "none is ordered now, as `acme.on_demand.orders_per_hour` is reached"
    assert why in explained["explanation"]["server_certificate"]
    text = admin(service.gateway, "GET /metrics").body.decode()
    assert 'fastgw_acme_on_demand_names{state="issued"} 3' in text
