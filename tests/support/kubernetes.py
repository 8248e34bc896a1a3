"""Fake Kubernetes API server: lists and watches, over HTTP or HTTPS, as the real one answers them.

It has Applications of the whole cluster and Secrets of namespaces. Not supported: changes over the API (tests call
`put` and `delete`), selectors, other resources. Based on the API concepts of the manual:
https://kubernetes.io/docs/reference/using-api/api-concepts/
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import parse_qs, urlsplit

from tests.support.certificates import Certificates, server_tls
from tests.support.peer import DEADLINE

T = TypeVar("T")
Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace and name."""

GROUP: Final = "applicationconnector.kyma-project.io"
APPLICATIONS: Final = f"/apis/{GROUP}/v1alpha1/applications"
SECRETS: Final = "secrets"
KINDS: Final = {
    "applications": (f"{GROUP}/v1alpha1", "Application"),
    SECRETS: ("v1", "Secret"),
}
REASONS: Final = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 410: "Expired", 500: "InternalError"}
ACCOUNT: Final = "system:serviceaccount:kyma-system:fastgw"
TOKEN: Final = "the-token-of-the-service-account"


def application(name: str, *services: Mapping[str, Any], **spec: Any) -> Object:
    """Return an Application with these services."""
    return {"metadata": {"name": name}, "spec": {"services": list(services), **spec}}


