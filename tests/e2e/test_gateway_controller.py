"""A gateway as the controller of a cluster: its statuses tell what is served, and traffic goes on whatever happens to
the cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.programs import Nginx
from tests.e2e.test_processes import ask
from tests.e2e.test_reload import Reloadable
from tests.support.cluster import LONG, ClusterStandIn, consumer, gateway, http_route, policy, service
from tests.support.gateway import wait_until

OFFSET = 20_000
BLOCK = f"127.{100 + os.getpid() % 100}.1"
"""Addresses of its own, for tests that run at the same time."""


class Controller(Reloadable):
    """A gateway that is the controller of a stand-in."""

    def __init__(self, cluster: ClusterStandIn, directory: Path, block: str = BLOCK) -> None:
        kubeconfig = cluster.kubeconfig(directory / "kubeconfig")
        pool = {"addresses": {"pool": [f"{block}.2-{block}.9"]}, "port_offset": OFFSET}
        super().__init__({"providers": {"kubernetes": {"kubeconfig": str(kubeconfig), **pool}}}, directory)
        self.edge = f"{block}.2:{OFFSET + 80}"

    def answers(self, path: str, status: int) -> None:
        """Wait until this is the status of the answer at the first address."""

        def fact() -> bool:
            try:
                return ask(self.edge, path).status == status
            except OSError:
                return False  # not bound yet

        wait_until(fact, f"{path} to be answered {status}", LONG)


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    with Nginx(tmp_path_factory.mktemp("backend"), "location / { return 200 'cart'; }") as backend:
        yield backend


@pytest.fixture(scope="module")
def cluster(backend: Nginx) -> Iterator[ClusterStandIn]:
    """Two routes to one Service at one Gateway."""
    with ClusterStandIn() as cluster:
        cluster.put(*service("cart", backend.address), gateway("web"))
        cluster.put(http_route("cart", "cart", "/cart"), http_route("books", "cart", "/books"))
        yield cluster


@pytest.fixture(scope="module")
def controller(cluster: ClusterStandIn, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Controller(cluster, tmp_path_factory.mktemp("controller")) as controller:
        cluster.wait_for("Gateway", "shop/web", "Programmed", "True")
        controller.answers("/cart", 200)
        yield controller


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        ({"rate_limit": {"limit": -1, "window": "1s"}}, "spec.filters.rate_limit.limit: -1; expected"),
        ({"waf": {"rules": ["SecRule ARGS"]}}, "spec.filters.waf"),
    ],
)
def test_a_wrong_policy_is_told_takes_its_own_route_only_and_is_mended(
    controller: Controller, cluster: ClusterStandIn, filters: dict[str, object], why: str
) -> None:
    cluster.put(policy("limits", filters, "cart"))
    assert why in cluster.wait_for("FastgwPolicy", "shop/limits", "Accepted", "False", "Invalid")
    controller.answers("/cart", 500)
    controller.answers("/books", 200)
    assert cluster.condition("Gateway", "shop/web", "Programmed")[0] == "True"
    cluster.put(policy("limits", {"rate_limit": {"limit": 1000, "window": "1s"}}, "cart"))
    cluster.wait_for("FastgwPolicy", "shop/limits", "Accepted", "True")
    controller.answers("/cart", 200)
    cluster.remove("FastgwPolicy", "shop/limits")
    controller.answers("/cart", 200)


def test_a_wrong_consumer_is_told(controller: Controller, cluster: ClusterStandIn) -> None:
    cluster.put(consumer("alice", groups=[""]))
    assert "spec.groups[0]" in cluster.wait_for("FastgwConsumer", "shop/alice", "Accepted", "False", "Invalid")
    cluster.remove("FastgwConsumer", "shop/alice")


def test_a_gateway_whose_address_another_listener_has_is_told_and_stops_no_other(
    controller: Controller, cluster: ClusterStandIn
) -> None:
    taken = f"{BLOCK}.3:{OFFSET + 80}"
    before = controller.config["listeners"]
    controller.change(listeners={**before, "mine": {"address": taken}})
    controller.reload()
    cluster.put(gateway("second"))
    assert taken in cluster.wait_for("Gateway", "shop/second", "Programmed", "False", "Invalid")
    assert cluster.condition("Gateway", "shop/web", "Programmed")[0] == "True"
    controller.change(listeners=before)
    controller.reload()
    cluster.wait_for("Gateway", "shop/second", "Programmed", "True")
    cluster.remove("Gateway", "shop/second")


def test_a_gateway_whose_port_another_program_has_is_told_and_served_once_it_is_free(
    controller: Controller, cluster: ClusterStandIn
) -> None:
    with socket.create_server((f"{BLOCK}.3", OFFSET + 81)):
        cluster.put(gateway("second", {"name": "http", "port": 81, "protocol": "HTTP"}))
        said = cluster.wait_for("Gateway", "shop/second", "Programmed", "False", "Invalid")
        assert f"cannot listen on {BLOCK}.3:{OFFSET + 81}" in said
        assert cluster.condition("Gateway", "shop/web", "Programmed")[0] == "True"
        cluster.put(http_route("toys", "cart", "/toys"))
        controller.answers("/toys", 200)
    cluster.wait_for("Gateway", "shop/second", "Programmed", "True")
    cluster.remove("HTTPRoute", "shop/toys")
    cluster.remove("Gateway", "shop/second")


def test_a_state_that_is_rejected_as_a_whole_is_told_until_it_is_mended(
    controller: Controller, cluster: ClusterStandIn
) -> None:
    """The file has a route that needs a listener of a Gateway, which is taken away."""
    cluster.put(gateway("second"))
    cluster.wait_for("Gateway", "shop/second", "Programmed", "True")
    route = {"name": "mine", "listeners": ["gateway/shop/second/80"], "respond": {"body": "mine"}}
    controller.change(routes=[route])
    controller.reload()
    cluster.remove("Gateway", "shop/second")
    said = cluster.wait_for("Gateway", "shop/web", "Programmed", "False", "Invalid")
    assert "still serves an older state" in said
    assert "gateway.json" in said
    assert "gateway/shop/second/80" in said
    assert cluster.condition("GatewayClass", "fastgw", "Programmed")[:2] == ("False", "Invalid")
    controller.answers("/cart", 200)
    controller.change(routes=[])
    controller.reload()
    cluster.wait_for("Gateway", "shop/web", "Programmed", "True")
    wait_until(lambda: not cluster.condition("GatewayClass", "fastgw", "Programmed")[0], "no condition", LONG)
