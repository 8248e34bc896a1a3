"""An upstream server controlled by the test, valid or not.

Two modes: by hand (`accept` returns the connection, the test reads and sends on it), or by script (`serve` answers on
threads: for each request, the first matching rule is played).
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait

import h11

from tests.support.own_ports import bind_own_port
from tests.support.peer import DEADLINE, Head, Message, Peer, Unexpected

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUEST_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([\x21-\x7e]+) HTTP/1\.1")


class Request(Message):
    """A request as received by the upstream."""

    @property
    def method(self) -> bytes:
        return self._request_line[1]

    @property
    def request_target(self) -> bytes:
        return self._request_line[2]

    @property
    def _request_line(self) -> re.Match[bytes]:
        found = REQUEST_LINE.fullmatch(self.head.start_line)
        if found is None:
            raise Unexpected(f"not a request line of HTTP/1.1: {self.head.start_line!r}")
        return found


def shaken(tls: ssl.SSLContext, sock: socket.socket) -> ssl.SSLSocket:
    """Do the TLS handshake of a connection. If it fails, the alert is sent before the connection ends."""
    secured = tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
    try:
        secured.do_handshake()
    except OSError:
        # A close with unread data would send a reset, which overtakes the alert.
        with contextlib.suppress(OSError), socket.socket(fileno=secured.detach()) as plain:
            plain.settimeout(DEADLINE)
            plain.shutdown(socket.SHUT_WR)
            while plain.recv(65_536):
                pass
        raise
    return secured


class OriginConnection(Peer):
    """The upstream's end of a connection opened by the gateway."""

    def read_request_head(self) -> Request:
        """Read and check the next request head; its body is not read (`read_body`, `read_chunk`, `read_exactly`)."""
        request = Request(self.read_head())
        request.method  # noqa: B018 - raises where the request line is not one
        judge = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
        judge.receive_data(request.head.raw)
        judge.next_event()  # raises if h11 rejects it
        return request

    def read_request(self) -> Request:
        """Read the next request with its body."""
        head = self.read_request_head().head
        message = self.read_body(head, until_close=False)
        return Request(head, message.body, message.raw_body, message.trailers)

    def answer(self, response: bytes = OK) -> Request:
        """Read a complete request, send `response`, and return the request."""
        request = self.read_request()
        self.send(response)
        return request


# Steps of a script: bytes are sent, an event is waited for, a callable gets the connection.
Step = bytes | threading.Event | Callable[[OriginConnection], object]


def close(connection: OriginConnection) -> None:
    """A step: close both directions."""
    connection.sock.shutdown(socket.SHUT_RDWR)
    connection.close()


def reset(connection: OriginConnection) -> None:
    """A step: reset."""
    connection.reset()


def read_rest(connection: OriginConnection) -> None:
    """A step: read until the gateway closes."""
    connection.read_to_end()


@dataclass
class Rule:
    steps: Sequence[Step]
    path: bytes | None
    times: int | None
    whole: bool

    def fits(self, head: Head) -> bool:
        target = head.start_line.split(b" ")[1]
        return self.times != 0 and self.path in (None, target, target.partition(b"?")[0])