def secret(name: str, namespace: str = "kyma-system", **values: str) -> Object:
    """Return a Secret with these values."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"metadata": {"name": name, "namespace": namespace}, "type": "Opaque", "data": data}


Backup = tuple[int, dict[str, dict[Key, Object]]]
"""Version, and objects of each kind."""


@dataclass(frozen=True)
class Asked:
    """A request as received."""

    verb: str
    """Kind of the request: `list`, `watch` or `get`."""
    resource: str
    namespace: str
    name: str
    query: Mapping[str, str]
    token: str


@dataclass
class Resource:
    """Objects of one kind, and their events."""

    objects: dict[Key, Object] = field(default_factory=dict)
    events: list[tuple[int, str, Object]] = field(default_factory=list)
    snapshots: dict[int, list[Object]] = field(default_factory=dict)
    """Snapshots for the next pages of lists, by version."""


class Watcher:
    """An open watch."""

    def __init__(self, resource: str, namespace: str, since: int, writer: asyncio.StreamWriter) -> None:
        self.resource = resource
        self.namespace = namespace
        self.since = since
        self.writer = writer
        self.ended = asyncio.Event()

    def send(self, kind: str, sent: Object) -> None:
        self.send_raw(json.dumps({"type": kind, "object": sent}).encode() + b"\n")

    def send_raw(self, line: bytes) -> None:
        if not self.ended.is_set():
            self.writer.write(b"%x\r\n%b\r\n" % (len(line), line))

    def shows(self, version: int, sent: Object) -> bool:
        return version > self.since and self.namespace in ("", sent["metadata"].get("namespace", ""))


class Refusal(Exception):
    """Response other than 200."""

    def __init__(self, status: int, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = status
        self.body = status_of(status, message) | more


def status_of(code: int, message: str) -> Object:
    reason = REASONS.get(code, "Unknown")
    return {
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message,
        "reason": reason, "code": code,
    }  # fmt: skip


class ApiServer:
    """Runs on a thread of its own. `certificates`: it uses TLS, with a certificate of this CA."""

    def __init__(self, certificates: Certificates | None = None) -> None:
        self._tls: ssl.SSLContext | None = None
        self._certificates = certificates
        if certificates is not None:
            self._tls = server_tls(certificates.issue("127.0.0.1", stem="apiserver"))
            self._tls.set_alpn_protocols(["http/1.1"])
        self._resources = {name: Resource() for name in KINDS}
        self._version = 1000
        self._oldest = 1000
        self._watchers: set[Watcher] = set()
        self._connections: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        # behaviour; may be changed at any time
        self.tokens = {TOKEN}
        """Accepted tokens; others are answered 401."""
        self.forbidden: set[tuple[str, str]] = set()
        """Verbs and resources that are forbidden to the account."""
        self.unknown: set[str] = set()
        """Resources that do not exist in the cluster."""
        self.failing = 0
        """Number of next requests to answer with 500."""
        self.slow_s = 0.0
        """Delay of each response in seconds."""
        self.most_listed = 500
        """Maximum number of objects in a page, whatever was requested."""
        self.on_page: Callable[[], None] = lambda: None
        """Called before a further page of a list is answered."""
        self.says_gone_at_once = False
        """Whether a watch from an expired version is answered 410, instead of an event in the stream."""
        self.asked: list[Asked] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.start()

    def __enter__(self) -> ApiServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._do(self._finish)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(DEADLINE)
        self._loop.close()

    # --- addresses ---

    @property
    def url(self) -> str:
        return f"{'http' if self._tls is None else 'https'}://127.0.0.1:{self.port}"

    def kubeconfig(self, file: Path, *, inline: bool = True, token_file: Path | None = None) -> Path:
        """Write a kubeconfig whose current context is this server, with another context that does not exist."""
        cluster: Object = {"server": self.url}
        if self._certificates is not None:
            authority = Path(self._certificates.ca)
            if inline:
                cluster["certificate-authority-data"] = base64.b64encode(authority.read_bytes()).decode()
            else:
                cluster["certificate-authority"] = str(authority)
        user = {"token": TOKEN} if token_file is None else {"tokenFile": str(token_file)}
        nowhere = {"server": "https://127.0.0.1:9"}
        written = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "clusters": [{"name": "here", "cluster": cluster}, {"name": "nowhere", "cluster": nowhere}],
            "users": [{"name": "fastgw", "user": user}],
            "contexts": [
                {"name": name, "context": {"cluster": name, "user": "fastgw"}} for name in ("here", "nowhere")
            ],
        }
        file.write_text(json.dumps(written))
        return file

    # --- start and stop ---

    def start(self) -> None:
        """Listen, on the previous port if there was one."""
        self._do(self._start)

    def stop(self) -> None:
        """Stop listening, and reset every connection. Data is kept."""
        self._do(self._stop)

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        self._reset()

    async def _finish(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for each in others:
            each.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def drop(self) -> None:
        """Reset every connection; new ones are accepted."""
        self._do(self._reset_now)

    async def _reset_now(self) -> None:
        self._reset()

    def _reset(self) -> None:
        for writer in [*self._connections]:
            writer.transport.abort()

    # --- changes in the cluster ---

    def put(self, *objects: Object) -> None:
        """Create or change these objects."""
        self._do(lambda: self._put(objects))

    async def _put(self, objects: tuple[Object, ...]) -> None:
        for each in objects:
            name = SECRETS if "data" in each or "stringData" in each else "applications"
            metadata = each["metadata"]
            key = metadata.get("namespace", ""), metadata["name"]
            resource = self._resources[name]
            version, kind = KINDS[name]
            stored = {
                "apiVersion": version,
                "kind": kind,
                **each,
                # Clients receive many unrelated events.
                "metadata": {
                    **metadata,
                    "annotations": {"kubectl.kubernetes.io/last-applied-configuration": json.dumps(each)},
                    "managedFields": [{"manager": "kubectl", "operation": "Apply"}],
                },
            }
            self._happened(name, "MODIFIED" if key in resource.objects else "ADDED", stored)
            resource.objects[key] = stored

    def delete(self, kind: str, name: str, namespace: str = "") -> None:
        """Delete an object. `kind`: `applications` or `secrets`."""
        self._do(lambda: self._delete(kind, (namespace, name)))

    async def _delete(self, kind: str, key: Key) -> None:
        self._happened(kind, "DELETED", self._resources[kind].objects.pop(key))

    def _happened(self, name: str, kind: str, changed: Object) -> None:
        self._version += 1
        changed["metadata"] = {**changed["metadata"], "resourceVersion": str(self._version)}
        self._resources[name].events.append((self._version, kind, changed))
        for watcher in self._watchers:
            if watcher.resource == name and watcher.shows(self._version, changed):
                watcher.send(kind, changed)

    def forget(self) -> None:
        """Compact: drop all past events and snapshots of lists."""
        self._do(self._forget)

    async def _forget(self) -> None:
        self.forget_now()

    def forget_now(self) -> None:
        """Compact, for `on_page`."""
        self._version += 1
        self._oldest = self._version
        for resource in self._resources.values():
            resource.events.clear()
            resource.snapshots.clear()

    def backup(self) -> Backup:
        """Return a backup of data and version."""
        return self._version, {name: dict(resource.objects) for name, resource in self._resources.items()}

    def restore(self, backup: Backup) -> None:
        """Restore a backup while stopped: data and versions of that time."""
        self._version, objects = backup
        self._oldest = self._version
        for name, resource in self._resources.items():
            resource.objects = dict(objects[name])
            resource.events.clear()
            resource.snapshots.clear()

    def say_gone(self) -> None:
        """Send every watcher an expired-version error, and end its watch."""
        self._do(self._say_gone)

    async def _say_gone(self) -> None:
        for watcher in [*self._watchers]:
            watcher.send("ERROR", status_of(410, f"too old resource version: 1 ({self._oldest})"))
            watcher.ended.set()

    def bookmark(self) -> None:
        """Send every watcher a bookmark with the current version."""
        self._do(self._bookmark)

    async def _bookmark(self) -> None:
        self._version += 1
        for watcher in self._watchers:
            version, kind = KINDS[watcher.resource]
            bookmarked = {"resourceVersion": str(self._version)}
            watcher.send("BOOKMARK", {"apiVersion": version, "kind": kind, "metadata": bookmarked})

    def say(self, line: bytes) -> None:
        """Send this to every watcher."""
        self._do(lambda: self._say(line))

    async def _say(self, line: bytes) -> None:
        for watcher in self._watchers:
            watcher.send_raw(line)

    @property
    def watches(self) -> int:
        """Return the number of open watches."""
        return len(self._watchers)

    def count(self, verb: str, resource: str, name: str = "") -> int:
        """Return the number of such requests."""
        return sum((each.verb, each.resource, each.name) == (verb, resource, name) for each in [*self.asked])

    def _do(self, work: Callable[[], Any]) -> Any:
        async def done() -> Any:
            return await work()

        return asyncio.run_coroutine_threadsafe(done(), self._loop).result(DEADLINE)

    # --- HTTP ---

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                while True:
                    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                    await self._answer(head, writer)
        finally:
            self._connections.discard(writer)
            writer.transport.abort()

    async def _answer(self, head: str, writer: asyncio.StreamWriter) -> None:
        line, *fields = head.split("\r\n")
        method, target, _ = line.split(" ")
        sent = {name.lower(): value.strip() for name, _, value in (each.partition(":") for each in fields)}
        try:
            asked = _asked(method, target, sent.get("authorization", ""))
            self.asked.append(asked)
            if self.slow_s:
                await asyncio.sleep(self.slow_s)
            self._judge(asked)
            if asked.verb == "watch":
                await self._watch(asked, writer)
                return
            status, body = 200, self._list(asked) if asked.verb == "list" else self._get(asked)
        except Refusal as refusal:
            status, body = refusal.status, refusal.body
        content = json.dumps(body).encode()
        writer.write(
            b"HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(content), content)
        )
        await writer.drain()

    def _judge(self, asked: Asked) -> None:
        if asked.token not in self.tokens:
            raise Refusal(401, "Unauthorized")
        if asked.resource not in KINDS or asked.resource in self.unknown:
            raise Refusal(404, "the server could not find the requested resource")
        if (asked.verb, asked.resource) in self.forbidden:
            group = GROUP if asked.resource == "applications" else ""
            where = f"in the namespace {json.dumps(asked.namespace)}" if asked.namespace else "at the cluster scope"
            full = f"{asked.resource}.{group}" if group else asked.resource
            raise Refusal(
                403,
                f'{full} is forbidden: User "{ACCOUNT}" cannot {asked.verb} resource "{asked.resource}" '
                f'in API group "{group}" {where}',
            )
        if self.failing:
            self.failing -= 1
            raise Refusal(500, "etcdserver: leader changed")

    def _get(self, asked: Asked) -> Object:
        found = self._resources[asked.resource].objects.get((asked.namespace, asked.name))
        if found is None:
            raise Refusal(404, f'{asked.resource} "{asked.name}" not found')
        return found

    def _list(self, asked: Asked) -> Object:
        resource = self._resources[asked.resource]
        limit = min(int(asked.query.get("limit", "0")) or self.most_listed, self.most_listed)
        at, version = 0, self._version
        if "continue" in asked.query:
            self.on_page()
            at, version = json.loads(base64.b64decode(asked.query["continue"]))
            if version not in resource.snapshots:
                raise Refusal(410, "The provided continue parameter is too old to display a consistent list result.")
            shown = resource.snapshots[version]
        else:
            shown = [each for (namespace, _), each in sorted(resource.objects.items(), key=lambda pair: pair[0])
                     if asked.namespace in ("", namespace)]  # fmt: skip
            resource.snapshots[version] = shown
        metadata: Object = {"resourceVersion": str(version)}
        if at + limit < len(shown):
            metadata["continue"] = base64.b64encode(json.dumps([at + limit, version]).encode()).decode()
            metadata["remainingItemCount"] = len(shown) - at - limit
        items = shown[at : at + limit]
        api_version, kind = KINDS[asked.resource]
        if api_version == "v1":  # items of built-in kinds have their kind in the list only
            items = [{name: value for name, value in each.items() if name not in ("kind", "apiVersion")}
                     for each in items]  # fmt: skip
        return {"kind": f"{kind}List", "apiVersion": api_version, "metadata": metadata, "items": items}

    async def _watch(self, asked: Asked, writer: asyncio.StreamWriter) -> None:
        resource = self._resources[asked.resource]
        since = int(asked.query.get("resourceVersion") or 0)
        gone = status_of(410, f"too old resource version: {since} ({self._oldest})") if since < self._oldest else None
        if gone is not None and self.says_gone_at_once:
            raise Refusal(410, gone["message"])
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        watcher = Watcher(asked.resource, asked.namespace, since, writer)
        if gone is not None:
            watcher.send("ERROR", gone)
        else:
            for version, kind, changed in resource.events:
                if watcher.shows(version, changed):
                    watcher.send(kind, changed)
            self._watchers.add(watcher)
            try:
                async with asyncio.timeout(int(asked.query.get("timeoutSeconds", "3600"))):
                    while not watcher.ended.is_set() and not writer.transport.is_closing():
                        with contextlib.suppress(TimeoutError):
                            await asyncio.wait_for(watcher.ended.wait(), 0.05)
            except TimeoutError:
                pass
            finally:
                self._watchers.discard(watcher)
        writer.write(b"0\r\n\r\n")
        await writer.drain()


def _asked(method: str, target: str, authorization: str) -> Asked:
    split = urlsplit(target)
    query = {name: values[0] for name, values in parse_qs(split.query).items()}
    steps = split.path.strip("/").split("/")
    match steps:
        case ["apis", group, "v1alpha1", resource, *rest] if group == GROUP:
            namespace = ""
        case ["api", "v1", "namespaces", namespace, resource, *rest]:
            pass
        case _:
            namespace, resource, rest = "", "?", []
    verb = "get" if rest else "watch" if query.get("watch") in ("true", "True", "1") else "list"
    token = authorization.removeprefix("Bearer ")
    return Asked(verb if method == "GET" else method, resource, namespace, "".join(rest), query, token)
