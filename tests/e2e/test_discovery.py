"""Targets from service discovery in a gateway that runs: each registry changes, lies, hangs, ends and comes back."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from fastgw.config import ConfigError, load
from fastgw.filters import TYPES
from tests.e2e.admin_calls import is_served
from tests.e2e.test_processes import samples
from tests.e2e.test_reload import Reloadable
from tests.support.gateway import wait_until, write_config
from tests.support.registries import Consul, Docker, Eureka, Nacos
from tests.support.tcp import connected, connects_and_is_reset, read_exactly, tcp_target
from tests.support.udp import UdpTarget, client_of

TAKEN_S = 20.0
"""How long a change may take on a busy machine; otherwise it is below 1 s."""


class Node:
    """A gateway, and the registries that it follows."""

    def __init__(self, folder: Path) -> None:
        self.consul, self.nacos, self.eureka, self.docker = (
            Consul(),
            Nacos(),
            Eureka(),
            Docker(str(folder / "docker.sock")),
        )
        self.consul.token = "consul-t0ken"
        (folder / "token").write_text("consul-t0ken\n")
        self.consul.set("users", 7001)
        self.nacos.set("DEFAULT_GROUP@@users", 7001)
        self.eureka.apps["USERS"] = [Eureka.instance(7001)]
        self.docker.set(Docker.container("users", 7001))
        self.gateway = Reloadable(self.config, folder)

    @property
    def config(self) -> dict[str, Any]:
        nacos = {"username": "nacos", "password": "nacos-word", "interval": "200ms"}
        return {
            "providers": {
                "consul": {"address": self.consul.origin, "token": {"file": "token"}, "wait": "2s"},
                "nacos": {"address": f"{self.nacos.origin}/nacos", **nacos},
                "eureka": {"address": f"{self.eureka.origin}/eureka", "interval": "200ms"},
                "docker": {"address": f"unix:{self.docker.path}"},
            },
            "upstreams": {
                "consul": {"targets": {"consul": "users"}},
                "nacos": {"targets": {"nacos": "users"}},
                "eureka": {"targets": {"eureka": "users"}},
                "docker": {"targets": {"docker": "users"}},
                "raw": {"targets": {"consul": "raw", "scheme": "tcp"}},
                "datagrams": {"targets": {"consul": "datagrams", "scheme": "udp"}},
            },
            "listeners": {
                "main": {"address": "127.0.0.1:0"},
                "raw": {"address": "127.0.0.1:0", "protocol": "tcp", "upstream": "raw"},
                "datagrams": {"address": "127.0.0.1:0", "protocol": "udp", "upstream": "datagrams"},
            },
            "routes": [
                {"name": each, "listeners": ["main"], "paths": [f"/{each}"], "upstream": each} for each in KINDS
            ],
        }

    def targets(self, upstream: str) -> list[tuple[int, int]]:
        """Return the ports of an upstream's targets, with their weights."""
        answer = httpx.get(f"http://{self.gateway.ready['admin']}/upstreams", headers=self.gateway.shown).json()
        (found,) = [each for each in answer["upstreams"] if each["name"] == upstream]
        return sorted((int(each["url"].rpartition(":")[2]), each["weight"]) for each in found["targets"])

    def drained(self, upstream: str) -> list[int]:
        """Return the ports of an upstream's drained targets."""
        answer = httpx.get(f"http://{self.gateway.ready['admin']}/upstreams", headers=self.gateway.shown).json()
        (found,) = [each for each in answer["upstreams"] if each["name"] == upstream]
        return sorted(int(each["url"].rpartition(":")[2]) for each in found["targets"] if each["drained"])

    def wait_for(self, upstream: str, *ports: int) -> None:
        wait_until(lambda: [port for port, _ in self.targets(upstream)] == [*ports], f"{upstream}: {ports}", TAKEN_S)

    def problem(self, kind: str) -> str:
        (found,) = [each for each in self.gateway.status()["feeds"] if re.match(rf"{kind}:.*\busers\b", each["feed"])]
        return str(found["problem"])

    def wait_for_problem(self, kind: str, text: str) -> None:
        wait_until(lambda: text in self.problem(kind), f"{kind} to have the problem {text}", TAKEN_S)

    def registry(self, kind: str) -> Any:
        return getattr(self, kind)

    def set(self, kind: str, *ports: int) -> None:
        """Set the instances of `users`."""
        if kind == "consul":
            self.consul.set("users", *ports)
        elif kind == "nacos":
            self.nacos.set("DEFAULT_GROUP@@users", *ports)
        elif kind == "eureka":
            self.eureka.apps["USERS"] = [Eureka.instance(port) for port in ports]
        else:
            self.docker.set(*(Docker.container("users", port) for port in ports))


