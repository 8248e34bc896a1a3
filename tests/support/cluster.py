"""Stand-in of a Kubernetes cluster for the Gateway API: the API server of the runner of the conformance suite, on a
thread of its own, with the kinds of the Gateway API and of fastgw."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import yaml
from aiohttp import web

from tests.e2e.gateway_api.runner import Api, status_of
from tests.support.gateway import wait_until
from tests.support.peer import DEADLINE

T = TypeVar("T")
Object = dict[str, Any]

ROOT = Path(__file__).parents[2]
DEFINITIONS = ROOT / "tests/e2e/gateway_api/gateway-api-schemas.json"
OWN = ROOT / "deploy/kubernetes-gateway"
GROUP = "gateway.networking.k8s.io"
OTHERS = (
    ("rbac.authorization.k8s.io", "v1", "roles", "Role", True),
    ("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding", True),
    ("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", False),
    ("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", False),
    ("applicationconnector.kyma-project.io", "v1alpha1", "applications", "Application", False),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True),
    ("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", True),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True),
)
"""Kinds of what is deployed with a gateway, and Kyma's: group, version, plural, kind and whether it has a namespace."""
LONG = 90.0
"""For what takes well below a second, on a machine that is busy."""


class _Server(Api):  # type: ignore[misc]  # the runner has no types
    tls: ssl.SSLContext | None = None
    tokens: frozenset[str] = frozenset()
    """Tokens that are accepted; empty: no token is needed."""
    failing: frozenset[str] = frozenset()
    """Resources of which no list and no watch succeeds."""
    refusals: Mapping[tuple[str, str], tuple[int, str]] = MappingProxyType({})
    """Status and message of the refusal of calls, by verb and resource."""
    has_definitions = False
    replies: Mapping[str, tuple[int, bytes, str]] = MappingProxyType({})
    """Status, body and media type for all requests of a path; " watch" behind the path: for its watches."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.calls: set[tuple[str, str, str]] = set()
        """Group, resource and verb of each call that was not made by kubectl, in the terms of roles."""
        self.refused: Counter[tuple[str, str]] = Counter()
        """Number of calls that were refused, as of `refusals`."""

    async def start(self, port: int = 0) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.router.add_route("*", "/{path:.*}", self.serve)
        self.runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self.runner.setup()
        listening = socket.create_server(("127.0.0.1", port))
        self.port = listening.getsockname()[1]
        await web.SockSite(self.runner, listening, ssl_context=self.tls).start()
        for each in self.crds():
            self.create(self.by["apiextensions.k8s.io", "customresourcedefinitions"], each)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        said = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens and said not in self.tokens:
            return web.json_response(status_of(401, "Unauthorized", "Unauthorized"), status=401)
        asked = f"{request.path} watch" if request.query.get("watch") else request.path
        if asked in self.replies:
            status, body, media_type = self.replies[asked]
            return web.Response(status=status, body=body, content_type=media_type)
        if not request.headers.get("User-Agent", "").startswith("kubectl"):
            call = _call_of(request)
            self.calls.add(call)
            if call[1] in self.failing and call[2] in ("list", "watch"):
                return web.json_response(status_of(500, "InternalError", "etcdserver: request timed out"), status=500)
            refusal = self.refusals.get((call[2], call[1]))
            if refusal is not None:
                self.refused[call[2], call[1]] += 1
                return web.json_response(status_of(refusal[0], "Refused", refusal[1]), status=refusal[0])
        if request.method == "DELETE" and not await self.has_version(request):
            return web.json_response(status_of(409, "Conflict", "the preconditions are not met"), status=409)
        answer: web.StreamResponse = await super().serve(request)
        return answer

    async def has_version(self, request: web.Request) -> bool:
        """Whether the object to delete has the version that is the precondition."""
        asked = json.loads(await request.read() or b"{}").get("preconditions") or {}
        *_, namespace, plural, name = request.path.split("/")
        item = next((each.objects.get((namespace, name)) for each in self.res if each.plural == plural), None)
        return item is None or all(item["metadata"][key] == value for key, value in asked.items())

    def crds(self) -> list[Object]:
        found, self.has_definitions = ([] if self.has_definitions else super().crds()), True
        return found


def _call_of(request: web.Request) -> tuple[str, str, str]:
    """Return group, resource and verb of a request."""
    _, root, *rest = request.path.split("/")
    group = "" if root == "api" else rest.pop(0)
    rest = rest[1:]  # without the version
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource, *named = rest or [""]
    verb = _VERBS[request.method]
    if verb == "get" and not named:
        verb = "watch" if request.query.get("watch") else "list"
    return group, "/".join((resource, *named[1:])), verb


_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ClusterStandIn:
    """A cluster with one GatewayClass. Objects are plain dictionaries with `apiVersion` and `kind`.

    `tls`: of the API server.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        others = [
            {"group": group, "versions": [version], "plural": plural, "kind": kind, "namespaced": namespaced}
            | {"status": False, "schema": None}
            for group, version, plural, kind, namespaced in OTHERS
        ]
        own = [_kind_of(yaml.safe_load(file.read_text())) for file in sorted(OWN.glob("crd-*.yaml"))]
        self.api = _Server([*json.loads(DEFINITIONS.read_text())["resources"], *own, *others], 2.0)
        self.api.tls = tls
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()
        self.put(
            _object("v1", "Namespace", "shop", None),
            a_class("fastgw"),
        )

    def __enter__(self) -> ClusterStandIn:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    def start(self) -> None:
        """Listen, on the previous port if there was one."""
        self._run(self.api.start(self.api.port or 0))

    def stop(self) -> None:
        """End all connections, and refuse further ones."""
        self._run(self.api.stop())

    def kubeconfig(self, file: Path) -> Path:
        self.api.kubeconfig(str(file))
        return file

    def put(self, *objects: Object) -> None:
        """Create objects, or replace all but their metadata."""
        self.call(lambda: [self.api.upsert(each) for each in objects])

    def edit(self, kind: str, name: str, change: Callable[[Object], object]) -> None:
        """Change an object. `name`: with its namespace."""
        self.call(lambda: self.api.edit(kind, name, change))

    def remove(self, kind: str, name: str) -> None:
        self.call(lambda: self.api.remove(kind, name))

    def get(self, kind: str, name: str) -> Object | None:
        found: Object | None = self.call(lambda: self.api.get(kind, name))
        return found

    def rewrite_all(self) -> None:
        """Change an annotation of every object, as backups that are restored do."""

        def rewrite() -> None:
            for resource in self.api.res:
                for key, item in [*resource.objects.items()]:
                    annotations = {**item["metadata"].get("annotations", {}), "restored": str(self.api.rv)}
                    self.api.replace(
                        resource, key, {**item, "metadata": {**item["metadata"], "annotations": annotations}}
                    )

        self.call(rewrite)

    def drop_watches(self) -> None:
        self.call(self.api.drop_watches)

    def forget_history(self) -> None:
        """Answer 410 to watches from now on that continue at an earlier version."""
        self.call(self.api.compact)

    def events(self, kind: str, name: str) -> list[Object]:
        """Return the Events of an object. `name`: with its namespace."""
        held = self.call(lambda: [*self.api.by["", "events"].objects.values()])
        return [
            each
            for each in held
            if (each["involvedObject"]["kind"], f"{each['metadata']['namespace']}/{each['involvedObject']['name']}")
            == (kind, name)
        ]

    def condition(self, kind: str, name: str, type_: str) -> tuple[str, str, str]:
        """Return status, reason and message of a condition, of the first parent or ancestor; of none, empty texts."""
        item = self.get(kind, name) or {}
        status = item.get("status") or {}
        held = next(iter(status.get("parents") or status.get("ancestors") or ()), status)
        generation = item.get("metadata", {}).get("generation")
        for each in held.get("conditions") or ():
            if each["type"] == type_ and each.get("observedGeneration") == generation:
                return each["status"], each["reason"], each["message"]
        return "", "", ""

    def wait_for(self, kind: str, name: str, type_: str, status: str, reason: str = "") -> str:
        """Wait for a condition, and return its message."""

        def fits() -> bool:
            found = self.condition(kind, name, type_)
            return found[0] == status and reason in ("", found[1])

        wait_until(fits, f"{kind} {name}: {type_}={status} {reason}", LONG)
        return self.condition(kind, name, type_)[2]

    def call(self, work: Callable[[], T]) -> T:
        """Call a function on the thread of the API server."""

        async def run() -> T:
            return work()

        return self._run(run())

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(LONG)


