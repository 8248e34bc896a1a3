"""Client of the admin API of a running gateway, for the commands.

Uses `http.client`, which takes a few milliseconds to import; commands send one request at a time.
"""

import http.client
import os
import re
import socket
import ssl
import string
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from fastgw.admin import TOKEN
from fastgw.admin.node_interface import JSON, NDJSON, Refusal
from fastgw.config.base.value_types import Address, parse_address
from fastgw.config.settings.secrets import Secret, SecretError
from fastgw.http.grammar import IS_TOKEN

MESSAGE_PACK: Final = "application/vnd.msgpack"
DEFAULT: Final = "127.0.0.1:9901"
TIMEOUT: Final = 10.0
"""Timeout in seconds for a connection, and for each read of a response."""
CHANGE_TIMEOUT: Final = 180.0
"""Timeout in seconds for the response to a configuration change."""
_PORTS: Final = {"http": 80, "https": 443}
_NOT_IN_HOSTS: Final = re.compile(r"[\x00-\x20\x7f\udc80-\udcff]")
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
"""Matches what no value of a header may contain."""

T = TypeVar("T")


class Unreachable(Exception):
    """No gateway responds. The text is one line for the user."""


class RefusedByGateway(Exception):
    """The gateway rejects the request. The text is one line for the user."""


class NotUtf8(ValueError):
    """An argument cannot be sent, because it is not UTF-8. The text is one line for the user."""

    def __init__(self, error: UnicodeEncodeError) -> None:
        super().__init__(f'"{error.object.encode(errors="backslashreplace").decode()}" is not UTF-8')


_HINT: Final = "start it, or give the address of its admin API by --admin ADDR"


class AdminAddress(Struct, frozen=True):
    """Address of an admin API."""

    text: str
    """Address as given by the user."""
    address: Address
    tls: bool = False


def parse_admin_address(text: str) -> AdminAddress:
    """Parse `host:port`, `[ipv6]:port`, `unix:/path`, or a URL with `https://` or `http://`. Raises `ValueError`."""
    try:
        return _parsed_admin_address(text)
    except ValueError as error:
        raise ValueError(f"{error}; expected host:port, unix:/path or https://host:port") from error


def _parsed_admin_address(text: str) -> AdminAddress:
    if "://" not in text:
        address = parse_address(text)
        if not address.path and not address.port:
            raise ValueError(f'"{text}" has no port to connect to')
        return AdminAddress(text, address)
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise ValueError(f'"{text}" is not a URL') from error
    if parts.scheme not in _PORTS or not parts.hostname or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise ValueError(f'"{text}" is not the URL of a host')
    return AdminAddress(text, Address(host=parts.hostname, port=port or _PORTS[parts.scheme]), parts.scheme == "https")


def resource_path(*names: str, query: Mapping[str, str] = {}) -> str:
    """Return the path of a resource of the admin API: these names, encoded. Raises `NotUtf8`."""
    try:
        path = "".join(f"/{quote(name, safe='')}" for name in names)
        return f"{path}?{urlencode(query)}" if query else path
    except UnicodeEncodeError as error:
        raise NotUtf8(error) from error