KINDS = ("consul", "nacos", "eureka", "docker")


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    node = Node(tmp_path_factory.mktemp("discovery"))
    with node.gateway:
        yield node
        said = node.gateway.stderr.text()
    for each in KINDS[:3]:
        node.registry(each).close()
    node.docker.__exit__()
    assert "t0ken" not in said
    assert "nacos-word" not in said
    assert "Traceback" not in said


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest, node: Node) -> Iterator[str]:
    name: str = request.param
    node.set(name, 7001)
    node.wait_for(name, 7001)
    yield name
    node.registry(name).mode = "fine"
    node.set(name, 7001)


@pytest.mark.landing
def test_targets_follow_the_registry_without_a_reload(node: Node, kind: str) -> None:
    generation = node.gateway.status()["generation"]
    node.set(kind, 7002, 7001)
    node.wait_for(kind, 7001, 7002)
    node.set(kind, 7002)
    node.wait_for(kind, 7002)
    assert node.gateway.status()["generation"] == generation
    assert not node.problem(kind)
    node.set(kind)
    node.wait_for(kind)
    assert httpx.get(f"http://{node.gateway.address()}/{kind}").status_code == 503
    up = [value for name, value in samples(node.gateway.ready["status"]).items() if name.startswith("fastgw_feed_up")]
    assert up
    assert set(up) == {1.0}


@pytest.mark.landing
def test_connections_get_other_targets_without_a_reload_and_go_on_with_those_that_they_have(node: Node) -> None:
    generation, port = node.gateway.status()["generation"], node.gateway.port("raw")
    with tcp_target() as first, tcp_target() as second:
        for target in (first, second, first):
            node.consul.set("raw", target.port)
            node.wait_for("raw", target.port)
            with connected(port) as client, target.accept() as service:
                client.sendall(b"before")
                assert read_exactly(service, 6) == b"before"
                node.consul.set("raw")
                node.wait_for("raw")
                service.sendall(b"answer")
                assert read_exactly(client, 6) == b"answer"
                assert connects_and_is_reset(port)  # there is no target
    assert node.gateway.status()["generation"] == generation


def test_datagrams_leave_a_target_that_was_removed_once_it_answers_no_more(node: Node) -> None:
    generation = node.gateway.status()["generation"]
    with (
        closing(UdpTarget()) as first,
        closing(UdpTarget()) as second,
        client_of(node.gateway, listener="datagrams") as client,
    ):
        node.consul.set("datagrams", first.port)
        node.wait_for("datagrams", first.port)
        for payload in (b"1", b"2"):
            client.send(payload)
            assert first.echo()[0] == payload
            assert client.recv(9) == payload
            node.consul.set("datagrams", second.port)
            node.wait_for("datagrams", second.port)

        def moves() -> bool:
            client.send(b"3")
            return second.has_one(0.1)

        wait_until(moves, "a datagram to the other target")
        assert second.echo()[0] == b"3"
        assert client.recv(9) == b"3"
    assert node.gateway.status()["generation"] == generation