def _kind_of(definition: Mapping[str, Any]) -> Object:
    """Return a definition in the terms of the runner."""
    spec = definition["spec"]
    (version,) = spec["versions"]
    names = spec["names"]
    schema = version["schema"]["openAPIV3Schema"]
    return {
        "group": spec["group"],
        "versions": [version["name"]],
        "plural": names["plural"],
        "kind": names["kind"],
        "namespaced": spec["scope"] == "Namespaced",
        "status": True,
        "schema": {"properties": {}, **schema},
    }


def _object(version: str, kind: str, name: str, namespace: str | None = "shop", **spec: Any) -> Object:
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, **({"spec": spec} if spec else {})}


def in_namespace(namespace: str, *items: Object) -> list[Object]:
    """Return copies of objects in another namespace."""
    return [{**item, "metadata": {**item["metadata"], "namespace": namespace}} for item in items]


def a_class(name: str) -> Object:
    return _object(f"{GROUP}/v1", "GatewayClass", name, None, controllerName="fastgw.dev/gateway-controller")


def gateway(name: str, *listeners: Object, **more: Any) -> Object:
    held = listeners or ({"name": "http", "port": 80, "protocol": "HTTP"},)
    return _object(f"{GROUP}/v1", "Gateway", name, gatewayClassName="fastgw", listeners=[*held], **more)


