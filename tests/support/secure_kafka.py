"""A Kafka broker with TLS and SASL, as far as producers see it: one topic with one partition, kept in memory.

The mock cluster of librdkafka has neither. Requests and responses are those of Kafka's protocol guide, in the versions
that `VERSIONS` announces; SCRAM is that of RFC 5802 and 7677.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import os
import ssl
import struct
import threading
from collections.abc import Callable
from socket import create_server, socket

from tests.support.kafka_broker import TOPIC

PRODUCE, METADATA, HANDSHAKE, API_VERSIONS, AUTHENTICATE = 0, 3, 17, 18, 36
VERSIONS = {PRODUCE: 3, METADATA: 1, HANDSHAKE: 1, API_VERSIONS: 0, AUTHENTICATE: 0}
UNSUPPORTED_MECHANISM, AUTHENTICATION_FAILED, UNKNOWN_TOPIC = 33, 58, 3
ITERATIONS = 4096


class SecureBroker:
    """Broker that accepts one user. `tls`: None: without TLS. `mechanism`: the only one; "": it asks for no user.
    `topic`: its topic. `lingers`: connections that clients close stay open on its side until it is closed.
    """

    def __init__(
        self, tls: ssl.SSLContext | None, mechanism: str, topic: str = TOPIC, *, lingers: bool = False
    ) -> None:
        self._lingers, self._closed = lingers, threading.Event()
        self._tls, self._mechanism, self._topic = tls, mechanism, topic
        self.user, self.password = "gateway", "geheim"
        self.batches: list[bytes] = []
        self.subjects: list[object] = []
        """Subjects of the client certificates that were shown."""
        self._listening = create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._closing = False
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing = True
        self._closed.set()
        with contextlib.suppress(OSError), socket() as waking:
            waking.connect(("127.0.0.1", self.port))
        self._thread.join()
        self._listening.close()

    def has(self, line: bytes) -> bool:
        """Whether a line is in the topic. Batches are not compressed."""
        return any(line in batch for batch in self.batches)

    def _accept(self) -> None:
        while True:
            client, _ = self._listening.accept()
            if self._closing:
                client.close()
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket) -> None:
        with contextlib.suppress(OSError), client:
            if self._tls is None:
                _Session(self, client, self._mechanism).run()
                return
            with self._tls.wrap_socket(client, server_side=True) as secured:
                self.subjects.append((secured.getpeercert() or {}).get("subject"))
                _Session(self, secured, self._mechanism).run()
                if self._lingers:
                    self._closed.wait()

    def metadata(self) -> bytes:
        """Body of a response to `Metadata`, version 1."""
        broker = struct.pack(">i", 1) + _text("127.0.0.1") + struct.pack(">i", self.port) + _text(None)
        partition = struct.pack(">hiiiiii", 0, 0, 1, 1, 1, 1, 1)
        topic = struct.pack(">h", 0) + _text(self._topic) + b"\x00" + struct.pack(">i", 1) + partition
        return struct.pack(">i", 1) + broker + struct.pack(">i", 1) + struct.pack(">i", 1) + topic


def _text(text: str | None) -> bytes:
    return b"\xff\xff" if text is None else struct.pack(">h", len(text)) + text.encode()


class _Session:
    """One connection."""

    def __init__(self, broker: SecureBroker, sock: socket, mechanism: str) -> None:
        self._broker, self._sock, self._mechanism = broker, sock, mechanism
        self._is_authenticated = not mechanism
        self._next: Callable[[bytes], bytes | None] = self._plain if mechanism == "PLAIN" else self._first

    def run(self) -> None:
        while len(size := self._read(4)) == 4:
            request = self._read(int.from_bytes(size, "big"))
            kind, version, number, client = struct.unpack(">hhih", request[:10])
            if version > VERSIONS.get(kind, -1):  # a handshake of TLS
                return
            body = self._answer(kind, request[10 + max(client, 0) :])
            if body is None:
                return
            self._sock.sendall(struct.pack(">ii", len(body) + 4, number) + body)

    def _read(self, size: int) -> bytes:
        read = b""
        while len(read) < size and (piece := self._sock.recv(size - len(read))):
            read += piece
        return read

    def _answer(self, kind: int, body: bytes) -> bytes | None:
        """Return the body of a response; None: the connection is closed."""
        if kind == API_VERSIONS:
            listed = b"".join(struct.pack(">hhh", each, 0, most) for each, most in VERSIONS.items())
            return struct.pack(">hi", 0, len(VERSIONS)) + listed
        if kind == HANDSHAKE:
            wanted = body[2:].decode()
            known = struct.pack(">i", 1) + _text(self._mechanism)
            return struct.pack(">h", 0 if wanted == self._mechanism else UNSUPPORTED_MECHANISM) + known
        if kind == AUTHENTICATE:
            token = self._next(body[4:])
            if token is None:
                return struct.pack(">h", AUTHENTICATION_FAILED) + _text("Authentication failed") + struct.pack(">i", 0)
            return struct.pack(">h", 0) + _text(None) + struct.pack(">i", len(token)) + token
        if not self._is_authenticated:
            return None
        if kind == METADATA:
            return self._broker.metadata()
        self._broker.batches.append(body)
        told = struct.pack(">i", 1) + _text(TOPIC) + struct.pack(">iihqq", 1, 0, 0, len(self._broker.batches), -1)
        return told + struct.pack(">i", 0)

    def _plain(self, token: bytes) -> bytes | None:
        _, user, password = token.decode().split("\0")
        self._is_authenticated = (user, password) == (self._broker.user, self._broker.password)
        return b"" if self._is_authenticated else None

    def _first(self, token: bytes) -> bytes | None:
        self._client_first = token.decode().removeprefix("n,,")
        told = dict(each.split("=", 1) for each in self._client_first.split(","))
        self._nonce = told["r"] + os.urandom(9).hex()
        salt = os.urandom(16)
        name = self._mechanism.removeprefix("SCRAM-").replace("-", "").lower()
        self._hash = lambda data: hashlib.new(name, data).digest()
        self._hmac = lambda key, data: hmac.new(key, data, name).digest()
        self._salted = hashlib.pbkdf2_hmac(name, self._broker.password.encode(), salt, ITERATIONS)
        self._user_is_known = told["n"] == self._broker.user
        self._server_first = f"r={self._nonce},s={base64.b64encode(salt).decode()},i={ITERATIONS}"
        self._next = self._final
        return self._server_first.encode()

    def _final(self, token: bytes) -> bytes | None:
        without_proof, _, proof = token.decode().rpartition(",p=")
        signed = f"{self._client_first},{self._server_first},{without_proof}".encode()
        stored = self._hash(self._hmac(self._salted, b"Client Key"))
        signature = self._hmac(stored, signed)
        key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
        if self._hash(key) != stored or not self._user_is_known or f"r={self._nonce}" not in without_proof:
            return None
        self._is_authenticated = True
        return b"v=" + base64.b64encode(self._hmac(self._hmac(self._salted, b"Server Key"), signed))