@pytest.mark.parametrize("mode", ["error", "nonsense", "refused"])
def test_what_a_registry_says_wrongly_changes_nothing(node: Node, kind: str, mode: str) -> None:
    registry = node.registry(kind)
    node.set(kind, 7001, 7002)
    node.wait_for(kind, 7001, 7002)
    registry.mode = mode
    if kind in ("consul", "docker"):  # what waits for a change is told that there is one
        node.set(kind, 7003)
    node.wait_for_problem(kind, {"error": "says 500", "nonsense": "", "refused": "says 403"}[mode] or "invalid answer")
    if kind not in ("consul", "docker"):
        assert [port for port, _ in node.targets(kind)] == [7001, 7002]
    registry.mode = "fine"
    node.set(kind, 7004)
    node.wait_for(kind, 7004)
    wait_until(lambda: not node.problem(kind), "the problem to be over", TAKEN_S)


def test_a_registry_that_hangs_changes_nothing_and_delays_no_other(node: Node) -> None:
    for kind in ("nacos", "eureka"):
        node.registry(kind).mode = "hang"
    node.set("consul", 7002)
    node.wait_for("consul", 7002)
    for kind in ("nacos", "eureka"):
        node.wait_for_problem(kind, "timed out after 5 s")
        assert node.targets(kind) == [(7001, 1)]
        node.registry(kind).mode = "fine"


def test_a_list_that_is_too_long_changes_nothing(node: Node, kind: str) -> None:
    node.set(kind, *range(10_000, 11_001))
    node.wait_for_problem(kind, "a list of more than 1000 targets")
    assert [port for port, _ in node.targets(kind)] == [7001]


def test_a_container_that_docker_still_lists_when_it_tells_of_its_end_is_left_soon_after(node: Node) -> None:
    node.docker.set(Docker.container("users", 7001), Docker.container("users", 7002))
    node.wait_for("docker", 7001, 7002)
    node.docker.set_late(Docker.container("users", 7002))
    node.wait_for("docker", 7002)


def test_the_index_of_consul_may_go_backwards(node: Node) -> None:
    """As after a restore of its data: the next query does not wait for an index that comes only much later."""
    node.consul.set("users", 7005, index=5000)
    node.wait_for("consul", 7005)
    node.consul.wait_for_query()
    node.consul.set("users", 7006, index=3)
    node.wait_for("consul", 7006)
    node.consul.set("users", 7007, index=4)
    node.wait_for("consul", 7007)


def test_weights_priorities_and_instances_that_are_not_healthy(node: Node) -> None:
    node.consul.set("users", 7001, Weights={"Passing": 7, "Warning": 1})
    node.nacos.services["DEFAULT_GROUP@@users"] = [
        {"ip": "127.0.0.1", "port": 7001, "weight": 2.4, "healthy": True, "enabled": True, "clusterName": "DEFAULT"},
        {"ip": "127.0.0.1", "port": 7002, "weight": 1.0, "healthy": False, "enabled": True, "clusterName": "DEFAULT"},
        {"ip": "127.0.0.1", "port": 7003, "weight": 1.0, "healthy": True, "enabled": False, "clusterName": "DEFAULT"},
    ]
    node.eureka.apps["USERS"] = [Eureka.instance(7001), Eureka.instance(7002, status="OUT_OF_SERVICE")]
    node.docker.set(
        Docker.container("users", 80, 443, port="7001", weight="3"),
        Docker.container("users", 7002, status="Up 3 minutes (unhealthy)"),
        Docker.container("others", 7003),
    )
    for kind, weight in (("consul", 7), ("nacos", 2), ("eureka", 1), ("docker", 3)):
        wait_until(lambda kind=kind, weight=weight: node.targets(kind) == [(7001, weight)], kind, TAKEN_S)
    node.docker.set(Docker.container("users", 80, 443), Docker.container("users", 7004))  # which port is meant?
    node.wait_for("docker", 7004)
    node.wait_for_problem("docker", "1 instance has no valid address and port")


