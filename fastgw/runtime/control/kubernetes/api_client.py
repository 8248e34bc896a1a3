"""Client of the Kubernetes API server: uses the client library, and translates its errors to plain messages.

Rule 1: the library is imported only here, and only when a configuration needs it; it is large. Rule 2: secrets of a
kubeconfig stay in memory, and are never written to a temporary file. Rule 3: after an error a client is dropped, and
the next one reads tokens and certificates again, because they rotate.
"""

import asyncio
import logging
import os
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import msgspec
import yaml

from fastgw.config.kyma.services import VERSION
from fastgw.config.settings.egress import Kubernetes
from fastgw.config.settings.kubernetes import KubernetesProvider
from fastgw.kernel import memory_file

if TYPE_CHECKING:
    from aiohttp import ClientTimeout, StreamReader

ACCOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Directory in which a pod finds the token of its service account, and the authority of the API server."""
ANSWER_S: Final = 30.0
"""Timeout of a whole response; of the beginning of a watch."""
CONNECT_S: Final = 5.0
SILENCE_S: Final = 15.0
"""Seconds without data after the agreed end of a watch until its connection counts as dead."""
MOST_BYTES: Final = 32 * 1024 * 1024
"""Maximum bytes of one response."""
MOST_CONNECTIONS: Final = 128
"""Maximum number of connections of a client for many kinds, each of which has a watch."""
MOST_LINE: Final = 4 * 1024 * 1024
"""Maximum bytes of one event. The API server accepts no object above 3 MiB."""
_TOKEN: Final = "BearerToken"
"""The library's name for the credential in `Authorization`."""
_WHY_MOST: Final = 500
UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError)
"""Errors of bodies that are not JSON of the expected type; the latter: for text that is not UTF-8 (msgspec < 0.23)."""
_ODD: Final = (OSError, ValueError, TypeError, KeyError, AttributeError, AssertionError)
"""Errors that the library raises about an invalid kubeconfig, in addition to its own exception."""

_FINE: Final = frozenset((200, 201, 202))
_QUERY: Final = {
    "limit": "limit",
    "_continue": "continue",
    "watch": "watch",
    "allow_watch_bookmarks": "allowWatchBookmarks",
    "resource_version": "resourceVersion",
    "timeout_seconds": "timeoutSeconds",
    "field_selector": "fieldSelector",
}
"""Parameters of the API by the library's names."""

Query = Mapping[str, str | int | bool]


class CannotAsk(Exception):
    """The request got no response; the text says why, for people."""


class RequestRefused(CannotAsk):
    """The API server has refused the request."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class TooLong(CannotAsk):
    """The response is longer than `MOST_BYTES`."""


class _Status(msgspec.Struct):
    """Response body of the API server when it refuses a request."""

    message: str = ""
    code: int = 0


def refusal(content: bytes, status: int = 0) -> RequestRefused:
    """Return the refusal that a `Status` describes; `status`: the HTTP status, which takes precedence unless it is
    0.
    """
    try:
        answer = msgspec.json.decode(content, type=_Status)
    except UNREADABLE:
        answer = _Status()
    status = status or answer.code
    return RequestRefused(status, f"the API server says {status}: {answer.message[:_WHY_MOST] or 'and not why'}")


async def import_library() -> None:
    """Import the library in a thread, as it takes a second: probes are answered in that time. Raises `CannotAsk`."""

    def take() -> None:
        import kubernetes_asyncio

        # Errors are reported here, once.
        logging.getLogger(kubernetes_asyncio.__name__).setLevel(logging.CRITICAL)

    try:
        await asyncio.to_thread(take)
    except ImportError as error:
        raise CannotAsk(f"the package {error.name} is missing; pip install 'fastgw[kubernetes]'") from error


class ClusterClient:
    """Requests objects of one kind. Call `import_library` first."""

    def __init__(
        self, api: Any, kind: str, namespace: str, closed: Callable[[bool], Awaitable[None]] | None = None
    ) -> None:
        """`api`: the library's. `kind`: `applications`, `secrets` or the path of the objects; `namespace`: of the
        secrets. `closed`: called in place of closing the library's client.
        """
        from kubernetes_asyncio.client import CoreV1Api, CustomObjectsApi

        self._api = api
        self._closed = closed
        self._call: Any
        self._arguments: tuple[str, ...]
        if kind.startswith("/"):
            self._call, self._arguments = partial(_get, api), (kind,)
        elif kind == "applications":
            self._call, self._arguments = CustomObjectsApi(api).list_cluster_custom_object, (*VERSION.split("/"), kind)
        else:
            self._call, self._arguments = CoreV1Api(api).list_namespaced_secret, (namespace,)
        self._one = CoreV1Api(api).read_namespaced_secret
        self._namespace = namespace

    async def list(self, **query: str | int | bool) -> bytes:
        """Return one page. Raises `CannotAsk`."""
        return await self._whole(self._call, self._arguments, query)

    async def secret(self, name: str) -> bytes:
        """Return one secret. Raises `CannotAsk`."""
        return await self._whole(self._one, (name, self._namespace), {})

    async def get(self, path: str) -> bytes:
        """Return one object. Raises `CannotAsk`."""
        return await self._whole(partial(_get, self._api), (path,), {})

    async def send(self, method: str, path: str, body: Any, content_type: str = "application/json") -> bytes:
        """Send an object, or changes of one, and return the object. Raises `CannotAsk`."""
        return await self._whole(partial(_send, self._api, method, content_type), (path, body), {})

    async def _whole(self, call: Any, arguments: tuple[Any, ...], query: Query) -> bytes:
        with _as_cannot_ask():
            async with asyncio.timeout(ANSWER_S):
                async with await call(
                    *arguments, **query, _preload_content=False, _request_timeout=_client_timeout()
                ) as got:
                    content = bytearray()
                    async for piece in got.content.iter_any():
                        content += piece
                        if len(content) > MOST_BYTES:
                            raise TooLong(f"an answer of more than {MOST_BYTES // 1024**2} MiB")
        if got.status not in _FINE:
            raise refusal(bytes(content), got.status)
        return bytes(content)

    @asynccontextmanager
    async def watch(self, since: str, seconds: int, **selected: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Yield the events from a version on. They end after the given number of seconds. Raises `CannotAsk`."""
        query = {"watch": True, "allow_watch_bookmarks": True, "resource_version": since, "timeout_seconds": seconds}
        query |= selected
        timeout = _client_timeout(seconds + SILENCE_S)
        with _as_cannot_ask():
            async with asyncio.timeout(ANSWER_S):
                got = await self._call(*self._arguments, **query, _preload_content=False, _request_timeout=timeout)
            async with got:
                if got.status != 200:
                    raise refusal(await got.content.read(MOST_LINE), got.status)
                yield _lines(got.content)

    async def close(self, failed: bool = True) -> None:
        """Close the client. `failed`: whether a shared one is not used again."""
        if self._closed is None:
            await self._api.close()
        else:
            await self._closed(failed)


