"""Service registries of the tests, each written from its HTTP API, and strict: what the API does not know is an error.

`mode` of all: `fine`, `error` (500), `nonsense` (not JSON), `hang` (no answer until the end), `refused` (403).
`requests`: what was asked, path and query.
"""

from __future__ import annotations

import json
import os
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.peer import DEADLINE


class Registry(ThreadingHTTPServer):
    """`port`: 0 = any; that of a registry which has ended, to come back."""

    daemon_threads = True
    allow_reuse_address = True
    answering: type[BaseHTTPRequestHandler]

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), self.answering)
        self.prepare()

    def prepare(self) -> None:
        """Set the state, and begin to serve."""
        self.mode = "fine"
        self.requests: list[str] = []
        self.changed = threading.Condition()
        self.ended = False
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None: ...

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answering(BaseHTTPRequestHandler):
    server: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        split = urlsplit(self.path)
        mode = self.server.mode
        if mode == "hang":
            with self.server.changed:
                self.server.changed.wait_for(lambda: self.server.ended or self.server.mode != "hang", DEADLINE)
            self.close_connection = True
        elif mode == "fine":
            self.answer(split.path, parse_qs(split.query, keep_blank_values=True))
        else:
            status, text = {"error": (500, "rpc error"), "nonsense": (200, '[{"Node": 1'), "refused": (403, "denied")}[
                mode
            ]
            self.send(status, text.encode(), {"X-Consul-Index": "1"})

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        raise NotImplementedError

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_json(self, value: Any, headers: dict[str, str] | None = None) -> None:
        self.send(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})


class _ConsulAnswering(Answering):
    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        consul = self.server
        if consul.token is not None and self.headers.get("X-Consul-Token") != consul.token:
            self.send_json([], {"X-Consul-Index": "1"})  # an anonymous token may not see the service
            return
        service = path.removeprefix("/v1/health/service/")
        known = {"passing", "tag", "dc", "ns", "index", "wait"}
        if service == path or not query.keys() <= known or query.get("passing") != ["true"]:
            self.send(400, b"not of the API")
            return
        wanted, index = {*query.get("tag", [])}, int(query.get("index", ["0"])[0])
        with consul.changed:
            if index:
                assert query["wait"][0].endswith("ms")
                consul.waiting += 1
                consul.changed.notify_all()
                consul.changed.wait_for(
                    lambda: consul.ended or consul.index != index, int(query["wait"][0].removesuffix("ms")) / 1000
                )
                consul.waiting -= 1
                if consul.ended:
                    self.close_connection = True
                    return
            found = [each for each in consul.services.get(service, []) if wanted <= {*each["Service"]["Tags"]}]
            said = consul.index
        self.send_json(found, {"X-Consul-Index": str(said)})