def test_a_registry_that_ends_keeps_the_targets_and_is_followed_when_it_is_back(node: Node) -> None:
    for kind in KINDS:
        node.set(kind, 7001)
        node.wait_for(kind, 7001)
    port = node.consul.server_port
    node.consul.close()
    node.docker.end()
    node.wait_for_problem("consul", f"http://127.0.0.1:{port}: connection refused")
    node.wait_for_problem("docker", "docker.sock")
    assert [port for port, _ in node.targets("consul")] == [7001]
    os.kill(node.gateway.control_pid, signal.SIGKILL)
    wait_until(lambda: node.gateway.command("status").returncode == 0, "another control process", TAKEN_S)
    for kind in ("consul", "docker"):
        node.wait_for(kind, 7001)
    node.consul = Consul(port)
    node.consul.token = "consul-t0ken"
    node.consul.set("users", 7008)
    node.docker = Docker(node.docker.path)
    node.docker.set(Docker.container("users", 7009))
    wait_until(lambda: node.targets("consul") == [(7008, 1)], "consul", 3 * TAKEN_S)
    wait_until(lambda: node.targets("docker") == [(7009, 1)], "docker", 3 * TAKEN_S)


def test_the_last_list_and_drained_targets_outlive_control_while_the_registry_does_not_answer(
    node: Node, kind: str
) -> None:
    """Not the list of the start: what the supervisor has read is older than what is in force."""
    node.set(kind, 7010, 7011)
    node.wait_for(kind, 7010, 7011)
    admin = f"http://{node.gateway.ready['admin']}/upstreams/{kind}/targets/127.0.0.1:7010"
    assert httpx.post(f"{admin}/drain", headers=node.gateway.shown).status_code == 200
    node.registry(kind).mode = "hang"
    before = node.gateway.control_pid
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: before not in node.gateway.child_pids and is_served(node.gateway), "another control", TAKEN_S)
    assert node.gateway.reload().startswith("reloaded: ")
    assert [port for port, _ in node.targets(kind)] == [7010, 7011]
    assert node.drained(kind) == [7010]
    node.registry(kind).mode = "fine"
    node.set(kind, 7001)
    node.wait_for(kind, 7001)


def test_a_configuration_whose_registry_is_not_there_is_valid_and_says_so(tmp_path: Path) -> None:
    said = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "providers": {"consul": {"address": "http://127.0.0.1:1"}},
        "upstreams": {"users": {"targets": {"consul": "users"}}},
        "routes": [{"name": "all", "upstream": "users"}],
    }
    loaded = load(str(write_config(said, tmp_path)), TYPES)
    (note,) = [each.wrong for each in loaded.notes if "consul" in each.wrong]
    assert note.startswith("consul: users: cannot be fetched: http://127.0.0.1:1: ")
    assert note.endswith("requests are answered 503 until it can be")
    for nothing in ({}, {"consul": None}):
        said["providers"] = nothing
        with pytest.raises(
            ConfigError, match=r"`providers\.consul` is missing; .* such as providers: {consul: {address: "
        ):
            load(str(write_config(said, tmp_path)), TYPES)


@pytest.mark.parametrize("settings", [{"token": {"env": "NOT_SET_HERE"}}, {"adress": "http://127.0.0.1:1"}])
def test_a_registry_with_a_mistake_is_reported_once(settings: dict[str, Any], tmp_path: Path) -> None:
    said = {
        "version": 1,
        "listeners": {"main": {"address": "127.0.0.1:0"}},
        "providers": {"consul": {"address": "http://127.0.0.1:1", **settings}},
        "upstreams": {"users": {"targets": {"consul": "users"}}},
        "routes": [{"name": "all", "upstream": "users"}],
    }
    with pytest.raises(ConfigError) as caught:
        load(str(write_config(said, tmp_path)), TYPES)
    (problem,) = caught.value.problems
    assert problem.path.startswith("providers.consul.")
