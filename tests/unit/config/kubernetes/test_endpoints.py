"""Endpoints of a Service as targets: those that cannot be used take nothing away from the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fastgw.config.kubernetes.model import Translation
from fastgw.config.settings.upstreams import MOST_LISTED
from tests.unit.config.kubernetes.test_ingress import object_of
from tests.unit.config.kubernetes.test_stream_routes import backend, gateway, parts, route, translated


def endpoints(name: str, addresses: Sequence[Any], kind: str = "IPv4") -> dict[str, Any]:
    made = object_of("EndpointSlice", name, {})
    made["metadata"]["labels"] = {"kubernetes.io/service-name": "many"}
    held = [{"addresses": [each], "conditions": {"ready": True}} for each in addresses]
    ports = [{"name": "", "port": 8080, "protocol": "TCP"}]
    return {**made, "addressType": kind, "endpoints": held, "ports": ports}


def served(*slices: dict[str, Any]) -> tuple[list[str], Translation]:
    """Return the URLs of the targets of a Service with these slices."""
    many = object_of("Service", "many", {"ports": [{"port": 80, "protocol": "TCP"}]})
    made = translated(
        gateway("HTTP"), route("HTTPRoute", "r", rules=[{"backendRefs": [backend("many")]}]), many, *slices
    )
    return [each["url"] for each in parts(made)[1]["shop/many/80"]["targets"]], made


@pytest.mark.parametrize("address", ["127.000.000.001", "10.0.0.999", "a b", "a/b", "::1::", "", "-a"])
def test_an_address_that_is_not_valid_is_left_out(address: str) -> None:
    urls, made = served(endpoints("one", ["10.0.0.1", address, "10.0.0.2"]), endpoints("two", ["10.0.0.3"]))
    assert urls == [f"http://10.0.0.{at}:8080" for at in (1, 2, 3)]
    why = f"endpoints without a valid address are left out, such as {address}:8080"
    assert made.warnings == {("EndpointSlice", "shop", "one"): why}


def test_an_ipv6_address_is_one_target_however_it_is_written() -> None:
    urls, made = served(endpoints("one", ["fd00::1", "FD00:0::1"], "IPv6"), endpoints("two", ["fd00:0:0::1"], "IPv6"))
    assert (urls, made.warnings) == (["http://[fd00::1]:8080"], {})


def test_a_service_with_more_endpoints_than_an_upstream_may_have_is_served() -> None:
    """The same ones get requests, in whatever order the slices come."""
    addresses = [f"10.0.{at // 250}.{at % 250}" for at in range(MOST_LISTED + 2)]
    slices = [endpoints(f"s{at}", addresses[at : at + 100]) for at in range(0, len(addresses), 100)]
    urls, made = served(*slices)
    assert urls == sorted(f"http://{each}:8080" for each in addresses)[:MOST_LISTED]
    why = "more than 5000 ready endpoints; the first 5000 by address get requests"
    assert made.warnings == {("Service", "shop", "many"): why}
    assert served(*reversed(slices))[0] == urls
    assert served(*slices[1:])[1].warnings == {}