async def _get(api: Any, path: str, *, _preload_content: bool, _request_timeout: Any, **query: Any) -> Any:
    """Request a path with the names that the library has for queries."""
    said = [(_QUERY[name], str(value).lower() if isinstance(value, bool) else value) for name, value in query.items()]
    return await _send(api, "GET", "", path, None, said, _request_timeout=_request_timeout)


async def _send(
    api: Any,
    method: str,
    content_type: str,
    path: str,
    body: Any,
    query: Any = (),
    *,
    _request_timeout: Any,
    _preload_content: bool = False,
) -> Any:
    headers = {"Accept": "application/json"}
    if content_type:
        headers["Content-Type"] = content_type
    return await api.call_api(
        path,
        method,
        {},
        [*query],
        headers,
        body=body,
        auth_settings=[_TOKEN],
        _preload_content=False,
        _request_timeout=_request_timeout,
    )


def _client_timeout(silence_s: float | None = None) -> "ClientTimeout":
    from aiohttp import ClientTimeout

    return ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=silence_s)


@contextmanager
def _as_cannot_ask() -> Iterator[None]:
    """Raise errors of the connection as `CannotAsk`."""
    from aiohttp import ClientError

    try:
        yield
    except TimeoutError as error:
        raise CannotAsk("the API server timed out") from error
    except (ClientError, OSError) as error:
        text = " ".join(f"{error}".split())[:_WHY_MOST]
        raise CannotAsk(f"the API server is unreachable: {text or type(error).__name__}") from error


async def _lines(content: "StreamReader") -> AsyncIterator[bytes]:
    held = b""
    async for piece in content.iter_any():
        *lines, held = (held + piece).split(b"\n")
        for line in lines:
            if line:
                yield line
        if len(held) > MOST_LINE:
            raise TooLong(f"an event of more than {MOST_LINE // 1024**2} MiB")


class SharedAccess:
    """Access with one client for many kinds: it has one connection pool, and reads the credentials once.

    After an error its users drop it, and the next one reads the credentials again.
    """

    def __init__(self, access: "ClusterAccess") -> None:
        self._access = access
        self._making = asyncio.Lock()
        self._shared: _SharedClient | None = None

    async def client(self, path: str, namespace: str = "") -> "ClusterClient":
        """Return a client for the objects at a path, which the caller closes. Raises `CannotAsk`."""
        async with self._making:
            if self._shared is None or self._shared.is_dropped:
                self._shared = _SharedClient(await self._access.api(MOST_CONNECTIONS))
            return self._shared.use(path, namespace)


class _SharedClient:
    """A client of the library, closed with its last user once it is dropped."""

    def __init__(self, api: Any) -> None:
        self._api = api
        self._users = 0
        self.is_dropped = False

    def use(self, path: str, namespace: str) -> "ClusterClient":
        self._users += 1
        return ClusterClient(self._api, path, namespace, self._done)

    async def _done(self, failed: bool) -> None:
        self.is_dropped = self.is_dropped or failed
        self._users -= 1
        if self.is_dropped and not self._users:
            await self._api.close()