class Consul(Registry):
    """Consul's health endpoint, with blocking queries. `token`: the only one that may see services; None: any."""

    answering = _ConsulAnswering

    def prepare(self) -> None:
        self.services: dict[str, list[dict[str, Any]]] = {}
        self.index, self.waiting = 1, 0
        self.token: str | None = None
        super().prepare()

    def set(self, service: str, *ports: int, tags: tuple[str, ...] = (), index: int | None = None, **more: Any) -> None:
        """Set the instances of a service; a query that waits is answered."""
        with self.changed:
            self.services[service] = [
                {
                    "Node": {"Node": "n1", "Address": "127.0.0.1"},
                    "Service": {
                        "ID": f"{service}-{port}",
                        "Service": service,
                        "Tags": [*tags],
                        "Address": "",
                        "Port": port,
                        "Weights": {"Passing": 1, "Warning": 1},
                        **more,
                    },
                    "Checks": [{"CheckID": "serfHealth", "Status": "passing"}],
                }
                for port in ports
            ]
            self.index = self.index + 1 if index is None else index
            self.changed.notify_all()

    def wait_for_query(self) -> None:
        """Wait until a blocking query waits."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting > 0, DEADLINE)


class _NacosAnswering(Answering):
    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        nacos = self.server
        if path != "/nacos/v1/ns/instance/list" or query.get("healthyOnly") != ["true"]:
            self.send(404, b"")
        elif query.get("accessToken") != [nacos.access]:
            self.send(403, b"user not found!")
        else:
            name = f"{query['groupName'][0]}@@{query['serviceName'][0]}"
            clusters = {*filter(None, query.get("clusters", [""])[0].split(","))}
            hosts = [each for each in nacos.services.get(name, []) if not clusters or each["clusterName"] in clusters]
            self.send_json({"name": name, "hosts": hosts, "cacheMillis": 10000, "clusters": "", "valid": True})

    def do_POST(self) -> None:
        body = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        if self.path == "/nacos/v1/auth/login" and body == {"username": ["nacos"], "password": ["nacos-word"]}:
            self.server.logins += 1
            self.send_json({"accessToken": self.server.access, "tokenTtl": 18000, "globalAdmin": False})
        else:
            self.send(403, b"unknown user!")


class Nacos(Registry):
    """The naming API of Nacos, with authentication."""

    answering = _NacosAnswering

    def prepare(self) -> None:
        self.services: dict[str, list[dict[str, Any]]] = {}
        self.access, self.logins = "token-1", 0
        super().prepare()

    def set(self, name: str, *ports: int, **more: Any) -> None:
        told = {"ip": "127.0.0.1", "weight": 1.0, "healthy": True, "enabled": True, "clusterName": "DEFAULT", **more}
        self.services[name] = [{**told, "port": port} for port in ports]


class _EurekaAnswering(Answering):
    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        app = path.removeprefix("/eureka/apps/").upper()
        if self.headers.get("Accept") != "application/json":
            self.send(406, b"")
        elif path == "/eureka/apps/delta":
            self.send_json({"applications": {"versions__delta": "1", "apps__hashcode": "", "application": []}})
        elif app not in self.server.apps:
            self.send(404, b"")
        else:
            self.send_json({"application": {"name": app, "instance": self.server.apps[app]}})


class Eureka(Registry):
    """The registry of Eureka, in JSON."""

    answering = _EurekaAnswering

    def prepare(self) -> None:
        self.apps: dict[str, Any] = {}
        super().prepare()

    @staticmethod
    def instance(port: int, **more: Any) -> dict[str, Any]:
        return {
            "instanceId": f"h:{port}",
            "hostName": "h.invalid",
            "ipAddr": "127.0.0.1",
            "status": "UP",
            "port": {"$": port, "@enabled": "true"},
            "securePort": {"$": 443, "@enabled": "false"},
            **more,
        }


class _DockerAnswering(Answering):
    def address_string(self) -> str:
        return "unix"

    def answer(self, path: str, query: dict[str, list[str]]) -> None:
        docker = self.server
        filters = json.loads(query.get("filters", ["{}"])[0])
        if path == "/containers/json":
            wanted = {*filters["label"]}
            self.send_json(
                [each for each in docker.containers if wanted <= {f"{k}={v}" for k, v in each["Labels"].items()}]
            )
            if docker.later is not None:
                docker.containers, docker.later = docker.later, None
        elif path == "/events":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.flush()
            with docker.changed:
                seen = docker.events
                while not docker.ended and docker.mode == "fine":
                    docker.changed.wait(DEADLINE)
                    if docker.events != seen:
                        seen = docker.events
                        event = json.dumps({"Type": "container", "Action": "start"}).encode() + b"\n"
                        self.wfile.write(b"%x\r\n%b\r\n" % (len(event), event))
                        self.wfile.flush()
            self.wfile.write(b"0\r\n\r\n")
            self.close_connection = True
        else:
            self.send(404, b'{"message": "page not found"}')


class Docker(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """The API of Docker on a unix socket: containers, and events."""

    daemon_threads = True

    def __init__(self, path: str) -> None:
        self.path = path
        self.containers: list[dict[str, Any]] = []
        self.later: list[dict[str, Any]] | None = None
        self.events = 0
        self.mode, self.ended = "fine", False
        self.requests: list[str] = []
        self.changed = threading.Condition()
        super().__init__(path, _DockerAnswering)
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.ended:
            self.end()

    def end(self) -> None:
        """End, and remove the socket, as a stop of Docker does."""
        with self.changed:
            self.ended = True
            self.changed.notify_all()
        self.shutdown()
        self.server_close()
        os.unlink(self.path)

    def handle_error(self, *_: object) -> None: ...

    def set(self, *containers: dict[str, Any]) -> None:
        """Replace the containers, and tell it."""
        with self.changed:
            self.containers = [*containers]
            self.events += 1
            self.changed.notify_all()

    def set_late(self, *containers: dict[str, Any]) -> None:
        """Tell of a change, and list these containers from the second time on: as Docker does when one dies."""
        with self.changed:
            self.later = [*containers]
            self.events += 1
            self.changed.notify_all()

    @staticmethod
    def container(upstream: str, *exposed: int, status: str = "Up 2 minutes", **labels: str) -> dict[str, Any]:
        return {
            "Id": "4711",
            "Labels": {"fastgw.upstream": upstream, **{f"fastgw.{name}": value for name, value in labels.items()}},
            "State": "running",
            "Status": status,
            "Ports": [{"PrivatePort": port, "Type": "tcp"} for port in exposed],
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": "127.0.0.1"}}},
        }