def _as_json(body: object) -> bytes:
    """Return the body of a request. Raises `NotUtf8`."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError as error:
        raise NotUtf8(error) from error


class AdminClient:
    """Client of one gateway. Methods raise `Unreachable` or `RefusedByGateway`; so does the constructor if
    `certificate`, the name of a PEM file with a client certificate and its key, is invalid. Methods that send a body
    raise `NotUtf8` as well."""

    def __init__(self, admin: AdminAddress, token: str | None, certificate: str | None = None) -> None:
        self._admin = admin
        self._tls = _client_tls(certificate) if admin.tls else None
        self.has_answered = False
        """Whether there was a response, so that the address is right."""
        self._fields: dict[str, str | bytes] = (
            {} if token is None else {"Authorization": f"Bearer {token.strip()}".encode()}
        )

    def get(self, path: str) -> bytes:
        """Return the response to a GET request, as JSON."""
        return self._send_request("GET", path, TIMEOUT)

    def fetch(self, path: str) -> bytes:
        """Return the response to a GET request whose content is not JSON."""
        return self._send_request("GET", path, TIMEOUT, kind=MESSAGE_PACK)

    def metrics(self) -> bytes:
        """Return the metrics, in the format of Prometheus."""
        return self._send_request("GET", "/metrics", TIMEOUT, kind="text/plain")

    def delete(self, path: str) -> bytes:
        """Return the response to a DELETE request, as JSON."""
        return self._send_request("DELETE", path, TIMEOUT)

    def read(self, path: str, kind: type[T]) -> T:
        """Return the response to a GET request, as a struct."""
        return self._decoded(self.get(path), kind)

    def change(self, path: str, kind: type[T], body: object = None) -> T:
        """Send a request that changes something, and return its result, successful or not. `body`: sent as JSON."""
        return self._decoded(self._send_request("POST", path, CHANGE_TIMEOUT, body), kind)

    def stream_lines(self, path: str, body: object, seconds: float) -> Iterator[bytes]:
        """Send a request, and yield the lines of the response as they come, without empty ones. `seconds`: duration of
        the response; the gateway has ended one that is shorter, which is `Unreachable` too.
        """
        content = _as_json(body)
        ends_at = time.monotonic() + seconds  # not later than the gateway's
        fields = {**self._fields, "Content-Type": JSON}
        connection = _Connection(self._admin, self._tls)
        try:
            connection.connect()
            connection.sock.settimeout(TIMEOUT)
            connection.request("POST", path, content, fields)
            response = connection.getresponse()
            if response.status != 200:
                raise self._refused(response.status, response.read())
            if (kind := response.headers.get_content_type()) != NDJSON:
                raise self._stranger(f"it answers with {kind}")
            self.has_answered = True
            while (line := response.readline()).endswith(b"\n"):
                if line.strip():
                    yield line
            if line or time.monotonic() < ends_at:
                raise self._unreachable(ConnectionResetError())
        except OSError as error:
            raise self._unreachable(error) from error
        except http.client.IncompleteRead as error:
            raise self._unreachable(ConnectionResetError()) from error
        except http.client.HTTPException as error:
            raise self._stranger(f"it does not speak HTTP: {type(error).__name__}") from error
        finally:
            connection.close()

    def _decoded(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise self._stranger(f"its response is invalid: {error}") from error

    def _send_request(self, method: str, path: str, timeout: float, body: object = None, kind: str = JSON) -> bytes:
        fields: dict[str, str | bytes] = {**self._fields}
        content = None if body is None else _as_json(body)
        if content is not None:
            fields["Content-Type"] = JSON
        connection = _Connection(self._admin, self._tls)
        try:
            connection.connect()
            connection.sock.settimeout(timeout)
            connection.request(method, path, content, fields)
            response = connection.getresponse()
            self.has_answered = True
            answer = response.read()
        except OSError as error:
            raise self._unreachable(error) from error
        except http.client.IncompleteRead as error:
            raise self._unreachable(ConnectionResetError()) from error
        except http.client.HTTPException as error:
            raise self._stranger(f"it does not speak HTTP: {type(error).__name__}") from error
        finally:
            connection.close()
        if response.headers.get_content_type() != kind:
            raise self._refused(response.status, answer)
        return answer

    def _unreachable(self, error: OSError) -> Unreachable:
        text = self._admin.text
        if isinstance(error, ssl.SSLCertVerificationError):
            why = f"its certificate is not trusted ({error.verify_message})"
            return Unreachable(f"{text}: {why}; set SSL_CERT_FILE=FILE to the CA certificates to trust")
        if isinstance(error, ConnectionResetError) and self.has_answered:
            return Unreachable(f"the gateway at {text} has ended the connection; see its log")
        if isinstance(error, ConnectionResetError):  # after it was accepted: it may be TLS, or control may have ended
            hint = f", or {self._try_tls} if it has TLS" if self._may_be_tls else ""
            return Unreachable(f"{text} ended the connection without a response; see the gateway's log{hint}")
        hint = _HINT
        if isinstance(error, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (error.reason or ""):
            hint = "give --certificate FILE"
        return Unreachable(f"no gateway answers at {text}: {_error_text(error)}; {hint}")

    @property
    def _may_be_tls(self) -> bool:
        return not self._admin.tls and not self._admin.address.path

    @property
    def _try_tls(self) -> str:
        return f"try --admin https://{self._admin.text.removeprefix('http://')}"

    def _refused(self, status: int, body: bytes) -> Exception:
        try:
            refusal = msgspec.json.decode(body, type=Refusal)
        except msgspec.MsgspecError:
            return self._stranger(f"it answers {status}")
        hint = f"; give --token-file FILE or set {TOKEN}" if status == 401 else ""
        return RefusedByGateway(f"{self._admin.text}: {refusal.detail.removesuffix('.') or refusal.title}{hint}")

    def _stranger(self, why: str) -> Unreachable:
        return Unreachable(
            f"{self._admin.text} is not the admin API of fastgw: {why}; {_HINT.removeprefix('start it, or ')}"
        )


class DebuggedRequest(Struct, frozen=True):
    """Request of `fastgw debug`."""

    url: str
    """URL as given by the user."""
    tls: bool
    host: str
    port: int
    method: str
    target: str
    """Path and query, percent-encoded."""
    fields: Mapping[str, bytes]


def parse_debugged_request(url: str, method: str, headers: Sequence[str]) -> DebuggedRequest:
    """Parse the arguments of `fastgw debug`. The target is percent-encoded, as browsers do, where it has spaces or
    characters beyond ASCII; values of headers are sent as they were typed. Raises `ValueError`.
    """
    no_url = f'"{url}" is not a URL; expected http://host:port/path'
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")  # as the connection does
    except ValueError as error:
        raise ValueError(no_url) from error
    if parts.scheme not in _PORTS or not parts.hostname or _NOT_IN_HOSTS.search(parts.netloc):
        raise ValueError(no_url)
    if not IS_TOKEN(method.encode(errors="replace")):
        raise ValueError(f'"{method}" is not a method; expected one such as GET')
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return DebuggedRequest(
        url,
        parts.scheme == "https",
        parts.hostname,
        port or _PORTS[parts.scheme],
        method,
        quote(target, safe=string.punctuation, errors="surrogateescape"),
        dict(map(_header, headers)),
    )


def _header(text: str) -> tuple[str, bytes]:
    """Return name and value of a header. Errors have the name alone: the value may be a secret."""
    name, colon, value = text.partition(":")
    name, value = name.strip(), value.strip()
    named = re.split("[:=\r\n]", text.strip(), maxsplit=1)[0].strip()
    if not colon:
        raise ValueError(f"\"{named}\" is not a header; expected 'Name: value'")
    if not IS_TOKEN(name.encode(errors="replace")):
        raise ValueError(f'"{named}" is not the name of a header')
    if _CONTROLS.search(value):
        raise ValueError(f'header "{name}" contains a line break or another control character')
    return name, value.encode(errors="surrogateescape")


def send_debugged(request: DebuggedRequest, token: str) -> tuple[int, str]:
    """Send a request with a debug token; return its status and the id of its story, "" if it was not debugged.

    Raises `Unreachable`.
    """
    kind = http.client.HTTPSConnection if request.tls else http.client.HTTPConnection
    connection = kind(request.host, request.port, timeout=CHANGE_TIMEOUT)
    try:
        fields: dict[str, str | bytes] = {**request.fields, "X-Fastgw-Debug": token}
        connection.request(request.method, request.target, headers=fields)
        response = connection.getresponse()
        while response.read(65536):
            pass
        return response.status, response.headers.get("X-Fastgw-Debug-Story", "")
    except OSError as error:
        raise Unreachable(f"{request.url}: {_error_text(error)}") from error
    except http.client.HTTPException as error:
        raise Unreachable(f"{request.url}: it does not speak HTTP: {type(error).__name__}") from error
    finally:
        connection.close()


class _Connection(http.client.HTTPConnection):
    """Connection to a host, with or without TLS, or to a unix socket."""

    def __init__(self, admin: AdminAddress, tls: ssl.SSLContext | None) -> None:
        super().__init__(admin.address.host or "localhost", admin.address.port, timeout=TIMEOUT)
        self._admin = admin
        self._tls = tls

    def connect(self) -> None:
        path = self._admin.address.path
        if path:
            self.sock: Any = socket.socket(socket.AF_UNIX)
            self.sock.settimeout(TIMEOUT)
            self.sock.connect(path)
            return
        super().connect()
        if self._tls is not None:
            self.sock = self._tls.wrap_socket(self.sock, server_hostname=self.host)


def _client_tls(certificate: str | None) -> ssl.SSLContext:
    """Return the TLS context of a client certificate. Raises `RefusedByGateway`."""
    context = ssl.create_default_context()
    if certificate is not None:
        try:
            context.load_cert_chain(certificate, password="")  # else it asks the terminal
        except ssl.SSLError:
            raise RefusedByGateway(
                f"{certificate} does not contain a certificate with its unencrypted key in PEM"
            ) from None
        except OSError as error:
            raise RefusedByGateway(f"{certificate}: {error.strerror}") from error
    return context


def _error_text(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, ssl.SSLError) and error.reason in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST"):
        return "it does not speak TLS"
    said = error.strerror or str(error)
    return said[:1].lower() + said[1:]


def token_of(file: str | None) -> str | None:
    """Return the token to send: from the file, else from the environment. Raises `SecretError`."""
    if file is None and not os.environ.get(TOKEN):
        return None
    token = (Secret(env=TOKEN) if file is None else Secret(file=os.path.abspath(file))).value().strip()
    if _CONTROLS.search(token):
        raise SecretError(f"{file or TOKEN} is not a valid token: it contains a control character")
    return token