def http_route(name: str, service: str, path: str = "/", parent: str = "web", **rule: Any) -> Object:
    rules = [
        {
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": [{"name": service, "port": 80}],
            **rule,
        }
    ]
    return _object(f"{GROUP}/v1", "HTTPRoute", name, parentRefs=[{"name": parent}], rules=rules)


def ingress(name: str, service: str, host: str, secret: str = "", **annotations: str) -> Object:
    """`annotations`: behind `fastgw.dev/`, with underscores."""
    path = {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": service, "port": {"number": 80}}}}
    tls = [{"hosts": [host], "secretName": secret}] if secret else []
    rules = [{"host": host, "http": {"paths": [path]}}]
    made = _object("networking.k8s.io/v1", "Ingress", name, ingressClassName="fastgw", tls=tls, rules=rules)
    made["metadata"]["annotations"] = {f"fastgw.dev/{key.replace('_', '-')}": text for key, text in annotations.items()}
    return made


def ingress_class(name: str) -> Object:
    return _object("networking.k8s.io/v1", "IngressClass", name, None, controller="fastgw.dev/ingress-controller")


def policy(name: str, filters: Object, target: str, kind: str = "HTTPRoute") -> Object:
    references = [{"group": GROUP, "kind": kind, "name": target}]
    return _object("fastgw.dev/v1", "FastgwPolicy", name, targetRefs=references, filters=filters)


def consumer(name: str, **spec: Any) -> Object:
    return _object("fastgw.dev/v1", "FastgwConsumer", name, **spec)


def service(name: str, *addresses: str, namespace: str = "shop") -> list[Object]:
    """Return a Service with these endpoints (`127.0.0.1:8000`), one slice for each port."""
    ports: dict[int, list[str]] = {}
    for each in addresses:
        host, _, port = each.rpartition(":")
        ports.setdefault(int(port), []).append(host)
    slices = []
    for port, hosts in ports.items():
        made = _object("discovery.k8s.io/v1", "EndpointSlice", f"{name}-{port}", namespace)
        made["metadata"]["labels"] = {"kubernetes.io/service-name": name}
        made |= {"addressType": "IPv4", "ports": [{"name": "http", "port": port, "protocol": "TCP"}]}
        made["endpoints"] = [{"addresses": hosts, "conditions": {"ready": True}}]
        slices.append(made)
    return [_object("v1", "Service", name, namespace, ports=[{"name": "http", "port": 80}]), *slices]