class ClusterAccess:
    """Address of the API server, and the gateway's credentials for it."""

    def __init__(
        self, settings: Kubernetes | KubernetesProvider, kubeconfig: bytes = b"", account: str = ACCOUNT
    ) -> None:
        """`kubeconfig`: the contents of that file, if there is one; `account`: otherwise the folder of the service
        account.
        """
        self._settings = settings
        self._kubeconfig = kubeconfig
        self._account = account
        self._turn = asyncio.Lock()

    async def client(self, kind: str, namespace: str) -> ClusterClient:
        """Return a client, which the caller closes. Raises `CannotAsk`."""
        return ClusterClient(await self.api(8), kind, namespace)

    async def api(self, most_connections: int) -> Any:
        """Return a client of the library, which the caller closes. Raises `CannotAsk`."""
        await import_library()
        async with self._turn:  # a client may load the system's certificates, which takes 20 ms: not all in one turn
            await asyncio.sleep(0.001)
            return await self._new_api(most_connections)

    async def _new_api(self, most_connections: int) -> Any:
        from kubernetes_asyncio.client import ApiClient, Configuration

        configuration = Configuration()
        configuration.connection_pool_maxsize = most_connections
        with ExitStack() as kept:
            try:
                if self._settings.kubeconfig is None:
                    self._as_pod(configuration)
                else:
                    await self._by_file(configuration, self._settings.kubeconfig, kept)
                _in_one_line(configuration)
                return ApiClient(configuration)
            except _ODD as error:
                raise CannotAsk(
                    f"{self._settings.kubeconfig or 'the service account'}: {_error_text(error)}"
                ) from error

    def _as_pod(self, configuration: Any) -> None:
        from kubernetes_asyncio.config import ConfigException
        from kubernetes_asyncio.config.incluster_config import InClusterConfigLoader

        loader = InClusterConfigLoader(f"{self._account}/token", f"{self._account}/ca.crt")
        try:
            loader.load_and_set(configuration)
        except ConfigException as error:
            raise _no_account(error) from error

    async def _by_file(self, configuration: Any, file: str, kept: ExitStack) -> None:
        from kubernetes_asyncio.config import ConfigException
        from kubernetes_asyncio.config.kube_config import KubeConfigLoader

        try:
            written = yaml.safe_load(self._kubeconfig)
            _without_data(written, kept)
            loader = KubeConfigLoader(
                written, active_context=self._settings.context, config_base_path=os.path.dirname(file)
            )
            await loader.load_and_set(configuration)
        except ConfigException as error:
            raise CannotAsk(f"{file}: {_error_text(error)}") from error
        except yaml.YAMLError as error:
            raise CannotAsk(f"{file}: it is not YAML") from error


def own_namespace(settings: Kubernetes | KubernetesProvider, kubeconfig: bytes) -> str:
    """Return the namespace that the gateway runs in."""
    try:
        if settings.kubeconfig is None:
            with open(os.path.join(ACCOUNT, "namespace"), encoding="utf-8") as file:
                return file.read().strip() or "default"
        written: Any = yaml.safe_load(kubeconfig)
        wanted = settings.context or written.get("current-context")
        named = {each["name"]: each["context"] for each in written["contexts"]}
        return named[wanted].get("namespace") or "default"
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError):
        return "default"  # the client reports the error


def _in_one_line(configuration: Any) -> None:
    """Strip the line end of a token that is read from a file: the library does not."""
    from kubernetes_asyncio.config import ConfigException

    read_again = configuration.refresh_api_key_hook

    def refresh(used: Any) -> None:
        if read_again is not None:
            try:
                read_again(used)
            except ConfigException as error:
                raise _no_account(error) from error
        token = used.api_key.get(_TOKEN, "").strip()
        if not token.isprintable():
            raise CannotAsk("its token has a control character; expected one line")
        if token:
            used.api_key[_TOKEN] = token

    configuration.refresh_api_key_hook = refresh


def _no_account(error: Exception) -> CannotAsk:
    return CannotAsk(f"no service account of a pod: {error} Expected one, or a `kubeconfig`")


def _error_text(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or 'a file'}: {error.strerror or error}"
    return "it is not a valid kubeconfig"  # the error may contain file contents


def _without_data(kubeconfig: Any, kept: ExitStack) -> None:
    """Put inline certificates and keys into memory files: the library would write them to disk. They exist as long as
    `kept` is open. Raises `ValueError`, `TypeError` or `KeyError`.
    """
    for part, held in (("clusters", "cluster"), ("users", "user")):
        for each in kubeconfig.get(part) or ():
            settings = each.get(held) or {}
            for name in [name for name in settings if name.endswith("-data")]:
                descriptor = memory_file("fastgw-kubeconfig")
                kept.callback(os.close, descriptor)
                with open(descriptor, "wb", closefd=False) as file:
                    file.write(b64decode(settings.pop(name)))
                settings[name.removesuffix("-data")] = f"/proc/self/fd/{descriptor}"
