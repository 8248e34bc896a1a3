"""A gateway that takes what is called, and with what, from a Kubernetes cluster: its API server is a stand-in, and the
client library the real one."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.clients import Caller
from tests.e2e.programs import Nginx
from tests.e2e.test_processes import ask
from tests.e2e.test_reload import Reloadable
from tests.support.api_origin import ApiOrigin, Call
from tests.support.certificates import Certificates, server_tls
from tests.support.gateway import wait_until
from tests.support.issuer import Issuer
from tests.support.kubernetes import TOKEN, ApiServer, application, secret
from tests.support.peer import DEADLINE

NAMESPACE = "kyma-system"
LONG = 90.0
"""For what takes well below a second, an upgrade about two, on a machine that is busy."""
SECRET = "s3cr3t-of-the-cluster"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """What is called: it tells which key it was shown."""
    with Nginx(tmp_path_factory.mktemp("api"), "location / { return 200 '$http_x_key'; }") as api:
        yield api


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ApiServer]:
    with ApiServer(Certificates(tmp_path)) as server:
        yield server


def shop(url: str, name: str = "shop", key: str = "shop-key", service: str = "orders") -> dict[str, Any]:
    entry = {"type": "API", "targetUrl": url, "requestParametersSecretName": key}
    return application(name, {"id": f"{name}-id", "name": service, "displayName": service, "entries": [entry]})


def parameters(name: str, key: str) -> dict[str, Any]:
    return secret(name, headers=json.dumps({"X-Key": [key]}))


class Following(Reloadable):
    """A gateway that follows the API server."""

    def __init__(self, server: ApiServer, directory: Path, **more: Any) -> None:
        kubeconfig = server.kubeconfig(directory / "kubeconfig")
        kyma = {"kubernetes": {"kubeconfig": str(kubeconfig)}, "namespace": NAMESPACE, "allow_local": True}
        super().__init__({"egress": {}, "providers": {"kyma": kyma}, **more}, directory)

    def says(self, path: str, status: int, text: str | None = None) -> None:
        """Wait until this is the answer. Without `text` any is."""

        def fact() -> bool:
            seen = self.answer(path)
            return seen[0] == status and text in (None, seen[1].decode())

        wait_until(fact, f"{path} to say {status} {text}", LONG)

    @property
    def is_ready(self) -> bool:
        return ask(self.ready["status"], "/readyz").status == 200

    def becomes_ready(self) -> None:
        wait_until(lambda: self.is_ready, "readiness", LONG)

    def feeds(self) -> dict[str, str]:
        """What is wrong, by what is followed."""
        return {each["feed"]: each["problem"] for each in self.asked()["feeds"]}

    def asked(self) -> dict[str, Any]:
        """What the admin listener says of the node; nothing while nobody answers there."""
        try:
            url = f"http://{self.ready['admin']}/status"
            told: dict[str, Any] = httpx.get(url, headers=self.shown, timeout=DEADLINE).json()
        except httpx.HTTPError:
            return {}
        return told

    def ups(self) -> list[float]:
        lines = ask(self.ready["status"], "/metrics").body.decode().splitlines()
        seen = dict(line.rsplit(" ", 1) for line in lines if line.startswith("fastgw_feed_up"))
        return [float(seen.get(f'fastgw_feed_up{{feed="kubernetes://kyma/{kind}",used_by=""}}', -1)) for kind in KINDS]

    def loses_control(self) -> None:
        before = self.control_pid
        os.kill(before, signal.SIGKILL)
        self.has_another_control(before)

    def has_another_control(self, before: int) -> None:
        """Wait until it serves."""

        def another() -> bool:
            pids = [pid for pid in self.child_pids if pid not in self.worker_pids]
            return bool(pids) and before not in pids and bool(self.asked())

        wait_until(another, "another control process", LONG)


KINDS = ("applications", "secrets")


@pytest.mark.landing
def test_what_happens_in_the_cluster_is_served_and_no_request_is_lost(
    server: ApiServer, api: Nginx, tmp_path: Path
) -> None:
    server.put(shop(api.url), parameters("shop-key", SECRET), secret("of-somebody-else", planted="planted"))
    with Following(server, tmp_path) as gateway:
        gateway.becomes_ready()
        gateway.says("/shop/orders/a", 200, SECRET)
        gateway.says("/store/orders/a", 404)

        rotated_under_load(gateway, lambda: server.put(parameters("shop-key", "rotated")))

        server.put(shop(api.url, "store", "store-key"), parameters("store-key", "another"))
        gateway.says("/store/orders/a", 200, "another")
        server.put(shop("not a URL", "broken", "store-key"))
        gateway.stderr.wait_for(lambda line: b"Application/broken" in line and b"targetUrl" in line, LONG)
        assert gateway.answer("/store/orders/a") == (200, b"another"), "a bad object is refused by itself"
        server.delete("applications", "store")
        gateway.says("/store/orders/a", 404)
        server.delete("secrets", "shop-key", NAMESPACE)
        gateway.says("/shop/orders/a", 500)
        assert b"kyma-system/shop-key is missing" in gateway.answer("/shop/orders/a")[1]

        assert gateway.feeds() == {f"kubernetes://kyma/{kind}": "" for kind in KINDS}
        assert gateway.ups() == [1, 1]
        shown = gateway.command("status").stdout + gateway.stderr.text() + gateway.stdout.text()
        assert not [word for word in (SECRET, "planted", TOKEN) if word in shown]
        assert not [line for line in gateway.stderr.lines if b"not reloaded" in line]


def test_each_kind_of_secret_is_shown_as_its_application_says(server: ApiServer, tmp_path: Path) -> None:
    (tmp_path / "ours").mkdir()
    ours = Certificates(tmp_path / "ours")
    pair = [Path(file).read_text() for file in ours.issue("gateway.client")]
    strict = server_tls(ours.issue("127.0.0.1"), ours.ca)
    with ApiOrigin() as plain, ApiOrigin(tls=strict) as secured, Issuer() as open_to_all, Issuer(tls=strict) as closed:
        of_basic = {"type": "Basic", "secretName": "basic"}
        of_tokens = {"type": "OAuth", "secretName": "client", "authenticationUrl": open_to_all.url}
        by_pair = {"type": "OAuthWithCert", "secretName": "pair", "authenticationUrl": closed.url}
        with_csrf = {**of_basic, "csrfInfo": {"tokenEndpointURL": plain.csrf_url}}
        apis = {
            "basic": (plain, of_basic),
            "oauth": (plain, of_tokens),
            "oauth-mtls": (plain, by_pair),
            "mtls": (secured, {"type": "CertificateGen", "secretName": "pair"}),
            "csrf": (plain, with_csrf),
        }
        services = [
            {
                "id": name,
                "name": name,
                "displayName": name,
                "entries": [{"type": "API", "targetUrl": api.url, "credentials": shown}],
            }
            for name, (api, shown) in apis.items()
        ]
        server.put(
            application("all", *services, skipVerify=True),
            secret("basic", username="user", password=SECRET),
            secret("client", clientId="app", clientSecret=SECRET, headers=json.dumps({"X-Zone": ["z1"]})),
            secret("pair", clientId="app", crt=pair[0], key=pair[1]),
        )
        with Following(server, tmp_path) as gateway:
            gateway.becomes_ready()
            shown: dict[str, Call] = {}
            for name, (api, _) in apis.items():
                gateway.says(f"/all/{name}/x", 200)
                shown[name] = api.calls[-1]
            basic = "Basic " + b64encode(f"user:{SECRET}".encode()).decode()
            assert {name: call.value("Authorization") for name, call in shown.items()} == {
                "basic": basic,
                "oauth": f"Bearer {open_to_all.live}",
                "oauth-mtls": f"Bearer {closed.live}",
                "mtls": None,
                "csrf": basic,
            }
            assert open_to_all.questions[0].client_secret == SECRET
            assert open_to_all.questions[0].fields["X-Zone"] == "z1"
            assert closed.questions[0].form["client_id"] == ["app"]
            assert ("DNS", "gateway.client") in shown["mtls"].certificate["subjectAltName"]
            assert shown["csrf"].value("X-CSRF-Token") == plain.csrf_token
            assert "session=s1" in (shown["csrf"].value("Cookie") or "")

            server.put(secret("basic", username="user", password="rotated"))
            rotated = "Basic " + b64encode(b"user:rotated").decode()

            def is_rotated() -> bool:
                return gateway.answer("/all/basic/x")[0] == 200 and plain.calls[-1].value("Authorization") == rotated

            wait_until(is_rotated, "the other password", LONG)
            gateway.stderr.wait_for(lambda line: b"changed: the Secret kyma-system/basic" in line)
            server.delete("secrets", "pair", NAMESPACE)
            gateway.says("/all/mtls/x", 500)
            gateway.says("/all/oauth-mtls/x", 500)
            assert gateway.answer("/all/oauth/x")[0] == 200
            told = gateway.command("status").stdout + gateway.stderr.text() + gateway.stdout.text()
            assert not [word for word in (SECRET, "rotated", "PRIVATE KEY", open_to_all.live) if word in told]


def test_secrets_of_compass_mode_are_served_without_an_application(server: ApiServer, tmp_path: Path) -> None:
    """Those that are listed, by listeners for them, each with its credentials, and to the consumers that are named."""
    (tmp_path / "ours").mkdir()
    ours = Certificates(tmp_path / "ours")
    pem = [b64encode(Path(file).read_bytes()).decode() for file in ours.issue("gateway.client")]
    pair = dict(zip(("certificate", "privateKey"), pem, strict=True))
    strict = server_tls(ours.issue("127.0.0.1"), ours.ca)

    def put(name: str, kind: str, url: str, credentials: dict[str, Any], **more: Any) -> None:
        said = json.dumps({"credentials": credentials, **more})
        server.put(secret(name, CONFIGURATION=said, CREDENTIALS_TYPE=kind, ORDERS_V1_TARGET_URL=url))

    with ApiOrigin() as plain, ApiOrigin(tls=strict) as secured, Issuer() as open_to_all, Issuer(tls=strict) as closed:
        basic = {"username": "user", "password": SECRET}
        of_tokens = {"clientId": "app", "clientSecret": SECRET, "tokenUrl": open_to_all.url}
        zone = {"requestParameters": {"headers": {"X-Zone": ["z1"]}}}
        put("none", "NoAuth", f"{plain.url}/v1", {}, requestParameters={"queryParameters": {"limit": ["50"]}})
        put("basic", "BasicAuth", plain.url, basic)
        put("oauth", "OAuth", plain.url, {**of_tokens, **zone})
        put("oauth-mtls", "OAuthWithCert", plain.url, {"clientId": "app", "tokenUrl": closed.url, **pair})
        put("mtls", "Certificate", secured.url, pair)
        put("csrf", "BasicAuth", plain.url, basic, csrfConfig={"tokenUrl": plain.csrf_url})
        put("unlisted", "NoAuth", plain.url, {})
        names = ["none", "basic", "oauth", "oauth-mtls", "mtls", "csrf"]
        kyma = {
            "kubernetes": {"kubeconfig": str(server.kubeconfig(tmp_path / "kubeconfig"))},
            "secrets": [*names, "late"],
            "allow_local": True,
            "defaults": {"tls": {"ca": str(ours.ca)}},
        }
        more = {
            "egress": {"addressing": "secret", "apps": {"late": {"consumers": ["shop"]}}},
            "consumers": [{"name": "shop", "key_auth": [{"key": "planted-0123456789"}]}],
            "providers": {"kyma": kyma},
        }
        with Following(server, tmp_path, **more) as gateway:
            gateway.becomes_ready()
            shown: dict[str, Call] = {}
            for name in names:
                gateway.says(f"/secret/{name}/api/ORDERS_V1/a%2Fb?x=1", 200)
                shown[name] = (secured if name == "mtls" else plain).calls[-1]
            shown_basic = "Basic " + b64encode(f"user:{SECRET}".encode()).decode()
            assert {name: call.value("Authorization") for name, call in shown.items()} == {
                "none": None,
                "basic": shown_basic,
                "oauth": f"Bearer {open_to_all.live}",
                "oauth-mtls": f"Bearer {closed.live}",
                "mtls": None,
                "csrf": shown_basic,
            }
            assert shown["none"].target == "/v1/a%2Fb?x=1&limit=50"
            assert open_to_all.questions[0].client_secret == SECRET
            assert open_to_all.questions[0].fields["X-Zone"] == "z1"
            assert ("DNS", "gateway.client") in shown["mtls"].certificate["subjectAltName"]
            assert shown["csrf"].value("X-CSRF-Token") == plain.csrf_token
            gateway.says("/secret/basic/api/orders_v1/x", 200)
            for path in ("/secret/unlisted/api/ORDERS_V1/x", "/secret/basic/api/V2/x", "/secret/late/api/ORDERS_V1/x"):
                assert gateway.answer(path)[0] == 404
            put("late", "NoAuth", plain.url, {})
            gateway.says("/secret/late/api/ORDERS_V1/x", 401)
            called = httpx.get(
                f"{gateway.url()}/secret/late/api/ORDERS_V1/x", headers={"X-Api-Key": "planted-0123456789"}
            )
            assert (called.status_code, plain.calls[-1].value("X-Api-Key")) == (200, None)
            put("basic", "BasicAuth", plain.url, {"username": "user"})
            gateway.says("/secret/basic/api/ORDERS_V1/x", 500)
            server.delete("secrets", "none", NAMESPACE)
            gateway.says("/secret/none/api/ORDERS_V1/x", 404)
            told = gateway.command("status").stdout + gateway.stderr.text() + gateway.stdout.text()
            assert not [word for word in (SECRET, pem[1], open_to_all.live) if word in told]


def rotated_under_load(gateway: Following, rotate: Callable[[], None]) -> None:
    """Callers ask without pause until they have all seen what comes of it; every answer is one of the two."""
    seen: list[tuple[int, bytes]] = []

    async def call() -> None:
        caller = Caller(gateway.address())
        await caller.open()
        try:
            while (answer := await caller.ask("/shop/orders/a")) == (200, SECRET.encode()):
                seen.append(answer)
            seen.append(answer)
            assert await caller.ask("/shop/orders/a") == (200, b"rotated"), "what was rotated stays so"
        finally:
            caller.close()

    async def load() -> None:
        async with asyncio.timeout(LONG), asyncio.TaskGroup() as tasks:
            for _ in range(8):
                tasks.create_task(call())
            while len(seen) < 50:
                await asyncio.sleep(0.005)
            await asyncio.to_thread(rotate)

    asyncio.run(load())
    assert set(seen) == {(200, SECRET.encode()), (200, b"rotated")}


def test_what_was_known_goes_on_while_the_api_server_is_away(server: ApiServer, api: Nginx, tmp_path: Path) -> None:
    server.put(shop(api.url), parameters("shop-key", SECRET))
    with Following(server, tmp_path) as gateway:
        gateway.says("/shop/orders/a", 200, SECRET)
        wait_until(lambda: server.watches == 2, "the watches", LONG)
        server.drop()
        server.put(shop(api.url, "store"))
        gateway.says("/store/orders/a", 200, SECRET)

        wait_until(lambda: server.watches == 2, "the watches", LONG)
        server.stop()
        gateway.stderr.wait_for(lambda line: b"kyma/applications: the API server is unreachable" in line, LONG)
        wait_until(lambda: gateway.ups() == [0, 0], "the metrics to tell", LONG)
        assert "is unreachable" in gateway.feeds()["kubernetes://kyma/secrets"]
        gateway.loses_control()
        assert gateway.answer("/shop/orders/a") == (200, SECRET.encode())
        assert gateway.is_ready, "what was known is known"
        gateway.signal(signal.SIGHUP)
        gateway.stderr.wait_for(lambda line: b"reloaded: generation 4" in line, LONG)
        assert gateway.answer("/shop/orders/a") == (200, SECRET.encode())
        before = gateway.control_pid
        gateway.signal(signal.SIGUSR2)
        gateway.has_another_control(before)
        assert gateway.answer("/shop/orders/a") == (200, SECRET.encode())
        assert gateway.is_ready

        server.delete("applications", "store")
        server.put(parameters("shop-key", "rotated"))
        server.forget()  # 410 for whoever would go on from before
        server.start()
        gateway.says("/shop/orders/a", 200, "rotated")
        gateway.says("/store/orders/a", 404)
        wait_until(lambda: gateway.ups() == [1, 1], "the metrics to tell", LONG)


def test_a_start_that_learns_nothing_is_alive_and_not_ready(server: ApiServer, api: Nginx, tmp_path: Path) -> None:
    server.put(shop(api.url), parameters("shop-key", SECRET))
    server.stop()
    routes = [{"name": "own", "paths": ["/own"], "respond": {"body": "own"}}]
    with Following(server, tmp_path, routes=routes) as gateway:
        gateway.stderr.wait_for(lambda line: b"the API server is unreachable" in line, LONG)
        assert gateway.answer("/own") == (200, b"own")
        assert not gateway.is_ready
        assert ask(gateway.ready["status"], "/livez").status == 200
        os.kill(gateway.control_pid, signal.SIGKILL)
        assert not gateway.is_ready, "neither a worker that stands in nor another control process knows more"
        server.forbidden = {("list", "secrets")}
        server.start()
        gateway.stderr.wait_for(
            lambda line: b'cannot list resource "secrets"' in line and b"expected a role in the namespace" in line, LONG
        )
        assert not gateway.is_ready, "Applications without their Secrets are not what there is"
        assert gateway.answer("/shop/orders/a")[0] == 503
        server.forbidden = set()
        gateway.becomes_ready()
        gateway.says("/shop/orders/a", 200, SECRET)
        server.delete("applications", "shop")
        gateway.says("/shop/orders/a", 404)
        assert gateway.is_ready, "that there is nothing is known"