class Origin:
    """A listening socket. `address`: (host, port), port 0 = any; or the path of a unix socket."""

    def __init__(
        self,
        address: tuple[str, int] | str = ("127.0.0.1", 0),
        tls: ssl.SSLContext | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        self.deadline = deadline
        self.connections: list[OriginConnection] = []  # accepted, in order
        self.requests: list[Request] = []  # read by `serve`, in order
        self.errors: list[BaseException] = []  # of scripts; `stop` raises the first one
        self._tls = tls
        self._rules: list[Rule] = []
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._wake, self._woken = socket.socketpair()  # ends the accepting thread, not the listening socket
        self._stopping = False
        if isinstance(address, str):
            self._listening = socket.socket(socket.AF_UNIX)
            self._listening.bind(address)
        else:
            self._listening = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
            if address[1] == 0:
                bind_own_port(self._listening, address[0])
            else:
                self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self._listening.bind(address)
        self._listening.listen(1024)

    def __enter__(self) -> Origin:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # --- address, and input ---

    @property
    def authority(self) -> str:
        """`127.0.0.1:9001`, `[::1]:9001`, or the path of the unix socket."""
        name = self._listening.getsockname()
        if isinstance(name, str):
            return name
        return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"

    @property
    def url(self) -> str:
        if self._listening.family == socket.AF_UNIX:
            return f"unix:{self.authority}"
        return f"{'https' if self._tls else 'http'}://{self.authority}"

    @property
    def port(self) -> int:
        return int(self._listening.getsockname()[1])

    @property
    def received(self) -> bytes:
        """Return all bytes of all accepted connections, in the order of connections."""
        return b"".join(connection.received for connection in self.connections)

    def assert_untouched(self) -> None:
        """Assert that no bytes were received. Call it after the response that shows that the gateway is done."""
        while self.accept_if_any():
            pass
        for connection in self.connections:
            connection.assert_nothing_unread()
        if self.received:
            raise Unexpected(f"the upstream got {self.received!r}")

    # --- by hand ---

    def accept(self) -> OriginConnection:
        """Accept the gateway's next connection."""
        self._listening.settimeout(self.deadline)
        try:
            sock, _ = self._listening.accept()
        except TimeoutError:
            raise Unexpected(f"no connection came to the upstream within {self.deadline} s") from None
        sock.settimeout(self.deadline)
        if self._tls is not None:
            sock = shaken(self._tls, sock)
        connection = OriginConnection(sock, self.deadline)
        self.connections.append(connection)
        return connection

    def accept_next(self) -> OriginConnection:
        """Return the connection with the next input: an accepted one, or a new one."""
        while True:
            alive = {each.sock: each for each in self.connections if each.sock.fileno() >= 0 and not each.ended}
            for each in alive.values():
                if each.unread:
                    return each
            ready = wait([self._listening, *alive], self.deadline)
            for sock in ready:
                if sock is not self._listening:
                    alive[sock].receive()
            if not ready or self._listening in ready:
                return self.accept()

    def accept_if_any(self) -> OriginConnection | None:
        """Accept a connection that exists already, or return None."""
        self._listening.settimeout(0)
        try:
            sock, _ = self._listening.accept()
        except BlockingIOError:
            return None
        self.connections.append(OriginConnection(sock, self.deadline))
        return self.connections[-1]

    def assert_no_further_connection(self) -> None:
        """Assert that there are no connections other than those returned by `accept`. Call it after the response that
        shows that the gateway is done.
        """
        further = self.accept_if_any()
        if further is not None:
            raise Unexpected("the gateway connected once more")

    def refuse_connections(self) -> None:
        """Refuse connects from now on: the port stays bound, so that no one else gets it, and nothing listens."""
        name = self._listening.getsockname()
        self._listening.close()
        if not isinstance(name, str):
            self._listening = socket.socket(socket.AF_INET6 if ":" in name[0] else socket.AF_INET)
            self._listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._listening.bind(name)

    # --- by script ---

    def answer(self, *steps: Step, path: bytes | None = None, times: int | None = None, whole: bool = True) -> None:
        """Add a rule. `path`: the request target, with or without its query; None = any. `times`: None = always.

        `whole`: the steps begin after the request body, else after its head. Responses that end the connection need
        `close` or `reset` as the last step; otherwise it is kept alive.
        """
        self._rules.append(Rule(steps, path, times, whole))

    def serve(self) -> Origin:
        """Answer on threads from now on. Requests without a matching rule get `200 ok`."""
        self._start(self._accept_all)
        return self

    def wait_for_requests(self, count: int) -> list[Request]:
        with self._changed:
            if not self._changed.wait_for(lambda: len(self.requests) >= count, self.deadline):
                raise Unexpected(f"{len(self.requests)} requests came within {self.deadline} s, not {count}")
            return list(self.requests)

    def _start(self, run: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=run, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept_all(self) -> None:
        self._listening.settimeout(self.deadline)
        while self._woken not in wait([self._listening, self._woken]):
            self._start(self._serve, self._listening.accept()[0])

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.ExitStack() as stack:
            stack.callback(sock.close)
            try:
                sock.settimeout(self.deadline)
                if self._tls is not None:
                    sock = shaken(self._tls, sock)
                    stack.callback(sock.close)
                connection = OriginConnection(sock, deadline=3600)  # idle between requests until the test ends
                self.connections.append(connection)
                while self._has_next(connection):
                    connection.deadline = self.deadline
                    self._play(connection)
                    connection.deadline = 3600
            except (OSError, ValueError):  # closed by the gateway, or by `stop`
                return
            except Unexpected as error:
                if not self._stopping:
                    self.errors.append(error)

    def _has_next(self, connection: OriginConnection) -> bool:
        """Wait for the first byte of a request. False: the connection has ended."""
        if connection.sock.fileno() < 0:
            return False
        return bool(connection.unread) or connection.receive()

    def _play(self, connection: OriginConnection) -> None:
        request = connection.read_request_head()
        with self._changed:
            rule = next((rule for rule in self._rules if rule.fits(request.head)), Rule([OK], None, None, True))
            if rule.times is not None:
                rule.times -= 1
        if rule.whole:
            message = connection.read_body(request.head, until_close=False)
            request = Request(message.head, message.body, message.raw_body, message.trailers)
        with self._changed:
            self.requests.append(request)
            self._changed.notify_all()
        for step in rule.steps:
            if isinstance(step, bytes):
                connection.send(step)
            elif isinstance(step, threading.Event):
                if not step.wait(self.deadline):
                    raise Unexpected(f"an event of the script was not set within {self.deadline} s")
            else:
                step(connection)

    # --- the end ---

    def clear(self) -> None:
        """Close the connections, remove rules and requests, continue to listen. Raises the first error of a script."""
        self._stopping = True
        if self._threads:
            self._wake.send(b"x")
            self._threads.pop(0).join(self.deadline)  # no thread starts after this
            self._woken.recv(1)
        self._close_connections()
        for thread in self._threads:
            thread.join(self.deadline)
        self._close_connections()
        errors = self.errors
        self.connections, self.requests, self.errors, self._rules, self._threads = [], [], [], [], []
        self._stopping = False
        if errors:
            raise errors[0]

    def stop(self) -> None:
        """Call `clear`, and stop listening."""
        try:
            self.clear()
        finally:
            for sock in (self._listening, self._wake, self._woken):
                sock.close()

    def _close_connections(self) -> None:
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)
            connection.close()
