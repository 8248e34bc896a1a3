"""A gateway as the controller of a cluster: its statuses tell what is served, and traffic goes on whatever happens to
the cluster."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import textwrap
from base64 import b64encode
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.e2e.clients import LoadCounts, call
from tests.e2e.programs import Nginx, program
from tests.e2e.test_nothing_lost import enough
from tests.e2e.test_processes import ask
from tests.e2e.test_reload import Reloadable
from tests.support.cluster import (
    LONG,
    ROOT,
    ClusterStandIn,
    Object,
    a_class,
    consumer,
    gateway,
    http_route,
    in_namespace,
    ingress,
    ingress_class,
    policy,
    service,
)
from tests.support.gateway import wait_until

CALLERS = 4
OFFSET = 20_000
BLOCK = f"127.{100 + os.getpid() % 100}.1"
"""Addresses of its own, for tests that run at the same time."""


class Controller(Reloadable):
    """A gateway that is the controller of a stand-in."""

    def __init__(self, cluster: ClusterStandIn, directory: Path, offset: int = OFFSET, **settings: Any) -> None:
        kubeconfig = cluster.kubeconfig(directory / "kubeconfig")
        settings = settings or {"addresses": {"pool": [f"{BLOCK}.2-{BLOCK}.9"]}, "port_offset": offset}
        super().__init__({"providers": {"kubernetes": {"kubeconfig": str(kubeconfig), **settings}}}, directory)
        self.edge = f"{BLOCK}.2:{offset + 80}"

    @contextmanager
    def changed(self, **keys: Any) -> Iterator[None]:
        """Serve with other keys of the file inside the block, and as before after it, whether it fails or not."""
        before = dict(self.config)
        self.change(**keys)
        self.reload()
        try:
            yield
        finally:
            self.config = before
            self.write(before)
            self.reload()

    def answers(self, path: str, status: int, text: str = "") -> None:
        """Wait until this is the answer at the first address. `text`: of its body; "" = any."""

        def fact() -> bool:
            try:
                answer = ask(self.edge, path)
            except OSError:
                return False  # not bound yet
            return answer.status == status and text in answer.body.decode()

        wait_until(fact, f"{path} to be answered {status} {text}", LONG)


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


@pytest.mark.landing
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


def test_a_consumer_is_known_to_the_policies_of_its_namespace_alone(
    controller: Controller, cluster: ClusterStandIn, backend: Nginx
) -> None:
    """Two tenants name their consumer alike and give it the same username; each has another password."""

    def tenant(namespace: str) -> list[Object]:
        login = {"username": "admin", "password": {"secret": {"name": "login", "key": "password"}}}
        secret = {"apiVersion": "v1", "kind": "Secret", "type": "Opaque", "metadata": {"name": "login"}}
        secret["data"] = {"password": b64encode(f"of-{namespace}".encode()).decode()}
        staff = policy("staff", {"basic_auth": {}, "authorize": {"groups": {"any": ["staff"]}}}, "private")
        route = http_route("private", "cart", "/private", "private")
        mine = gateway("private"), staff, route, secret, consumer("admin", groups=["staff"], basic_auth=[login])
        return [*in_namespace(namespace, *mine), *service("cart", backend.address, namespace=namespace)]

    def status(namespace: str, password: str) -> int:
        (address,) = cluster.get("Gateway", f"{namespace}/private")["status"]["addresses"]
        url = f"http://{address['value']}:{OFFSET + 80}/private"
        return httpx.get(url, auth=("admin", password)).status_code

    tenants = "bank", "books"
    for namespace in tenants:
        cluster.put(*tenant(namespace))
    for namespace in tenants:
        cluster.wait_for("Gateway", f"{namespace}/private", "Programmed", "True")
        cluster.wait_for("FastgwConsumer", f"{namespace}/admin", "Accepted", "True")
    passed = {(own, of): status(own, f"of-{of}") for own in tenants for of in tenants}
    assert passed == {(own, of): 200 if own == of else 401 for own in tenants for of in tenants}
    for namespace in tenants:
        cluster.remove("Gateway", f"{namespace}/private")


def test_a_gateway_whose_address_another_listener_has_is_told_and_stops_no_other(
    controller: Controller, cluster: ClusterStandIn
) -> None:
    taken = f"{BLOCK}.3:{OFFSET + 80}"
    with controller.changed(listeners={**controller.config["listeners"], "mine": {"address": taken}}):
        cluster.put(gateway("second"))
        assert taken in cluster.wait_for("Gateway", "shop/second", "Programmed", "False", "Invalid")
        assert cluster.condition("Gateway", "shop/web", "Programmed")[0] == "True"
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
    with controller.changed(routes=[route]):
        cluster.remove("Gateway", "shop/second")
        for kind, name in (("Gateway", "shop/web"), ("GatewayClass", "fastgw")):
            said = cluster.wait_for(kind, name, "Programmed", "False", "Invalid")
            assert "still serves an older state" in said
            assert "gateway.json" in said
            assert "gateway/shop/second/80" in said
        controller.answers("/cart", 200)
    cluster.wait_for("Gateway", "shop/web", "Programmed", "True")
    wait_until(lambda: not cluster.condition("GatewayClass", "fastgw", "Programmed")[0], "no condition", LONG)


def test_the_admin_api_explains_a_request_by_the_objects_of_the_cluster(
    controller: Controller, cluster: ClusterStandIn
) -> None:
    asked = {"method": "GET", "url": "http://a.test/cart/1", "listener": "gateway/shop/web/80"}
    told = httpx.post(f"http://{controller.ready['admin']}/explain", json=asked, headers=controller.shown).json()
    told = told["explanation"]
    assert (told["route"], told["upstream"]) == ("HTTPRoute/shop/cart/0", "shop/cart/80")


def test_kubectl_deploys_the_manifests_and_shows_what_the_guide_says(
    controller: Controller, cluster: ClusterStandIn, tmp_path: Path
) -> None:
    kubeconfig = str(cluster.kubeconfig(tmp_path / "kubeconfig"))

    def kubectl(*arguments: str, text: str = "") -> str:
        command = [program("kubectl"), "--kubeconfig", kubeconfig, *arguments]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    manifests = kubectl("kustomize", str(ROOT / "deploy/kubernetes-gateway"))
    applied = kubectl("apply", "--validate=false", "-f", "-", text=manifests).splitlines()
    assert len(applied) == manifests.count("\nkind: ")
    assert "deployment.apps/fastgw created" in applied
    kubectl("wait", "--for=condition=Programmed", "-n", "shop", "gateway/web", "--timeout=30s")
    address = kubectl("get", "-n", "shop", "gateway/web", "-o", "jsonpath={.status.addresses[0].value}")
    assert address == f"{BLOCK}.2"
    assert "Accepted" in kubectl("describe", "-n", "shop", "httproute/cart")
    cluster.put(
        policy("shown", {"rate_limit": {"limit": -1, "window": "1s"}}, "cart"), consumer("shown", groups=["staff"])
    )
    cluster.wait_for("FastgwPolicy", "shop/shown", "Accepted", "False")
    cluster.wait_for("FastgwConsumer", "shop/shown", "Accepted", "True")
    definitions = [each["spec"] for each in yaml.safe_load_all(manifests) if each["kind"] == "CustomResourceDefinition"]
    for spec in definitions:
        columns = {each["name"]: each["jsonPath"] for each in spec["versions"][0]["additionalPrinterColumns"]}
        kind, shown = spec["names"]["kind"], f"{spec['names']['plural']}/shown"
        accepted, message = (
            kubectl("get", "-n", "shop", shown, "-o", f"jsonpath={{{columns[each]}}}")
            for each in ("Accepted", "Message")
        )
        assert (accepted, bool(message)) == (("False", True) if kind == "FastgwPolicy" else ("True", False))
        cluster.remove(kind, "shop/shown")


def test_the_objects_of_the_guide_lead_to_the_first_request(
    controller: Controller, cluster: ClusterStandIn, backend: Nginx, tmp_path: Path
) -> None:
    """In a namespace of their own, as the one of the guide has those of other tests."""
    text = (ROOT / "docs/guides/gateway-api.md").read_text()
    block = re.search(r"```text\n(    apiVersion: gateway.*?)    ```", text, re.DOTALL)
    assert block is not None
    objects = textwrap.dedent(block[1]).replace("namespace: shop", "namespace: guide")
    cluster.put({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "guide"}})
    cluster.put(*service("cart", backend.address, namespace="guide"))
    command = [program("kubectl"), "--kubeconfig", str(cluster.kubeconfig(tmp_path / "kubeconfig"))]
    subprocess.run([*command, "apply", "--validate=false", "-f", "-"], input=objects, text=True, timeout=60, check=True)
    waiting = ["wait", "--for=condition=Programmed", "-n", "guide", "gateway/web", "--timeout=30s"]
    subprocess.run([*command, *waiting], timeout=60, check=True)
    gateway = cluster.get("Gateway", "guide/web")
    assert gateway is not None
    url = f"http://{gateway['status']['addresses'][0]['value']}:{OFFSET + 80}/"

    def answers() -> bool:
        with suppress(httpx.TransportError):
            return httpx.get(url, headers={"Host": "shop.example.com"}).text == "cart"
        return False

    wait_until(answers, "the first request", LONG)
    for kind in ("HTTPRoute", "Gateway"):
        cluster.remove(kind, "guide/cart" if kind == "HTTPRoute" else "guide/web")


def holder(cluster: ClusterStandIn) -> str:
    """Return the identity of the leader."""
    lease = cluster.get("Lease", "default/fastgw-controller-fastgw")
    return "" if lease is None else str(lease["spec"]["holderIdentity"])


async def under_load(
    addresses: Sequence[str], counts: Sequence[LoadCounts], events: Callable[[], Awaitable[None]]
) -> None:
    """Ask at all addresses without pause while `events` happen."""
    goes_on = True
    async with asyncio.TaskGroup() as tasks:
        for address, counted in zip(addresses, counts, strict=True):
            for _ in range(CALLERS):
                tasks.create_task(call(address, lambda: goes_on, counted))
        await events()
        goes_on = False


def test_no_request_is_lost_while_the_api_server_is_away_and_the_leader_is_killed(
    controller: Controller, cluster: ClusterStandIn, backend: Nginx, tmp_path: Path
) -> None:
    """Two replicas serve all the time. What happened meanwhile is in force once the API server is back, and the status
    is written once, by the one that has taken over."""
    cluster.put(http_route("all", "cart"))
    with (
        Nginx(tmp_path / "other", "location / { return 200 'other'; }") as other,
        Controller(cluster, tmp_path, OFFSET + 1000) as second,
    ):
        replicas = controller, second
        for each in replicas:
            each.answers("/", 200)

        counts = [LoadCounts() for _ in replicas]

        async def more() -> None:
            """Wait for answers to further requests."""
            for each in counts:
                await enough(each, 100)

        async def disturb() -> None:
            for _ in range(2):
                cluster.drop_watches()
                await more()
            cluster.stop()
            await more()
            cluster.rewrite_all()
            for item in service("cart", other.address)[1:]:
                cluster.put(item)
            cluster.remove("EndpointSlice", f"shop/cart-{backend.port}")
            cluster.put(http_route("toys", "cart", "/toys"))
            cluster.forget_history()
            cluster.start()
            for each in replicas:
                await asyncio.to_thread(each.answers, "/", 200, "other")
            before = holder(cluster)
            (leader,) = (each for each in replicas if f"-{each.control_pid}-" in before)
            os.kill(leader.control_pid, signal.SIGKILL)
            # As if the seconds of the Lease had passed.
            cluster.edit(
                "Lease",
                "default/fastgw-controller-fastgw",
                lambda item: item["spec"].update(leaseDurationSeconds=1),
            )
            await asyncio.to_thread(wait_until, lambda: holder(cluster) not in ("", before), "take-over", LONG)
            await more()

        asyncio.run(under_load([each.edge for each in replicas], counts, disturb))
        for counted in counts:
            assert (counted.lost, set(counted.statuses)) == ([], {200}), counted
        began = len(cluster.api.status_log)
        cluster.put(http_route("toys", "cart", "/toys/new"))
        for each in replicas:
            each.answers("/toys", 200, "other")
        cluster.wait_for("HTTPRoute", "shop/toys", "Accepted", "True")
        writes = [each for each in cluster.api.status_log[began:] if each[1] == "HTTPRoute"]
        assert len(writes) == 1, writes
        cluster.put(*service("cart", backend.address))
        cluster.remove("EndpointSlice", f"shop/cart-{other.port}")


@pytest.mark.landing
def test_an_ingress_with_problems_is_told_by_events(controller: Controller, cluster: ClusterStandIn) -> None:
    """It has no conditions. Other Ingresses serve."""
    cluster.put(ingress_class("fastgw"), ingress("good", "cart", "good.test"))
    cluster.put(
        ingress("secure", "cart", "secure.test", "absent"), ingress("wrong", "cart", "wrong.test", timeout="-1")
    )

    def told(name: str) -> list[str]:
        return [each["message"] for each in cluster.events("Ingress", f"shop/{name}")]

    wait_until(lambda: told("secure") and told("wrong"), "Events", LONG)
    assert told("secure") == ["spec.tls: the Secret shop/absent does not exist"]
    (why,) = told("wrong")
    assert why.startswith("it is not served: rule ")
    assert 'timeout: "-1" is not a duration' in why

    def serves(host: str) -> bool:
        answer = httpx.get(f"http://{BLOCK}.9:{OFFSET + 80}/", headers={"Host": host})
        return answer.status_code == 200

    wait_until(lambda: serves("good.test"), "good.test", LONG)
    assert told("good") == []
    cluster.put(ingress("wrong", "cart", "wrong.test", timeout="2s"))
    wait_until(lambda: serves("wrong.test"), "wrong.test", LONG)
    for name in ("good", "secure", "wrong"):
        cluster.remove("Ingress", f"shop/{name}")
    cluster.remove("IngressClass", "fastgw")

    def is_open() -> bool:
        with socket.socket() as client:
            return client.connect_ex((f"{BLOCK}.9", OFFSET + 80)) == 0

    wait_until(lambda: not is_open(), "the listener of Ingresses to be closed", LONG)


@pytest.mark.landing
def test_endpoints_are_replaced_without_a_reload_and_no_request_is_lost(
    controller: Controller, cluster: ClusterStandIn, backend: Nginx, tmp_path: Path
) -> None:
    """A worker that is started later has them, too, and so has the generation of the next changed route."""
    cluster.put(http_route("all", "cart"))
    controller.answers("/", 200, "cart")
    counts = [LoadCounts()]
    with Nginx(tmp_path, "location / { return 200 'other'; }") as other:

        async def move() -> None:
            await enough(counts[0], 100)
            for item in service("cart", other.address)[1:]:
                cluster.put(item)
            cluster.remove("EndpointSlice", f"shop/cart-{backend.port}")
            await asyncio.to_thread(controller.answers, "/", 200, "other")
            await enough(counts[0], 100)

        generation = controller.status()["generation"]
        asyncio.run(under_load([controller.edge], counts, move))
        assert (counts[0].lost, set(counts[0].statuses)) == ([], {200})
        assert controller.status()["generation"] == generation
        before = set(controller.worker_pids)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: len(set(controller.worker_pids) - before) == len(before), "new workers", LONG)
        for _ in before:
            controller.answers("/", 200, "other")
        assert controller.status()["generation"] == generation
        cluster.put(http_route("toys", "cart", "/toys"))
        cluster.wait_for("HTTPRoute", "shop/toys", "Accepted", "True")
        assert controller.status()["generation"] > generation
        controller.answers("/toys", 200, "other")
    cluster.put(*service("cart", backend.address))
    cluster.remove("EndpointSlice", f"shop/cart-{other.port}")
    controller.answers("/", 200, "cart")
    cluster.remove("HTTPRoute", "shop/toys")
    cluster.remove("HTTPRoute", "shop/all")


def test_a_gateway_has_a_service_of_its_own_that_leads_to_the_pods(
    cluster: ClusterStandIn, controller: Controller, tmp_path: Path
) -> None:
    """`addresses: {service: …}`, for a class of its own. The pods are in another namespace than those followed."""
    edge = gateway("inside", {"name": "http", "port": 80, "protocol": "HTTP"})
    edge["spec"]["gatewayClassName"] = "inside"
    cluster.put(a_class("inside"), edge, http_route("in", "cart", "/in", parent="inside"))
    cluster.put(*service("fastgw", "127.0.0.1:9902", namespace="default"))
    settings = {"gateway_class": "inside", "addresses": {"service": "fastgw"}, "namespaces": ["shop"]}
    with Controller(cluster, tmp_path, **settings) as pod:
        cluster.wait_for("Gateway", "shop/inside", "Programmed", "False", "AddressNotAssigned")
        wait_until(lambda: cluster.get("EndpointSlice", "shop/fastgw-inside"), "its Service", LONG)
        cluster.edit("Service", "shop/fastgw-inside", lambda item: item["spec"].update(clusterIP="10.96.0.7"))
        cluster.wait_for("Gateway", "shop/inside", "Programmed", "True")
        made, leads, status = (
            cluster.get(kind, name)
            for kind, name in (
                ("Service", "shop/fastgw-inside"),
                ("EndpointSlice", "shop/fastgw-inside"),
                ("Gateway", "shop/inside"),
            )
        )
        assert made is not None
        assert leads is not None
        assert status is not None
        ((said,), (port,)) = made["spec"]["ports"], leads["ports"]
        assert (said["port"], said["targetPort"]) == (80, port["port"])
        assert leads["endpoints"] == [{"addresses": ["127.0.0.1"]}]
        (owner,) = made["metadata"]["ownerReferences"]
        assert (owner["name"], owner["kind"], owner["controller"]) == ("inside", "Gateway", True)
        assert status["status"]["addresses"] == [{"type": "IPAddress", "value": "10.96.0.7"}]
        pod.edge = f"127.0.0.1:{port['port']}"
        pod.answers("/in", 200)
    cluster.remove("Gateway", "shop/inside")
    cluster.remove("HTTPRoute", "shop/in")


def test_the_controller_calls_what_its_roles_permit_and_nothing_else(
    controller: Controller, cluster: ClusterStandIn
) -> None:
    """All tests before this one have made calls. Kinds whose statuses they do not write are permitted all the same."""
    cluster.put(gateway("last"))
    cluster.wait_for("Gateway", "shop/last", "Programmed", "True")
    permitted: set[tuple[str, str, str]] = set()
    for file in ("clusterrole.yaml", "role.yaml"):
        for rule in yaml.safe_load((ROOT / "deploy/kubernetes-gateway" / file).read_text())["rules"]:
            permitted.update(product(rule["apiGroups"], rule["resources"], rule["verbs"]))
    assert cluster.api.calls - permitted == set()
    unused = {each for each in permitted - cluster.api.calls if not each[1].endswith("/status")}
    written = {
        ("", "services"),
        ("", "events"),
        ("discovery.k8s.io", "endpointslices"),
        ("coordination.k8s.io", "leases"),
    }
    assert {each for each in unused if each[:2] not in written} == set()
    cluster.remove("Gateway", "shop/last")
